"""The CPU time of a query in the client, on a connection of a pool and with PyMySQL alone."""

from __future__ import annotations

import time
from contextlib import closing
from functools import partial
from threading import get_ident
from typing import Any

import pymysql

from benchmarks import report
from benchmarks.database import running_database
from benchmarks.measuring import Run, Spread, ratios
from wsgipool import config, drivers

QUERIES = {
    "1 row, 1 column": "SELECT name FROM item WHERE id = 7",
    "1 row, 8 columns": "SELECT id, name, id + 1, 'text', NULL, 1.5, DATE '2026-02-28', 8 FROM item WHERE id = 7",
    "20 rows, 5 columns": "SELECT id, name, id + 1, 'text', NULL FROM item LIMIT 20",
    "1,000 rows, 5 columns": "SELECT id, name, id + 1, 'text', NULL FROM item",
}
BASE = "PyMySQL"
EACH_TIME = 10


def measure(run: Run) -> list[report.Table]:
    rows: dict[str, list[report.Value]] = {}
    with running_database() as database:
        settings = config.load({"databases": {"shop": {"url": database.url()}}})
        driver = drivers.for_database(settings.databases["shop"])
        with closing(pymysql.connect(**database.arguments())) as plain, closing(driver.connect(10.0)) as pooled:
            driver.check_out(pooled, get_ident(), 10.0)
            for title, query in QUERIES.items():
                samples = run.interleave(
                    title,
                    40,
                    {BASE: partial(processor_time, plain, query), "wsgipool": partial(processor_time, pooled, query)},
                )
                rows[title] = [
                    *(Spread.of(samples[name]) for name in (BASE, "wsgipool")),
                    Spread.of(ratios(samples, BASE)["wsgipool"]),
                ]
    return [
        report.Table(
            name="queries",
            title="CPU time of a query, µs",
            columns=[BASE, "wsgipool", "wsgipool x PyMySQL"],
            rows={**rows},
            plotted=["wsgipool x PyMySQL"],
            reference=1.0,
        )
    ]


def processor_time(connection: Any, query: str) -> float:
    """Return the CPU time in microseconds of a query and its result."""
    with closing(connection.cursor()) as cursor:
        start = time.thread_time()
        for _ in range(EACH_TIME):
            cursor.execute(query)
            cursor.fetchall()
        return 1e6 * (time.thread_time() - start) / EACH_TIME


if __name__ == "__main__":
    report.main(measure)
