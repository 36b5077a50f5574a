"""What it costs to see the host: CPU a request of real httpd, with nobody looking and with pages and metrics read."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from unittest.mock import patch

import requests

from benchmarks import report
from benchmarks.database import Database
from benchmarks.httpd import Shape, beside, compared, started_in
from benchmarks.measuring import Run
from wsgipool.httpd import express
from wsgipool.httpd.express import PACKAGE

OFF, ON, READ = "nothing is published", "published, nobody looks", "published, with all readers"
PATHS = {OFF: "/wsgipool", ON: "/wsgipool", READ: "/wsgipool"}
READERS = {"/wsgipool-status?json": 2.0, "/wsgipool-metrics": 5.0, "/wsgipool-health": 1.0}
"""The paths that are read, and every how many seconds: by an open status page, a Prometheus and a load balancer."""
SHAPES = {"worker MPM, 2 processes x 8 threads": Shape(), "prefork MPM, 16 processes": Shape("prefork", 16, 1)}
QUIET = (
    "from wsgipool import pools\n"
    "from wsgipool.scoreboard.publishing import publisher\n"
    "publisher.maintain = lambda: None\n"
    "pools.preload()\n"
)


def measure(run: Run) -> list[report.Table]:
    tables = []
    for title, shape in SHAPES.items():

        def start(name: str, database: Database, shape: Shape = shape) -> AbstractContextManager[express.Httpd]:
            return started(name, database, shape)

        tables.append(
            report.Table(
                name=f"scoreboard-{shape.mode}",
                title=f"httpd, {title}: a lookup by key a request, as many clients as threads",
                columns=["requests/s", "rate x off", "CPU µs/request", "CPU x off"],
                rows=beside(OFF, *compared(run, start, PATHS, rounds=18, shape=shape)),
                plotted=["CPU x off"],
                reference=1.0,
                notes=[
                    "CPU: of httpd's processes, with what they do for the readers",
                    "readers: the status page's numbers every 2 s, metrics every 5 s, health every second",
                ],
            )
        )
    return tables


@contextmanager
def started(name: str, database: Database, shape: Shape) -> Iterator[express.Httpd]:
    """Start the site of one way, with its readers."""
    folder = database.folder / f"{shape.mode}-{list(PATHS).index(name)}"
    folder.mkdir()
    shared = folder / "run"  # without the counts of other sites
    shared.mkdir(mode=0o700)
    if os.geteuid() == 0:
        shutil.chown(shared, express.apache_user().pw_name)
    config = f"runtime_dir = {json.dumps(str(shared))}\n[databases.shop]\nurl = {json.dumps(database.url())}\n"
    quiet = folder / "quiet.py"
    quiet.write_text(QUIET, encoding="utf-8")
    preload = quiet if name == OFF else express.PRELOAD_SCRIPT
    pages = ["status", "metrics", "health"] if name == READ else []
    options = [word for page in pages for word in ("--include-file", str(PACKAGE / "apache" / f"{page}.conf"))]
    with patch.object(express, "PRELOAD_SCRIPT", preload), patch.object(Shape, "express_options", lambda *_: options):
        httpd = started_in(folder, config, database, shape)
    stop = threading.Event()
    readers = [threading.Thread(target=_read, args=[f"{httpd.url}{path}", READERS[path], stop]) for path in READERS]
    with httpd:
        if name != READ:
            yield httpd
            return
        for reader in readers:
            reader.start()
        try:
            yield httpd
        finally:
            stop.set()
            for reader in readers:
                reader.join()


def _read(url: str, interval: float, stop: threading.Event) -> None:
    while not stop.wait(interval):
        requests.get(url, headers={"Connection": "close"}, timeout=60).raise_for_status()


if __name__ == "__main__":
    report.main(measure)
