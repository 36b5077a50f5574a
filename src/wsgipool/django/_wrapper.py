"""The part of a `DatabaseWrapper` that is the same for all databases: it takes its connections from a pool.

A wrapper belongs to a thread and an alias, as Django's own do. It checks a connection out in `get_new_connection` and
returns it in `_close`, which Django calls at the end of each request. What Django's backends send at each connect is
sent once for each session here.
"""

from __future__ import annotations

import contextlib
import copy
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from threading import get_ident
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import NO_DB_ALIAS, BaseDatabaseWrapper
from django.db.utils import DEFAULT_DB_ALIAS, DatabaseErrorWrapper, ProgrammingError
from django.utils.functional import cached_property

from wsgipool import _keyed, _runtime, _sources, drivers, pools
from wsgipool._code import level_outside
from wsgipool.config import DatabaseSettings
from wsgipool.django import _settings
from wsgipool.drivers import Driver
from wsgipool.httpd import process as httpd
from wsgipool.pool import Pool

Setup = Callable[[Any], object]
"""A function that sets up a new session."""

_PACKAGES = ("wsgipool", "django")
"""Packages whose frames are no place of a checkout."""

_A_DAY = 86_400.0
"""Seconds of a statement outside httpd: migrations and reports take as long as with Django's own backends."""

_CONNECT_TIMEOUT = 30.0
"""Seconds for a connection outside the pool, beside the driver's own limit."""


