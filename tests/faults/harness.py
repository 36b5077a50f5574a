"""Helpers of the tests of faults: a pool for a URL, a statement, a value."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

from pymysql.connections import Connection

from wsgipool import Pool, config, drivers

SOON = 5.0
"""Seconds that suffice for an immediate action on a busy machine; far less than any timeout in the tests."""


def pool_of(url: str, **settings: Any) -> Pool[Any]:
    """Return a pool for a database's URL; `settings` are arguments of Pool."""
    database = config.load({"databases": {"shop": {"url": url}}}).databases["shop"]
    return Pool(drivers.for_database(database), name="shop", **{"max_size": 1, **settings})


def run(connection: Any, statement: str, *arguments: object) -> int:
    """Run a statement and return the number of rows that it found or changed."""
    with connection.cursor() as cursor:
        rows: int = cursor.execute(statement, arguments or None)
        return rows


def value(connection: Any, query: str, *arguments: object) -> Any:
    """Return the first column of a query's first row."""
    with connection.cursor() as cursor:
        cursor.execute(query, arguments or None)
        return cursor.fetchone()[0]


def session_of(connection: Any) -> int:
    """Return the server's number of this connection's session, without asking it."""
    number: int = connection.thread_id()
    return number


def error_number(error: BaseException | None) -> int:
    """Return MySQL's number of a driver's error."""
    assert error is not None
    number: int = error.args[0]
    return number


def user_of(url: str) -> str:
    return urlsplit(url).username or ""


def password_of(url: str) -> str:
    return urlsplit(url).password or ""


def connect_plainly(url: str, **arguments: Any) -> Connection:
    """Return a connection that no pool knows."""
    parts = urlsplit(url)
    return Connection(  # type: ignore[no-untyped-call]
        host=parts.hostname,
        port=parts.port,
        user=parts.username,
        password=parts.password,
        database=parts.path.removeprefix("/"),
        ssl_disabled=True,
        **arguments,
    )


class Clock:
    """A stopwatch that starts when it is made."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started
