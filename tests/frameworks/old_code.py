"""What the tests of `wsgipool.pymysql` and `wsgipool.MySQLdb` have in common: requests, and ways to look at a pool."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import wsgipool
from unit.fakes import Task
from wsgipool import pools
from wsgipool.config import parse_url
from wsgipool.pool.stats import Stats

T = TypeVar("T")


def arguments_of(url: str) -> dict[str, Any]:
    """Return the arguments of `connect()` for a URL."""
    parts = parse_url(url)
    return {
        "host": parts.host,
        "port": parts.port,
        "user": parts.user,
        "password": parts.password,
        "database": parts.database,
    }


def request(function: Callable[[], T]) -> T:
    """Call a function in a request, which ends afterwards."""
    results: list[T] = []

    def application(_environ: object, _start_response: object) -> list[bytes]:
        results.append(function())
        return []

    response: Any = wsgipool.Middleware(application)({}, lambda *_: None)
    response.close()
    return results[0]


def on_thread(function: Callable[[], T]) -> T:
    return Task(function).result()


def rows(connection: Any, statement: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


def value(connection: Any, query: str) -> Any:
    return rows(connection, query)[0][0]


def session(connection: Any) -> int:
    return int(value(connection, "SELECT CONNECTION_ID()"))


def stats(name: str) -> Stats:
    return wsgipool.pool(name).stats()


@contextlib.contextmanager
def in_use(name: str, number: int) -> Iterator[None]:
    """Check that a number of connections is checked out after the block."""
    yield
    assert stats(name).in_use == number


def kill(connection: Any, server: Any) -> None:
    """End the session of a connection, as an administrator does."""
    number = session(connection)
    with server.admin() as admin, admin.cursor() as cursor:
        cursor.execute(f"KILL {number}")
        while cursor.execute("SELECT 1 FROM information_schema.processlist WHERE id = %s", (number,)):
            pass


def close_pools() -> None:
    pools.close()
