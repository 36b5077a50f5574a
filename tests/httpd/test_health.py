"""`/wsgipool-health` on real httpd and a real MariaDB that stops, hangs and comes back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from httpd.harness import ExpressSite, eventually, running_site, sessions
from httpd.place import ThisMachine
from wsgipool.demo.mariadb import LocalServer, Server
from wsgipool.httpd.express import PACKAGE

# The drop-in, which includes the file by a Define, was read before; see test_debian.py.
OPTIONS = ("--include-file", str(PACKAGE / "apache" / "health.conf"))


@pytest.fixture
def own_mariadb(folder: Path) -> Iterator[LocalServer]:
    """A MariaDB for one test, which stops it."""
    with ThisMachine(folder).running_mariadb({}) as server:
        yield server


@contextmanager
def site_with_health(folder: Path, mode: str, url: str, **settings: str | int) -> Iterator[ExpressSite]:
    with running_site(
        folder,
        mode,
        {"shop": url},
        processes=1,
        threads=1 if mode == "prefork" else 4,
        settings=settings,
        express_options=OPTIONS,
    ) as site:
        yield site


def unready(site: ExpressSite) -> tuple[int, str]:
    """Wait until the site is not ready, and return its answer."""
    found: list[tuple[int, str]] = []

    def is_unready() -> bool:
        found.append(health(site))
        return found[-1][0] != 200

    eventually(is_unready, "the site to notice")
    return found[-1]


def health(site: ExpressSite, path: str = "") -> tuple[int, str]:
    response = site.request(f"/wsgipool-health{path}")
    return response.status_code, response.text


@pytest.mark.parametrize("mode", ["prefork", "event", "daemon"])
def test_ready_follows_the_database_and_live_does_not(mode: str, folder: Path, own_mariadb: LocalServer) -> None:
    url = own_mariadb.create_database("shop")
    own_mariadb.stop()
    with site_with_health(folder, mode, url) as site:
        down, live = health(site), health(site, "/live")
        own_mariadb.start()
        eventually(lambda: health(site, "/ready") == (200, "ready\n"), "the site to be ready")
        own_mariadb.stop()
        down_again = unready(site)
        log = site.log()

    assert down == (503, "not ready\nshop: cannot connect (error 2003)\n")
    assert live == (200, "live\n")
    assert down_again == down
    assert "Traceback" not in log


def test_a_server_that_hangs_is_noticed_in_a_moment(folder: Path, own_mariadb: LocalServer) -> None:
    url = own_mariadb.create_database("shop")
    with site_with_health(folder, "event", url) as site:
        assert health(site)[0] == 200
        pid = int((own_mariadb.folder / "server.pid").read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            found = unready(site)
            seconds = time.monotonic() - began
            live = health(site, "/live")
        finally:
            os.kill(pid, signal.SIGCONT)
        eventually(lambda: health(site)[0] == 200, "the site to be ready")

    assert found[0] == 503
    assert found[1].startswith("not ready\nshop: ")
    assert live[0] == 200
    assert seconds < 10, "a check takes about a second, and a result is shared for a second"


def test_many_probes_at_once_take_one_connection(folder: Path, shop: str, mariadb: Server) -> None:
    with site_with_health(folder, "event", shop) as site, ThreadPoolExecutor(16) as executor:
        answers = list(executor.map(lambda _: health(site), range(64)))
        used = len(sessions(mariadb, shop.rpartition("/")[2]))

    assert set(answers) == {(200, "ready\n")}
    assert used == 1


def test_probes_are_answered_while_requests_use_all_connections(folder: Path, shop: str) -> None:
    with site_with_health(folder, "event", shop, max_size=1) as site, ThreadPoolExecutor(1) as executor:
        request = executor.submit(site.get, "/hold?seconds=3")
        eventually(lambda: site.get("/counts")["in_use"] == 1, "the request to have the connection")
        began = time.monotonic()
        answer, seconds = health(site), time.monotonic() - began
        request.result()

    assert answer == (200, "ready\n")
    assert seconds < 2


def test_defines_say_where_the_page_is_and_who_may_ask(folder: Path, shop: str) -> None:
    lines = folder / "health.conf"
    lines.write_text(
        'Define WSGIPOOL_HEALTH_PATH /balancer\nDefine WSGIPOOL_HEALTH_REQUIRE "ip 192.0.2.0/24"\n'
        f'Include "{PACKAGE}/apache/health.conf"\n'
    )
    options = ("--include-file", str(lines))
    with running_site(folder, "daemon", {"shop": shop}, processes=1, threads=2, express_options=options) as site:
        statuses = [site.request(path).status_code for path in ("/balancer", "/balancer/live")]

    assert statuses == [403, 403]


def test_without_the_define_there_is_no_page(folder: Path, shop: str) -> None:
    with running_site(folder, "worker", {"shop": shop}, processes=1, threads=2) as site:
        assert site.request("/wsgipool-health/live").text != "live\n"