class PooledWrapper(BaseDatabaseWrapper):
    """The base class of the wrappers, before Django's own one for the database."""

    connection: Any
    run_on_commit: list[Any]

    vendor: str
    Database: Any

    dbapi: str
    """The driver, by its name in `wsgipool.drivers.driver`."""
    address_arguments: frozenset[str]
    """The arguments of `connect()` that the URL of a named database gives."""
    has_read_timeout = True
    """Whether the driver limits the time of a statement."""
    maintenance_database = ""
    """The database for sessions that create and drop others; empty for none."""

    def __init__(self, settings_dict: dict[str, Any], alias: str = DEFAULT_DB_ALIAS) -> None:
        with _settings.explained(alias):
            _settings.complete(alias, settings_dict, self.vendor)
        super().__init__(settings_dict, alias)
        self._pool: Pool[Any] | None = None
        """The pool of the connection."""
        self._thread = get_ident()
        self._user = 0
        """The thread that has used the connection last."""
        self.is_altered = False
        """Whether the session of the connection is not as `session_setup` made it."""
        self.has_disabled_checks = False
        """Whether the session does not check constraints."""
        self._pool_name = ""
        self._pool_key: object = None
        """The arguments for which `_pool_name` was found."""
        _every_wrapper.add(self)
        if self.is_pooled and settings_dict["CONN_MAX_AGE"] != 0:
            raise ImproperlyConfigured(
                f"DATABASES[{alias!r}]['CONN_MAX_AGE'] must be 0, Django's default, because the pool keeps the "
                "connections; leave it out. OPTIONS['pool'] = {'max_lifetime': 3600} limits their age"
            )

    # --- what a database has for itself ------------------------------------------------------------------------------

    def session_arguments(self) -> dict[str, Any]:
        """Return the arguments of `connect()` that Django's settings decide, beside those of Django's own backend."""
        return {"autocommit": self.settings_dict["AUTOCOMMIT"]}

    def session_setup(self) -> Setup | None:
        """Return the function that sets up a new session; two for the same session are equal."""
        raise NotImplementedError

    # --- checkout and return -----------------------------------------------------------------------------------------

    @property
    def is_pooled(self) -> bool:
        """Whether the connections come from a pool. Those that create and drop test databases do not."""
        # Not cached: Django's own tests change the settings of a wrapper.
        return self.alias != NO_DB_ALIAS and self.settings_dict["OPTIONS"].get("pool") is not False

    def check_settings(self) -> None:
        super().check_settings()
        if self.is_pooled and self.in_atomic_block and self.closed_in_transaction:
            # Newer versions of Django check this themselves.
            raise ProgrammingError("Cannot open a new connection in an atomic block.")

    def get_connection_params(self) -> dict[str, Any]:
        try:
            arguments: dict[str, Any] = super().get_connection_params()
        except ValueError as error:
            raise ImproperlyConfigured(
                f"DATABASES[{self.alias!r}]['PORT'] must be a number, is {self.settings_dict['PORT']!r}"
            ) from error
        arguments.pop("pool", None)
        return arguments

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        if not self.is_pooled:
            if self._named_database() is None:
                return super().get_new_connection(conn_params)
            with _settings.explained(self.alias):
                return self.new_driver(conn_params).connect(_CONNECT_TIMEOUT)
        pool = pools.pool(self.pool_name(conn_params))
        connection = pool.getconn(stacklevel=level_outside(_PACKAGES))
        self._pool, self._user = pool, get_ident()
        return connection

    def pool_name(self, arguments: dict[str, Any]) -> str:
        """Return the name of the pool for the result of `get_connection_params`. Raise ImproperlyConfigured."""
        entry, setup = self.settings_dict, self.session_setup()
        pool = entry["OPTIONS"].get("pool")
        key = (arguments, setup, pool, entry["AUTOCOMMIT"], entry["CONN_HEALTH_CHECKS"])
        if key != self._pool_key:
            with _settings.explained(self.alias):
                self._pool_name = self._find_pool((*key[:2], copy.copy(pool), *key[3:]), arguments, setup)
            self._pool_key = (*key[:2], copy.copy(pool), *key[3:])
        return self._pool_name

    def _find_pool(self, key: object, arguments: dict[str, Any], setup: Setup | None) -> str:
        _settings.configure()
        settings = _settings.read(self.alias, self.settings_dict)

        def make() -> Driver[Any]:
            made: Any = self.new_driver(arguments)
            made.close_on_errors = settings.close_on_errors
            driver: Driver[Any] = made
            return driver

        return _keyed.pool_name(self.alias, key, make, {**_sources.pool_settings(settings), "configure": setup})

    def new_driver(self, arguments: Mapping[str, Any]) -> Driver[Any]:
        """Return a driver for the result of `get_connection_params`. Raise ImproperlyConfigured or ConfigError."""
        arguments = {**arguments, **self.session_arguments()}
        database = self._named_database()
        has_limit = database is not None and "read_timeout" in database.url.options
        if self.has_read_timeout and not has_limit and httpd.mod_wsgi() is None:
            arguments.setdefault("read_timeout", _A_DAY)
        try:
            if database is None:
                return drivers.driver(self.dbapi, **arguments)
            given = self.settings_dict["OPTIONS"]
            own = {name: arguments[name] for name in arguments if name in given or name not in self.address_arguments}
            url = replace(database.url, database=self.settings_dict["NAME"] or self.maintenance_database)
            return drivers.for_database(replace(database, url=url), **own)
        except (AttributeError, TypeError, ValueError, self.Database.Error) as error:  # the module's, for an option
            raise ImproperlyConfigured(
                f"DATABASES[{self.alias!r}]['OPTIONS'] has an option or a value that connect() of {self.dbapi} "
                f"refuses; see its documentation: {error}"
            ) from error

    def _named_database(self) -> DatabaseSettings | None:
        return _settings.named_database(self.alias, self.settings_dict)

    def disable_constraint_checking(self) -> bool:
        self.has_disabled_checks = bool(super().disable_constraint_checking())
        return self.has_disabled_checks

    def enable_constraint_checking(self) -> None:
        super().enable_constraint_checking()
        self.has_disabled_checks = False

    def init_connection_state(self) -> None:
        if self.is_pooled:
            BaseDatabaseWrapper.init_connection_state(self)  # the rest is done by `session_setup`
        else:
            super().init_connection_state()

    def _close(self) -> None:
        pool = self._pool
        if pool is None or self.connection is None:
            super()._close()
            return
        connection = self.connection
        # In an atomic block Django would keep the connection, which another thread may have next.
        self.connection = self._pool = None
        discard = self.is_altered or self.has_disabled_checks
        self.is_altered = self.has_disabled_checks = False
        # A ValueError means that the pool has taken it back, at the end of a request or a thread.
        with self.wrap_database_errors, contextlib.suppress(ValueError):
            if self.allow_thread_sharing:
                pool.adopt(connection)
            pool.putconn(connection, discard=discard)

    def close_pool(self) -> None:
        """Close the sessions of the database that are not in use; new ones are opened as needed."""
        if self._pool_name:
            pool = pools.pool(self._pool_name)
            pool.resize(0)
            pool.drain()

    @contextlib.contextmanager
    def _nodb_cursor(self) -> Iterator[Any]:
        # Django creates, copies and drops databases so. PostgreSQL refuses that if the database has sessions.
        self.close_pool()
        with super()._nodb_cursor() as cursor:
            yield cursor

    def close_if_health_check_failed(self) -> None:
        if not self.is_pooled:  # the pool has checked the connection at its checkout
            super().close_if_health_check_failed()

    def is_usable(self) -> bool:
        return self.connection is not None and super().is_usable()

    # --- threads and processes ---------------------------------------------------------------------------------------

    @cached_property
    def wrap_database_errors(self) -> DatabaseErrorWrapper:
        return _Adopting(self)

    def adopt(self) -> None:
        """Let this thread use the connection, if Django allows it."""
        user = get_ident()
        if self._pool is None or not (self._thread == user or self.allow_thread_sharing):
            return
        with contextlib.suppress(ValueError):  # the pool has taken it back at the end of its thread
            self._pool.adopt(self.connection, share=True)
            self._user = user

    def after_fork(self) -> None:
        """Forget the parent's connection in the child of a fork."""
        if self._pool is None:
            return
        self.connection = self._pool = None
        self.run_on_commit = []
        if self.in_atomic_block:
            self.closed_in_transaction = self.needs_rollback = True


class _Adopting(DatabaseErrorWrapper):
    """Django's context of each use of a connection. Threads may share one, of which the driver allows one at a time."""

    def __enter__(self) -> None:
        if self.wrapper._user != get_ident():
            self.wrapper.adopt()


_every_wrapper: weakref.WeakSet[PooledWrapper] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for wrapper in list(_every_wrapper):
        wrapper.after_fork()


_runtime.after_fork(_after_fork_in_child)
