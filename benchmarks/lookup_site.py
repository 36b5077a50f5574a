"""The site under load: one lookup by key a request, in the way that the path names.

It is plain WSGI, so that little else costs time. The modules of a way are imported at its first request, so that a
process loads only those of its own way. settings.json beside this file has the arguments for PyMySQL.
"""

from __future__ import annotations

import json
import queue
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import pymysql

Connect = Callable[[], AbstractContextManager[Any]]

SETTINGS: dict[str, Any] = json.loads((Path(__file__).parent / "settings.json").read_text(encoding="utf-8"))
ARGUMENTS: dict[str, Any] = SETTINGS["arguments"]

_lock = threading.Lock()
_ways: dict[str, Connect] = {}


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    connect = _ways.get(path) or _make(path)
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute(SETTINGS["lookup"], (random.randrange(SETTINGS["items"]),))
        body = cursor.fetchone()[0].encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def _make(path: str) -> Connect:
    with _lock:
        if path not in _ways:
            _ways[path] = MAKERS[path]()
        return _ways[path]


def connect_per_request() -> Connect:
    return lambda: pymysql.connect(**ARGUMENTS)


class Shared:
    """One connection, with a lock that a request holds while it uses the connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection = pymysql.connect(**ARGUMENTS, autocommit=True)

    def __enter__(self) -> Any:
        self._lock.acquire()
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def shared() -> Connect:
    one = Shared()
    return lambda: one


class ThreadLocal(threading.local):
    """One connection for each thread, kept for ever."""

    def __init__(self, rolls_back: bool) -> None:
        self._rolls_back = rolls_back
        self._connection = pymysql.connect(**ARGUMENTS, autocommit=not rolls_back)

    def __enter__(self) -> Any:
        return self._connection

    def __exit__(self, *_: object) -> None:
        if self._rolls_back:
            self._connection.rollback()


def thread_local(*, rolls_back: bool = False) -> Connect:
    local = ThreadLocal(rolls_back)
    return lambda: local


class FirstComeFirstServed:
    """The simplest fair pool: a lock and a list; a returned connection goes to the oldest waiter."""

    def __init__(self, size: int) -> None:
        self._lock = threading.Lock()
        self._idle = [pymysql.connect(**ARGUMENTS, autocommit=True) for _ in range(size)]
        self._waiting: deque[queue.SimpleQueue[Any]] = deque()

    @contextmanager
    def connection(self) -> Iterator[Any]:
        connection = self._check_out()
        try:
            yield connection
        finally:
            with self._lock:
                if self._waiting:
                    self._waiting.popleft().put(connection)
                else:
                    self._idle.append(connection)

    def _check_out(self) -> Any:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            turn: queue.SimpleQueue[Any] = queue.SimpleQueue()
            self._waiting.append(turn)
        return turn.get()


def sqlalchemy() -> Connect:
    from sqlalchemy import URL, create_engine

    url = URL.create(
        "mysql+pymysql",
        username=ARGUMENTS["user"],
        **{key: ARGUMENTS[key] for key in ("password", "host", "port", "database")},
    )
    engine = create_engine(url, pool_size=SETTINGS["threads"], max_overflow=0)
    return lambda: closing(engine.raw_connection())


def dbutils() -> Connect:
    from dbutils.pooled_db import PooledDB

    pool = PooledDB(pymysql, maxconnections=SETTINGS["threads"], blocking=True, **ARGUMENTS)
    connect: Connect = pool.connection
    return connect


def wsgipool(name: str) -> Connect:
    import wsgipool

    return lambda: wsgipool.connection(name, readonly=True)


MAKERS: dict[str, Callable[[], Connect]] = {
    "/connect": connect_per_request,
    "/shared": shared,
    "/thread-local": thread_local,
    "/thread-local-rollback": lambda: thread_local(rolls_back=True),
    "/first-come-quarter": lambda: FirstComeFirstServed(SETTINGS["threads"] // 4).connection,
    "/sqlalchemy": sqlalchemy,
    "/dbutils": dbutils,
    "/wsgipool": lambda: wsgipool("shop"),
    "/wsgipool-autocommit": lambda: wsgipool("autocommit"),
    "/wsgipool-quarter": lambda: wsgipool("quarter"),
}
