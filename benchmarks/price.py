"""The cost of a pool in practice: a checkout of a real connection, and real httpd under load.

Each number and its base come from one interleaved run.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pymysql

from benchmarks import report
from benchmarks.database import Database, running_database
from benchmarks.httpd import PROCESSES, THREADS, compared, started_in, without_preload
from benchmarks.measuring import Run, Samples, Spread, ratios
from wsgipool import Pool, drivers
from wsgipool.config import DatabaseSettings, parse_url
from wsgipool.drivers import BaseDriver, Reset
from wsgipool.httpd import express

LOOP = 2000
OWN = "a thread's own connection"
FIFO = "lock and list, FIFO, a quarter"
AUTOCOMMIT, QUARTER = "autocommit", 'autocommit, max_size = "threads/4"'
FREE, HALF, BUDGET = "no limit", 'max_size = "threads/2"', f"a budget of {PROCESSES * THREADS // 2}"
PATHS = {
    OWN: "/thread-local",
    FIFO: "/first-come-quarter",
    AUTOCOMMIT: "/wsgipool-autocommit",
    QUARTER: "/wsgipool-quarter",
    FREE: "/wsgipool",
    HALF: "/wsgipool",
    BUDGET: "/wsgipool",
}


def measure(run: Run) -> list[report.Table]:
    samples = checkouts(run)
    return [
        report.Table(
            name="price-checkout",
            title="getconn() and putconn(), PyMySQL, autocommit, a real idle connection: CPU µs, one thread",
            columns=["CPU µs", "x a lock and a list"],
            rows={
                name: [Spread.of(samples[name]), Spread.of(ratios(samples, "a lock and a list")[name])]
                for name in samples
            },
            plotted=["x a lock and a list"],
            reference=1.0,
        ),
        report.Table(
            name="price-httpd",
            title=f"httpd, worker MPM, {PROCESSES} processes x {THREADS} threads: a lookup by key a request",
            columns=["requests/s", "rate x its like", "CPU µs/request", "CPU x its like"],
            rows={**beside_their_like(run)},
            plotted=["rate x its like", "CPU x its like"],
            reference=1.0,
            notes=[
                f"its like: for {AUTOCOMMIT} {OWN}, for threads/4 the {FIFO},",
                "for threads/2 (which rolls back) no limit, and for the budget threads/2",
                "CPU: of httpd's processes, not of MariaDB and wrk",
            ],
        ),
    ]


def checkouts(run: Run) -> Samples:
    with running_database() as database:
        settings = DatabaseSettings(
            "shop", parse_url(database.url(options="?autocommit=true"), "benchmark"), "benchmark"
        )
        pool = filled(drivers.for_database(settings))
        bare = filled(IdleDriver())
        idle = [pymysql.connect(**database.arguments())]
        lock = threading.Lock()

        def lock_and_list() -> None:
            with lock:
                connection = idle.pop()
            with lock:
                idle.append(connection)

        def checkout() -> None:
            pool.putconn(pool.getconn())

        def checkout_alone() -> None:
            bare.putconn(bare.getconn())

        return run.interleave(
            "checkouts",
            40,
            {
                "a lock and a list": lambda: cpu_each(lock_and_list),
                "wsgipool": lambda: cpu_each(checkout),
                "the same, a driver that does nothing": lambda: cpu_each(checkout_alone),
            },
        )


def filled(driver: drivers.Driver[Any]) -> Pool[Any]:
    """Return a pool with one idle connection."""
    pool: Pool[Any] = Pool(driver, name="shop", max_size=1)
    pool.putconn(pool.getconn())
    return pool


class IdleDriver(BaseDriver[Any]):
    """A driver whose connections need no check and no cleaning: the difference is the part of the real one."""

    def connect(self, timeout: float, pipeline: bool = True) -> Any:  # noqa: ARG002
        return object()

    def check_in(self, connection: Any, how: Reset | None, pipeline: bool = True) -> None:
        pass


def cpu_each(function: Callable[[], object]) -> float:
    """Return the CPU µs of a call."""
    start = time.thread_time()
    for _ in range(LOOP):
        function()
    return (time.thread_time() - start) / LOOP * 1e6


def beside_their_like(run: Run) -> dict[str, list[report.Value]]:
    likes = {AUTOCOMMIT: OWN, QUARTER: FIFO, HALF: FREE, BUDGET: HALF}
    rates, cpus = compared(run, started, PATHS, rounds=12)
    rows: dict[str, list[report.Value]] = {}
    for name in PATHS:
        like = likes.get(name)
        rows[name] = [
            Spread.of(rates[name]).median,
            None if like is None else Spread.of(ratios(rates, like)[name]),
            Spread.of(cpus[name]).median,
            None if like is None else Spread.of(ratios(cpus, like)[name]),
        ]
    return rows


def started(name: str, database: Database) -> express.Httpd:
    url, autocommit = json.dumps(database.url()), json.dumps(database.url(options="?autocommit=true"))
    folder = database.folder / f"site-{list(PATHS).index(name)}"
    folder.mkdir()
    tables: Mapping[str, str] = {
        AUTOCOMMIT: f"[databases.autocommit]\nurl = {autocommit}\n",
        QUARTER: f'[databases.quarter]\nurl = {autocommit}\nmax_size = "threads/4"\n',
        FREE: f"[databases.shop]\nurl = {url}\n",
        HALF: f'[databases.shop]\nurl = {url}\nmax_size = "threads/2"\n',
        BUDGET: f"[databases.shop]\nurl = {url}\n[budget]\nconnections = {PROCESSES * THREADS // 2}\n",
    }
    if name in tables:
        return started_in(folder, tables[name], database)
    with without_preload(folder):
        return started_in(folder, "", database)


if __name__ == "__main__":
    report.main(measure)
