"""An asynchronous exception in a command closes its connection: no holder reads another's rows.

After an exception in the middle of an answer, PyMySQL keeps the connection open with the rest of the answer unread. The
next command would read that rest, be it the next holder's, or a COMMIT of a program that goes on. Here exceptions come
at random moments, with a real server, while other requests go on. Each request asks for rows that no other asks for.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pymysql.cursors import SSCursor

from faults.conftest import MakePool
from faults.harness import run, user_of, value
from httpd.harness import sessions
from servers.sql import numbers
from unit.fakes import Task, eventually
from unit.interrupts import debris_ignored, interrupt_at_work
from wsgipool import Pool
from wsgipool.demo.mariadb import MariaDB

WAYS: list[tuple[str, dict[str, Any]]] = [
    ("", {"reset": "rollback"}),
    ("?autocommit=true", {"reset": "rollback"}),
    ("", {"reset": "session"}),
    ("?autocommit=true", {"reset": "session", "pipeline": False}),
]
TIMES = 10
"""Number of exceptions for each kind of work and each way."""
LATEST = 0.02
"""Maximum seconds before an exception in a working thread, enough for some rounds of work."""
ROWS = 1000

_numbers = itertools.count(1)


def read_much(pool: Pool[Any]) -> None:
    number = next(_numbers)
    with pool.connection(readonly=True) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT seq, {number} FROM {numbers(ROWS)}")
        assert cursor.fetchall() == tuple((row, number) for row in range(1, ROWS + 1))


def read_much_row_by_row(pool: Pool[Any]) -> None:
    number = next(_numbers)
    with pool.connection(readonly=True) as connection, connection.cursor(SSCursor) as cursor:
        cursor.execute(f"SELECT seq, {number} FROM {numbers(ROWS)}")
        assert list(cursor) == [(row, number) for row in range(1, ROWS + 1)]


def write(pool: Pool[Any]) -> None:
    with pool.connection() as connection:
        connection.begin()
        run(connection, "UPDATE books SET stock = stock + 1 WHERE id = 1")
        run(connection, "UPDATE books SET stock = stock - 1 WHERE id = 2")


def read_by_hand(pool: Pool[Any]) -> None:
    number = next(_numbers)
    connection = pool.getconn()
    try:
        cursor = connection.cursor()
        cursor.execute(f"SELECT seq, {number} FROM {numbers(ROWS)}")
        assert cursor.fetchall() == tuple((row, number) for row in range(1, ROWS + 1))
    finally:
        pool.putconn(connection)


class Swallowing:
    """A holder that ignores the exception, goes on, and reports it at the end."""

    def __init__(self) -> None:
        self._raised: list[BaseException] = []

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._raised.append(error)

    def __enter__(self) -> Swallowing:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._raised:
            raise each


def read_and_swallow(pool: Pool[Any]) -> None:
    number = next(_numbers)
    with Swallowing() as swallowed, pool.connection(readonly=True) as connection, swallowed.here():
        cursor = connection.cursor()
        cursor.execute(f"SELECT seq, {number} FROM {numbers(ROWS)}")
        assert cursor.fetchall() == tuple((row, number) for row in range(1, ROWS + 1))


def read_by_hand_and_swallow(pool: Pool[Any]) -> None:
    number = next(_numbers)
    with Swallowing() as swallowed:
        connection = pool.getconn()
        with swallowed.here():
            cursor = connection.cursor(SSCursor)
            cursor.execute(f"SELECT seq, {number} FROM {numbers(ROWS)}")
            assert list(cursor) == [(row, number) for row in range(1, ROWS + 1)]
        pool.putconn(connection)


def write_and_swallow(pool: Pool[Any]) -> None:
    with Swallowing() as swallowed, pool.connection() as connection, swallowed.here():
        run(connection, "UPDATE books SET stock = stock WHERE id = 1")
        run(connection, "UPDATE books SET stock = stock WHERE id = 2")


WORKS = [
    *(read_much, read_much_row_by_row, write, read_by_hand),
    *(read_and_swallow, read_by_hand_and_swallow, write_and_swallow),
]


@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize(("options", "way"), WAYS)
def test_interrupted_requests_leave_no_answer_to_others(
    make_pool: MakePool,
    mariadb: MariaDB,
    shop: str,
    options: str,
    way: dict[str, Any],
    work: Callable[[Pool[Any]], None],
) -> None:
    pool = make_pool(f"{shop}{options}", max_size=3, **way)
    moments = random.Random(f"{options} {way} {work.__name__}")
    ended = threading.Event()

    def other_requests() -> None:
        while not ended.is_set():
            read_much(pool)
            write(pool)

    others = [Task(other_requests) for _ in range(2)]
    # The destructor of an SSCursor fails if an exception came before the cursor had its connection.
    with debris_ignored(AttributeError):
        for _ in range(TIMES):
            thread_id = interrupt_at_work(lambda: work(pool), moments.uniform(0, LATEST))
            pool.reclaim(thread_id)
    ended.set()
    for other in others:
        other.result()

    assert pool.stats().closed["broken"] > TIMES / 10, "hardly any hit a connection in use"
    eventually(lambda: not pool.stats().connecting)  # a connect may still run for a waiter that was served
    assert (pool.in_use, pool.waiting, pool.size) == (0, 0, pool.idle)
    eventually(lambda: len(sessions(mariadb, user_of(shop))) == pool.size)
    connections = [pool.getconn() for _ in range(pool.max_size)]
    for connection in connections:
        assert value(connection, "SELECT SUM(stock) FROM books") == 30
        pool.putconn(connection)
