"""Requests of Django, Flask with SQLAlchemy, and old code on real httpd: no pool, the usual pool, and this one.

Each site has an httpd of its own. All run for a whole table, and one at a time is under load. Every request has a
connection of its own to httpd, so it may come to any thread of any process.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click
from pymysql.connections import Connection

from benchmarks import report, threads
from benchmarks.database import ITEMS, LOOKUP, create_items
from benchmarks.httpd import Shape, cpu_of, started_with, warm_up, without_preload
from benchmarks.measuring import Run, Samples, Spread, ratios, shuffled
from wsgipool.demo import mariadb
from wsgipool.httpd import express

CLIENTS = 4
"""A quarter of the threads of a process, so no process needs more connections than that."""
SECONDS = 1
"""Duration of each load."""
ONE, FIVE = "/lookups/1", "/lookups/5"


@dataclass(frozen=True)
class Contender:
    """A site: its script, the pool that the script uses, and the row with the usual pool."""

    script: str
    pool: str
    usual: str


def _contenders(framework: str, script: str, pools: Mapping[str, str]) -> dict[str, Contender]:
    """Return the rows of a framework, from its titles and the names that its script has for them."""
    usual = next(f"{framework}, {title}" for title, pool in pools.items() if pool == "usual")
    return {f"{framework}, {title}": Contender(script, pool, usual) for title, pool in pools.items()}


CONTENDERS = {
    **_contenders(
        "Django",
        "frameworks_django.py",
        {
            "CONN_MAX_AGE=0": "none",
            "CONN_MAX_AGE=0, ssl_disabled": "none, ssl_disabled",
            "CONN_MAX_AGE=None, health checks": "usual",
            "wsgipool.django.mysql": "wsgipool",
        },
    ),
    **_contenders(
        "SQLAlchemy",
        "frameworks_flask.py",
        {"NullPool": "none", "QueuePool, pre_ping": "usual", "mysql+wsgipool": "wsgipool"},
    ),
    **_contenders(
        "PyMySQL",
        "frameworks_pymysql.py",
        {"connect()": "none", "DBUtils' PooledDB": "usual", "wsgipool.pymysql": "wsgipool"},
    ),
    **_contenders(
        "peewee",
        "frameworks_peewee.py",
        {"MySQLDatabase": "none", "PooledMySQLDatabase": "usual", "wsgipool.pymysql.install()": "wsgipool"},
    ),
}


def measure(run: Run) -> list[report.Table]:
    return [
        compared(run, "frameworks", Shape("worker", 2, 16)),
        compared(run, "frameworks-prefork", Shape("prefork", 8, 1)),
    ]


def compared(run: Run, name: str, shape: Shape) -> report.Table:
    """Return the table of one shape."""
    samples: dict[tuple[str, str], Samples] = defaultdict(lambda: {row: [] for row in CONTENDERS})
    connections: dict[str, int] = {}
    with running_sites(shape) as (server, sites), server.admin() as admin:
        for row in run.each(f"{shape.mode}: warming up", list(CONTENDERS)):
            # Often enough that every thread has served one: stock Django then has all of its connections.
            warm_up([sites[row].url + ONE] * 8, CLIENTS)
        for _ in run.rounds(f"{shape.mode}: {CLIENTS} clients", 8):
            for row in shuffled(CONTENDERS):
                for path in (ONE, FIVE):
                    for column, number in load(sites[row], path, server, admin).items():
                        samples[path, column][row].append(number)
        for row in CONTENDERS:
            connections[row] = threads.open_connections(server, database(row))
    return report.Table(
        name=name,
        title=f"{shape.mode} MPM, {shape.processes} x {shape.threads} threads, {CLIENTS} clients",
        columns=[
            "requests/s", "CPU µs/request", "CPU x usual", "MariaDB's CPU µs", "commands", "connections",
            "5 queries: CPU µs", "5 queries: x usual",
        ],
        rows={
            row: [
                median(samples[ONE, "rate"][row]),
                median(samples[ONE, "cpu"][row]),
                beside_usual(samples[ONE, "cpu"], row),
                median(samples[ONE, "server cpu"][row]),
                median(samples[ONE, "commands"][row]),
                connections[row],
                median(samples[FIVE, "cpu"][row]),
                beside_usual(samples[FIVE, "cpu"], row),
            ]
            for row in CONTENDERS
        },
        plotted=["CPU µs/request", "connections"],
        panels=True,
        notes=[
            "A request makes one query by key; in the last two columns five",
            "CPU: of httpd's processes and the Python in them",
            "Commands: those that MariaDB got for a request",
            "Connections: open at the end of all loads",
        ],
    )  # fmt: skip


def beside_usual(cpu: Samples, row: str) -> Spread | None:
    usual = CONTENDERS[row].usual
    return None if row == usual else Spread.of(ratios(cpu, usual)[row])


@contextmanager
def running_sites(shape: Shape) -> Iterator[tuple[mariadb.MariaDB, dict[str, express.Httpd]]]:
    if shutil.which("wrk") is None:
        raise click.ClickException("wrk is not installed (Debian: apt-get install wrk)")
    if not mariadb.is_installed():
        raise click.ClickException("MariaDB is not installed (Debian: apt-get install mariadb-server)")
    with tempfile.TemporaryDirectory(prefix="wsgipool-benchmark-") as name, ExitStack() as close:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "mariadb").mkdir()
        server = close.enter_context(mariadb.MariaDB(folder / "mariadb", {"max_connections": 1000}))
        server.start()
        yield server, {row: close.enter_context(start(row, folder, server, shape)) for row in CONTENDERS}


def database(row: str) -> str:
    """Return the name of a row's database, and of its only user."""
    return f"row{list(CONTENDERS).index(row)}"


def start(row: str, folder: Path, server: mariadb.MariaDB, shape: Shape) -> express.Httpd:
    contender, name = CONTENDERS[row], database(row)
    server.create_database(name)
    create_items(server, name)
    own = folder / name
    own.mkdir()
    arguments = {"host": server.host, "port": server.port, "user": name, "password": server.password, "database": name}
    settings = {"pool": contender.pool, "arguments": arguments, "items": ITEMS, "lookup": LOOKUP}
    if contender.pool != "wsgipool":
        with without_preload(own):
            return started_with(contender.script, settings, own, "", shape)
    # The settings of the database are the framework's, but wsgipool.toml must not be empty.
    config = '[databases.another]\nurl = "sqlite:////nowhere"\n'
    return started_with(contender.script, settings, own, config, shape)


def load(httpd: express.Httpd, path: str, server: mariadb.MariaDB, admin: Connection) -> dict[str, float]:
    """Load a site; return requests a second, the CPU µs of a request here and in MariaDB, and its commands."""
    mariadbd = int((server.folder / "server.pid").read_text(encoding="ascii"))
    commands, used = count_commands(admin), cpu_of(mariadbd)
    outcome = threads.load(httpd, path, CLIENTS, SECONDS)
    used = cpu_of(mariadbd) - used
    return {
        "rate": outcome["rate"],
        "cpu": 1e3 * outcome["cpu"],
        "server cpu": 1e6 * used / outcome["requests"],
        # Less the one that counted.
        "commands": (count_commands(admin) - commands - 1) / outcome["requests"],
    }


def count_commands(admin: Connection) -> int:
    """Return how many commands the server has got so far: statements, and others such as COM_PING."""
    with admin.cursor() as cursor:
        cursor.execute("SHOW GLOBAL STATUS WHERE Variable_name IN ('Questions', 'Com_admin_commands')")
        return sum(int(value) for _, value in cursor.fetchall())


if __name__ == "__main__":
    report.main(measure)
