"""Opens connections by way of SQLAlchemy, and by drivers of wsgipool.

This is the order of the calls:

1. A pool of wsgipool calls ``EngineDriver.connect``.
2. That creates SQLAlchemy's record of a connection, which fires ``connect`` in the end.
3. The record calls the engine's creator, which fires ``do_connect``.
4. The creator calls ``connect`` of the dialect: ``ConnectingDialect.connect``.
5. That calls a driver of wsgipool.

SQLAlchemy's calls between 1 and 4 have no arguments for what both ends need from each other. Both run on one thread, so
a thread-local object has it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.pool import ConnectionPoolEntry

from wsgipool import drivers, pools
from wsgipool.config import DatabaseSettings
from wsgipool.drivers import Driver
from wsgipool.errors import ConfigError


@dataclass
class _Call:
    """A call of ``EngineDriver.connect``, for the dialect that connects in it."""

    dialect: object = None
    """The dialect; a listener in the call may connect another engine."""
    timeout: float = math.inf
    pipeline: bool = True
    connection: Any = None
    """The new connection."""


@dataclass(frozen=True, repr=False)  # a debug page would show the password
class Arguments:
    """The arguments with which an engine calls ``connect`` of its dialect."""

    positional: tuple[Any, ...]
    by_keyword: Mapping[str, Any]


class _ArgumentsFound(BaseException):
    """Ends a call of the creator that is made for its arguments alone."""


class _Thread(threading.local):
    call: _Call | None = None
    """The current call; None if the connection is for another pool, such as ``NullPool``."""
    wanted: list[Arguments] | None = None
    """The place for the arguments, if the creator is called for them alone."""


_thread = _Thread()


class ConnectingDialect:
    """The part of a dialect that connects by a driver of wsgipool."""

    driver_name: str
    """The DB-API module, as ``wsgipool.drivers.driver`` names it."""

    schemes: Sequence[str]
    """The schemes of wsgipool's URLs for this module."""

    database: str | None = None
    """The database of the settings file that the engine's URL names."""

    _latest: tuple[tuple[Arguments, DatabaseSettings | None], Driver[Any]] | None = None

    def connect(self, *cargs: Any, **cparams: Any) -> Any:
        """Open a connection, as SQLAlchemy's dialects do."""
        arguments = Arguments(cargs, cparams)
        if _thread.wanted is not None:
            _thread.wanted.append(arguments)
            raise _ArgumentsFound
        call = _thread.call
        if call is None or call.dialect is not self:
            call = _Call()
        call.connection = self.new_driver(arguments).connect(call.timeout, call.pipeline)
        return call.connection

    def new_driver(self, arguments: Arguments) -> Driver[Any]:
        """Return the driver for some arguments, the last one if they and the named database are the last ones."""
        database = None if self.database is None else pools.database(self.database)
        latest, given = self._latest, (arguments, database)
        if latest is None or latest[0] != given:
            latest = self._latest = given, self._made(*given)
        return latest[1]

    def _made(self, arguments: Arguments, database: DatabaseSettings | None) -> Driver[Any]:
        if database is None:
            return drivers.driver(self.driver_name, *arguments.positional, **arguments.by_keyword)
        if database.url.scheme not in self.schemes:
            raise ConfigError(
                f"{database.origin}.url is of {database.url.scheme}://, which this dialect does not have; it has "
                f"{' and '.join(f'{scheme}://' for scheme in self.schemes)}"
            )
        return drivers.for_database(database, **arguments.by_keyword)


def arguments_of(creator: Callable[[], object], dialect: Dialect) -> Arguments:
    """Return the arguments with which the creator of a new engine calls ``dialect.connect``.

    ``create_engine`` merges them from the URL and ``connect_args``, and hands them to the creator only.
    """
    # Listeners of `do_connect` are for real connects. Those that were registered for all engines would be called now.
    has_events = dialect._has_events
    dialect._has_events = False
    found: list[Arguments] = []
    _thread.wanted = found
    try:
        creator()
    except _ArgumentsFound:
        pass
    finally:
        _thread.wanted = None
        dialect._has_events = has_events
    return found[0]


class EngineDriver:
    """A driver of wsgipool whose connections an engine opens.

    Args:
        driver: The driver for the engine's arguments.
        engine_pool: Return the engine's current pool, whose records open connections.
        add: Called with the record when the connection is ready.
    """

    def __init__(
        self,
        driver: Driver[Any],
        engine_pool: Callable[[], Any],
        add: Callable[[Any], object],
    ) -> None:
        self._driver = driver
        self._engine_pool = engine_pool
        self._add = add

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def connect(self, timeout: float, pipeline: bool = True) -> Any:
        """Open a connection; see ``wsgipool.drivers.Driver``."""
        pool = self._engine_pool()
        outer, call = _thread.call, _Call(pool._dialect, timeout, pipeline)
        _thread.call = call
        try:
            record = pool._create_connection()
            _check(record, call)
            self._driver.remember(call.connection)  # with what listeners of `connect` have set
        except BaseException:
            if call.connection is not None:
                self._driver.close(call.connection).close()
            raise
        finally:
            _thread.call = outer
        self._add(record)
        return call.connection


def _check(record: ConnectionPoolEntry, call: _Call) -> None:
    if record.dbapi_connection is not call.connection:
        record.close()
        raise InvalidRequestError(
            "a listener of do_connect has returned a connection of its own; let it change the arguments, or use the "
            "dialect of another driver with poolclass=wsgipool.sqlalchemy.Pool"
        )
