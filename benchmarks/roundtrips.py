"""The round trips of a lookup by key on a database a millisecond away, and the cost of a new connection.

One round trip is the time of COM_PING through the same relay in the same round. A lookup with one answer takes longer,
since the server does more work; a lookup without a driver, which sends and receives the same bytes, shows how much. The
additional time at a larger distance tells how many answers a lookup waits for.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from functools import partial
from time import perf_counter
from typing import Any

import pymysql
import sqlalchemy
from dbutils.pooled_db import PooledDB
from pymysql.constants import COMMAND, SERVER_STATUS

import wsgipool
from benchmarks import report
from benchmarks.database import ITEMS, LOOKUP, Database, running_database
from benchmarks.measuring import Run, Samples, Spread, ratios
from benchmarks.relay import Relay
from wsgipool import config, drivers

DELAY, LONG_DELAY = 0.0005, 0.005
"""Latency in seconds in each direction; a round trip takes 1 or 10 ms."""

PAUSES = {"3 ms apart": 0.003, "back to back": 0.0}
"""Seconds between two lookups, as between the requests of a site; an answer can arrive meanwhile."""

EACH_TIME = 5

PING = "COM_PING"
NO_DRIVER = "no driver, the bytes alone"
END = b"\xfe\0\0" + SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT.to_bytes(2, "little")
"""An EOF packet, without its header, of a session in autocommit mode."""

Checkout = Callable[[], AbstractContextManager[Any]]
Actions = dict[str, Callable[[], object]]


def measure(run: Run) -> list[report.Table]:
    with running_database() as database:
        # First, before the first TLS context exists.
        new_connections = connecting(run, database)
        return [lookups(run, database), new_connections]


def lookups(run: Run, database: Database) -> report.Table:
    with Relay(database.port, DELAY) as near, Relay(database.port, LONG_DELAY) as far, ExitStack() as close:
        wsgipool.configure({"databases": {**settings(database, near.port), **settings(database, far.port)}})
        close.callback(wsgipool.close)
        actions = make_actions(database, near.port, close)
        names = [name for name in actions if name != PING]
        columns: list[Samples] = []
        round_trips: list[float] = []
        for title, pause in PAUSES.items():
            timed = {name: partial(mean_of, action, pause) for name, action in actions.items()}
            samples = run.interleave(f"lookups, {title}", 60, timed)
            round_trips += samples[PING]
            columns.append(ratios(samples, PING))
        columns.append(answers(run, actions, make_actions(database, far.port, close)))
    return report.Table(
        name="roundtrips",
        title="A pooled lookup by key, in round trips",
        columns=[*PAUSES, "answers waited for"],
        rows={name: [Spread.of(column[name]) for column in columns] for name in names},
        plotted=list(PAUSES),
        reference=1.0,
        notes=[
            f"a round trip (COM_PING through the relay): {1000 * Spread.of(round_trips).median:.2f} ms",
            "answers waited for: what a lookup takes longer on a link of 10 ms than on one of 1 ms, x COM_PING",
        ],
    )


def answers(run: Run, near: Actions, far: Actions) -> Samples:
    """Return the additional time on the longer link, divided by that of COM_PING, so that computing time cancels."""
    links = {
        f"{link} {name}": action
        for link, actions in {"near": near, "far": far}.items()
        for name, action in actions.items()
    }
    timed = {name: partial(mean_of, action, 0.0) for name, action in links.items()}
    samples = run.interleave("lookups, 10 ms and 1 ms", 20, timed)
    longer = {
        name: [distant - close for distant, close in zip(samples[f"far {name}"], samples[f"near {name}"], strict=True)]
        for name in near
    }
    return ratios(longer, PING)


def settings(database: Database, port: int) -> dict[str, dict[str, str]]:
    return {
        f"shop{port}": {"url": database.url(port)},
        f"session{port}": {"url": database.url(port), "reset": "session"},
        f"autocommit{port}": {"url": database.url(port, "?autocommit=true")},
    }


def make_actions(database: Database, port: int, close: ExitStack) -> Actions:
    arguments = database.arguments(port)
    engines = [
        sqlalchemy.create_engine(database.url(port).replace("mysql://", "mysql+pymysql://"), pool_pre_ping=pre_ping)
        for pre_ping in (False, True)
    ]
    for engine in engines:
        close.callback(engine.dispose)
    pooled = PooledDB(pymysql, **arguments)
    close.callback(pooled.close)
    bare, own, pinged = (
        close.enter_context(closing(pymysql.connect(**arguments, autocommit=autocommit)))
        for autocommit in (True, True, False)
    )
    contenders: dict[str, Checkout] = {
        "wsgipool, readonly": lambda: wsgipool.connection(f"shop{port}", readonly=True),
        'wsgipool, readonly, reset = "session"': lambda: wsgipool.connection(f"session{port}", readonly=True),
        "wsgipool, readonly, autocommit": lambda: wsgipool.connection(f"autocommit{port}", readonly=True),
        "wsgipool, with a commit": lambda: wsgipool.connection(f"shop{port}"),
        "thread-local, autocommit": lambda: nullcontext(local.connection),
        "SQLAlchemy": lambda: closing(engines[0].raw_connection()),
        "SQLAlchemy, pre_ping": lambda: closing(engines[1].raw_connection()),
        "DBUtils": pooled.connection,
    }
    local = threading.local()
    local.connection = own
    return {
        PING: partial(pinged.ping, reconnect=False),
        NO_DRIVER: bare_lookup(bare),
        **{name: partial(look_up, check_out) for name, check_out in contenders.items()},
    }


def bare_lookup(connection: Any) -> Callable[[], object]:
    """Return a function that sends the bytes of a lookup and receives its answer, without a driver."""
    query = (LOOKUP % 7).encode()
    command = struct.pack("<iB", len(query) + 1, COMMAND.COM_QUERY) + query
    ours: socket.socket = connection._sock
    ours.sendall(command)
    answer = b""
    while answer.count(END) < 2:  # of the columns and of the rows
        answer += ours.recv(65536)
    length = len(answer)

    def exchange() -> None:
        ours.sendall(command)
        assert len(ours.recv(length, socket.MSG_WAITALL)) == length

    return exchange


def look_up(check_out: Checkout) -> None:
    with check_out() as connection, closing(connection.cursor()) as cursor:
        cursor.execute(LOOKUP, (random.randrange(ITEMS),))
        assert cursor.fetchone()


def mean_of(action: Callable[[], object], pause: float) -> float:
    """Return the seconds that the action takes, without the pauses."""
    total = 0.0
    for _ in range(EACH_TIME):
        if pause:
            time.sleep(pause)
        start = perf_counter()
        action()
        total += perf_counter() - start
    return total / EACH_TIME


def connecting(run: Run, database: Database) -> report.Table:
    loaded = config.load({"databases": {"shop": {"url": database.url()}}})
    driver = drivers.for_database(loaded.databases["shop"])
    plain = "pymysql.connect()"
    contenders: dict[str, Callable[[], Any]] = {
        plain: lambda: pymysql.connect(**database.arguments()),
        "pymysql.connect(), TLS disabled": lambda: pymysql.connect(**database.arguments(), ssl_disabled=True),
        "wsgipool's driver for PyMySQL": lambda: driver.connect(10.0),
    }
    first = connect_once(contenders["wsgipool's driver for PyMySQL"])
    timed = {name: partial(connect_once, connect) for name, connect in contenders.items()}
    samples = run.interleave("connecting", 100, timed)
    to_plain = ratios(samples, plain)
    return report.Table(
        name="connecting",
        title="A new connection over loopback",
        columns=["ms", "x plain"],
        rows={name: [Spread.of(samples[name]), Spread.of(to_plain[name])] for name in contenders},
        plotted=["ms"],
        logarithmic=True,
        notes=[f"wsgipool's first connection of a process creates the TLS context for all others: {first:.1f} ms"],
    )


def connect_once(connect: Callable[[], Any]) -> float:
    """Return the milliseconds until the connection is open."""
    start = perf_counter()
    connection = connect()
    elapsed = perf_counter() - start
    connection.close()
    return 1000 * elapsed


if __name__ == "__main__":
    report.main(measure)
