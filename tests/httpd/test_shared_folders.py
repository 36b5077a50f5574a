"""Root's `wsgipool status` and `wsgipool drain` find the folders of httpd's users without an option."""

from __future__ import annotations

import json
import os
import pwd
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from httpd.harness import eventually, give_to_apache, sessions
from httpd.test_debian import DebianApache, DebianSite, debian_apache
from httpd.test_pools import user_of
from wsgipool.demo.mariadb import Server
from wsgipool.httpd.express import apache_user

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root looks for the folders of others")

STATUS = [sys.executable, "-m", "wsgipool", "status"]
DRAIN = [sys.executable, "-m", "wsgipool", "drain"]

OWN_TMP = 'mount -t tmpfs -o mode=1777 none "$TMPDIR" && exec "$@"'
"""What systemd does for PrivateTmp=: the program has another folder at this path."""


@pytest.fixture
def tmp(folder: Path) -> Path:
    """httpd's /tmp."""
    path = folder / "tmp"
    path.mkdir()
    path.chmod(0o1777)
    return path


@pytest.fixture
def apache(folder: Path, shop: str) -> DebianApache:
    """A site whose settings name no runtime_dir."""
    return debian_apache(folder, "daemon", shop)


def reports(apache: DebianApache) -> list[dict[str, Any]]:
    """Return the documents of `wsgipool status`."""
    return list(documents(apache.run(*STATUS, "--json")))


def documents(text: str) -> Iterator[dict[str, Any]]:
    while text := text.lstrip():
        document, end = json.JSONDecoder().raw_decode(text)
        yield document
        text = text[end:]


def turns(apache: DebianApache) -> list[tuple[str, list[int]]]:
    """Return the folders, and how often a lock of their processes was taken."""
    return [(each["folder"], [lock["turns"] for lock in each["locks"]]) for each in reports(apache)]


@pytest.mark.parametrize("private", [False, True], ids=["", "PrivateTmp"])
def test_the_default_folder_is_that_of_httpds_user(private: bool, apache: DebianApache, tmp: Path) -> None:
    launcher = ["unshare", "--mount", "sh", "-c", OWN_TMP, "sh"] if private else []
    expected = [(f"{tmp}/wsgipool-{apache_user().pw_uid}", [5, 5, 5])]
    with apache.running(launcher=["env", f"TMPDIR={tmp}", *launcher]):
        DebianSite(apache).load(lambda _: "/place-order?seconds=0", requests=5, clients=1)

        eventually(lambda: turns(apache) == expected, "the counts of all turns")

        text = apache.run(*STATUS)
    assert f"of {apache_user().pw_name}; the folder is {tmp}/wsgipool-{apache_user().pw_uid}\n" in text
    assert list(tmp.iterdir()) == [] or not private


@pytest.mark.parametrize("private", [False, True], ids=["", "PrivateTmp"])
def test_root_drains_the_pools_of_httpds_user(
    private: bool, apache: DebianApache, tmp: Path, mariadb: Server, shop: str
) -> None:
    launcher = ["unshare", "--mount", "sh", "-c", OWN_TMP, "sh"] if private else []
    with apache.running(launcher=["env", f"TMPDIR={tmp}", *launcher]):
        DebianSite(apache).get("/hold?seconds=0")
        assert sessions(mariadb, user_of(shop))

        output = apache.run(*DRAIN)

        eventually(lambda: not sessions(mariadb, user_of(shop)), "all sessions to end")
    assert output.startswith(f"all pools: the processes of {apache_user().pw_name} that share {tmp}/wsgipool-")


def test_the_settings_of_the_site_name_the_folder(apache: DebianApache, folder: Path) -> None:
    (folder / "run").mkdir(mode=0o700)
    give_to_apache(folder / "run")
    settings = folder / "wsgipool.toml"
    settings.write_text(f'runtime_dir = "{folder}/run"\n{settings.read_text()}')
    with apache.running():
        DebianSite(apache).load(lambda _: "/place-order?seconds=0", requests=5, clients=1)

        eventually(lambda: turns(apache) == [(f"{folder}/run", [5, 5, 5])], "the counts of all turns")


def test_the_folders_of_all_users_are_read(apache: DebianApache, folder: Path, tmp: Path) -> None:
    other = pwd.getpwnam("daemon")
    (folder / "wsgipool.toml").chmod(0o644)
    site = apache.confdir / "sites-available" / "shop.conf"
    alias = f"WSGIScriptAlias /other {folder}/app/app.wsgi process-group=other application-group=%{{GLOBAL}}"
    site.write_text(
        f"WSGIDaemonProcess other processes=1 threads=2 user={other.pw_name} group={other.pw_name}\n"
        + site.read_text().replace("    WSGIScriptAlias", f"    {alias}\n    WSGIScriptAlias")
    )
    with apache.running(launcher=["env", f"TMPDIR={tmp}"]):
        DebianSite(apache).load(lambda _: "/place-order?seconds=0", requests=5, clients=1)

        expected = [(f"{tmp}/wsgipool-{other.pw_uid}", []), (f"{tmp}/wsgipool-{apache_user().pw_uid}", [5, 5, 5])]
        eventually(lambda: turns(apache) == expected, "the counts of all turns")

        text = apache.run(*DRAIN)
    assert text.count("replace their connections") == len(expected)


def test_a_broken_configuration_of_httpd_is_a_warning(apache: DebianApache) -> None:
    apache.write("conf-available/shop.conf", "Bogus\n")

    output = apache.run(*STATUS)

    assert "wsgipool: warning: httpd's users are unknown, since /usr/sbin/apache2ctl does not accept" in output
    assert re.search(r"^\d+ processes of root.*; the folder is /tmp/wsgipool-0$", output, re.M)
