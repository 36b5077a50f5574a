"""MySQL and MariaDB by PyMySQL: `mysql://user:password@host:3306/database?charset=utf8mb4`.

PyMySQL is pure Python, so it works in every sub-interpreter of mod_wsgi. Some of its habits are mended: a TLS context
built anew for each connection (15 ms), a connect timeout that does not cover the handshake, and no name by which the
server's list of sessions could tell who is who. `wsgipool.drivers.pymysql_connection` adds what PyMySQL lacks: a reset
whose answer is read later, COM_RESET_CONNECTION, and a connection that refuses a thread that has not borrowed it.
"""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Mapping
from time import monotonic
from typing import Any

import pymysql

from wsgipool.config import DatabaseSettings, DatabaseURL
from wsgipool.drivers import (
    CLEANING_TIMEOUT,
    LEAST_PATIENCE,
    PlainDriver,
    Reset,
    close_quietly,
    mysql_options,
)
from wsgipool.drivers.mysql_options import MySQLOptions
from wsgipool.drivers.mysql_rsa import explain_connect_error
from wsgipool.drivers.pymysql_connection import ENDED, IN_THE_POOL, PooledConnection, out_of_step, unasked_answer
from wsgipool.drivers.tls import Mode
from wsgipool.farewell import Farewell

_GOODBYE_PATIENCE = 0.05
"""Seconds to wait for the rest of an answer before a connection is closed without it."""


def driver(settings: DatabaseSettings) -> PyMySQLDriver:
    """Return the driver for one `[databases.NAME]`. Raises ConfigError."""
    return PyMySQLDriver(settings.url, arguments(mysql_options.read(settings)))


def arguments(options: MySQLOptions) -> dict[str, Any]:
    """Return PyMySQL's arguments."""
    given: dict[str, Any] = {
        "host": options.host,
        "port": options.port,
        "unix_socket": options.unix_socket,
        "user": options.user,
        # Encoded here: PyMySQL would do it in Latin-1, and the server compares what the mysql client sends, UTF-8.
        "password": options.password.encode() if options.password else None,
        "database": options.database or None,
        "charset": options.charset,
        "collation": options.collation,
        "connect_timeout": options.connect_timeout,
        "read_timeout": options.read_timeout,
        "write_timeout": options.write_timeout,
        "autocommit": options.autocommit,
        "init_command": options.init_command,
        "sql_mode": options.sql_mode,
        "bind_address": options.bind_address,
        "program_name": options.program_name,
    }
    if options.tls.mode is Mode.DISABLED:
        given["ssl_disabled"] = True
    elif options.tls.mode is not Mode.PREFERRED:
        # PyMySQL insists on TLS where it is given a context, and only there.
        given["ssl"] = options.tls.context()
    return {name: value for name, value in given.items() if value is not None}


class PyMySQLDriver(PlainDriver[PooledConnection]):
    """Connects with PyMySQL; see `wsgipool.drivers.Driver`."""

    def __init__(self, url: DatabaseURL, arguments: Mapping[str, Any]) -> None:
        self._arguments = dict(arguments)
        self._connect_timeout = self._arguments.pop("connect_timeout")
        self.address = str(url)
        # Never connected: it builds the TLS context. With the codec of host names loaded too, no thread that connects
        # is inside an import or OpenSSL's set-up when another forks.
        PooledConnection(**self._arguments, defer_connect=True)
        codecs.lookup("idna")

    def connect(self, timeout: float, pipeline: bool = True) -> PooledConnection:
        limit = min(timeout, self._connect_timeout)
        connection = PooledConnection(**self._arguments, connect_timeout=limit, defer_connect=True)
        connection.pipeline = pipeline
        connection.closing_codes = self.out_of_service
        # PyMySQL waits for the server's greeting with the read timeout: a server that accepts and says nothing (a
        # paused machine, a full backlog behind a proxy) would hold the request for as long.
        with connection.patience(limit):
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

    def check_out(self, connection: PooledConnection, thread_id: int, timeout: float) -> bool:  # noqa: ARG002
        """Return whether the session is clean and the server has its end of the socket open still."""
        connection.lent_to = thread_id
        connection.has_asked = False
        if connection.answers_due and not connection.reads_cleaning_at_once():
            _read_cleaning(connection)
        return connection._sock is not None and not connection.has_something_to_read()

    def check_in(self, connection: PooledConnection, how: Reset | None, pipeline: bool = True) -> None:
        """Restore the connection and send what its session needs in one go, or one by one."""
        if connection._sock is None:
            raise connection.closed_error()
        if connection.is_asking:
            raise out_of_step()  # the next holder would get the answer
        if connection.unusable is not None:
            raise connection.unusable
        result = connection._result
        if result is not None and result.unbuffered_active:
            # PyMySQL would read the rest first, which may be gigabytes; a new connection is cheaper.
            raise pymysql.OperationalError(
                "a result was not read to its end; fetch all rows of an SSCursor, or close it"
            )
        if result is not None and result.has_next:
            raise pymysql.OperationalError(
                "a statement had more results than were read; after CALL, whose last result is its status, call "
                "nextset() until it returns None, or close the cursor"
            )
        if connection.has_asked and connection.has_buffered():
            raise unasked_answer()
        connection.pipeline = pipeline
        if pipeline:
            connection.reset(how)
        else:
            with connection.patience(CLEANING_TIMEOUT):
                connection.reset(how)
        connection.lent_to = IN_THE_POOL

    def begin(self, connection: PooledConnection) -> None:
        if connection.get_autocommit():
            connection.begin()

    def set_read_timeout(self, connection: PooledConnection, seconds: float) -> None:
        connection._read_timeout = seconds

    def ping(self, connection: PooledConnection, timeout: float) -> None:
        with connection.patience(timeout):
            connection.ping()

    def close(self, connection: PooledConnection) -> Farewell:
        connection.lent_to = None
        connection.forget_result()
        # A socket closed with unread answers in it resets the connection, which may overtake our goodbye.
        if connection.answers_due and connection._sock is not None:
            with contextlib.suppress(Exception), connection.patience(_GOODBYE_PATIENCE):
                connection.read_answers()
        close_quietly(connection)
        connection.lent_to = ENDED
        farewell, connection.farewell = connection.farewell, None
        return farewell or Farewell()

    def abandon(self, connection: PooledConnection) -> None:
        connection.abandon()


def _read_cleaning(connection: PooledConnection) -> None:
    deadline = max(connection.sent_at + CLEANING_TIMEOUT, monotonic() + LEAST_PATIENCE)
    try:
        with connection.patience(deadline - monotonic()):
            connection.read_answers()
    except pymysql.OperationalError as error:
        if monotonic() < deadline:
            raise
        raise pymysql.OperationalError(f"the server did not clean the session within {CLEANING_TIMEOUT} s") from error
