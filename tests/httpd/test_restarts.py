"""Graceful restarts and stops under load: no request fails, and every session ends with a proper quit."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
import requests

from httpd.harness import RunningSite, eventually, sessions, status
from httpd.place import MODES, Place
from wsgipool.demo.mariadb import Server

HTTPD_IN_DAEMON_MODE = {"httpd 502", "httpd 503"}
"""Daemon processes end at once in a graceful restart, and httpd itself answers what was on its way to them, with or
without a database (https://github.com/GrahamDumpleton/mod_wsgi/issues/383)."""


class Load:
    """Clients that send one request after the other; counts the outcomes by who answered: the application or httpd."""

    def __init__(self, site: RunningSite, clients: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.processes: set[int] = set()
        self._site = site
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    @property
    def served(self) -> int:
        return self.outcomes["application 200"]

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                response = self._site.request("/hold?seconds=0.01")
            except requests.ConnectionError:
                self.outcomes["no connection"] += 1
                if self._site.has_ended():
                    return
            else:
                from_application = response.headers["Content-Type"] == "application/json"
                self.outcomes[f"{'application' if from_application else 'httpd'} {response.status_code}"] += 1
                if response.status_code == 200:
                    self.processes.add(response.json()["pid"])

    def wait_for_more_requests(self) -> None:
        before = self.served
        eventually(lambda: self.served > before + 20, "more requests to be served")

    def wait_for_a_new_process_after(self, restart: Callable[[], None]) -> None:
        before = set(self.processes)
        restart()
        eventually(lambda: self.processes - before, "a request to be served by a new process")

    @contextmanager
    def running(self) -> Iterator[Load]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()


def processes_and_threads(mode: str) -> tuple[int, int]:
    return (4, 1) if mode == "prefork" else (2, 4)


@pytest.mark.parametrize("mode", MODES)
def test_graceful_restarts_under_load_fail_no_request_and_abort_no_session(
    mode: str, mariadb: Server, shop: str, place: Place
) -> None:
    user = str(urlsplit(shop).username)
    processes, threads = processes_and_threads(mode)
    aborted = status(mariadb, "Aborted_clients")
    with place.running_site(mode, {"shop": shop}, processes=processes, threads=threads) as site:
        with Load(site, clients=4).running() as load:
            for _ in range(3):
                load.wait_for_more_requests()
                load.wait_for_a_new_process_after(site.graceful_restart)
        site.stop_gracefully()

    allowed = {"application 200"} | (HTTPD_IN_DAEMON_MODE if mode == "daemon" else set())
    assert set(load.outcomes) <= allowed, load.outcomes
    assert "Traceback" not in site.log()
    eventually(lambda: not sessions(mariadb, user), "all sessions to end")
    assert status(mariadb, "Aborted_clients") == aborted


@pytest.mark.parametrize("mode", MODES)
def test_a_graceful_stop_under_load_answers_what_it_accepted_and_aborts_no_session(
    mode: str, mariadb: Server, shop: str, place: Place
) -> None:
    user = str(urlsplit(shop).username)
    processes, threads = processes_and_threads(mode)
    aborted = status(mariadb, "Aborted_clients")
    with (
        place.running_site(mode, {"shop": shop}, processes=processes, threads=threads) as site,
        Load(site, clients=4).running() as load,
    ):
        load.wait_for_more_requests()
        site.stop_gracefully()

    # Once it listens no more, httpd itself refuses.
    allowed = {"application 200", "no connection"} | (HTTPD_IN_DAEMON_MODE if mode == "daemon" else set())
    assert set(load.outcomes) <= allowed, load.outcomes
    assert "Traceback" not in site.log()
    eventually(lambda: not sessions(mariadb, user), "all sessions to end")
    assert status(mariadb, "Aborted_clients") == aborted


@pytest.mark.parametrize("mode", MODES)
def test_a_plain_stop_quits_the_idle_sessions(mode: str, mariadb: Server, shop: str, place: Place) -> None:
    user = str(urlsplit(shop).username)
    processes, threads = processes_and_threads(mode)
    aborted = status(mariadb, "Aborted_clients")
    with place.running_site(mode, {"shop": shop}, processes=processes, threads=threads) as site:
        site.load(lambda _: "/hold?seconds=0.05", requests=40, clients=8)
        assert len(sessions(mariadb, user)) > 1

    eventually(lambda: not sessions(mariadb, user), "all sessions to end")
    assert status(mariadb, "Aborted_clients") == aborted
