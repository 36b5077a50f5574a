"""A lookup by key on a database a millisecond away, in round trips; and what a new connection costs.

A round trip is what COM_PING takes through the same relay in the same round. A lookup that waits for one answer takes
more than that, since the server has more to do: how much, the bytes of a lookup tell that no driver makes and reads.
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
from benchmarks.measuring import Run, Spread, ratios
from benchmarks.relay import Relay
from wsgipool import config, drivers

DELAY = 0.0005
"""Seconds in each direction: a round trip takes a millisecond."""

PAUSES = {"3 ms apart": 0.003, "back to back": 0.0}
"""A site's requests have pauses in which an answer can arrive; only a loop asks again at once."""

EACH_TIME = 5

NO_DRIVER = "no driver, the bytes alone"
END = b"\xfe\0\0" + SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT.to_bytes(2, "little")
"""An EOF packet, without its header, of a session in autocommit mode."""

Borrow = Callable[[], AbstractContextManager[Any]]


def measure(run: Run) -> list[report.Table]:
    with running_database() as database:
        # First, while no TLS context has been made.
        new_connections = connecting(run, database)
        return [lookups(run, database), new_connections]


def lookups(run: Run, database: Database) -> report.Table:
    with Relay(database.port, DELAY) as relay, ExitStack() as close:
        contenders = make_contenders(database, relay.port, close)
        lookups: dict[str, Callable[[], object]] = {
            NO_DRIVER: bare_lookup(
                close.enter_context(closing(pymysql.connect(**database.arguments(relay.port), autocommit=True)))
            ),
            **{name: partial(look_up, borrow) for name, borrow in contenders.items()},
        }
        ping = close.enter_context(closing(pymysql.connect(**database.arguments(relay.port)))).ping
        rows: dict[str, list[report.Value]] = {name: [] for name in lookups}
        round_trips: list[float] = []
        for title, pause in PAUSES.items():
            actions: dict[str, Callable[[], object]] = {"COM_PING": partial(ping, reconnect=False), **lookups}
            timed = {name: partial(mean_of, action, pause) for name, action in actions.items()}
            samples = run.interleave(f"lookups, {title}", 60, timed)
            round_trips += samples["COM_PING"]
            for name, row in rows.items():
                row.append(Spread.of(ratios(samples, "COM_PING")[name]))
    return report.Table(
        name="roundtrips",
        title="A pooled lookup by key, in round trips",
        columns=list(PAUSES),
        rows={**rows},
        plotted=list(PAUSES),
        reference=1.0,
        notes=[f"a round trip (COM_PING through the relay): {1000 * Spread.of(round_trips).median:.2f} ms"],
    )


def make_contenders(database: Database, port: int, close: ExitStack) -> dict[str, Borrow]:
    wsgipool.configure(
        {
            "databases": {
                "shop": {"url": database.url(port)},
                "session": {"url": database.url(port), "reset": "session"},
                "autocommit": {"url": database.url(port, "?autocommit=true")},
            }
        }
    )
    close.callback(wsgipool.close)
    engines = [
        sqlalchemy.create_engine(database.url(port).replace("mysql://", "mysql+pymysql://"), pool_pre_ping=pre_ping)
        for pre_ping in (False, True)
    ]
    for engine in engines:
        close.callback(engine.dispose)
    pooled = PooledDB(pymysql, **database.arguments(port))
    close.callback(pooled.close)
    local = threading.local()
    local.connection = close.enter_context(closing(pymysql.connect(**database.arguments(port), autocommit=True)))
    return {
        "wsgipool, readonly": lambda: wsgipool.connection("shop", readonly=True),
        'wsgipool, readonly, reset = "session"': lambda: wsgipool.connection("session", readonly=True),
        "wsgipool, readonly, autocommit": lambda: wsgipool.connection("autocommit", readonly=True),
        "wsgipool, with a commit": lambda: wsgipool.connection("shop"),
        "thread-local, autocommit": lambda: nullcontext(local.connection),
        "SQLAlchemy": lambda: closing(engines[0].raw_connection()),
        "SQLAlchemy, pre_ping": lambda: closing(engines[1].raw_connection()),
        "DBUtils": pooled.connection,
    }


def bare_lookup(connection: Any) -> Callable[[], object]:
    """Return what sends the bytes of a lookup and receives those of its answer, and does nothing else."""
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


def look_up(borrow: Borrow) -> None:
    with borrow() as connection, closing(connection.cursor()) as cursor:
        cursor.execute(LOOKUP, (random.randrange(ITEMS),))
        assert cursor.fetchone()


def mean_of(action: Callable[[], object], pause: float) -> float:
    """Return the seconds that the action takes, the pauses left out."""
    total = 0.0
    for _ in range(EACH_TIME):
        if pause:
            time.sleep(pause)
        start = perf_counter()
        action()
        total += perf_counter() - start
    return total / EACH_TIME


def connecting(run: Run, database: Database) -> report.Table:
    settings = config.load({"databases": {"shop": {"url": database.url()}}})
    driver = drivers.for_database(settings.databases["shop"])
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
        notes=[f"wsgipool's first one in a process makes the TLS context that the others share: {first:.1f} ms"],
    )


def connect_once(connect: Callable[[], Any]) -> float:
    """Return the milliseconds until the connection is there."""
    start = perf_counter()
    connection = connect()
    elapsed = perf_counter() - start
    connection.close()
    return 1000 * elapsed


if __name__ == "__main__":
    report.main(measure)
