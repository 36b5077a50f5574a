"""`wsgipool plan` as a Debian administrator uses it: a real configuration, a real MariaDB, and the sizes it writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner, Result

from httpd.harness import SessionMonitor, VisitedSite, eventually, sessions, write_config
from httpd.test_debian import DebianApache, debian_apache
from wsgipool.cli import main
from wsgipool.demo.mariadb import MariaDB
from wsgipool.httpd.express import MODES

MAX_CONNECTIONS = 200
"""max_connections of the tests' MariaDB."""


def plan(*arguments: str | int) -> Result:
    return CliRunner().invoke(main, ["plan", *map(str, arguments)])


def planned(*arguments: str | int) -> dict[str, Any]:
    result = plan("--json", *arguments)
    assert result.stdout, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == (0 if found["fits"] and not found["not_asked"] else 1)
    return found


@pytest.fixture
def user(shop: str) -> str:
    return str(urlsplit(shop).username)


def apache_of(folder: Path, mode: str, shop: str, monkeypatch: pytest.MonkeyPatch) -> DebianApache:
    apache = debian_apache(folder, mode, shop)
    monkeypatch.setenv("APACHE_CONFDIR", str(apache.confdir))
    monkeypatch.delenv("WSGIPOOL_CONFIG", raising=False)
    return apache


