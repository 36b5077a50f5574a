"""PostgreSQL by psycopg 3: `postgresql://user:password@host:5432/database?sslrootcert=/etc/ssl/shop-ca.pem`.

psycopg is pure Python on top of libpq: the system's (Debian: libpq5), or with `psycopg[binary]` one that it brings. Its
C implementation refuses all interpreters of a process but one; in more, set PSYCOPG_IMPL=python.

The options of the URL are libpq's connection parameters (https://www.postgresql.org/docs/current/libpq-connect.html),
`autocommit`, and `prepare_threshold`: how often a statement is run before psycopg prepares it, or `none` for a proxy
that gives each transaction another session, such as PgBouncer.

What a connection owes at its return is sent at once and its answer read at the next checkout; outside a transaction it
owes nothing. Cleaning all of a session is a DISCARD ALL. It cannot be done in a transaction; the answer to the ROLLBACK
before it is waited for at the return.

In any case psycopg's own settings are restored (autocommit, isolation level, factories, adapters, handlers, ...) and
`client_encoding`, notifications that arrived for the last holder are dropped, and a `pgconn.trace()` is ended.

`read_timeout` is wsgipool's own: the seconds without a byte from the server after which a statement fails, and with it
the connection. `notifies()` waits for as long as it is told to.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import sys
import weakref
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo
from psycopg.pq.misc import find_libpq_full_path

from wsgipool.config import DatabaseSettings, DatabaseURL
from wsgipool.drivers import (
    CLEANING_TIMEOUT,
    CLOSED_BY_POOL,
    LEAST_PATIENCE,
    PlainDriver,
    Reset,
    close_quietly,
    keep_forever,
    psycopg_options,
)
from wsgipool.drivers.opening import Descriptor
from wsgipool.drivers.psycopg_connection import PooledConnection, ready
from wsgipool.farewell import Farewell

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

DEFAULT_CONNECT_TIMEOUT = 10.0
"""Seconds; libpq's own default is to wait for ever."""

DEFAULT_PREPARE_THRESHOLD = 5
"""psycopg's own default."""


def driver(settings: DatabaseSettings) -> PsycopgDriver:
    """Return the driver for one `[databases.NAME]`. Raises ConfigError."""
    return PsycopgDriver(settings.url, psycopg_options.read(settings))


class PsycopgDriver(PlainDriver["PooledConnection"]):
    """Connects with psycopg; see `wsgipool.drivers.Driver`."""

    def __init__(self, url: DatabaseURL, options: Mapping[str, Any]) -> None:
        self.address = str(url)
        parameters = dict(options)
        self._connect_timeout = parameters.pop("connect_timeout", DEFAULT_CONNECT_TIMEOUT)
        self._read_timeout = parameters.pop("read_timeout")
        self._autocommit = parameters.pop("autocommit", False)
        self._prepare_threshold = parameters.pop("prepare_threshold", DEFAULT_PREPARE_THRESHOLD)
        self._conninfo = make_conninfo(**parameters)

    def connect(self, timeout: float, pipeline: bool = True) -> PooledConnection:  # noqa: ARG002 - one command at a time anyway
        connection = PooledConnection(_connect(self._conninfo, min(timeout, self._connect_timeout)))
        connection.is_out_of_service = self.is_out_of_service
        connection.read_timeout = self._read_timeout
        connection.autocommit = self._autocommit
        connection.prepare_threshold = self._prepare_threshold
        connection.remember()
        return connection

    def remember(self, connection: PooledConnection) -> None:
        connection.remember()

    def check_out(self, connection: PooledConnection, thread_id: int, timeout: float) -> bool:  # noqa: ARG002
        """Return whether the connection is open and nobody has said that it ends.

        PostgreSQL speaks unasked: a NOTIFY, a changed parameter, the reason why it ends the session, the end of file.
        """
        if connection.answer_is_due:
            patience = connection.sent_at + CLEANING_TIMEOUT - monotonic()
            self._finish_reset(connection, max(min(patience, timeout), LEAST_PATIENCE))
        return not connection.has_ended()

    def check_in(self, connection: PooledConnection, how: Reset | None, pipeline: bool = True) -> None:
        """Send what the connection owes, and wait for nothing but the end of a transaction before a session's."""
        connection.refuse_unfinished()
        owed = connection.commands_to_restore()
        if how is not None and connection.pgconn.transaction_status != pq.TransactionStatus.IDLE:
            owed.insert(0, b"ROLLBACK")
        if owed:
            connection.send(b"; ".join(owed))
        if how == "session":
            if owed:
                connection.read_answer(CLEANING_TIMEOUT)
            connection.send(b"DISCARD ALL")
        if not connection.answer_is_due:
            connection.restore()
        elif not pipeline:
            self._finish_reset(connection, CLEANING_TIMEOUT)

    def _finish_reset(self, connection: PooledConnection, timeout: float) -> None:
        """Read the answer that is due and restore what cannot be restored before."""
        if connection.answer_is_due:
            connection.read_answer(timeout)
            connection.restore()

    def begin(self, connection: PooledConnection) -> None:
        """Turn autocommit off until the return: psycopg begins the transaction, with its isolation level."""
        if connection.autocommit:
            connection.autocommit = False

    def set_read_timeout(self, connection: PooledConnection, seconds: float) -> None:
        connection.read_timeout = seconds

    def ping(self, connection: PooledConnection, timeout: float) -> None:
        connection.send(b"")  # the empty statement begins no transaction
        connection.read_answer(timeout)

    def close(self, connection: PooledConnection) -> Farewell:
        # A socket closed with an unread answer in it resets the connection, which may overtake our goodbye.
        with contextlib.suppress(psycopg.Error):
            if connection.answer_is_due and ready(connection.pgconn.socket, select.POLLIN, 0):
                connection.pgconn.consume_input()
        farewell = Farewell(-1 if connection.closed else connection.fileno())
        connection.fail(CLOSED_BY_POOL)
        close_quietly(connection)
        farewell.hang_up()
        return farewell

    def abandon(self, connection: PooledConnection) -> None:
        connection.fail("the connection is that of this process's parent; get one of your own from the pool")
        keep_forever(connection)
        _abandon(connection.pgconn)


