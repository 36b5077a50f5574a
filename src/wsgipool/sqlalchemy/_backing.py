"""The pool of wsgipool behind an engine, and SQLAlchemy's records of its connections.

Each engine has a pool of its own, as SQLAlchemy's users expect: listeners of ``connect`` may prepare sessions in a way
that another engine with the same URL does not want. When an engine is no longer used, a later one with equal arguments
gets its pool. So a program that creates engines again and again, such as a test suite, has few pools.
"""

from __future__ import annotations

import logging
import threading
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy.pool.base import _ConnectionRecord  # which subclasses of Pool create

import wsgipool
from wsgipool import _keyed, _runtime
from wsgipool.config import DatabaseSettings
from wsgipool.drivers import CallableDriver, Driver
from wsgipool.sqlalchemy._opening import EngineDriver

if TYPE_CHECKING:
    from wsgipool.sqlalchemy.pool import Pool


logger = logging.getLogger("wsgipool")

_MANY_ENGINES = 10
"""Number of equal engines with which a warning is logged."""


class Record(_ConnectionRecord):
    """SQLAlchemy's record of one connection, for as long as the connection is open."""

    backing: Backing | None = None
    """The backing of the connection, until the connection is closed."""
    origin: wsgipool.Pool[Any]
    """The pool that the connection was checked out of last."""
    holder_id = 0
    """The thread that has checked the connection out last."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.owner = pool.owner
        super().__init__(pool)

    def get_connection(self) -> Any:
        """Return the connection; after an ``invalidate``, take over another one and its state.

        SQLAlchemy would open a new one, beside the pool.
        """
        if self.dbapi_connection is None:
            other = self._pool._do_get()
            connection, backing = other.dbapi_connection, other.backing
            assert backing is not None
            self.backing, self.origin, self.holder_id = backing, other.origin, other.holder_id
            self.starttime, self.fresh = other.starttime, other.fresh
            self.info.clear()
            self.info.update(other.info)
            other.dbapi_connection, other.backing = None, None
            self.dbapi_connection = connection
            self.owner.records[id(connection)] = self
        return self.dbapi_connection


class EngineState:
    """An engine, which owns a backing: all its pools of SQLAlchemy, since ``dispose()`` replaces the pool."""

    pool: Pool
    """The current pool."""
    backing: Backing | None = None

    def __init__(self) -> None:
        self.records: dict[int, Record] = {}
        """The records of all connections, by the connection's ``id()``.

        They refer to the pool and so to the owner. If the backing had them, no engine would ever be garbage.
        """


class Source(Protocol):
    """Where a pool comes from: the URL of an engine, and the database of the settings file that it may name."""

    @property
    def database(self) -> DatabaseSettings | None:
        """The database that the URL names, or None."""

    def driver(self) -> Driver[Any] | None:
        """Return the driver, or None if the connections are of a kind that wsgipool does not know."""

    def settings(self) -> dict[str, Any]:
        """Return the arguments of ``wsgipool.register``."""


class Backing:
    """A pool of wsgipool for one engine at a time."""

    def __init__(self, name: str, key: object, source: Source) -> None:
        """Take the proposed name, and what equal engines have in common."""
        self.name = name
        self.key = key
        self._source = source
        self._pool: wsgipool.Pool[Any] | None = None
        """The pool of the last checkout."""
        self._owner: weakref.ref[EngineState] | None = None
        self._closing: set[int] = set()

    @property
    def owner(self) -> EngineState | None:
        """The engine, as long as it is used.

        The connections of one that is no longer used are closed when they have been idle for long, or when the next
        engine comes upon them.
        """
        return None if self._owner is None else self._owner()

    @owner.setter
    def owner(self, owner: EngineState) -> None:
        self._owner = weakref.ref(owner)
        owner.backing = self

    def pool(self) -> wsgipool.Pool[Any]:
        """Return the pool; its first use makes it, and so does a change of the database that the URL names."""
        key = self, self._source.database
        pool = wsgipool.pool(_keyed.pool_name(self.name, key, self._make_driver, self._make_settings))
        former, self._pool = self._pool, pool
        if former is not None and former is not pool:
            former.resize(0)
            former.drain()
        return pool

    def _make_driver(self) -> Any:
        driver = self._source.driver()
        if driver is None:
            return CallableDriver(lambda: self._add(self._engine_pool()._create_connection()))
        return EngineDriver(driver, self._engine_pool, self._add)

    def _make_settings(self) -> dict[str, Any]:
        return {**self._source.settings(), "on_close": self._on_close}

    def _engine_pool(self) -> Pool:
        owner = self.owner
        if owner is None:
            raise ConnectionError("the engine is not used any more")
        return owner.pool

    def _add(self, record: Record) -> Any:
        record.backing = self
        record.owner.records[id(record.dbapi_connection)] = record
        return record.dbapi_connection

    def _on_close(self, connection: Any) -> None:
        """Have SQLAlchemy close the record of a connection that the pool closes."""
        owner = self.owner
        record = None if owner is None else owner.records.pop(id(connection), None)
        if record is None:
            return  # SQLAlchemy closes it, or the engine is no longer used
        self._closing.add(id(connection))
        try:
            record.close()
        finally:
            self._closing.discard(id(connection))
            record.backing = record.dbapi_connection = None

    def close(self, connection: Any) -> bool:
        """Close a connection that SQLAlchemy closes; return False if it was never in the pool."""
        if id(connection) in self._closing:
            return True  # the pool does that
        owner = self.owner
        record = None if owner is None else owner.records.pop(id(connection), None)
        if record is None:
            return False
        record.backing = None
        record.origin.putconn(connection, discard=True)
        return True

    def after_fork(self) -> None:
        """Forget the connections in the child: they belong to the parent."""
        owner = self.owner
        if owner is not None:
            for record in owner.records.values():
                record.backing = record.dbapi_connection = None
            owner.records.clear()


_backings: list[Backing] = []
_lock = threading.Lock()


def find(owner: EngineState, name: str, key: object, source: Source) -> Backing:
    """Return the backing of an engine: its own, one whose engine is no longer used, or a new one."""
    with _lock:
        if owner.backing is not None:
            return owner.backing
        free = (each for each in _backings if each.owner is None and each.name == name and each.key == key)
        backing = next(free, None)
        if backing is None:
            backing = Backing(name, key, source)
            _backings.append(backing)
            if sum(each.key == key for each in _backings) == _MANY_ENGINES:
                logger.warning(
                    "%d engines with equal arguments are in use, pool %r among them, each with connections of its own; "
                    "create an engine once in a process, not in each request, or end each by engine.dispose()",
                    _MANY_ENGINES,
                    name,
                )
        backing.owner = owner
        return backing


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    for backing in _backings:
        backing.after_fork()


_runtime.after_fork(_after_fork_in_child)
