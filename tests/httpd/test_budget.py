"""One budget for all processes of a host, in real httpd on a MariaDB that allows no further connection."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from httpd.harness import SessionMonitor, eventually, made_runtime_dir, running_site
from httpd.loads import (
    Load,
    ServerMonitor,
    Shape,
    assert_no_connection_was_refused,
    assert_no_permit_is_lost,
    full_mariadb,
    kill_one,
)
from httpd.place import IN_CONTAINERS, Place, ThisMachine
from wsgipool.demo.mariadb import Server

BUDGET = 6


def do_restarts_and_kills(shape: Shape, place: Place, budget: int, *, restarts: int, kills: int) -> None:
    """Restart under full load, kill processes after each restart, and check that the budget holds and nothing leaks."""
    with full_mariadb(place, budget) as mariadb:
        url = mariadb.create_database("shop")
        with shape.running(place, url, {"connections": budget}) as site:
            with (
                ServerMonitor(mariadb) as monitor,
                Load(site, *shape.paths, clients=shape.clients) as load,
            ):
                for _ in range(restarts):
                    load.wait_for_more(2 * shape.clients)
                    site.graceful_restart()
                    for _ in range(kills):
                        load.wait_for_more(2 * shape.clients)
                        kill_one(site)
                load.wait_for_more(2 * shape.clients)
            assert_no_permit_is_lost(mariadb, site, budget, shape)

        # In daemon mode httpd itself answers for a process that has ended.
        assert set(load.outcomes) <= {"application 200", "no answer", "httpd 500", "httpd 502", "httpd 503"}
        assert {interpreter for _, interpreter in load.served} == shape.interpreters
        assert monitor.maximum <= monitor.maximum_ever <= budget
        assert_no_connection_was_refused(site, load)


def test_more_prefork_children_than_connections_all_take_turns(place: Place) -> None:
    shape = Shape("prefork", 16, 1)
    with full_mariadb(place, BUDGET) as mariadb:
        url = mariadb.create_database("shop")
        with (
            shape.running(place, url, {"connections": BUDGET}) as site,
            ServerMonitor(mariadb) as monitor,
            Load(site, *shape.paths, clients=shape.clients) as load,
        ):
            eventually(lambda: len(load.served) == 16 and min(load.served.values()) >= 10, "all to be served")

        assert set(load.outcomes) == {"application 200"}
        assert monitor.maximum_ever == BUDGET
        assert_no_connection_was_refused(site, load)


SMALL_SHAPES = [
    pytest.param(Shape("worker", 2, 8, further_interpreters=("another",)), id="two sub-interpreters"),
    pytest.param(Shape("daemon", 2, 8, asks_for_password=True), id="daemon and embedded auth"),
]


@pytest.mark.parametrize("shape", [Shape("worker", 2, 8)] if IN_CONTAINERS else SMALL_SHAPES)
def test_restarts_and_kills_leak_no_permit_and_exceed_no_limit(shape: Shape, place: Place) -> None:
    do_restarts_and_kills(shape, place, BUDGET, restarts=2, kills=1)


def test_the_limit_of_the_server_is_used(place: Place) -> None:
    shape = Shape("worker", 2, 8)
    with full_mariadb(place, 11) as mariadb:  # its limit is 12
        url = mariadb.create_database("shop")
        with shape.running(place, url, {"connections": "auto", "hosts": 2, "reserve": 4}) as site:
            assert_no_permit_is_lost(mariadb, site, 4, shape)


def test_a_folder_open_to_others_is_an_error_in_the_log_and_not_a_missing_limit(
    folder: Path, mariadb: Server, shop: str
) -> None:
    made_runtime_dir(folder).chmod(0o755)
    with running_site(folder, "worker", {"shop": shop}, processes=1, threads=2, budget={"connections": 2}) as site:
        eventually(lambda: "is open to others, drwxr-xr-x; chmod go= " in site.log(), "the error at the start")
        with SessionMonitor(mariadb, str(urlsplit(shop).username)) as monitor:
            assert site.request("/hold").status_code == 500
    assert monitor.maximum == 0


# --- for minutes -----------------------------------------------------------------------------------------------------

SHAPES = [
    pytest.param(Shape("prefork", 64, 1), id="prefork"),
    pytest.param(Shape("worker", 4, 16), id="worker"),
    pytest.param(Shape("event", 4, 16), id="event"),
    pytest.param(Shape("daemon", 4, 8), id="daemon"),
    pytest.param(Shape("daemon", 4, 8, asks_for_password=True), id="daemon and embedded auth"),
    pytest.param(Shape("worker", 2, 16, further_interpreters=("another",)), id="two sub-interpreters"),
]


@pytest.mark.stress
@pytest.mark.parametrize("shape", SHAPES)
def test_full_load_five_restarts_and_kills_at_random(shape: Shape, folder: Path) -> None:
    do_restarts_and_kills(shape, ThisMachine(folder), shape.clients // 4, restarts=5, kills=3)


@pytest.mark.stress
@pytest.mark.parametrize("shape", SHAPES)
def test_every_process_takes_turns(shape: Shape, folder: Path, record_property: Callable[[str, object], None]) -> None:
    place, budget = ThisMachine(folder), shape.clients // 8
    with full_mariadb(place, budget) as mariadb:
        url = mariadb.create_database("shop")
        with (
            shape.running(place, url, {"connections": budget}) as site,
            ServerMonitor(mariadb) as monitor,
            Load(site, *shape.paths, clients=shape.clients) as load,
        ):
            load.wait_for_more(10 * shape.clients)
            before = Counter(load.served)
            time.sleep(30)
            served = load.served - before

        assert set(load.outcomes) == {"application 200"}
        assert monitor.maximum_ever <= budget
        assert_no_connection_was_refused(site, load)
        by_process: Counter[int] = Counter()
        for (pid, _), requests in served.items():
            by_process[pid] += requests
        seconds = sorted(load.seconds)
        p50, p99 = (seconds[len(seconds) * percent // 100] for percent in (50, 99))
        record_property("p99", p99)
        print(
            f"{shape}: {min(by_process.values())} to {max(by_process.values())} each, of the pools "
            f"{min(served.values())} to {max(served.values())}, {sum(served.values()) / 30:.0f} a second, "
            f"p50 {p50:.3f} s, p99 {p99:.3f} s"
        )
        assert len(by_process) == shape.processes
        # How often each interpreter is used depends on httpd and the clients.
        assert len(served) == shape.processes * len(shape.interpreters)
        assert max(by_process.values()) <= 1.5 * min(by_process.values())


@pytest.mark.stress
def test_256_prefork_children_on_a_server_that_allows_100_connections_work(folder: Path) -> None:
    place, shape, budget = ThisMachine(folder), Shape("prefork", 256, 1), 95
    with place.running_mariadb({"max_connections": 100}) as mariadb:
        url = mariadb.create_database("shop")
        with (
            shape.running(place, url, {"connections": budget}) as site,
            ServerMonitor(mariadb) as monitor,
            Load(site, *shape.paths, clients=shape.clients) as load,
        ):
            eventually(lambda: len(load.served) == 256 and min(load.served.values()) >= 20, "all to be served", 300)

        print(f"{shape}: {sum(load.served.values())} served, {monitor.maximum_ever} connections, {dict(load.outcomes)}")
        assert set(load.outcomes) == {"application 200"}
        # At this load the server may count a session for longer than a permit cools down.
        assert monitor.maximum <= budget
        assert monitor.maximum_ever < 100
        assert_no_connection_was_refused(site, load)
