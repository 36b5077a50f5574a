"""Graceful restarts and stops under load: no request fails, and every session ends with a proper quit."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
import requests

from httpd.harness import LONG, AbortedClients, eventually, sessions
from httpd.loads import Load
from httpd.place import MODES, Place
from wsgipool.demo.mariadb import Server

HTTPD_IN_DAEMON_MODE = {"httpd 502", "httpd 503"}
"""Daemon processes end at once in a graceful restart, and httpd itself answers the requests in flight, with or without
a database (https://github.com/GrahamDumpleton/mod_wsgi/issues/383)."""


HOLD = "/hold?seconds=0.01"


def processes_and_threads(mode: str) -> tuple[int, int]:
    return (4, 1) if mode == "prefork" else (2, 4)


@pytest.mark.parametrize("mode", MODES)
def test_graceful_restarts_under_load_fail_no_request_and_abort_no_session(
    mode: str, mariadb: Server, shop: str, place: Place
) -> None:
    user = str(urlsplit(shop).username)
    processes, threads = processes_and_threads(mode)
    aborted = AbortedClients(mariadb, user)
    with place.running_site(mode, {"shop": shop}, processes=processes, threads=threads) as site:
        with Load(site, HOLD, clients=4) as load:
            for _ in range(3):
                load.wait_for_more(20)
                load.wait_for_a_new_process_after(site.graceful_restart)
        site.stop_gracefully()

    allowed = {"application 200"} | (HTTPD_IN_DAEMON_MODE if mode == "daemon" else set())
    assert set(load.outcomes) <= allowed, load.outcomes
    assert "Traceback" not in site.log()
    assert aborted.count() == 0


@pytest.mark.parametrize("mode", ["worker", "event"])
def test_an_old_generation_closes_idle_connections_while_its_last_request_runs(
    mode: str, mariadb: Server, shop: str, place: Place
) -> None:
    user = str(urlsplit(shop).username)
    with place.running_site(mode, {"shop": shop}, processes=1, threads=4) as site:
        site.load(lambda _: "/hold?seconds=0.1", requests=12, clients=4)
        go_on = site.folder / "go-on"
        with requests.get(f"{site.url}/stream?until={go_on}", stream=True, timeout=LONG) as response:
            lines = response.iter_lines()
            first = next(lines)
            held = int(first.split()[1])
            assert len(sessions(mariadb, user)) > 1

            site.graceful_restart()

            eventually(lambda: sessions(mariadb, user) == {held}, "the idle connections to be closed")
            site.touch(go_on)
            last = next(lines)

    assert first == last


@pytest.mark.parametrize("mode", MODES)
def test_a_graceful_stop_under_load_answers_what_it_accepted_and_aborts_no_session(
    mode: str, mariadb: Server, shop: str, place: Place
) -> None:
    user = str(urlsplit(shop).username)
    processes, threads = processes_and_threads(mode)
    with (
        place.running_site(mode, {"shop": shop}, processes=processes, threads=threads) as site,
        Load(site, HOLD, clients=4) as load,
    ):
        load.wait_for_more(20)
        aborted = AbortedClients(mariadb, user)
        site.stop_gracefully()

    # After httpd has closed its socket, connections are refused.
    allowed = {"application 200", "no answer"} | (HTTPD_IN_DAEMON_MODE if mode == "daemon" else set())
    assert set(load.outcomes) <= allowed, load.outcomes
    assert "Traceback" not in site.log()
    assert aborted.count() == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_plain_stop_quits_the_idle_sessions(mode: str, mariadb: Server, shop: str, place: Place) -> None:
    user = str(urlsplit(shop).username)
    processes, threads = processes_and_threads(mode)
    with place.running_site(mode, {"shop": shop}, processes=processes, threads=threads) as site:
        site.load(lambda _: "/hold?seconds=0.05", requests=40, clients=8)
        assert len(sessions(mariadb, user)) > 1
        aborted = AbortedClients(mariadb, user)

    assert aborted.count() == 0, site.log()
