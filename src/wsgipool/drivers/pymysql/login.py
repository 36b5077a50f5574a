"""The parts of a connect: the socket, the TLS context, and the refusal of clear-text passwords."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pymysql
from pymysql.constants import CR

from wsgipool.drivers.connecting import Descriptor, connect_tcp, connect_unix

if TYPE_CHECKING:
    import socket

    from wsgipool.drivers.pymysql.connection import PooledConnection

_CLEAR_TEXT_PLUGINS = (b"mysql_clear_password", b"dialog")
"""Authentication plugins that send the password itself."""


def connect_socket(connection: PooledConnection) -> socket.socket:
    """Connect to the Unix socket or the host within the connection's `connect_timeout`. Raise OSError."""

    def register(descriptor: Descriptor) -> None:
        connection.descriptor = descriptor

    timeout: Any = connection.connect_timeout
    if connection.unix_socket:
        connection.host_info = "Localhost via UNIX socket"
        connection._secure = True  # PyMySQL's flag that allows it to send the password itself
        return connect_unix(connection.unix_socket, timeout, register)
    connection.host_info = f"socket {connection.host}:{connection.port}"
    return connect_tcp(connection.host, connection.port, connection.bind_address, timeout, register)


def refuse_clear_text(connection: PooledConnection, plugin_name: bytes) -> None:
    """Raise if the server asks for the password itself over a connection that others might read."""
    if plugin_name in _CLEAR_TEXT_PLUGINS and not _is_private(connection):
        raise pymysql.OperationalError(
            CR.CR_AUTH_PLUGIN_ERR,
            f"the server asks for the password in clear text ({plugin_name.decode()}); it is sent only over a Unix "
            "socket or a TLS connection whose certificate is verified: give an ssl_ca, or give the account another "
            "authentication plugin",
        )


def _is_private(connection: PooledConnection) -> bool:
    """Return whether only the intended server can read the connection."""
    if isinstance(connection._sock, ssl.SSLSocket):
        context = connection._sock.context
        return context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname
    return bool(connection.unix_socket)


# --- TLS -------------------------------------------------------------------------------------------------------------


_contexts: dict[tuple[tuple[str, Any], ...], ssl.SSLContext] = {}
"""The TLS contexts of this process by their options. PyMySQL would build one a connection, in 15 ms."""


def tls_context(
    options: tuple[tuple[str, Any], ...], create: Callable[[Mapping[str, Any]], ssl.SSLContext]
) -> ssl.SSLContext:
    """Return the process's context for these options."""
    context = _contexts.get(options)
    if context is None:
        # Two threads may both build one; both contexts work.
        context = _contexts[options] = create(dict(options))
    return context


@contextlib.contextmanager
def new_tls_contexts() -> Iterator[None]:
    """Build the contexts again from their files in the block; if it fails, keep the former contexts."""
    before = dict(_contexts)
    _contexts.clear()
    try:
        yield
    except BaseException:
        _contexts.update(before)
        raise
