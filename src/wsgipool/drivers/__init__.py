"""What differs between DB-API drivers: how to connect, to see whether a connection lives, to clean and to end it.

A driver knows no pool and no server. The pool calls it outside its lock, so each of these may wait for the network.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from wsgipool.config import DatabaseSettings, unknown_key
from wsgipool.errors import ConfigError


class DBAPIConnection(Protocol):
    """What PEP 249 promises of every connection, as far as a pool needs it."""

    def commit(self) -> object: ...

    def rollback(self) -> object: ...

    def close(self) -> object: ...


C = TypeVar("C", bound=DBAPIConnection)

_MODULES = {
    "mysql": "wsgipool.drivers.pymysql",
    "mysql+pymysql": "wsgipool.drivers.pymysql",
    "sqlite": "wsgipool.drivers.sqlite",
}


class Driver(Protocol[C]):
    """One database, by one DB-API module."""

    @property
    def address(self) -> str:
        """Where it connects to, without secrets."""

    def connect(self, timeout: float) -> C:
        """Open a connection within `timeout` seconds, or raise the driver's error."""

    def is_alive(self, connection: C) -> bool:
        """Tell without a round trip whether an idle connection can still be used."""

    def reset(self, connection: C) -> None:
        """End the transaction. Raises where the connection cannot be used again."""

    def close(self, connection: C) -> None:
        """End the session with the goodbye that the server expects. Never raises an Exception."""

    def abandon(self, connection: C) -> None:
        """Let go of a connection inherited through a fork, without a word to the server: it is the parent's."""


def for_database(settings: DatabaseSettings) -> Driver[Any]:
    """Return the driver that the URL's scheme names, its options checked. Raises ConfigError."""
    scheme = settings.url.scheme
    if scheme not in _MODULES:
        raise ConfigError(f"{settings.origin}.url: no driver for {scheme}://; {unknown_key(scheme, _MODULES)}")
    driver: Driver[Any] = importlib.import_module(_MODULES[scheme]).driver(settings)
    return driver


class CallableDriver(Generic[C]):
    """Any callable that returns a DB-API connection, with what PEP 249 alone can promise."""

    address = "a callable"

    def __init__(self, connect: Callable[[], C]) -> None:
        self._connect = connect

    def connect(self, timeout: float) -> C:  # noqa: ARG002 - PEP 249 knows no timeout
        return self._connect()

    def is_alive(self, connection: C) -> bool:  # noqa: ARG002 - PEP 249 has no way to ask
        return True

    def reset(self, connection: C) -> None:
        connection.rollback()

    def close(self, connection: C) -> None:
        close_quietly(connection)

    def abandon(self, connection: C) -> None:
        keep_forever(connection)


def close_quietly(connection: DBAPIConnection) -> None:
    """Close a connection that nobody will use again, whatever state it is in."""
    with contextlib.suppress(Exception):  # it is broken, or was closed before; either way it is gone
        connection.close()


_abandoned: list[object] = []


def keep_forever(connection: object) -> None:
    """Keep a connection from being collected, where its destructor would end the parent's session."""
    _abandoned.append(connection)
