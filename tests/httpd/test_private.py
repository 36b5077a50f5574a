"""The private httpd that places requests: what it leaves behind, and what it denies."""

from __future__ import annotations

import http.client
import os
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
    # A killed command leaves its folder behind.
    environment = {**os.environ, "TMPDIR": str(site.folder)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
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


def test_the_headers_of_an_answer_have_new_names_in_each_run(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    # So neither a .htaccess file nor another program can know them.
    names: list[set[str]] = []
    read = http.client.HTTPConnection.getresponse

    def noted(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
        response = read(connection)
        names.append({name for name in response.headers if name.startswith("X-")})
        return response

    monkeypatch.setattr(http.client.HTTPConnection, "getresponse", noted)
    for _ in range(2):
        with PrivateHttpd(dump.read(HTTPD, site.options)) as httpd:
            httpd.ask(MAIN, "/shop", "www.example.org")

    assert names[0]
    assert names[0].isdisjoint(names[1])
