"""MySQL and MariaDB by PyMySQL: `mysql://user:password@host:3306/database?charset=utf8mb4`.

PyMySQL is pure Python, so it works in every sub-interpreter of mod_wsgi. This module mends three of its habits:
a TLS context built anew for each connection (15 ms, https://github.com/PyMySQL/PyMySQL), a connect timeout that
does not cover the handshake, and no name by which the server's list of sessions could tell who is who.
"""

from __future__ import annotations

import select
import ssl
from collections.abc import Callable, Mapping
from typing import Any

import pymysql
from pymysql.connections import Connection

from wsgipool.config import DatabaseSettings, DatabaseURL, unknown_key
from wsgipool.drivers import close_quietly
from wsgipool.errors import ConfigError

DEFAULT_CONNECT_TIMEOUT = 10.0
"""Seconds; PyMySQL's own default, and MySQL's server-side connect_timeout."""


def driver(settings: DatabaseSettings) -> PyMySQLDriver:
    """Return the driver for one `[databases.NAME]`. Raises ConfigError for an option that PyMySQL does not have."""
    url = settings.url
    arguments = _arguments(url.options, f"{settings.origin}.url")
    if "unix_socket" not in arguments and "read_default_file" not in arguments and not url.host:
        raise ConfigError(
            f"{settings.origin}.url: no host; write mysql://user@host/database, or for a local server "
            "mysql://user@/database?unix_socket=/run/mysqld/mysqld.sock"
        )
    for name, value in (
        ("host", url.host),
        ("port", url.port),
        ("user", url.user),
        # Encoded here: PyMySQL would do it in Latin-1, and the server compares what the mysql client sends, UTF-8.
        ("password", url.password.encode() if url.password else None),
        ("database", url.database),
    ):
        if value:
            arguments[name] = value
    # Shown by performance_schema.session_connect_attrs beside the process id.
    arguments.setdefault("program_name", f"wsgipool:{settings.name}")
    return PyMySQLDriver(url, arguments)


class PyMySQLDriver:
    """Connects with PyMySQL; see `wsgipool.drivers.Driver`."""

    def __init__(self, url: DatabaseURL, arguments: Mapping[str, Any]) -> None:
        self._arguments = dict(arguments)
        self._connect_timeout = self._arguments.pop("connect_timeout", DEFAULT_CONNECT_TIMEOUT)
        self.address = str(url)

    def connect(self, timeout: float) -> Connection:
        limit = min(timeout, self._connect_timeout)
        connection = PooledConnection(**self._arguments, connect_timeout=limit, defer_connect=True)
        # PyMySQL waits for the server's greeting with the read timeout, by default for ever: a server that accepts
        # and says nothing (a paused machine, a full backlog behind a proxy) would hold the request until killed.
        read_timeout, write_timeout = connection._read_timeout, connection._write_timeout
        connection._read_timeout = connection._write_timeout = limit
        connection.connect()
        connection._read_timeout, connection._write_timeout = read_timeout, write_timeout
        return connection

    def is_alive(self, connection: Connection) -> bool:
        """Tell whether the socket is open and quiet.

        The server speaks only when asked. So a socket with something to read has been closed by it (wait_timeout,
        KILL, a restart: the end of file, or error 1927 before it) or is out of step.
        """
        sock = connection._sock
        if sock is None:
            return False
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return not poll.poll(0)

    def reset(self, connection: Connection) -> None:
        result = connection._result
        if result is not None and result.unbuffered_active:
            # PyMySQL would read the rest first, which may be gigabytes; a new connection is cheaper.
            raise pymysql.OperationalError("a result of SSCursor was not read to its end")
        connection.rollback()

    def close(self, connection: Connection) -> None:
        close_quietly(connection)

    def abandon(self, connection: Connection) -> None:
        # close() would send COM_QUIT through the socket shared with the parent and end the parent's session.
        connection._force_close()


class PooledConnection(Connection):
    """PyMySQL's connection with one TLS context a process and setting."""

    def _create_ssl_ctx(self, sslp: Any) -> ssl.SSLContext:
        if isinstance(sslp, ssl.SSLContext):
            return sslp
        return _tls_context(tuple(sorted(sslp.items())), super()._create_ssl_ctx)


def _tls_context(
    options: tuple[tuple[str, Any], ...], create: Callable[[Mapping[str, Any]], ssl.SSLContext]
) -> ssl.SSLContext:
    context = _tls_contexts.get(options)
    if context is None:
        # Two threads may both build one; either serves.
        context = _tls_contexts[options] = create(dict(options))
    return context


_tls_contexts: dict[tuple[tuple[str, Any], ...], ssl.SSLContext] = {}


def _boolean(text: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    return values[text.lower()]


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 86_400:
        raise ValueError(text)
    return seconds


_OPTIONS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    **dict.fromkeys(
        (
            "charset",
            "collation",
            "unix_socket",
            "bind_address",
            "init_command",
            "sql_mode",
            "program_name",
            "read_default_file",
            "read_default_group",
            "ssl_ca",
            "ssl_cert",
            "ssl_key",
            "ssl_key_password",
        ),
        (str, "a text"),
    ),
    **dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), (_seconds, "a number of seconds above 0")),
    **dict.fromkeys(
        ("autocommit", "ssl_disabled", "ssl_verify_cert", "ssl_verify_identity"), (_boolean, "true or false")
    ),
}


def _arguments(options: Mapping[str, str], where: str) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for name, text in options.items():
        if name not in _OPTIONS:
            raise ConfigError(f"{where}: {name} is not an option of mysql://; {unknown_key(name, _OPTIONS)}")
        convert, kind = _OPTIONS[name]
        try:
            arguments[name] = convert(text)
        except (KeyError, ValueError):
            raise ConfigError(f"{where}: the option {name} is {kind}, not {text!r}") from None
    return arguments
