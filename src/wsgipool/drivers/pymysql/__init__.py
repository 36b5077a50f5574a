"""MySQL and MariaDB by PyMySQL: `mysql://user:password@host:3306/database?charset=utf8mb4`.

PyMySQL is pure Python, so it works in every sub-interpreter of mod_wsgi. This driver shares one TLS context between
connections, because building one takes 15 ms. Its connect timeout covers the handshake, and each session has a name in
the server's list. `wsgipool.drivers.pymysql.connection` adds COM_RESET_CONNECTION, a reset whose answer is read later,
and a check that only the holder uses a connection.
"""

from __future__ import annotations

import codecs
import contextlib
import inspect
from collections.abc import Mapping
from time import monotonic
from typing import Any

import pymysql
from pymysql.connections import Connection

from wsgipool.config import DatabaseSettings, DatabaseURL
from wsgipool.drivers import (
    CLEANING_TIMEOUT,
    DEFAULT_CONNECT_TIMEOUT,
    DEFAULT_READ_TIMEOUT,
    ENDED,
    IN_THE_POOL,
    MIN_ANSWER_TIMEOUT,
    BaseDriver,
    Hook,
    Reset,
    mysql_options,
)
from wsgipool.drivers.mysql_options import MySQLOptions
from wsgipool.drivers.mysql_rsa import explain_connect_error
from wsgipool.drivers.pymysql.connection import PooledConnection
from wsgipool.drivers.pymysql.fast_reading import connection_class
from wsgipool.drivers.pymysql.login import new_tls_contexts
from wsgipool.drivers.pymysql.misuse import ERRORS, unexpected_answer, unread_answer
from wsgipool.drivers.session_end import SessionEnd
from wsgipool.drivers.tls import TLS, Mode
from wsgipool.drivers.url_options import check_arguments
from wsgipool.errors import ConfigError

_CLOSING_TIMEOUT = 0.05
"""Maximum seconds to wait for the rest of an answer before a connection is closed."""


def driver(settings: DatabaseSettings, **more: Any) -> PyMySQLDriver:
    """Return the driver for one `[databases.NAME]`, with more arguments for PyMySQL. Raise ConfigError."""
    options = mysql_options.read(settings)
    return PyMySQLDriver(str(settings.url), arguments(options) | more, options.tls, options.fast_reading)


def from_arguments(*, fast_reading: bool = True, **arguments: Any) -> tuple[PyMySQLDriver, DatabaseURL]:
    """Return a driver that connects as `pymysql.connect(**arguments)` does, and its URL without secrets.

    Defaults: `connect_timeout` 10 s, `read_timeout` 60 s, `write_timeout` equal to it. A password of type str is sent
    as UTF-8, as the mysql client does.

    Args:
        fast_reading: Whether `wsgipool.drivers.pymysql.fast_reading` reads the rows.
        **arguments: Arguments of `pymysql.connect()`.

    Raises:
        ConfigError: PyMySQL has no such argument.
        Exception: PyMySQL's own error for a wrong value.
    """
    known = inspect.signature(Connection).parameters.keys() - {"defer_connect"}
    check_arguments("pymysql", arguments, known)
    given = {"connect_timeout": DEFAULT_CONNECT_TIMEOUT, "read_timeout": DEFAULT_READ_TIMEOUT, **arguments}
    given.setdefault("write_timeout", given["read_timeout"])
    for name in ("password", "passwd"):
        if isinstance(given.get(name), str):
            given[name] = given[name].encode()
    # This reads the read_default_file, but not the TLS files, which the driver reads.
    resolved = PooledConnection(**given | {"ssl_disabled": True}, defer_connect=True)
    url = DatabaseURL(
        "mysql",
        user=_text(resolved.user),
        host=None if resolved.unix_socket else resolved.host,
        port=None if resolved.unix_socket else resolved.port,
        database=_text(resolved.db) or "",
        options={"unix_socket": resolved.unix_socket} if resolved.unix_socket else {},
    )
    return PyMySQLDriver(str(url), given, fast_reading=fast_reading), url


def _text(name: str | bytes | None) -> str | None:
    return name.decode(errors="replace") if isinstance(name, bytes) else name


def arguments(options: MySQLOptions) -> dict[str, Any]:
    """Return PyMySQL's arguments, without those for TLS."""
    given = options.arguments()
    if options.password:
        # PyMySQL would encode in Latin-1; the server expects UTF-8, which the mysql client sends.
        given["password"] = options.password.encode()
    if options.bind_address:
        given["bind_address"] = options.bind_address
    return given | {"program_name": options.program_name}


