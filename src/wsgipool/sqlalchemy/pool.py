"""The pool class of engines: SQLAlchemy's events and errors, on a pool of wsgipool.

SQLAlchemy keeps a record for each connection and a proxy for each checkout. Its own pools are containers of records.
Here `_backing` has the records beside wsgipool's pool, which decides on connections, waiters and threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from threading import get_ident
from typing import Any

from sqlalchemy import event, exc
from sqlalchemy import pool as pooling

import wsgipool
from wsgipool import errors, pools
from wsgipool._code import level_outside
from wsgipool.config import DatabaseSettings
from wsgipool.drivers import Driver
from wsgipool.sqlalchemy import _backing, _settings
from wsgipool.sqlalchemy._backing import Backing, EngineState, Record
from wsgipool.sqlalchemy._opening import Arguments, ConnectingDialect, arguments_of

_PACKAGES = frozenset({"", "sqlalchemy", "flask_sqlalchemy", "contextlib", "wsgipool"})
"""Packages between the program's call and this module."""


class PoolTimeout(exc.TimeoutError, errors.PoolTimeout):
    """No connection became free within the timeout: SQLAlchemy's error, and wsgipool's."""


class Pool(pooling.Pool):
    """A pool of SQLAlchemy whose connections a pool of wsgipool keeps.

    The dialects of wsgipool use it. For another driver give ``poolclass=wsgipool.sqlalchemy.Pool`` to
    ``create_engine``. wsgipool then knows the connections by PEP 249 alone: there is no budget for them, and nothing
    keeps another thread from using a connection.

    Each engine has a pool of its own in each process. Its name, for messages and the status page, is
    ``pool_logging_name``, else that of the database, else that of the dialect. A second engine's pool has a number
    after it: ``orders-2``.

    The arguments below are those of ``create_engine``, which has ``pool_`` before the names of some. The remaining ones
    are as for SQLAlchemy's pools.

    Args:
        creator: The function that connects; ``create_engine`` sets it.
        pool_size: Part of the maximum number of connections of a process, which is ``pool_size + max_overflow``. If
            only one is given, the other is SQLAlchemy's default, 5 or 10. Without both, and without ``max_size`` in
            ``pool_settings``, it is the number of threads of the process, 10 outside httpd. At least 1: a pool without
            a limit is refused.
        max_overflow: See ``pool_size``. At least 0.
        timeout: ``pool_timeout``: seconds to wait for a connection. Default 30, or that of the named database.
        use_lifo: ``pool_use_lifo``: always ``True``; ``False`` is refused.
        recycle: ``pool_recycle``: seconds after which a connection is closed even if it is often used. Default -1: as
            in ``wsgipool.Pool``, 3600.
        pre_ping: ``pool_pre_ping``: whether each checkout pings the server. Default ``False``: each checkout checks the
            socket and the answer to the last cleaning, and pings after 30 seconds of idleness.
        reset_on_return: ``pool_reset_on_return``: ``"rollback"`` (the default), ``"commit"`` or ``None``. The rollback
            of a dialect of wsgipool does not wait for the answer, and is left out if the transaction has ended.
        pool_settings: Further settings, named as in ``wsgipool.toml``: ``max_size``, ``min_size``, ``max_waiting``,
            ``max_connecting``, ``check_after``, ``max_idle``, ``pipeline``, ``debug``, ``log_slow``.
        dialect: The dialect; ``create_engine`` sets it.
        **kw: ``echo``, ``logging_name`` and ``events``, as for SQLAlchemy's pools.

    Raises:
        sqlalchemy.exc.ArgumentError: An argument is wrong, or the dialect is one for asyncio.
    """

    def __init__(
        self,
        creator: Any,
        pool_size: int | None = None,
        max_overflow: int | None = None,
        timeout: float | None = None,
        use_lifo: bool | None = None,
        recycle: float | None = -1,
        pre_ping: bool = False,
        reset_on_return: Any = True,
        pool_settings: Mapping[str, Any] | None = None,
        dialect: Any = None,
        _owner: EngineState | None = None,
        **kw: Any,
    ) -> None:
        if getattr(dialect, "is_async", False):
            raise exc.ArgumentError("wsgipool.sqlalchemy.Pool is for threads; leave poolclass out with asyncio")
        super().__init__(creator, reset_on_return=reset_on_return, dialect=dialect, **kw)
        given: dict[str, Any] = {
            "pool_size": pool_size,
            "max_overflow": max_overflow,
            "timeout": timeout,
            "use_lifo": use_lifo,
            "recycle": recycle,
            "pre_ping": pre_ping,
            "pool_settings": pool_settings,
        }
        self._given = {**given, "reset_on_return": reset_on_return}
        self._settings = _settings.of_engine(**given)
        self._arguments: Arguments | None = None
        if _connects_by_us(dialect, creator):
            self._arguments = _owner.pool._arguments if _owner else arguments_of(creator, dialect)
        self._rolls_back = self._arguments is not None and self._reset_on_return is pooling.reset_rollback
        if self._rolls_back:
            self._reset_on_return = pooling.reset_none  # the return does it, without waiting for the answer
        if _owner is None:
            _owner = EngineState()
            event.listen(self, "reset", _adopt)
        self.owner = _owner
        _owner.pool = self

    def recreate(self) -> Pool:
        """Return another pool for the same engine, on the same pool of wsgipool."""
        self.logger.info("Pool recreating")
        return type(self)(
            self._creator,
            echo=self.echo,
            logging_name=self._orig_logging_name,
            dialect=self._dialect,
            _dispatch=self.dispatch,
            _owner=self.owner,
            **self._given,
        )

    def dispose(self) -> None:
        """Close the connections: idle ones now, those in use when they are returned."""
        if self.owner.backing is not None:
            self.owner.backing.pool().drain()
            self.logger.info("Pool disposed. %s", self.status())

    def status(self) -> str:
        """Return a description of the pool's current numbers."""
        return repr(self._pool())

    def size(self) -> int:
        """Return the maximum number of connections."""
        return self._pool().max_size

    def checkedin(self) -> int:
        """Return the number of idle connections."""
        return self._pool().idle

    def checkedout(self) -> int:
        """Return the number of connections in use."""
        return self._pool().in_use

    def overflow(self) -> int:
        """Return the number of open connections beyond ``size()``: 0 or less."""
        pool = self._pool()
        return pool.size - pool.max_size

    def timeout(self) -> float:
        """Return the seconds to wait for a connection."""
        return self._pool().timeout

    # --- for SQLAlchemy ---------------------------------------------------------------------------------------------

    def _do_get(self) -> Record:
        backing = self.owner.backing or self._find_backing()
        pool = backing.pool()
        while True:
            try:
                connection = pool.getconn(stacklevel=level_outside(_PACKAGES))
            except errors.PoolTimeout as error:
                raise PoolTimeout(str(error)) from error
            record = self.owner.records.get(id(connection))
            if record is None:  # it is of an earlier engine, which may have prepared it in another way
                pool.putconn(connection, discard=True)
                continue
            record.origin = pool
            record.holder_id = get_ident()
            if not record._is_hard_or_soft_invalidated():
                return record
            record.close()

    def _do_return_conn(self, record: Any) -> None:
        if record.backing is not None and record.dbapi_connection is not None:
            record.origin.putconn(record.dbapi_connection, reset="rollback" if self._rolls_back else None)

    def _close_connection(self, connection: Any, *, terminate: bool = False) -> None:
        backing = self.owner.backing
        if backing is None or not backing.close(connection):
            super()._close_connection(connection, terminate=terminate)

    def _create_connection(self) -> Record:
        return Record(self)

    def _pool(self) -> wsgipool.Pool[Any]:
        return (self.owner.backing or self._find_backing()).pool()

    def _find_backing(self) -> Backing:
        dialect: Any = self._dialect
        source = _Source(dialect, self._arguments, self._settings)
        source.settings()  # raises its errors before an engine takes the backing
        key = dialect and dialect.name, self._arguments, self._settings
        return _backing.find(self.owner, self._orig_logging_name or source.name, key, source)