@pytest.mark.parametrize(
    ("mode", "processes", "threads", "worst_case"),
    [("prefork", 2, 1, 2), ("worker", 4, 5, 20), ("event", 2, 5, 10), ("daemon", 2, 5, 10)],
)
def test_a_site_is_compared_with_the_limit_of_its_database(
    mode: str, processes: int, threads: int, worst_case: int, shop: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apache = apache_of(folder, mode, shop, monkeypatch)

    found = planned()

    assert found["httpd"] == {
        "program": "/usr/sbin/apache2ctl",
        "mpm": "event" if mode == "daemon" else mode,
        "drop_in": str(apache.confdir / "conf-available" / "wsgipool.conf"),
    }
    assert found["settings"] == [str(folder / "wsgipool.toml")]
    (group,) = found["groups"]
    assert (group["mode"], group["alive"], group["threads"], group["interpreters"]) == (mode, processes, threads, 1)
    (limit,) = found["limits"]
    assert (limit["connections"], limit["worst_case"]) == (MAX_CONNECTIONS, worst_case)
    assert limit["headroom"] == MAX_CONNECTIONS - max(5, limit["others"]) - worst_case
    assert found["fit"]["apache"] == []


def test_a_limit_of_the_account_counts_too(
    shop: str, user: str, mariadb: MariaDB, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mariadb.admin() as connection, connection.cursor() as cursor:
        cursor.execute(f"ALTER USER {user} WITH MAX_USER_CONNECTIONS 7")
    apache_of(folder, "daemon", shop, monkeypatch)

    result = plan()

    assert result.exit_code == 1
    assert f"but max_user_connections of {user} at mysql://127.0.0.1:{mariadb.port} is 7: 3 would be" in result.stdout
    assert "    [databases.shop]\n    max_size = 3\n" in result.stdout
    assert mariadb.password not in result.output


@pytest.fixture
def occupied_shop(folder: Path) -> Iterator[str]:
    """The URL of a database on a server on which others have 25 of 30 connections."""
    (folder / "mariadb").mkdir(mode=0o755)
    with MariaDB(folder / "mariadb", {"max_connections": 30}) as server, ExitStack() as held:
        server.start()
        server.create_database("django")
        url = server.create_database("shop")
        for _ in range(25):
            held.enter_context(closing(server.connect("django", server.password)))
        # The server may notice the end of earlier sessions late.
        with server.admin() as admin, admin.cursor() as cursor:
            eventually(
                lambda: cursor.execute("SELECT 1 FROM information_schema.processlist WHERE user <> 'django'") == 1,
                "the administrator's sessions to end",
            )
            yield url


def test_connections_that_others_have_now_are_not_free(
    occupied_shop: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apache_of(folder, "daemon", occupied_shop, monkeypatch)

    found, text = planned(), plan().stdout

    (limit,), (server,) = found["limits"], found["servers"]
    others = 25 + 1  # with the administrator's
    assert (limit["reserve"], limit["others"], limit["usable"], limit["refused"]) == (5, others, 4, 6)
    assert (server["ours"], server["sessions"]) == (0, others)
    assert f"TOO MANY: 10 connections in the worst case, but {limit['name']} is 30, 26 of them used by others" in text
    assert "now: 26 sessions, at most 27 since its start; this site has 0, others have 26 (accounts that" in text
    assert "    max_size = 2\n" in text


def test_where_others_have_too_many_connections_a_smaller_reserve_is_no_cure(
    occupied_shop: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apache_of(folder, "daemon", occupied_shop, monkeypatch)

    without_budget = plan("--hosts", 5).stdout
    with (folder / "wsgipool.toml").open("a") as settings:
        settings.write("[budget]\nconnections = 8\n")
    with_budget = plan().stdout

    assert "(76 for the current sizes), let others have fewer, or move some databases" in without_budget
    assert 'or write connections = "auto" with hosts = 1 and reserve = 26.' in with_budget


def test_the_sessions_of_the_site_are_not_others(
    shop: str, mariadb: MariaDB, user: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apache = apache_of(folder, "daemon", shop, monkeypatch)
    with apache.running():
        VisitedSite(apache.url).load(lambda _: "/hold?seconds=0.02", requests=30, clients=4)
        opened = len(sessions(mariadb, user))

        (server,) = planned()["servers"]

    assert server["ours"] >= opened > 0
    assert user not in [other["account"] for other in server["others"]]


def test_two_databases_of_one_server_share_its_limit(
    shop: str, mariadb: MariaDB, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apache_of(folder, "daemon", shop, monkeypatch)
    gone = f"mysql://nobody:s3cret@127.0.0.1:{mariadb.port}/gone"
    write_config(folder / "wsgipool.toml", {"shop": shop, "again": shop, "gone": gone}, {})

    found = planned()

    (limit,) = found["limits"]
    assert sorted(limit["databases"]) == ["again", "gone", "shop"]
    assert limit["worst_case"] == 30
    assert [note for note in found["notes"] if "the limit of gone is not known" in note]
    assert found["not_asked"] == ["gone"]
    assert "s3cret" not in json.dumps(found)


def test_processes_of_two_users_have_a_budget_each(shop: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apache = apache_of(folder, "daemon", shop, monkeypatch)
    apache.write(
        "sites-enabled/other.conf",
        "WSGIDaemonProcess other processes=2 threads=5 user=daemon\n<VirtualHost *:*>\nServerName other.example\n"
        f"WSGIScriptAlias / {folder}/app/app.wsgi process-group=other application-group=%{{GLOBAL}}\n</VirtualHost>\n",
    )
    with (folder / "wsgipool.toml").open("a") as settings:
        settings.write("[budget]\nconnections = 8\n")

    found, text = planned(), plan().stdout

    assert [group["user"] for group in found["groups"]] == ["daemon", "www-data"]
    (limit,) = found["limits"]
    assert limit["worst_case"] == 16
    assert "16 connections in the worst case, with the budget of 8 a host for each of 2 users, " in text
    assert "note: the processes of daemon and www-data have a [budget] each" in text


@pytest.mark.parametrize("mode", MODES)
def test_the_written_sizes_are_those_that_run(
    mode: str, shop: str, user: str, mariadb: MariaDB, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So few connections that processes must become fewer, too: both files must change.
    limit = {"prefork": 1, "worker": 3, "event": 1, "daemon": 1}[mode]
    apache = apache_of(folder, mode, shop, monkeypatch)

    result = plan("--write", "--reserve", MAX_CONNECTIONS - limit)

    assert result.exit_code == 0, result.output
    if mode == "daemon":
        file, line = "sites-available/shop.conf", "WSGIDaemonProcess shop processes=1 threads=5 python-home="
    else:
        file, line = "conf-available/wsgipool.conf", "Define WSGIPOOL_PROCESSES 1\n"
    assert line in (apache.confdir / file).read_text()
    assert (apache.confdir / f"{file}.bak").exists()
    assert (apache.confdir / file.replace("available", "enabled")).is_symlink()
    assert planned("--reserve", MAX_CONNECTIONS - limit)["fits"]
    with apache.running(), SessionMonitor(mariadb, user) as monitor:
        site = VisitedSite(apache.url)
        known = site.get("/server")
        answers = site.load(lambda _: "/hold?seconds=0.02", requests=30, clients=4)
    assert known["max_processes"] == 1
    assert {answer["max_size"] for answer in answers} == {1}
    assert monitor.maximum <= limit


def test_a_configuration_that_httpd_refuses_is_restored(
    shop: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apache = apache_of(folder, "event", shop, monkeypatch)
    drop_in = apache.confdir / "conf-available" / "wsgipool.conf"
    # httpd accepts the current sizes and refuses the new ones.
    with drop_in.open("a") as file:
        file.write("Define PROCESSES_${WSGIPOOL_PROCESSES}\n")
        file.write('<IfDefine PROCESSES_1>\n    Error "one process is not enough"\n</IfDefine>\n')
    before, settings = drop_in.read_text(), (folder / "wsgipool.toml").read_text()

    result = plan("--write", "--reserve", MAX_CONNECTIONS - 1)

    assert result.exit_code == 1
    assert "one process is not enough" in result.stderr
    assert drop_in.read_text() == before
    assert (folder / "wsgipool.toml").read_text() == settings


def test_settings_that_cannot_be_written_leave_the_file_of_the_site_unchanged(
    shop: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apache = apache_of(folder, "daemon", shop, monkeypatch)
    site, settings = apache.confdir / "sites-available" / "shop.conf", folder / "wsgipool.toml"
    before = site.read_text(), settings.read_text()
    # The path of the backup is a folder.
    (folder / "wsgipool.toml.bak").mkdir()

    result = plan("--write", "--reserve", MAX_CONNECTIONS - 1)

    assert result.exit_code == 1
    assert f"{settings} cannot be written by root: Is a directory; nothing was changed" in result.stderr
    assert (site.read_text(), settings.read_text()) == before
