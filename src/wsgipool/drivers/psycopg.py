"""PostgreSQL by psycopg 3: `postgresql://user:password@host:5432/database?sslrootcert=/etc/ssl/shop-ca.pem`.

psycopg is pure Python on top of libpq: the system's (Debian: libpq5), or the one that `psycopg[binary]` contains. Its C
implementation works in only one interpreter of a process; for more interpreters set PSYCOPG_IMPL=python.

The options of the URL are libpq's connection parameters (https://www.postgresql.org/docs/current/libpq-connect.html),
and these:

- `autocommit`.
- `prepare_threshold`: how often a statement runs before psycopg prepares it. Use `none` with a proxy that gives each
  transaction another session, such as PgBouncer.
- `read_timeout`, wsgipool's own: the seconds without a byte from the server after which a statement and its connection
  fail. `notifies()` keeps its own timeout.

A return sends the ROLLBACK, if a transaction is open, and the next checkout reads the answer. Cleaning a whole session
is a DISCARD ALL. It is not allowed in a transaction, so the return waits for the answer to the ROLLBACK before it.

Each return also restores `client_encoding` and psycopg's own settings: autocommit, isolation level, factories,
adapters, handlers and more. It drops notifications for the last holder and ends a `pgconn.trace()`.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import re
import select
import sys
import weakref
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq.misc import find_libpq_full_path

from wsgipool import _runtime
from wsgipool.config import DatabaseSettings, DatabaseURL
from wsgipool.drivers import (
    CLEANING_TIMEOUT,
    CLOSED_BY_POOL,
    DEFAULT_CONNECT_TIMEOUT,
    DEFAULT_READ_TIMEOUT,
    ENDED,
    IN_THE_POOL,
    MIN_ANSWER_TIMEOUT,
    HolderDriver,
    Reset,
    keep_forever,
    psycopg_options,
)
from wsgipool.drivers.connecting import Descriptor
from wsgipool.drivers.psycopg_connection import PooledConnection, ready
from wsgipool.drivers.psycopg_options import DEFAULT_PORT, PARAMETERS
from wsgipool.drivers.session_end import SessionEnd
from wsgipool.drivers.url_options import check_arguments
from wsgipool.errors import ConfigError, errors_of

if TYPE_CHECKING:
    from psycopg.abc import AdaptContext
    from psycopg.pq.abc import PGconn

DEFAULT_PREPARE_THRESHOLD = 5
"""psycopg's own default."""


def driver(
    settings: DatabaseSettings,
    *,
    context: AdaptContext | None = None,
    row_factory: Any = None,
    cursor_factory: Any = None,
    **more: Any,
) -> PsycopgDriver:
    """Return the driver for one `[databases.NAME]`, with more arguments for psycopg. Raise ConfigError."""
    options = psycopg_options.read(settings) | more
    return PsycopgDriver(str(settings.url), options, context, row_factory, cursor_factory)


def from_arguments(
    conninfo: str = "",
    *,
    read_timeout: float = DEFAULT_READ_TIMEOUT,
    autocommit: bool = False,
    prepare_threshold: int | None = DEFAULT_PREPARE_THRESHOLD,
    context: AdaptContext | None = None,
    row_factory: Any = None,
    cursor_factory: Any = None,
    **parameters: Any,
) -> tuple[PsycopgDriver, DatabaseURL]:
    """Return a driver that connects as `psycopg.connect(conninfo, ...)` does, and its URL without secrets.

    `read_timeout` is wsgipool's own: see above. The default of `connect_timeout` is 10 s.

    Raises:
        ConfigError: The conninfo is wrong, or libpq has no such parameter.
    """
    check_arguments("psycopg", parameters, PARAMETERS)
    try:
        options: dict[str, Any] = conninfo_to_dict(conninfo, **parameters)
    except psycopg.ProgrammingError:  # its message repeats a part of the text, perhaps of the password
        raise ConfigError(
            "psycopg: the conninfo is not valid; write postgresql://user@host/database, or "
            "host=NAME dbname=NAME user=NAME"
        ) from None
    if "connect_timeout" in options:
        seconds = float(options["connect_timeout"])
        options["connect_timeout"] = seconds if seconds > 0 else math.inf  # 0 means as long as the pool waits
    port = str(options.get("port", DEFAULT_PORT))
    url = DatabaseURL(
        "postgresql",
        user=options.get("user"),
        host=options.get("host", options.get("hostaddr")),
        port=int(port) if port.isdecimal() else None,
        database=options.get("dbname", ""),
    )
    settings = {"context": context, "row_factory": row_factory, "cursor_factory": cursor_factory}
    options |= {"read_timeout": read_timeout, "autocommit": autocommit, "prepare_threshold": prepare_threshold}
    return PsycopgDriver(str(url), options, **settings), url


