"""The contenders: wsgipool and other pools, with fake connections, so that only the pool's own time is measured.

Each is used as its documentation says. The fakes do nothing, and cost the peers no more than the real ones would.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import repeat
from types import SimpleNamespace
from typing import Any, Literal, cast

import connpool
import mysql.connector
import peewee
import psycopg
import pymysql
import sqlalchemy.pool
from dbutils.pooled_db import PooledDB
from mysql.connector.pooling import MySQLConnectionPool
from playhouse.pool import PooledDatabase
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool

import wsgipool


class FakeConnection:
    """A DB-API connection whose methods do nothing."""

    threadsafety = 1
    # DBUtils treats these as signs of a dead connection.
    OperationalError = pymysql.OperationalError
    InterfaceError = pymysql.InterfaceError
    InternalError = pymysql.InternalError

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...

    def ping(self, _reconnect: bool = True) -> None: ...


@dataclass(frozen=True)
class Contender:
    """A way to check a connection out and in."""

    name: str
    check_out: Callable[[], Any]
    check_in: Callable[[Any], object]
    loop: Callable[[int], None]
    """Do both a number of times, without further function calls."""


def by_call(name: str, check_out: Callable[[], Any], check_in: Callable[[Any], object]) -> Contender:
    def loop(count: int) -> None:
        for _ in repeat(None, count):
            check_in(check_out())

    return Contender(name, check_out, check_in, loop)


def by_close(name: str, check_out: Callable[[], Any]) -> Contender:
    def loop(count: int) -> None:
        for _ in repeat(None, count):
            check_out().close()

    return Contender(name, check_out, lambda connection: connection.close(), loop)


def by_thread(name: str, check_out: Callable[[], Any], check_in: Callable[[], object]) -> Contender:
    """Make a contender of a pool that records which connection a thread has checked out."""

    def loop(count: int) -> None:
        for _ in repeat(None, count):
            check_out()
            check_in()

    return Contender(name, check_out, lambda _: check_in(), loop)


def by_block(name: str, connection: Callable[[], AbstractContextManager[Any]]) -> Contender:
    def loop(count: int) -> None:
        for _ in repeat(None, count):
            with connection():
                pass

    # No benchmark uses the two separately.
    return Contender(name, connection, lambda _: None, loop)


class LockedListPool:
    """The simplest fair pool: a lock and a list; a returned connection goes to the oldest waiter."""

    def __init__(self, connect: Callable[[], Any], size: int) -> None:
        self._lock = threading.Lock()
        self._idle = [connect() for _ in range(size)]
        self._waiting: deque[queue.SimpleQueue[Any]] = deque()

    def getconn(self) -> Any:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            waiter: queue.SimpleQueue[Any] = queue.SimpleQueue()
            self._waiting.append(waiter)
        return waiter.get()

    def putconn(self, connection: Any) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().put(connection)
            else:
                self._idle.append(connection)


def wsgipool_pool(size: int, reset: Literal["rollback"] | None, close: ExitStack) -> wsgipool.Pool[FakeConnection]:
    """Return a pool with `size` idle connections."""
    pool = wsgipool.Pool(FakeConnection, name="benchmark", max_size=size, reset=reset)
    close.callback(pool.close)
    for connection in [pool.getconn() for _ in range(size)]:
        pool.putconn(connection)
    return pool


def lifo_queue(size: int) -> Contender:
    idle: queue.LifoQueue[FakeConnection] = queue.LifoQueue()
    for _ in range(size):
        idle.put(FakeConnection())
    return by_call("LifoQueue", idle.get, idle.put)


def dbutils_pool(size: int, *, quickest: bool) -> Contender:
    options: dict[str, Any] = {"reset": False, "ping": 0} if quickest else {}
    pool = PooledDB(FakeConnection, mincached=size, maxconnections=size, blocking=True, **options)
    return by_close("DBUtils, no reset, no ping" if quickest else "DBUtils", pool.connection)


def sqlalchemy_pool(size: int, *, quickest: bool) -> Contender:
    options: dict[str, Any] = {"reset_on_return": None} if quickest else {}
    pool = sqlalchemy.pool.QueuePool(cast(Any, FakeConnection), pool_size=size, max_overflow=0, **options)
    return by_close("SQLAlchemy QueuePool, no reset" if quickest else "SQLAlchemy QueuePool", pool.connect)


class FakePsycopgConnection(psycopg.Connection[Any]):
    """A connection as psycopg_pool needs it: it opens, closes, and knows its transaction status."""

    def __init__(self) -> None:
        # The real attribute asks libpq, which takes longer.
        self.pgconn = cast(Any, SimpleNamespace(transaction_status=TransactionStatus.IDLE))

    @classmethod
    def connect(cls, *_: Any, **__: Any) -> Any:
        return cls()

    def close(self) -> None: ...

    def __del__(self, *_: Any) -> None: ...


def psycopg_pool(size: int, close: ExitStack) -> Contender:
    pool = ConnectionPool(connection_class=FakePsycopgConnection, min_size=size, max_size=size, open=False)
    close.callback(pool.close)
    pool.open(wait=True)
    return by_call("psycopg_pool", pool.getconn, pool.putconn)


class FakeMySQLConnection(mysql.connector.MySQLConnection):
    """A connection as mysql-connector's pool needs it: a sign of life and a session reset, without a server."""

    def is_connected(self) -> bool:
        return True

    def reset_session(self, *_: Any, **__: Any) -> None: ...

    def config(self, **_: Any) -> None: ...

    def reconnect(self, *_: Any, **__: Any) -> None: ...


def mysql_pool(size: int) -> Contender:
    pool = MySQLConnectionPool(pool_size=size, pool_name="benchmark")
    pool.set_config(host="127.0.0.1")  # needed before a checkout; nothing connects by it
    for _ in range(size):
        pool.add_connection(cast(Any, FakeMySQLConnection()))
    return by_close("mysql-connector", pool.get_connection)


class FakeDatabase(peewee.Database):
    def _connect(self) -> FakeConnection:
        return FakeConnection()


class PooledFakeDatabase(PooledDatabase, FakeDatabase):
    """Peewee's pool, without the ping and the rollback that its pool for MySQL adds."""


def peewee_pool(size: int) -> Contender:
    database = PooledFakeDatabase("benchmark", max_connections=size, timeout=30)
    return by_thread("peewee", database.connect, database.close)


def connpool_pool(size: int, close: ExitStack) -> Contender:
    pool = connpool.ConnectionPool.from_callables(
        FakeConnection, reset=FakeConnection.rollback, config=connpool.PoolConfig(max_size=size)
    )
    close.callback(pool.close)
    return by_call("connpool", pool.acquire, pool.release)
