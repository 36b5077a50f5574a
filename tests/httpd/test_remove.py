"""`wsgipool apache remove` on Debian's apache2, and in the folder of a system without a2disconf."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from httpd.harness import eventually
from httpd.test_debian import DebianApache, DebianSite, debian_apache
from wsgipool.cli import main
from wsgipool.httpd.express import DROP_IN, PACKAGE

COMMAND = [sys.executable, "-m", "wsgipool", "apache", "remove"]


@pytest.fixture
def apache(folder: Path, shop: str) -> DebianApache:
    return debian_apache(folder, "event", shop)


def arguments(apache: DebianApache) -> list[str]:
    return [*COMMAND, "--directory", str(apache.confdir / "conf-available")]


def drop_in(apache: DebianApache) -> Path:
    return apache.confdir / "conf-available" / "wsgipool.conf"


def files(apache: DebianApache) -> dict[str, str]:
    """Return the drop-in and its backups."""
    return {path.name: path.read_text() for path in drop_in(apache).parent.glob("wsgipool.conf*")}


def is_enabled(apache: DebianApache) -> bool:
    return (apache.confdir / "conf-enabled" / "wsgipool.conf").exists()


# --- Debian ----------------------------------------------------------------------------------------------------------


def test_the_drop_in_is_disabled_and_kept_as_a_backup(apache: DebianApache, folder: Path) -> None:
    content = drop_in(apache).read_text()

    output = apache.run(*arguments(apache))

    removed = f"removed {drop_in(apache)}, which is kept as wsgipool.conf.bak\nkept {folder}/wsgipool.toml\n"
    assert output.startswith(
        f"{removed}still used, remove it before the package: {apache.confdir}/sites-enabled/shop.conf"
    )
    assert output.endswith("\nnow restart httpd: /usr/sbin/apache2ctl -k graceful\n")
    assert not os.path.lexists(apache.confdir / "conf-enabled" / "wsgipool.conf")
    assert not drop_in(apache).exists()
    assert drop_in(apache).with_name("wsgipool.conf.bak").read_text() == content
    assert (folder / "wsgipool.toml").exists()


def test_a_site_that_has_joined_works_without_the_drop_in(folder: Path, shop: str) -> None:
    apache = debian_apache(folder, "daemon", shop)
    shutil.copy(folder / "wsgipool.toml", folder / "app")
    with apache.running():
        output = apache.run(*arguments(apache))

        apache.run(*output.rpartition(": ")[2].split())

        eventually(lambda: apache.log.read_text().count("resuming normal operations") == 2, "the restart")
        assert DebianSite(apache).get("/hold?seconds=0")["connection"]


def test_a_removed_drop_in_can_be_installed_again(apache: DebianApache, folder: Path) -> None:
    apache.run(*arguments(apache))

    apache.run(
        *COMMAND[:-1], "install", "--directory", str(drop_in(apache).parent), "--config", f"{folder}/wsgipool.toml"
    )
    apache.run("a2enconf", "-q", "wsgipool")

    apache.run("apache2ctl", "-t")
    assert is_enabled(apache)


def test_a_drop_in_that_is_not_enabled_is_removed_too(apache: DebianApache) -> None:
    apache.run("a2disconf", "-q", "wsgipool")

    apache.run(*arguments(apache))

    assert not drop_in(apache).exists()


USES = {
    "a file of the package": ('Include "${WSGIPOOL_HOME}/apache/status.conf"', "does not accept its configuration"),
    "a variable that httpd only warns of": ("WSGIScriptAlias /pools ${WSGIPOOL_HOME}/x.py", "${WSGIPOOL_HOME}/x.py"),
    "a section": ("<Location ${WSGIPOOL_PAGE}>\n    Require local\n</Location>", "Require local"),
}


@pytest.mark.parametrize(("line", "shown"), USES.values(), ids=USES)
def test_nothing_is_removed_while_a_site_needs_the_drop_in(line: str, shown: str, apache: DebianApache) -> None:
    apache.write("conf-available/shop.conf", "Define WSGIPOOL_PAGE /pools\n")
    apache.write("sites-available/other.conf", f"<VirtualHost *:*>\n{line}\n</VirtualHost>\n")
    apache.run("a2ensite", "-q", "other")
    apache.run("apache2ctl", "-t")
    if "WSGIPOOL_PAGE" in line:
        apache.write("conf-available/shop.conf", "")
    before = files(apache)

    outcome = apache.outcome(*arguments(apache))

    assert outcome.returncode == 1
    assert shown in outcome.stderr
    assert f"{apache.confdir}/sites-enabled/other.conf" in outcome.stderr
    assert files(apache) == before
    assert is_enabled(apache)
    apache.run("apache2ctl", "-t")


# --- other systems ---------------------------------------------------------------------------------------------------


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """The conf.d of an httpd that includes every *.conf there."""
    modules = "/usr/lib/apache2/modules"
    folder = tmp_path / "conf.d"
    folder.mkdir()
    shutil.copy(DROP_IN, folder)
    (folder / "0.conf").write_text(f"Define WSGIPOOL_HOME {PACKAGE}\n")
    (tmp_path / "httpd.conf").write_text(
        f"ServerRoot {tmp_path}\nServerName localhost\nListen 127.0.0.1:1\nErrorLog {tmp_path}/error_log\n"
        f"LoadModule mpm_event_module {modules}/mod_mpm_event.so\nLoadModule wsgi_module {modules}/mod_wsgi.so\n"
        f"LoadModule authz_core_module {modules}/mod_authz_core.so\nIncludeOptional {folder}/*.conf\n"
    )
    return folder


def remove(plain: Path) -> Result:
    options = ["--directory", str(plain), "--httpd", "apache2", "--", "-f", f"{plain.parent}/httpd.conf"]
    return CliRunner().invoke(main, ["apache", "remove", *options])


def test_without_a2disconf_the_file_is_moved_out_of_httpds_way(plain: Path) -> None:
    result = remove(plain)

    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in plain.iterdir()) == ["0.conf", "wsgipool.conf.bak"]
    assert result.stdout.endswith(f": /usr/sbin/apache2 -f {plain.parent}/httpd.conf -k graceful\n")


def test_a_file_that_httpd_still_needs_is_put_back_as_it_was(plain: Path) -> None:
    (plain / "wsgipool.conf").chmod(0o640)
    (plain / "wsgipool.conf.bak").write_text("# earlier\n")
    (plain / "z.conf").write_text("WSGIScriptAlias /x ${WSGIPOOL_PROCESS_GROUP}\n")

    result = remove(plain)

    assert result.exit_code == 1
    assert result.stderr == (
        "wsgipool: these lines do not work without wsgipool.conf; change them first, nothing was removed: "
        f"{plain}/z.conf:1: WSGIScriptAlias /x ${{WSGIPOOL_PROCESS_GROUP}}\n"
    )
    assert (plain / "wsgipool.conf").stat().st_mode & 0o777 == 0o640
    assert (plain / "wsgipool.conf.bak").read_text() == "# earlier\n"


def test_a_drop_in_that_is_not_there_is_an_error(plain: Path) -> None:
    remove(plain)

    result = remove(plain)

    assert result.exit_code == 1
    assert result.stderr == f"wsgipool: there is no wsgipool.conf in {plain}; name its folder with --directory\n"


def test_without_httpd_nothing_is_removed(plain: Path) -> None:
    result = CliRunner().invoke(main, ["apache", "remove", "--directory", str(plain), "--httpd", "no-httpd"])

    assert result.exit_code == 1
    assert "no-httpd was not found" in result.stderr
    assert (plain / "wsgipool.conf").exists()
