"""Processes and threads on real httpd: handlers that compute, handlers that wait for a database, and both at once.

The same number of workers in each row, divided into processes and threads. Each row has an httpd of its own; all are up
for the whole run, and one is under load at a time. FREE_THREADED_PYTHON names a free-threaded Python for two rows more;
benchmarks/free-threaded-python builds one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import click

from benchmarks import report
from benchmarks.httpd import Shape, cpu_seconds, started_with, wait_until_quiet, warm_up
from benchmarks.measuring import Run, Samples, Spread, shuffled
from wsgipool.demo import mariadb
from wsgipool.httpd import express

WORKERS = 16
"""Processes x threads of each row, and clients of each load."""
STEPS = 100_000
"""Of the loop that computes: some milliseconds of one processor."""
WAIT = 0.02
"""Seconds that the database takes for an answer."""
FEW = 4
"""Clients of the load after which connections are counted."""
WAITING, COMPUTING = 8, 1
"""Clients of the mixed load."""
SECONDS = 2
"""Of each load."""
FREE_THREADED = os.environ.get("FREE_THREADED_PYTHON")


@dataclass(frozen=True)
class Row(Shape):
    """A shape, with further options of mod_wsgi-express and perhaps another Python."""

    options: tuple[str, ...] = ()
    python: str = sys.executable

    def express_options(self, folder: Path, script: Path) -> list[str]:
        return [*super().express_options(folder, script), *self.options]


ROWS = {
    "prefork, 16 x 1": Row("prefork", 16, 1),
    "worker, 4 x 4": Row("worker", 4, 4),
    "worker, 2 x 8": Row("worker", 2, 8),
    "worker, 1 x 16": Row("worker", 1, 16),
    "event, 4 x 4": Row("event", 4, 4),
    "event, 1 x 16": Row("event", 1, 16),
    "daemon, 16 x 1": Row("daemon", 16, 1),
    "daemon, 4 x 4": Row("daemon", 4, 4),
    "daemon, 1 x 16": Row("daemon", 1, 16),
    "worker, 1 x 16, switch interval 0.5 ms": Row("worker", 1, 16, options=("--switch-interval", "0.0005")),
}
if FREE_THREADED:
    ROWS |= {
        "free-threaded Python, its GIL on, worker, 1 x 16": Row("worker", 1, 16, python=FREE_THREADED),
        "free-threaded Python, worker, 1 x 16": Row(
            "worker", 1, 16, options=("--free-threading",), python=FREE_THREADED
        ),
    }


def measure(run: Run) -> list[report.Table]:
    if shutil.which("wrk") is None:
        raise click.ClickException("wrk is not installed (Debian: apt-get install wrk)")
    samples: Measured = defaultdict(lambda: {name: [] for name in ROWS})
    memory: dict[str, float] = {}
    connections: dict[str, int] = {}
    with running_sites() as (server, sites):
        for name in run.each("warming up", list(ROWS)):
            warm_up([f"{sites[name].url}/compute"], WORKERS)
            # The load of few clients comes first: connections that more clients open would stay.
            load(sites[name], "/wait", FEW)
            connections[name] = open_connections(server, database(name))
            warm_up([f"{sites[name].url}/wait"], WORKERS)
        for _ in run.rounds(f"{WORKERS} clients", 8):
            for name in shuffled(ROWS):
                for path in ("/compute", "/wait"):
                    add(samples, name, path, load(sites[name], path, WORKERS))
                with ThreadPoolExecutor(1) as executor:
                    computing = executor.submit(load, sites[name], "/compute", COMPUTING)
                    add(samples, name, "mixed /wait", load(sites[name], "/wait", WAITING))
                    add(samples, name, "mixed /compute", computing.result())
        for name in ROWS:
            memory[name] = megabytes(sites[name].pid)
    alone = f"{STEPS:,} steps of a loop, or {1000 * WAIT:g} ms in the database"
    return [
        report.Table(
            name="threads",
            title=f"{WORKERS} workers, {WORKERS} clients: {alone}",
            columns=[f"{what}: {column}" for what in ("computes", "waits") for column in ALONE.values()],
            rows={
                name: [value(samples[path, column][name], column) for path in ("/compute", "/wait") for column in ALONE]
                for name in ROWS
            },
            plotted=[f"{what}: {ALONE['rate']}" for what in ("computes", "waits")],
            panels=True,
            notes=["CPU: of httpd's processes and the Python in them, not of MariaDB and wrk beside them"],
        ),
        report.Table(
            name="threads-mixed",
            title=f"{WAITING} clients wait, {COMPUTING} computes",
            columns=[
                "waits: p50, ms", "waits: p99, ms", "computes: requests/s",
                "memory, MB", f"connections after {FEW} clients",
            ],
            rows={
                name: [
                    Spread.of(samples["mixed /wait", "p50"][name]),
                    Spread.of(samples["mixed /wait", "p99"][name]),
                    Spread.of(samples["mixed /compute", "rate"][name]),
                    memory[name],
                    connections[name],
                ]
                for name in ROWS
            },
            plotted=["waits: p50, ms", "waits: p99, ms", "memory, MB"],
            panels=True,
            notes=["Memory: of httpd's processes after all loads; pages that several share are counted in parts (PSS)"],
        ),
    ]  # fmt: skip


Measured = dict[tuple[str, str], Samples]
"""The samples of a load and one of its numbers."""
ALONE = {"rate": "requests/s", "p50": "p50, ms", "p99": "p99, ms", "cpu": "CPU ms"}
"""The columns of one handler."""


def value(numbers: list[float], column: str) -> report.Value:
    """Return a rate with its quartiles, and of the rest the median: the table is wide enough."""
    return Spread.of(numbers) if column == "rate" else statistics.median(numbers)


def add(samples: Measured, name: str, path: str, outcome: Mapping[str, float]) -> None:
    for column, number in outcome.items():
        samples[path, column][name].append(number)


@contextmanager
def running_sites() -> Iterator[tuple[mariadb.MariaDB, dict[str, express.Httpd]]]:
    if not mariadb.is_installed():
        raise click.ClickException("MariaDB is not installed (Debian: apt-get install mariadb-server)")
    with tempfile.TemporaryDirectory(prefix="wsgipool-benchmark-") as name, ExitStack() as close:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "mariadb").mkdir()
        server = close.enter_context(mariadb.MariaDB(folder / "mariadb", {"max_connections": 500}))
        server.start()
        yield server, {row: close.enter_context(start(row, folder, server)) for row in ROWS}


def start(name: str, folder: Path, server: mariadb.MariaDB) -> express.Httpd:
    row = ROWS[name]
    url = server.create_database(database(name))
    config = f"[databases.shop]\nurl = {json.dumps(url + '?autocommit=true')}\n"
    own = folder / database(name)
    own.mkdir()
    # Express runs in the Python that is to run in httpd.
    with patch.object(sys, "executable", row.python):
        return started_with("threads_site.py", {"steps": STEPS, "wait": WAIT}, own, config, row)


def database(name: str) -> str:
    """Return the name of a row's database, and of its only user."""
    return f"row{list(ROWS).index(name)}"


