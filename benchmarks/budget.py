"""Real httpd, real MariaDB, wrk: what a budget costs a site that has enough of it, and one that has not.

Each site has an httpd of its own, all up for the whole table, or row, and one under load at a time. In the first table
two of them are the same, so that what their ratio differs from 1 tells how exact the others are.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from benchmarks import report
from benchmarks.database import Database
from benchmarks.httpd import PROCESSES, THREADS, Shape, compared, started_in
from benchmarks.measuring import Run
from wsgipool.httpd import express

BASE = "no budget"
CLIENTS = PROCESSES * THREADS
BUDGETS = {
    BASE: None,
    "no budget, once more": None,
    f"a budget of {4 * CLIENTS}": 4 * CLIENTS,
    f"a budget of {CLIENTS}: as many as threads": CLIENTS,
    f"a budget of {CLIENTS // 2}: half of them": CLIENTS // 2,
    f"a budget of {CLIENTS // 8}: one a process": CLIENTS // 8,
    "a budget of 1: turns": 1,
}


ENOUGH = "enough"
SHAPES = {
    "prefork, 64 children": Shape("prefork", 64, 1),
    "worker, 4 x 16": Shape("worker", 4, 16),
    "event, 4 x 16": Shape("event", 4, 16),
    "daemon, 4 x 8": Shape("daemon", 4, 8),
    "daemon, 4 x 8, and the children ask for passwords": Shape("daemon", 4, 8, asks_for_password=True),
    "worker, 2 x 16, two sub-interpreters": Shape("worker", 2, 16, is_served_twice=True),
}


def measure(run: Run) -> list[report.Table]:
    return [
        report.Table(
            name="budget",
            title=f"httpd, worker MPM, {PROCESSES} processes x {THREADS} threads: a lookup by key a request",
            columns=["requests/s", f"rate x {BASE}", "CPU µs/request", f"CPU x {BASE}"],
            rows=compared(run, started, dict.fromkeys(BUDGETS, "/wsgipool"), BASE, rounds=20),
            plotted=[f"rate x {BASE}"],
            reference=1.0,
            notes=["CPU: of httpd's processes and the Python in them, not of MariaDB and wrk beside them"],
        ),
        report.Table(
            name="budget-shapes",
            title="httpd with a budget of four connections a thread: what that costs where it is not short",
            columns=[f"requests/s, {BASE}", f"rate x {BASE}", f"CPU µs/request, {BASE}", f"CPU x {BASE}"],
            rows={name: beside_the_same_without(run, shape) for name, shape in SHAPES.items()},
            plotted=[f"rate x {BASE}"],
            reference=1.0,
            notes=["each with as many clients as threads, beside another httpd of the same shape without a budget"],
        ),
    ]


def beside_the_same_without(run: Run, shape: Shape) -> list[report.Value]:
    """Return rate and CPU time of a shape without a budget, and relative to each what they are with one."""
    budgets = {BASE: None, ENOUGH: 4 * shape.clients}

    def start(name: str, database: Database) -> express.Httpd:
        return started_within(budgets[name], database.folder / name.replace(" ", "-"), database, shape)

    rows = compared(run, start, dict.fromkeys(budgets, "/wsgipool"), BASE, rounds=20, shape=shape)
    (rate, _, cpu, _), (_, rate_ratio, _, cpu_ratio) = rows[BASE], rows[ENOUGH]
    return [rate, rate_ratio, cpu, cpu_ratio]


def started(name: str, database: Database) -> express.Httpd:
    """Start an httpd with one of the budgets of the first table."""
    return started_within(BUDGETS[name], database.folder / f"site{list(BUDGETS).index(name)}", database, Shape())


def started_within(budget: int | None, folder: Path, database: Database, shape: Shape) -> express.Httpd:
    """Start an httpd with a budget or None, counted in a folder of its own."""
    folder.mkdir()
    config = f"[databases.shop]\nurl = {json.dumps(database.url())}\n"
    if budget is not None:
        shared = folder / "run"
        shared.mkdir(mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(shared, express.apache_user().pw_name)
        config = f"runtime_dir = {json.dumps(str(shared))}\n[budget]\nconnections = {budget}\n{config}"
    return started_in(folder, config, database, shape)


if __name__ == "__main__":
    report.main(measure)
