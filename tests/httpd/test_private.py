"""The private httpd that places requests: what it leaves behind, and what it denies."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from httpd.harness import eventually
from httpd.interpreters import HTTPD, Site
from wsgipool.httpd import dump
from wsgipool.httpd.private import MAIN, PrivateHttpd

ONE_SITE = """
DocumentRoot ${FOLDER}/www
WSGIScriptAlias /shop ${FOLDER}/shop/app.wsgi
"""
STARTED = """
import sys
from wsgipool.httpd import dump, private
httpd = private.PrivateHttpd(dump.read(sys.argv[1], sys.argv[2:]))
print("started", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def site(folder: Path) -> Site:
    return Site(folder, ONE_SITE, ["shop/app.wsgi"])


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_the_command_that_started_it(number: signal.Signals, site: Site) -> None:
    command = [sys.executable, "-c", STARTED, HTTPD, *site.options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        (httpd,) = children(process.pid)

        process.send_signal(number)

        eventually(lambda: not Path(f"/proc/{httpd}").exists(), "httpd to end")


def test_it_runs_no_script(site: Site) -> None:
    with PrivateHttpd(dump.read(HTTPD, site.options)) as httpd:
        answer = httpd.ask(MAIN, "/shop/books", "www.example.org")

    assert (answer.status, answer.mount, answer.file) == (500, "/shop", f"{site.folder}/shop/app.wsgi")
    assert site.groups() == {}


def test_a_request_without_the_key_is_denied(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    (site.folder / "www" / "secret.txt").write_text("secret\n")
    requests: list[tuple[str, int]] = []
    connect = http.client.HTTPConnection.connect

    def noted(connection: http.client.HTTPConnection) -> None:
        requests.append((connection.host, connection.port))
        connect(connection)

    monkeypatch.setattr(http.client.HTTPConnection, "connect", noted)
    with PrivateHttpd(dump.read(HTTPD, site.options)) as httpd:
        with_key = httpd.ask(MAIN, "/secret.txt", "www.example.org").status
        connection = http.client.HTTPConnection(*requests[0])
        connection.request("GET", "/secret.txt")
        without_key = connection.getresponse().status
        connection.close()

    assert (with_key, without_key) == (200, 403)


def test_a_htaccess_file_cannot_change_an_answer(site: Site) -> None:
    directory = f"<Directory {site.folder}/shop>\nAllowOverride All\nWSGIProcessGroup shop\n</Directory>\n"
    file = site.folder / "httpd.conf"
    file.write_text(f"{file.read_text()}{directory}")
    with PrivateHttpd(dump.read(HTTPD, site.options)) as httpd:
        before = httpd.ask(MAIN, "/shop", "www.example.org")
    lines = ["Header always set X-file-0 /home/other.wsgi", "Header always unset X-wsgiprocessgroup", "Bogus"]
    (site.folder / "shop" / ".htaccess").write_text("\n".join(lines) + "\n")

    with PrivateHttpd(dump.read(HTTPD, site.options)) as httpd:
        after = httpd.ask(MAIN, "/shop", "www.example.org")

    assert before.process_group is not None
    assert after == before


def test_a_port_that_another_program_uses_is_not_taken(site: Site) -> None:
    with PrivateHttpd(dump.read(HTTPD, site.options)) as first, PrivateHttpd(dump.read(HTTPD, site.options)) as second:
        answers = [each.ask(MAIN, "/shop", "www.example.org").status for each in (first, second)]

    assert answers == [500, 500]