def open_connections(server: mariadb.MariaDB, user: str) -> int:
    with server.admin() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM information_schema.processlist WHERE user = %s", (user,))
        return int(cursor.fetchone()[0])


def load(httpd: express.Httpd, path: str, clients: int, seconds: int = SECONDS) -> dict[str, float]:
    """Let the clients ask for some seconds.

    Return requests a second, latencies in ms, the CPU ms of a request and the number of requests.
    """
    before = cpu_seconds(httpd.pid)
    command = [
        "wrk", "--threads=1", f"--connections={clients}", f"--duration={seconds}s", "--timeout=10s",
        "--script", str(Path(__file__).with_suffix(".lua")), f"{httpd.url}{path}",
    ]  # fmt: skip
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    counts = json.loads(printed.rpartition("JSON ")[2])
    used = wait_until_quiet(httpd.pid) - before
    if counts["failed"]:
        raise click.ClickException(f"{counts['failed']} requests of {path} failed:\n{printed}")
    # wrk leaves with a request of each client on its way, which is answered all the same.
    requests = counts["answered"] + clients
    return {
        "rate": counts["answered"] / counts["seconds"],
        "p50": counts["p50"],
        "p99": counts["p99"],
        "cpu": 1e3 * used / requests,
        "requests": requests,
    }


def megabytes(parent: int) -> float:
    """Return the memory of httpd's children; each page that several have is counted in parts."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split()
    rollups = [Path(f"/proc/{child}/smaps_rollup").read_text(encoding="ascii") for child in children]
    return sum(int(re.findall(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)[0]) for rollup in rollups) / 1000


if __name__ == "__main__":
    report.main(measure)
