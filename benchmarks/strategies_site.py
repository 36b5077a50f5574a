"""The site under load: each request reads a row of two databases, in one of the four ways to share connections.

The path names the way, the query the key. settings.json beside it has the arguments for PyMySQL, by way and database.
What a way does wrong is answered and not mended: an error is a 500 that names it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pymysql

import wsgipool

SETTINGS: dict[str, Any] = json.loads((Path(__file__).parent / "settings.json").read_text(encoding="utf-8"))

Checkout = Callable[[str], AbstractContextManager[Any]]


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    check_out = WAYS[environ["PATH_INFO"].strip("/")]
    key = int(environ["QUERY_STRING"])
    try:
        status, lines = "200 OK", [look_up(check_out, database, key) for database in SETTINGS["databases"]]
    except Exception as error:
        status, lines = "500 Internal Server Error", [f"{type(error).__name__}: {error}"]
    body = "\n".join(lines).encode()
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def look_up(check_out: Checkout, database: str, key: int) -> str:
    with check_out(database) as connection, connection.cursor() as cursor:
        cursor.execute(SETTINGS["lookup"], (key,))
        return str(cursor.fetchone()[0])


def connect(way: str, database: str) -> Any:
    # With autocommit no way ends a transaction, so they differ only in how they share. The timeout ends the wait for an
    # answer that another thread has read.
    return pymysql.connect(**SETTINGS["ways"][way][database], autocommit=True, read_timeout=SETTINGS["timeout"])


# --- (1) a connection per database and thread -------------------------------------------------------------------------

_mine = threading.local()


@contextmanager
def per_thread(database: str) -> Iterator[Any]:
    connections = vars(_mine)
    if database not in connections:
        connections[database] = connect("per_thread", database)
    yield connections[database]


# --- (2) one connection per database, unprotected ---------------------------------------------------------------------

_shared: dict[str, Any] = {}


@contextmanager
def unprotected(database: str) -> Iterator[Any]:
    connection = _shared.get(database)
    if connection is None:
        connection = _shared[database] = connect("unprotected", database)
    try:
        yield connection
    except Exception:
        # Connect again after an error; otherwise all later requests would fail.
        if _shared.get(database) is connection:
            del _shared[database]
        raise


# --- (3) one connection per database, behind a lock -------------------------------------------------------------------

_locks = {database: threading.Lock() for database in SETTINGS["databases"]}
_locked: dict[str, Any] = {}


@contextmanager
def locked(database: str) -> Iterator[Any]:
    with _locks[database]:
        if database not in _locked:
            _locked[database] = connect("locked", database)
        yield _locked[database]


# --- (4) a pool per database ------------------------------------------------------------------------------------------


def pooled(database: str) -> AbstractContextManager[Any]:
    return wsgipool.connection(database, readonly=True)


WAYS: dict[str, Checkout] = {
    "per_thread": per_thread,
    "unprotected": unprotected,
    "locked": locked,
    "pooled": pooled,
}
