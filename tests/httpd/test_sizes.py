"""The formulae of `wsgipool.plan.sizing` counted in a real httpd: processes that exist at once, and their connections.

Each request keeps a connection, and so its process, until it is released.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from httpd.background import Background
from httpd.harness import LONG, ExpressSite, SessionMonitor, eventually, running_site
from wsgipool.demo.mariadb import MariaDB
from wsgipool.plan.sizing import ProcessGroup, processes_alive, worst_case


class Census(Background):
    """Counts httpd's child processes that run Python, every few milliseconds."""

    def __init__(self, site: ExpressSite, mode: str) -> None:
        super().__init__(self._sample)
        self.maximum = 0
        self._parent = site.httpd.pid
        self._daemons = mode == "daemon"

    def now(self) -> int:
        children = Path(f"/proc/{self._parent}/task/{self._parent}/children").read_text().split()
        return sum(1 for pid in children if self._counts(pid))

    def _counts(self, pid: str) -> bool:
        try:
            status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            command = Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:  # it has ended
            return False
        return status != "Z" and command.startswith("(wsgi:") == self._daemons

    def _sample(self) -> None:
        while not self._ending.wait(0.005):
            self.maximum = max(self.maximum, self.now())


@contextmanager
def holder(site: ExpressSite, until: Path) -> Iterator[int]:
    """A request that keeps a connection of a process until the file appears; yields the id of the process."""

    def answer() -> requests.Response | None:
        response = requests.get(f"{site.url}/stream?until={until}", stream=True, timeout=LONG)
        return response if response.ok else None  # in daemon mode httpd itself answers for a moment, with 503 or 502

    response = eventually(answer, "a request to be served")
    assert response is not None
    with response:
        yield int(next(response.iter_lines(chunk_size=1)).split()[0])


def restart_and_wait_for_a_new_process(site: ExpressSite) -> None:
    before = eventually(lambda: process_that_answers(site), "a request to be served")
    site.httpd.graceful_restart()
    eventually(lambda: process_that_answers(site) not in (None, before), "a new process")


def process_that_answers(site: ExpressSite) -> int | None:
    """Return the id of a process, or None if httpd itself has answered, as it may in daemon mode after a restart.

    That may happen even after the first answer of a new process, if an Apache child still knows only the old ones.
    """
    response = site.request("/server")
    return response.json()["pid"] if response.ok else None


@contextmanager
def site_of(
    folder: Path, mode: str, shop: str, *, processes: int, threads: int, lines: str = ""
) -> Iterator[ExpressSite]:
    extra = folder / "sizes.conf"
    extra.write_text(lines)
    with running_site(
        folder,
        mode,
        {"shop": shop},
        processes=processes,
        threads=threads,
        express_options=("--include-file", str(extra)),
    ) as site:
        yield site


@pytest.fixture
def user(shop: str) -> str:
    return str(urlsplit(shop).username)


def test_graceful_restarts_of_worker_leave_processes_behind_with_any_server_limit(
    shop: str, user: str, mariadb: MariaDB, folder: Path
) -> None:
    pids, alive = set[int](), 0
    with (
        site_of(folder, "worker", shop, processes=1, threads=4, lines="ServerLimit 1\n") as site,
        Census(site, "worker") as census,
        SessionMonitor(mariadb, user) as monitor,
    ):
        for attempt in range(10):
            until = folder / f"end{attempt}"
            with holder(site, until) as old:
                if restart_finds_a_place(site):
                    with holder(site, until) as new:
                        pids, alive = {old, new}, census.now()
                        eventually(lambda: monitor.maximum >= 2, "the sessions of both")
                        until.touch()
                    break
                until.touch()

    expected = processes_alive("worker", 1, server_limit=1, graceful_restarts=1)
    assert len(pids) == alive == census.maximum == expected == 2
    assert monitor.maximum <= worst_case([ProcessGroup("", "worker", 1, expected, threads=4)], "threads")


def restart_finds_a_place(site: ExpressSite) -> bool:
    """Restart gracefully; return whether a new process runs beside the old one.

    Sometimes worker reports a full scoreboard, and then the new process and all requests wait for the old one.
    """

    def times_logged(line: str) -> int:
        return site.log().count(line)

    started, full = "embedded in an Apache child", "AH00288: scoreboard is full"
    before = times_logged(started), times_logged(full)
    site.httpd.graceful_restart()
    eventually(
        lambda: times_logged(started) > before[0] or times_logged(full) > before[1],
        "a new process, or a full scoreboard",
    )
    return times_logged(full) == before[1]


def test_event_never_has_more_processes_than_its_server_limit(
    shop: str, user: str, mariadb: MariaDB, folder: Path
) -> None:
    server_limit = 3
    until = folder / "end"
    with (
        site_of(folder, "event", shop, processes=1, threads=2, lines=f"ServerLimit {server_limit}\n") as site,
        ExitStack() as held,
        Census(site, "event") as census,
        SessionMonitor(mariadb, user) as monitor,
    ):
        pids = {held.enter_context(holder(site, until))}
        for _ in range(server_limit - 1):
            restart_and_wait_for_a_new_process(site)
            pids.add(held.enter_context(holder(site, until)))
        # There is no free slot, so the new process must wait.
        site.httpd.graceful_restart()
        threading.Event().wait(1.5)
        alive = census.now()
        until.touch()
        eventually(lambda: site.get("/server")["pid"] not in pids, "a new process, once there is a slot")

    assert len(pids) == alive == census.maximum == processes_alive("event", 1, server_limit=server_limit)
    assert monitor.maximum <= worst_case([ProcessGroup("", "event", 1, server_limit, threads=2)], "threads")


def test_prefork_never_has_more_processes_than_max_request_workers(
    shop: str, user: str, mariadb: MariaDB, folder: Path
) -> None:
    workers = 3
    until = folder / "end"
    with (
        site_of(folder, "prefork", shop, processes=workers, threads=1, lines="ServerLimit 10\n") as site,
        ExitStack() as held,
        Census(site, "prefork") as census,
        SessionMonitor(mariadb, user) as monitor,
    ):
        pids = {held.enter_context(holder(site, until)) for _ in range(workers - 1)}
        for _ in range(2):
            restart_and_wait_for_a_new_process(site)
        pids.add(held.enter_context(holder(site, until)))
        site.httpd.graceful_restart()
        threading.Event().wait(1.5)
        alive = census.now()
        until.touch()

    assert len(pids) == alive == census.maximum == processes_alive("prefork", workers) == workers
    assert monitor.maximum == worst_case([ProcessGroup("", "prefork", workers, workers, threads=1)], "threads")


def test_a_daemon_group_never_has_more_than_its_processes(shop: str, user: str, mariadb: MariaDB, folder: Path) -> None:
    processes = 2
    until = folder / "end"
    with (
        site_of(folder, "daemon", shop, processes=processes, threads=2) as site,
        ExitStack() as held,
        Census(site, "daemon") as census,
        SessionMonitor(mariadb, user) as monitor,
    ):
        eventually(lambda: census.now() == processes, "the daemon processes")
        for _ in range(3):
            held.enter_context(holder(site, until))
            restart_and_wait_for_a_new_process(site)
        until.touch()
        # The processes of the last restart may not have their names yet.
        eventually(lambda: census.now() == processes, "the daemon processes")

    assert census.maximum == processes_alive("daemon", processes)
    assert monitor.maximum <= worst_case(
        [ProcessGroup("wsgipool", "daemon", processes, processes, threads=2)], "threads"
    )
