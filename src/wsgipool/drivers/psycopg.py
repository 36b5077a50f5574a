"""PostgreSQL by psycopg 3: `postgresql://user:password@host:5432/database?sslrootcert=/etc/ssl/shop-ca.pem`.

psycopg is pure Python on top of libpq: the system's (Debian: libpq5), or with `psycopg[binary]` one that it brings. Its
C implementation refuses all interpreters of a process but one; in more, set PSYCOPG_IMPL=python.

The options of the URL are libpq's connection parameters (https://www.postgresql.org/docs/current/libpq-connect.html),
`autocommit`, and `prepare_threshold`: how often a statement is run before psycopg prepares it, or `none` for a proxy
that gives each transaction another session, such as PgBouncer.

What a connection owes at its return is sent at once and its answer read at the next checkout; outside a transaction it
owes nothing. Cleaning all of a session is a DISCARD ALL, and psycopg's own settings as they were: autocommit, isolation
level, read_only, deferrable, row_factory and prepare_threshold. It cannot be done in a transaction; the answer to the
ROLLBACK before it is waited for at the return, as long as a connect may take (`connect_timeout`).
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
from psycopg.rows import tuple_row

from wsgipool.config import DatabaseSettings, DatabaseURL
from wsgipool.drivers import LEAST_PATIENCE, PlainDriver, Reset, close_quietly, keep_forever, psycopg_options
from wsgipool.drivers.opening import Descriptor
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
        self._autocommit = parameters.pop("autocommit", False)
        self._prepare_threshold = parameters.pop("prepare_threshold", DEFAULT_PREPARE_THRESHOLD)
        parameters.pop("read_timeout")
        self._conninfo = make_conninfo(**parameters)

    def connect(self, timeout: float, pipeline: bool = True) -> PooledConnection:
        connection = PooledConnection(_connect(self._conninfo, min(timeout, self._connect_timeout)))
        self._configure(connection)
        return connection

    def check_out(self, connection: PooledConnection, thread_id: int, timeout: float) -> bool:  # noqa: ARG002
        """Tell whether the connection is open and nobody has said that it ends.

        PostgreSQL speaks unasked: a NOTIFY, a changed parameter, the reason why it ends the session, the end of file.
        """
        if connection.answer_is_due:
            self.finish_reset(connection, max(timeout, LEAST_PATIENCE))
        try:
            return connection.pgconn.status == pq.ConnStatus.OK and not connection.hears_the_end()
        except psycopg.Error:
            return False

    def check_in(self, connection: PooledConnection, how: Reset | None) -> bool:
        """Send what the connection owes, and wait for nothing but the end of a transaction before a session's."""
        if how is None:
            return False
        status = connection.pgconn.transaction_status
        if status == pq.TransactionStatus.ACTIVE or connection.pgconn.pipeline_status != pq.PipelineStatus.OFF:
            raise psycopg.OperationalError("a command was not read to its end, or a pipeline left open")
        if how == "session":
            if status != pq.TransactionStatus.IDLE:
                connection.send(b"ROLLBACK")
                connection.read_answer(self._connect_timeout)
            self._configure(connection)
            connection.send(b"DISCARD ALL")
        elif status != pq.TransactionStatus.IDLE:
            connection.send(b"ROLLBACK")
        else:
            connection.refuse_open_blocks()
        return connection.answer_is_due

    def finish_reset(self, connection: PooledConnection, timeout: float) -> None:
        connection.read_answer(timeout)
        connection.refuse_open_blocks()

    def ping(self, connection: PooledConnection, timeout: float) -> None:
        connection.send(b"")  # the empty statement begins no transaction
        connection.read_answer(timeout)

    def close(self, connection: PooledConnection) -> Farewell:
        # A socket closed with an unread answer in it resets the connection, which may overtake our goodbye.
        with contextlib.suppress(psycopg.Error):
            if connection.answer_is_due and _ready(connection.pgconn.socket, select.POLLIN, 0):
                connection.pgconn.consume_input()
        farewell = Farewell(-1 if connection.closed else connection.fileno())
        close_quietly(connection)
        farewell.hang_up()
        return farewell

    def abandon(self, connection: PooledConnection) -> None:
        _abandon(connection.pgconn)
        keep_forever(connection)

    def _configure(self, connection: PooledConnection) -> None:
        connection.autocommit = self._autocommit
        connection.isolation_level = connection.read_only = connection.deferrable = None
        connection.row_factory = tuple_row
        connection.prepare_threshold = self._prepare_threshold


class PooledConnection(psycopg.Connection[Any]):
    """psycopg's connection, with an answer that may be read later, and an ear for the end."""

    def __init__(self, pgconn: PGconn, *arguments: Any, **options: Any) -> None:
        super().__init__(pgconn, *arguments, **options)
        self.answer_is_due = False
        self._last_words = _LastWords()
        self.add_notice_handler(self._last_words)

    def send(self, statement: bytes) -> None:
        """Send a statement that has no rows, and leave its answer to `read_answer`."""
        # As psycopg's own rollback() does: what it has prepared may refer to a table that is gone or has changed.
        self._prepared.clear()
        self.pgconn.send_query(statement)
        if self.pgconn.flush():
            raise psycopg.OperationalError("the server takes no more commands")
        self.answer_is_due = True

    def read_answer(self, timeout: float) -> None:
        """Read the answer that is due. Raises where it is an error, or does not come in time."""
        deadline = monotonic() + timeout
        while True:
            while self.pgconn.is_busy():
                if not _ready(self.pgconn.socket, select.POLLIN, deadline - monotonic()):
                    raise psycopg.OperationalError(f"the server did not answer within {timeout:g} s")
                self.pgconn.consume_input()
            result = self.pgconn.get_result()
            if result is None:
                break
            if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY):
                raise psycopg.OperationalError(pq.error_message(result))
        self.answer_is_due = False

    def refuse_open_blocks(self) -> None:
        """Raise where the connection came back from within a `transaction()` or a two-phase commit.

        To be called outside a transaction, where it costs no round trip.
        """
        self.rollback()

    def hears_the_end(self) -> bool:
        """Take in what the server has said unasked, and tell whether it ends the session."""
        if _ready(self.pgconn.socket, select.POLLIN, 0):
            self.pgconn.consume_input()  # raises at the end of file
            # As psycopg does after each answer; it would not look for what libpq has taken in already. Asking for
            # notifications hands on the notices, too.
            while notification := self.pgconn.notifies():
                if self.pgconn.notify_handler:
                    self.pgconn.notify_handler(notification)
        # The end of file comes a moment after the reason.
        return self._last_words.heard


class _LastWords:
    """A handler of notices: the reason why a session ends comes as one where no answer is waited for."""

    heard = False

    def __call__(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized in ("FATAL", "PANIC"):
            self.heard = True


def _abandon(pgconn: PGconn) -> None:
    with contextlib.suppress(OSError, psycopg.Error):
        Descriptor(pgconn.socket).point_nowhere()
    # libpq may have been at work in another thread when the process forked: it is not called here any more.
    keep_forever(pgconn)


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
        if not _ready(pgconn.socket, event, deadline - monotonic()):
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


def _ready(descriptor: int, event: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(max(0.0, timeout) * 1000))


_every_connection: weakref.WeakSet[PGconn] = weakref.WeakSet()
"""Those too that a thread is just opening, which no pool knows. A fork's child that kept their sockets would keep the
sessions from ending with its parent's death."""


def _after_fork_in_child() -> None:
    for pgconn in list(_every_connection):
        _abandon(pgconn)
    _every_connection.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
