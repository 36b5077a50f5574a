"""A driver for any callable that returns a DB-API connection.

The driver checks the connection's socket if it finds one, and restores well-known attributes. It cleans by a rollback
alone, and does not refuse other threads.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from contextlib import closing
from functools import partial
from types import MethodType
from typing import Any

from wsgipool.drivers.base import (
    ENDED,
    IN_THE_POOL,
    BaseDriver,
    C,
    Holder,
    Hook,
    Reset,
)
from wsgipool.drivers.connecting import Descriptor
from wsgipool.drivers.deadline import shut_down_after
from wsgipool.drivers.polling import Predicate, is_readable
from wsgipool.drivers.session_end import SessionEnd
from wsgipool.errors import PLAIN_ERRORS, ConfigError, errors_like

_KNOWN_ATTRIBUTES = ("cursorclass", "cursor_factory", "row_factory", "text_factory", "isolation_level", "autocommit")
"""Attributes of connections that a program can set in many DB-API modules."""
_MISSING = object()


class CallableDriver(BaseDriver[C]):
    """A driver that connects by a callable; see ``wsgipool.drivers.Driver``.

    Until the first connection or error shows the DB-API module, ``errors`` are the plain ones.
    """

    def __init__(self, connect: Callable[[], C]) -> None:
        """Take a callable without arguments that returns a new connection."""
        self.address = "a callable"
        self._connect = connect
        self._states: dict[int, _ConnectionState] = {}

    def connect(self, timeout: float, pipeline: bool = True) -> C:  # noqa: ARG002 - PEP 249 knows no timeout
        """Call the callable, which needs a timeout of its own."""
        try:
            connection = self._connect()
        except Exception as error:
            if self.errors is PLAIN_ERRORS:
                self.errors = errors_like(type(error))
            raise
        if self.errors is PLAIN_ERRORS:
            self.errors = errors_like(type(connection))
        try:
            self._states[id(connection)] = _ConnectionState(connection)
            self.remember(connection)
        except BaseException:
            self.close(connection)
            raise
        return connection

    def remember(self, connection: C) -> None:
        """Note the well-known attributes."""
        attributes = {name: getattr(connection, name, _MISSING) for name in _KNOWN_ATTRIBUTES}
        # In PyMySQL and mysqlclient `autocommit` is a method.
        self._states[id(connection)].attributes = {
            name: value
            for name, value in attributes.items()
            if value is not _MISSING and not isinstance(value, MethodType)
        }

    def set_close_hook(self, connection: C, hook: Hook) -> bool:
        """Set an attribute ``close``; return False if the connection allows none or its class has no ``close``."""
        if not hasattr(type(connection), "close"):
            return False
        holder = self._states[id(connection)].holder
        holder.hook = hook

        def close() -> None:
            holder.close(_nothing)

        try:
            connection.close = close  # type: ignore[method-assign]
        except (AttributeError, TypeError):  # of a class written in C, or with __slots__
            return False
        self._states[id(connection)].has_hook = True
        return True

    def check_out(self, connection: C, thread_id: int, timeout: float) -> bool:  # noqa: ARG002
        """Return whether the socket is open and has no input; True if no socket can be found."""
        state = self._states[id(connection)]
        state.holder.thread_id = thread_id
        return state.is_quiet(connection)

    def adopt(self, connection: C, thread_id: int) -> None:
        """Set the holder."""
        self._states[id(connection)].holder.thread_id = thread_id

    def check_in(self, connection: C, how: Reset | None, pipeline: bool = True) -> None:
        """Roll back, unless ``how`` is None, and restore the well-known attributes."""
        super().check_in(connection, how, pipeline)
        state = self._states[id(connection)]
        for name, value in state.attributes.items():
            if getattr(connection, name) != value:
                setattr(connection, name, value)
        state.holder.thread_id = IN_THE_POOL

    def begin(self, connection: C) -> None:
        """Raise ConfigError for a connection in autocommit: PEP 249 has no BEGIN."""
        ask = getattr(connection, "get_autocommit", None)
        is_autocommit = (
            getattr(connection, "autocommit", None) is True
            or (callable(ask) and bool(ask()))
            # In sqlite3 None means autocommit; elsewhere it is the server's default.
            or (hasattr(connection, "in_transaction") and getattr(connection, "isolation_level", "") is None)
        )
        if is_autocommit:
            raise ConfigError(
                f"{self.address} returned a connection in autocommit, whose statements cannot be rolled back together; "
                "turn autocommit off there, or name the database by its URL"
            )

    def ping(self, connection: C, timeout: float) -> None:
        """Call ``connection.ping()`` without reconnecting, or else run ``SELECT 1`` and roll back.

        After the timeout the socket, if one was found, is shut down.
        """
        descriptor = self._states[id(connection)].descriptor
        with contextlib.nullcontext() if descriptor is None else shut_down_after(timeout, descriptor):
            _ask(connection)

    def close(self, connection: C) -> SessionEnd:
        """Call the module's own ``close()`` and count the session as ended at once: PEP 249 knows no server."""
        state = self._states.pop(id(connection), None)
        if state is not None:
            state.holder.thread_id = ENDED
        # The attribute of the connection is the hook.
        end = partial(type(connection).close, connection) if state and state.has_hook else connection.close
        with contextlib.suppress(Exception):  # it is broken, or was closed before
            end()
        return SessionEnd(assumed_after=0.0)

    def after_fork(self, connection: C) -> None:
        """Keep the object alive."""
        state = self._states.pop(id(connection), None)
        if state is not None:
            state.holder.thread_id = ENDED
        super().after_fork(connection)


class _ConnectionState:
    """The holder of a connection, its socket, and the attributes to restore."""

    def __init__(self, connection: object) -> None:
        self.holder = Holder()
        self.has_hook = False
        self.attributes: dict[str, Any] = {}
        self.descriptor: Descriptor | None = None
        self._number = _file_number(connection)
        self._has_input: Predicate = bool
        self._has_socket = self._number >= 0
        if self._has_socket:
            self._find_socket()

    def is_quiet(self, connection: object) -> bool:
        """Return whether the socket is open and has no input, which would be the end of the session."""
        if not self._has_socket:
            return True
        number = _file_number(connection)
        if number < 0:
            return False
        if number != self._number:  # the connection has reconnected
            self._number = number
            self._find_socket()
        # A C library may report a closed descriptor, whose number may belong to another file now.
        return self.descriptor is not None and self.descriptor.number() >= 0 and not self._has_input()

    def _find_socket(self) -> None:
        try:
            self.descriptor = Descriptor(self._number)
        except OSError:
            self.descriptor = None
        self._has_input = is_readable(self._number)


def _file_number(connection: Any) -> int:
    """Return the file descriptor of a connection's socket, or -1. PyMySQL's connections have a ``_sock``."""
    try:
        sock = connection if hasattr(connection, "fileno") else connection._sock
        number = sock.fileno()
    except Exception:  # there is no socket, or it is closed
        return -1
    return number if isinstance(number, int) else -1


def _ask(connection: Any) -> None:
    ping = getattr(connection, "ping", None)
    if callable(ping):
        if _takes_reconnect(ping):
            ping(reconnect=False)
        else:
            ping()
    elif hasattr(connection, "cursor"):
        with closing(connection.cursor()) as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchall()
        connection.rollback()


def _takes_reconnect(ping: Callable[..., object]) -> bool:
    try:
        return "reconnect" in inspect.signature(ping).parameters
    except ValueError:  # a function in C without a signature
        return False


def _nothing() -> None: ...
