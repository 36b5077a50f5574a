"""The cost of a budget, sufficient or not, on real httpd and MariaDB under load by wrk.

Each site has an httpd of its own. All run for the whole table or row, and one at a time is under load. Two sites of the
first table are identical, so the distance of their ratio from 1 shows the accuracy of the others.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from benchmarks import report
from benchmarks.database import Database
from benchmarks.httpd import PROCESSES, THREADS, Shape, beside, compared, started_in
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
            rows=beside(BASE, *compared(run, started, dict.fromkeys(BUDGETS, "/wsgipool"), rounds=20)),
            plotted=[f"rate x {BASE}"],
            reference=1.0,
            notes=["CPU: of httpd's processes, including Python, but not of MariaDB and wrk"],
        ),
        report.Table(
            name="budget-shapes",
            title="httpd with a sufficient budget of four connections a thread",
            columns=[f"requests/s, {BASE}", f"rate x {BASE}", f"CPU µs/request, {BASE}", f"CPU x {BASE}"],
            rows={name: beside_the_same_without(run, shape) for name, shape in SHAPES.items()},
            plotted=[f"rate x {BASE}"],
            reference=1.0,
            notes=["each with as many clients as threads, compared with an httpd of the same shape without a budget"],
        ),
    ]


def beside_the_same_without(run: Run, shape: Shape) -> list[report.Value]:
    """Return rate and CPU time of a shape without a budget, and the ratios with a budget."""
    budgets = {BASE: None, ENOUGH: 4 * shape.clients}

    def start(name: str, database: Database) -> express.Httpd:
        return started_within(budgets[name], database.folder / name.replace(" ", "-"), database, shape)

    rows = beside(BASE, *compared(run, start, dict.fromkeys(budgets, "/wsgipool"), rounds=20, shape=shape))
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
