"""Real httpd, real MariaDB, wrk: what a budget costs a site that has enough of it, and one that has not.

Each site has an httpd of its own, all up for the whole run and one under load at a time. Two of them are the same, so
that what their ratio differs from 1 tells how exact the others are.
"""

from __future__ import annotations

import json
import os
import shutil

from benchmarks import report
from benchmarks.database import Database
from benchmarks.httpd import PROCESSES, THREADS, compared, started_in
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
        )
    ]


def started(name: str, database: Database) -> express.Httpd:
    """Start an httpd with one of the budgets, counted in a folder of its own."""
    folder = database.folder / f"site{list(BUDGETS).index(name)}"
    folder.mkdir()
    config = f"[databases.shop]\nurl = {json.dumps(database.url())}\n"
    budget = BUDGETS[name]
    if budget is not None:
        shared = folder / "run"
        shared.mkdir(mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(shared, express.apache_user().pw_name)
        config = f"runtime_dir = {json.dumps(str(shared))}\n[budget]\nconnections = {budget}\n{config}"
    return started_in(folder, config, database)


if __name__ == "__main__":
    report.main(measure)