class PsycopgDriver(HolderDriver["PooledConnection"]):
    """The driver for psycopg; see `wsgipool.drivers.Driver`."""

    errors = errors_of(psycopg.OperationalError, psycopg.InterfaceError)

    def __init__(
        self,
        address: str,
        options: Mapping[str, Any],
        context: AdaptContext | None = None,
        row_factory: Any = None,
        cursor_factory: Any = None,
    ) -> None:
        """Take libpq's parameters, and wsgipool's, as `options`."""
        self.address = address
        self._context = context
        self._factories = {"row_factory": row_factory, "cursor_factory": cursor_factory}
        parameters = dict(options)
        self._connect_timeout = parameters.pop("connect_timeout", DEFAULT_CONNECT_TIMEOUT)
        self._read_timeout = parameters.pop("read_timeout")
        self._autocommit = parameters.pop("autocommit", False)
        self._prepare_threshold = parameters.pop("prepare_threshold", DEFAULT_PREPARE_THRESHOLD)
        self._conninfo = make_conninfo(**parameters)

    def connect(self, timeout: float, pipeline: bool = True) -> PooledConnection:  # noqa: ARG002 - it sends one command at a time
        connection = PooledConnection(_connect(self._conninfo, min(timeout, self._connect_timeout)))
        connection.is_out_of_service = self.is_out_of_service
        connection.read_timeout = self._read_timeout
        connection.autocommit = self._autocommit
        connection.prepare_threshold = self._prepare_threshold
        for name, factory in self._factories.items():
            if factory is not None:
                setattr(connection, name, factory)
        if self._context is not None:
            connection.use_adapters(self._context)
        connection.remember()
        return connection

    def check_out(self, connection: PooledConnection, thread_id: int, timeout: float) -> bool:
        """Return whether the session is clean and has not ended.

        Without being asked, PostgreSQL sends notifications, changed parameters, and the reason for a session's end.
        """
        connection.holder.thread_id = thread_id
        if connection.answer_is_due:
            remaining = connection.sent_at + CLEANING_TIMEOUT - monotonic()
            self._finish_reset(connection, max(min(remaining, timeout), MIN_ANSWER_TIMEOUT))
        return not connection.has_ended()

    def check_in(self, connection: PooledConnection, how: Reset | None, pipeline: bool = True) -> None:
        """Send the commands that clean the session. Wait only for the end of a transaction before a DISCARD ALL."""
        connection.refuse_unfinished()
        commands = connection.commands_to_restore()
        if how is not None and connection.pgconn.transaction_status != pq.TransactionStatus.IDLE:
            commands.insert(0, b"ROLLBACK")
        if commands:
            connection.send(b"; ".join(commands))
        if how == "session":
            if commands:
                connection.read_answer(CLEANING_TIMEOUT)
            connection.send(b"DISCARD ALL")
        if not connection.answer_is_due:
            connection.restore()
        elif not pipeline:
            self._finish_reset(connection, CLEANING_TIMEOUT)
        connection.holder.thread_id = IN_THE_POOL

    def _finish_reset(self, connection: PooledConnection, timeout: float) -> None:
        """Read the due answer and restore the Python state, which psycopg refuses before."""
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

    def close(self, connection: PooledConnection) -> SessionEnd:
        # Closing a socket with an unread answer sends a TCP reset, which may overtake the end of the session.
        with contextlib.suppress(psycopg.Error):
            if connection.answer_is_due and ready(connection.pgconn.socket, select.POLLIN, 0):
                connection.pgconn.consume_input()
        session_end = SessionEnd(-1 if connection.closed else connection.fileno())
        connection.fail(CLOSED_BY_POOL)
        super().close(connection)
        session_end.shut_down_writing()
        return session_end

    def after_fork(self, connection: PooledConnection) -> None:
        connection.holder.thread_id = ENDED
        connection.fail("the connection belongs to this process's parent; get another one from the pool")
        keep_forever(connection)
        _release(connection.pgconn)


def _release(pgconn: PGconn) -> None:
    # Do not call libpq: another thread may have been inside it at the fork.
    keep_forever(pgconn)
    with contextlib.suppress(OSError, psycopg.Error):
        Descriptor(pgconn.socket).redirect_to_devnull()


def _connect(conninfo: str, timeout: float) -> PGconn:
    """Connect by libpq's non-blocking calls within `timeout` seconds.

    psycopg's own connect() waits for at least 2 s, and for as long with each of several addresses.
    """
    pgconn = pq.PGconn.connect_start(conninfo.encode())
    _every_connection.add(pgconn)
    try:
        _set_verbosity(pgconn, _VERBOSE)
        _finish_connecting(pgconn, timeout)
        _set_verbosity(pgconn, _DEFAULT)
    except BaseException:
        pgconn.finish()
        raise
    pgconn.nonblocking = 1  # psycopg expects this
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
    raise _connect_error(pq.error_message(pgconn))


_DEFAULT, _VERBOSE = 1, 2
"""Values of libpq's PGVerbosity."""
_CODE = re.compile(r":  ([0-9A-Z]{5}): ")
_PLACE_IN_THE_SERVER = re.compile(r"\n[^\n:]+:  \w+, \w+\.c:\d+")


def _connect_error(message: str) -> psycopg.OperationalError:
    """Return the error for libpq's verbose message of a failed connect.

    Only this message has the server's SQLSTATE; the text is in the server's language.
    """
    error = psycopg.OperationalError(_PLACE_IN_THE_SERVER.sub("", message))
    if codes := _CODE.findall(message):
        error.sqlstate = codes[-1]  # that of the last host, or of the last try with or without TLS
    return error


def _libpq() -> ctypes.CDLL:
    """Return the libpq that psycopg uses, for a function that psycopg does not offer."""
    if pq.__impl__ == "python":
        return ctypes.CDLL(find_libpq_full_path())
    # A C module is linked to a libpq of its own, in which this also finds the symbols.
    return ctypes.CDLL(sys.modules[pq.PGconn.__module__].__file__)


_set_error_verbosity = _libpq().PQsetErrorVerbosity
_set_error_verbosity.argtypes = [ctypes.c_void_p, ctypes.c_int]


def _set_verbosity(pgconn: Any, verbosity: int) -> None:
    _set_error_verbosity(pgconn.pgconn_ptr, verbosity)


_every_connection: weakref.WeakSet[PGconn] = weakref.WeakSet()
"""All connections, also those that a thread is opening and no pool knows.

If a fork's child kept their sockets, the sessions would outlive the parent.
"""


def _after_fork_in_child() -> None:
    for pgconn in list(_every_connection):
        _release(pgconn)
    _every_connection.clear()


_runtime.after_fork(_after_fork_in_child)