class PyMySQLDriver(BaseDriver[PooledConnection]):
    """The driver for PyMySQL; see `wsgipool.drivers.Driver`."""

    errors = ERRORS

    def __init__(
        self, address: str, arguments: Mapping[str, Any], tls: TLS | None = None, fast_reading: bool = True
    ) -> None:
        """Take PyMySQL's arguments. Without `tls` they contain those for TLS."""
        self.address = address
        self._arguments = dict(arguments)
        self._connect_timeout = self._arguments.pop("connect_timeout")
        self._tls = tls
        self._connection_class = connection_class(fast_reading)
        self._read_files()
        # Import this codec of host names now, as the TLS context is built now: a fork must not happen while another
        # thread imports or sets up OpenSSL.
        codecs.lookup("idna")

    def reload(self) -> None:
        with new_tls_contexts():
            self._read_files()

    def _read_files(self) -> None:
        try:
            arguments = self._arguments | ({} if self._tls is None else _tls_arguments(self._tls))
            PooledConnection(**arguments, defer_connect=True)  # builds the TLS context and connects to nothing
        except OSError as error:  # ssl.SSLError among them
            raise ConfigError(f"{self.address}: the TLS files cannot be used: {error}") from error
        self._arguments = arguments

    def connect(self, timeout: float, pipeline: bool = True) -> PooledConnection:
        limit = min(timeout, self._connect_timeout)
        connection = self._connection_class(**self._arguments, connect_timeout=limit, defer_connect=True)
        connection.pipeline = pipeline
        connection.closing_codes = self.close_on_errors
        # PyMySQL waits for the server's greeting with the read timeout. A server that accepts and stays silent, such as
        # a paused machine or a full backlog behind a proxy, would hold the request for as long.
        with connection.deadline(limit):
            try:
                connection.connect()
            except RuntimeError as error:
                if explained := explain_connect_error(error):
                    raise explained from None
                raise
        connection.remember()
        return connection

    def remember(self, connection: PooledConnection) -> None:
        connection.remember()

    def set_close_hook(self, connection: PooledConnection, hook: Hook) -> bool:
        connection.close_hook = hook
        return True

    def check_out(self, connection: PooledConnection, thread_id: int, timeout: float) -> bool:  # noqa: ARG002
        """Return whether the session is clean and the server has not closed the socket."""
        connection.holder_id = thread_id
        connection.has_sent_command = False
        if connection.answers_due and not connection.read_answers_at_once():
            _read_cleaning(connection)
        return connection._sock is not None and not connection.has_input()

    def adopt(self, connection: PooledConnection, thread_id: int) -> None:
        connection.holder_id = thread_id

    def check_in(self, connection: PooledConnection, how: Reset | None, pipeline: bool = True) -> None:
        """Restore the connection, and send the commands that clean its session together or one by one."""
        if connection._sock is None:
            raise connection.closed_error()
        if connection.awaits_answer:
            raise unread_answer()  # the next holder would read the answer
        if connection.unusable is not None:
            raise connection.unusable
        result = connection._result
        if result is not None and result.unbuffered_active:
            # PyMySQL would first read the rest, perhaps gigabytes. A new connection is cheaper.
            raise pymysql.OperationalError(
                "a result was not read to its end; fetch all rows of an SSCursor, or close it"
            )
        if result is not None and result.has_next:
            raise pymysql.OperationalError(
                "a statement had more results than were read; after CALL, whose last result is its status, call "
                "nextset() until it returns None, or close the cursor"
            )
        if connection.has_sent_command and connection.has_buffered():
            raise unexpected_answer()
        connection.pipeline = pipeline
        if pipeline:
            connection.reset(how)
        else:
            with connection.deadline(CLEANING_TIMEOUT):
                connection.reset(how)
        connection.holder_id = IN_THE_POOL

    def begin(self, connection: PooledConnection) -> None:
        if connection.get_autocommit():
            connection.begin()

    def set_read_timeout(self, connection: PooledConnection, seconds: float) -> None:
        connection._read_timeout = seconds

    def ping(self, connection: PooledConnection, timeout: float) -> None:
        with connection.deadline(timeout):
            connection.ping()

    def close(self, connection: PooledConnection) -> SessionEnd:
        connection.holder_id = None
        connection.forget_result()
        # Closing a socket with unread answers sends a TCP reset, which may overtake COM_QUIT.
        if connection.answers_due and connection._sock is not None:
            with contextlib.suppress(Exception), connection.deadline(_CLOSING_TIMEOUT):
                connection.read_answers()
        with contextlib.suppress(Exception):  # it is broken, or was closed before
            connection.end()
        connection.holder_id = ENDED
        session_end, connection.session_end = connection.session_end, None
        return session_end or SessionEnd()

    def after_fork(self, connection: PooledConnection) -> None:
        connection.after_fork()


def _tls_arguments(tls: TLS) -> dict[str, Any]:
    if tls.mode is Mode.DISABLED:
        return {"ssl_disabled": True}
    # PyMySQL requires TLS if it is given a context, and only then.
    return {} if tls.mode is Mode.PREFERRED else {"ssl": tls.context()}


def _read_cleaning(connection: PooledConnection) -> None:
    deadline = max(connection.sent_at + CLEANING_TIMEOUT, monotonic() + MIN_ANSWER_TIMEOUT)
    try:
        with connection.deadline(deadline - monotonic()):
            connection.read_answers()
    except pymysql.OperationalError as error:
        if monotonic() < deadline:
            raise
        raise pymysql.OperationalError(f"the server did not clean the session within {CLEANING_TIMEOUT} s") from error