@dataclass(frozen=True)
class _Source:
    """The source of the pools of an engine. It does not refer to the engine, which could never be garbage then."""

    dialect: Any
    arguments: Arguments | None
    """The arguments of ``dialect.connect``; None if the program's own creator connects."""
    pool_settings: _settings.PoolSettings

    @property
    def name(self) -> str:
        """The proposed name of the pool."""
        name: str = getattr(self.dialect, "name", "sqlalchemy")
        if self.arguments is None:
            return name
        given = self.arguments.by_keyword
        return self.dialect.database or given.get("database") or given.get("dbname") or name

    @property
    def database(self) -> DatabaseSettings | None:
        if self.arguments is None or self.dialect.database is None:
            return None
        return pools.database(self.dialect.database)

    def driver(self) -> Driver[Any] | None:
        driver: Driver[Any] | None = None
        if self.arguments is not None:
            driver = self.dialect.new_driver(self.arguments)
        return driver

    def settings(self) -> dict[str, Any]:
        return self.pool_settings.of_pool(self.database)


def _connects_by_us(dialect: object, creator: object) -> bool:
    """Return whether a creator calls a dialect of wsgipool: a program's own creator returns any connection."""
    return isinstance(dialect, ConnectingDialect) and creator.__module__ == "sqlalchemy.engine.create"


def _adopt(_connection: object, record: Record | None, _state: object) -> None:
    """Take over a connection whose checkout ends on another thread, as that of a forgotten `Session` can."""
    if record is not None and record.holder_id != get_ident() and record.backing is not None:
        record.origin.adopt(record.dbapi_connection)
