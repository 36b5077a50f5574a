"""The scoreboard of real httpd processes: who holds connections, and numbers that never run backwards."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import requests

from httpd.harness import LONG, ExpressSite, eventually, running_site
from httpd.loads import Load
from wsgipool import records
from wsgipool.cli.shared_folders import named
from wsgipool.httpd import express
from wsgipool.scoreboard import reading
from wsgipool.scoreboard.model import Activity, HostReport


def host_of(folder: Path) -> HostReport:
    """Return the report that a command gets which runs as the processes' user."""
    report: HostReport = records.restored(
        HostReport, named(folder / "run").ask(lambda path: records.plain(reading.host(path)[0]))
    )
    return report


def seen(folder: Path, condition: Callable[[HostReport], bool], what: str) -> HostReport:
    """Wait for a report of which a condition is true, and return it."""

    def report() -> HostReport | None:
        host = host_of(folder)
        return host if condition(host) else None

    host = eventually(report, what)
    assert host is not None
    return host


@pytest.mark.parametrize("mode", express.MODES)
def test_each_process_shows_what_it_is_and_what_its_connections_do(mode: str, folder: Path, shop: str) -> None:
    threads = 1 if mode == "prefork" else 4
    with site(folder, mode, shop, threads) as running:
        url = f"{running.url}/hold?seconds=4"
        visitors = [threading.Thread(target=requests.get, args=[url], kwargs={"timeout": LONG}) for _ in range(2)]
        for visitor in visitors:
            visitor.start()

        host = seen(folder, lambda host: sum(bool(each.doing) for each in holders(host)) == 2, "two holders")
        for visitor in visitors:
            visitor.join()
        children = running.children()
        seen(folder, lambda host: host.databases()[0].in_use == 0, "all connections to be returned")

    process = next(process for process in host.processes if any(pool.holders for pool in process.pools))
    assert process.pid in children
    assert (process.mpm, process.threads, process.is_stopping) == (
        "event" if mode == "daemon" else mode,
        threads,
        False,
    )
    assert bool(process.process_group) == (mode == "daemon")
    assert process.generation == 0
    assert {holder.path for holder in holders(host)} == {"/hold"}
    assert all("site_under_test.py:" in holder.place for holder in holders(host))
    assert all(holder.doing.startswith("waits for the database, at ") for holder in holders(host))
    database = host.databases()[0]
    assert (database.in_use, database.totals.leaked) == (2, 0)


@pytest.mark.parametrize("mode", express.MODES)
def test_no_number_runs_backwards_over_graceful_restarts_and_kills(mode: str, folder: Path, shop: str) -> None:
    threads = 1 if mode == "prefork" else 4
    checkouts: list[int] = []

    def look() -> None:
        totals = [database.totals for database in host_of(folder).databases()]
        checkouts.append(sum(each.checkouts for each in totals))

    with site(folder, mode, shop, threads) as running, Load(running, "/hold?seconds=0.005", clients=4) as load:
        seen(folder, lambda host: any(each.totals.checkouts for each in host.databases()), "the first checkouts")
        for kill in (False, True, False):
            load.wait_for_more(50)
            look()
            if kill:
                victim = next(process.pid for process in host_of(folder).processes)
                running.kill(victim)
                look()
            load.wait_for_a_new_process_after(running.graceful_restart)
            look()
        load.wait_for_more(50)
        look()

    host = host_of(folder)
    assert checkouts == sorted(checkouts)
    assert checkouts[0] > 0
    assert host.processes == ()
    assert host.databases()[0].totals.checkouts >= checkouts[-1]
    assert host.databases()[0].in_use == 0


@pytest.mark.parametrize("mode", express.MODES)
def test_the_last_requests_of_processes_that_stop_are_counted(mode: str, folder: Path, shop: str) -> None:
    threads = 1 if mode == "prefork" else 4
    with site(folder, mode, shop, threads) as running, Load(running, "/hold?seconds=0.2", clients=4) as load:
        load.wait_for_more(8)
        running.stop_gracefully()

    served = sum(load.served.values())
    assert host_of(folder).databases()[0].totals.checkouts >= served


def test_a_process_is_shown_before_its_first_request(folder: Path, shop: str) -> None:
    with site(folder, "worker", shop, 4):
        host = seen(folder, lambda host: len(host.processes) >= 1, "a process")

    assert {(pool.name, pool.size) for process in host.processes for pool in process.pools} == {("shop", 0)}


def site(folder: Path, mode: str, shop: str, threads: int) -> AbstractContextManager[ExpressSite]:
    script = folder / "app" / "wrapped.wsgi"
    return running_site(
        folder, mode, {"shop": shop}, processes=2, threads=threads, budget={"connections": 20}, script=script
    )


def holders(host: HostReport) -> list[Activity]:
    return [holder for process in host.processes for pool in process.pools for holder in pool.holders]
