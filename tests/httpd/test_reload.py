"""`wsgipool apache reload` on a real httpd: a mistake of any kind leaves the old processes at work."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from httpd.harness import eventually
from httpd.test_debian import DebianSite, debian_apache
from httpd.test_doctor import SiteUnderExamination
from wsgipool.cli import main

READY = "resuming normal operations"
"""What httpd logs at its start and after each restart."""
SCRIPT = Path(sys.executable).with_name("wsgipool")
COMMAND = [sys.executable, "-m", "wsgipool", "apache", "reload"]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@pytest.fixture
def site(folder: Path, shop: str) -> SiteUnderExamination:
    return SiteUnderExamination(folder, "event", shop)


def reload(site: SiteUnderExamination, **environment: str) -> Result:
    arguments = ["apache", "reload", "--httpd", "apache2", "--", *site.options()]
    return CliRunner().invoke(main, arguments, env={"WSGIPOOL_CONFIG": None, **environment})


def starts(site: SiteUnderExamination) -> int:
    """Return how many times httpd has started or restarted."""
    return (site.folder / "error_log").read_text().count(READY)


# --- Debian ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["prefork", "event", "daemon"])
def test_an_edit_reaches_the_processes_of_a_debian_site(mode: str, folder: Path, shop: str) -> None:
    apache = debian_apache(folder, mode, shop)
    settings = folder / "wsgipool.toml"
    with apache.running():
        DebianSite(apache).get("/server")
        settings.write_text(settings.read_text() + "max_waiting = 77\n")

        output = apache.run(*COMMAND)

        assert re.search(r"^reloaded: process \d+ of \S+apache2ctl has read its configuration again$", output, re.M)
        assert "\n0 errors" in output
        assert DebianSite(apache).get("/server")
        eventually(lambda: apache.log.read_text().count(READY) == 2, "the message of the restart")


@pytest.mark.parametrize("typo", ["settings", "httpd"])
def test_a_typo_leaves_a_debian_site_at_work(typo: str, folder: Path, shop: str) -> None:
    apache = debian_apache(folder, "event", shop)
    edited = folder / "wsgipool.toml" if typo == "settings" else apache.confdir / "sites-available" / "shop.conf"
    with apache.running():
        edited.write_text(edited.read_text() + "max_szie = 4\n")

        outcome = apache.outcome(*COMMAND)

        assert outcome.returncode == 1
        assert "max_szie" in outcome.stdout + outcome.stderr
        assert "in spite of them: /usr/sbin/apache2ctl -k graceful\n" in outcome.stderr or typo == "httpd"
        assert DebianSite(apache).get("/server")
        assert apache.log.read_text().count(READY) == 1


# --- mistakes that `httpd -t` does not see --------------------------------------------------------------------------


def test_the_check_is_made_in_the_environment_of_the_running_httpd(site: SiteUnderExamination, folder: Path) -> None:
    for name in ("old.conf", "new.conf"):
        (folder / name).write_text("# nothing\n")
    site.write_apache("Include ${SITE_FILE}")
    with site.running(SITE_FILE=f"{folder}/old.conf"):
        (folder / "old.conf").unlink()

        result = reload(site, SITE_FILE=f"{folder}/new.conf")

        assert result.exit_code == 1
        assert "does not accept its configuration:" in result.stderr
        assert f"{folder}/old.conf" in result.stderr
        assert starts(site) == 1


def test_an_httpd_that_ends_instead_of_restarting_is_an_error(site: SiteUnderExamination) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, site.running() as pid:
        site.write_apache(f"Listen 127.0.0.1:{taken.getsockname()[1]}")

        result = reload(site)

        assert result.exit_code == 1
        assert f"process {pid} ended instead of restarting, so httpd does not run" in result.stderr


def test_warnings_do_not_stop_a_reload(site: SiteUnderExamination) -> None:
    site.settings.chmod(0o644)
    with site.running():
        result = reload(site)

        assert result.exit_code == 0, result.output
        assert "warning: secret-readable" in result.stdout


def test_each_reload_waits_for_its_own_restart(site: SiteUnderExamination) -> None:
    with site.running():
        assert [reload(site).exit_code for _ in range(3)] == [0, 0, 0]

        eventually(lambda: starts(site) == 4, "the message of the last restart")


# --- nothing to reload -----------------------------------------------------------------------------------------------


def test_where_httpd_does_not_run_the_error_says_how_to_start_it(site: SiteUnderExamination) -> None:
    result = reload(site)

    assert result.exit_code == 1
    assert result.stderr == (
        f"wsgipool: httpd does not run: {site.folder}/httpd.pid names no process of it. Start it: systemctl start "
        f"apache2, or without systemd: /usr/sbin/apache2 -f {site.folder}/httpd.conf -k start\n"
    )


@as_root
def test_another_user_is_told_who_may_reload(site: SiteUnderExamination) -> None:
    with site.running() as pid:
        outcome = subprocess.run(
            [*COMMAND, "--httpd", "apache2", "--", *site.options()],
            user="nobody",
            capture_output=True,
            text=True,
            check=False,
        )

        assert outcome.returncode == 1
        assert outcome.stderr == (
            f"wsgipool: httpd runs as root (process {pid}), so only that user can restart it; run "
            f"`sudo {SCRIPT} apache reload`\n"
        )
        assert starts(site) == 1
