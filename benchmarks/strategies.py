"""Four ways to share connections among the threads of a process, on real httpd and MariaDB, with costs and errors.

They are a connection per database and thread; one per database, unprotected; one per database behind a lock; a pool.
Each way has its own httpd and its own two databases on one server, so that it cannot break another way. Each request
looks up a key in both databases, and wrk checks that the answer has the rows of that key.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from benchmarks import report
from benchmarks.httpd import Shape, started_with, wait_until_quiet
from benchmarks.measuring import Run, Spread, shuffled
from wsgipool.demo import mariadb
from wsgipool.httpd import express

PROCESSES, THREADS = 2, 25
CLIENTS = 16
ITEMS = 1000
WAYS = {
    "per_thread": "(1) a connection per database and thread",
    "unprotected": "(2) one per database, unprotected",
    "locked": "(3) one per database, behind a lock",
    "pooled": "(4) the pool",
}
DATABASES = {"books": "book", "prices": "price"}
LOOKUP = "SELECT name, SLEEP(0.003) FROM item WHERE id = %s"
"""A query that takes the server 3 ms, more than a lookup by key."""
TIMEOUT = 2
"""Seconds that a thread waits for an answer that another thread has read."""
SECONDS = 4
"""Seconds of each load."""


@dataclass
class Outcome:
    """The results of one way."""

    rates: list[float] = field(default_factory=list)
    """Right answers a second."""
    p99: list[float] = field(default_factory=list)
    """Milliseconds."""
    opened: int = 0
    """Connections."""
    most: int = 0
    """Connections that are open at the end of a load."""
    right: int = 0
    others: int = 0
    """Answers with rows that were not asked for."""
    failed: int = 0
    """Answers with an error, and requests without an answer in time."""
    errors: Counter[str] = field(default_factory=Counter)

    def per_cent(self, count: int) -> float:
        return 100 * count / max(1, self.right + self.others + self.failed)


def measure(run: Run) -> list[report.Table]:
    if shutil.which("wrk") is None:
        raise click.ClickException("wrk is not installed (Debian: apt-get install wrk)")
    outcomes = {way: Outcome() for way in WAYS}
    with running_sites() as (server, sites), server.admin() as connection, connection.cursor() as cursor:
        for round_number in run.rounds(f"{CLIENTS} clients", 10):
            for way in shuffled(WAYS):
                before = connections_so_far(cursor)
                if round_number == 0:
                    load(sites[way], way, Outcome())  # imports and first connections are not measured
                load(sites[way], way, outcomes[way])
                outcomes[way].opened += connections_so_far(cursor) - before
                outcomes[way].most = max(outcomes[way].most, open_connections(cursor, way))
    return [
        report.Table(
            name="strategies",
            title=f"worker MPM, {PROCESSES} x {THREADS} threads, {CLIENTS} clients, a query of 3 ms in either database",
            columns=[
                "opened",
                "open at once",
                "right answers/s",
                "p99, ms",
                "others' rows, %",
                "failed, %",
            ],
            rows={
                title: [
                    outcomes[way].opened,
                    outcomes[way].most,
                    Spread.of(outcomes[way].rates),
                    Spread.of(outcomes[way].p99),
                    outcomes[way].per_cent(outcomes[way].others),
                    outcomes[way].per_cent(outcomes[way].failed),
                ]
                for way, title in WAYS.items()
            },
            plotted=["open at once", "right answers/s", "p99, ms", "others' rows, %", "failed, %"],
            panels=True,
            notes=[
                "opened: connections, in all loads together; median (quartiles) of the loads; per cent of all answers",
                *(
                    f"{title}: {count} x {error}"
                    for way, title in WAYS.items()
                    for error, count in outcomes[way].errors.most_common(6)
                ),
            ],
        )
    ]


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
        arguments = {way: {database: fill(server, way, database) for database in DATABASES} for way in WAYS}
        sites = {way: close.enter_context(start(folder / way, arguments)) for way in WAYS}
        yield server, sites


def fill(server: mariadb.MariaDB, way: str, database: str) -> dict[str, Any]:
    """Create a database of one way; return its arguments for PyMySQL."""
    name = f"{way}_{database}"
    server.create_database(name)
    with server.admin(name) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE item (id INT PRIMARY KEY, name VARCHAR(100)) ENGINE=InnoDB")
        cursor.executemany(
            "INSERT INTO item VALUES (%s, %s)", [(number, f"{DATABASES[database]} {number}") for number in range(ITEMS)]
        )
    return {"host": "127.0.0.1", "port": server.port, "user": name, "password": server.password, "database": name}


def start(folder: Path, arguments: dict[str, dict[str, dict[str, Any]]]) -> express.Httpd:
    folder.mkdir()
    settings = {"ways": arguments, "databases": list(DATABASES), "lookup": LOOKUP, "timeout": TIMEOUT}
    url = "mysql://{user}:{password}@{host}:{port}/{database}?autocommit=true"
    lines = [f"[databases.{name}]\nurl = {json.dumps(url.format(**arguments['pooled'][name]))}" for name in DATABASES]
    shape = Shape("worker", PROCESSES, THREADS)
    return started_with("strategies_site.py", settings, folder, "\n".join(lines), shape)


def load(httpd: express.Httpd, way: str, outcome: Outcome) -> None:
    """Load a site for a while, and add the results."""
    command = [
        "wrk", f"--threads={CLIENTS}", f"--connections={CLIENTS}", f"--duration={SECONDS}s", "--timeout=10s",
        "--script", str(Path(__file__).with_name("strategies.lua")), f"{httpd.url}/{way}", "--", str(ITEMS),
    ]  # fmt: skip
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    wait_until_quiet(httpd.pid)
    counts = json.loads(printed.rpartition("JSON ")[2])
    outcome.rates.append(counts["right"] / counts["seconds"])
    outcome.p99.append(counts["p99"])
    outcome.right += counts["right"]
    outcome.others += counts["others"]
    outcome.failed += counts["failed"] + counts["timeouts"]
    outcome.errors.update(counts["errors"])
    if counts["timeouts"]:
        outcome.errors["no answer in 10 s"] += counts["timeouts"]


def connections_so_far(cursor: Any) -> int:
    """Return how many connections the server has accepted."""
    cursor.execute("SHOW GLOBAL STATUS LIKE 'Connections'")
    return int(cursor.fetchone()[1])


def open_connections(cursor: Any, way: str) -> int:
    cursor.execute("SELECT COUNT(*) FROM information_schema.processlist WHERE user LIKE %s", (f"{way}\\_%",))
    return int(cursor.fetchone()[0])


if __name__ == "__main__":
    report.main(measure)