def _abandon(pgconn: PGconn) -> None:
    # libpq may have been at work in another thread when the process forked: it is not called here any more.
    keep_forever(pgconn)
    with contextlib.suppress(OSError, psycopg.Error):
        Descriptor(pgconn.socket).point_nowhere()


def _connect(conninfo: str, timeout: float) -> PGconn:
    """Connect by libpq's non-blocking calls.

    psycopg's own connect() would not wait for less than 2 s, and as long for each of several addresses.
    """
    pgconn = pq.PGconn.connect_start(conninfo.encode())
    _every_connection.add(pgconn)
    try:
        _tell_errors(pgconn, _VERBOSE)
        _finish_connecting(pgconn, timeout)
        _tell_errors(pgconn, _DEFAULT)
    except BaseException:
        pgconn.finish()
        raise
    pgconn.nonblocking = 1  # as psycopg expects it
    return pgconn


def _finish_connecting(pgconn: PGconn, timeout: float) -> None:
    deadline = monotonic() + timeout
    while (status := _poll(pgconn)) != pq.PollingStatus.OK:
        event = select.POLLIN if status == pq.PollingStatus.READING else select.POLLOUT
        if not ready(pgconn.socket, event, deadline - monotonic()):
            raise psycopg.errors.ConnectionTimeout(f"no connection within {timeout:g} s")


def _poll(pgconn: PGconn) -> int:
    if pgconn.status != pq.ConnStatus.BAD:
        status = pgconn.connect_poll()
        if status != pq.PollingStatus.FAILED:
            return status
    raise _refusal(pq.error_message(pgconn))


_DEFAULT, _VERBOSE = 1, 2
"""Of libpq's PGVerbosity."""
_CODE = re.compile(r":  ([0-9A-Z]{5}): ")
_PLACE_IN_THE_SERVER = re.compile(r"\n[^\n:]+:  \w+, \w+\.c:\d+")


def _refusal(message: str) -> psycopg.OperationalError:
    """Return the error for what libpq says, verbosely, of a failed connect.

    It has no other way to tell the server's SQLSTATE then, and the text is in the server's language.
    """
    error = psycopg.OperationalError(_PLACE_IN_THE_SERVER.sub("", message))
    if codes := _CODE.findall(message):
        error.sqlstate = codes[-1]  # of several hosts, or tries with and without TLS, the last
    return error


def _libpq() -> ctypes.CDLL:
    """Return the libpq that psycopg uses, for what it does not hand on."""
    if pq.__impl__ == "python":
        return ctypes.CDLL(find_libpq_full_path())
    # A module in C is linked to its own, which is looked into, too.
    return ctypes.CDLL(sys.modules[pq.PGconn.__module__].__file__)


_set_error_verbosity = _libpq().PQsetErrorVerbosity
_set_error_verbosity.argtypes = [ctypes.c_void_p, ctypes.c_int]


def _tell_errors(pgconn: Any, verbosity: int) -> None:
    _set_error_verbosity(pgconn.pgconn_ptr, verbosity)


_every_connection: weakref.WeakSet[PGconn] = weakref.WeakSet()
"""Those too that a thread is just opening, which no pool knows. A fork's child that kept their sockets would keep the
sessions from ending with its parent's death."""


def _after_fork_in_child() -> None:
    for pgconn in list(_every_connection):
        _abandon(pgconn)
    _every_connection.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
