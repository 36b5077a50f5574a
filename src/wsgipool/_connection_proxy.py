"""The connection of old code, an object that takes a connection of a pool for each thread that uses it.

A program that calls ``connect()`` knows no pool. It closes its connections late or never, or keeps one in a module for
all threads. So it gets a `ConnectionProxy`. At its first use by a thread, the proxy checks a connection out, and keeps
it for this thread until `close()`, its own end, or the end of the request. The next use checks out another one.

A connection that was lost is not replaced silently, since its transaction is lost too: it fails until the program calls
`ping(reconnect=True)` or closes it, or until the end of the request.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from operator import methodcaller
from threading import get_ident
from typing import Any, ClassVar, NoReturn, Self, TypeVar

from wsgipool import _keyed, drivers, pools
from wsgipool._checkouts import Checkout, close_orphans, is_outside_request
from wsgipool._code import level_outside
from wsgipool.config import MAX_NAME
from wsgipool.drivers.codes import is_database_error
from wsgipool.errors import PoolError
from wsgipool.httpd import process as httpd
from wsgipool.plan.sizing import THREADS_OUTSIDE_HTTPD

CONNECTIONS_PER_THREAD = 4
"""Connections of one pool that a thread can have at once: old code often connects while it holds a connection."""

_KEPT = (
    *("autocommit", "change_user", "select_db", "set_charset", "set_character_set", "set_server_option"),
    "set_sql_mode",
)
"""Methods whose effect lasts as long as a connection, so for all later checkouts of a proxy."""

_DRIVERS = ("wsgipool", "pymysql", "MySQLdb")
"""Packages whose frames are no place of a checkout."""

_TOO_MANY_CONNECTIONS = 1040
"""ER_CON_COUNT_ERROR, the code for a checkout that fails without an error of the server."""


class ConnectionProxy:
    """A connection that is checked out for each thread that uses it; the arguments are those of the module's connect().

    A subclass is the connection class of one DB-API module.
    """

    _module: ClassVar[str]
    """The module, as `wsgipool.drivers.driver` names it."""
    _stock: ClassVar[Any]
    """The module's own connection class."""

    _arguments: Mapping[str, Any] = {}
    _changes: Mapping[str, Callable[[Any], object]] = {}
    """What the program has changed by methods and attributes, by name; done again after each checkout."""
    _checkouts: Mapping[int, Checkout] = {}
    """The last checkout of each thread; it may have ended."""
    _closed = False

    def __init__(self, *args: Any, **arguments: Any) -> None:
        own = vars(self)
        own["_changes"], own["_checkouts"] = {}, {}
        own["_arguments"] = self._normalized(*args, **arguments)
        checkout = self._check_out()
        if checkout.is_outside_request:
            # A module is imported. Its thread may never use the connection, and others take their own.
            checkout.end(reset=None)

    # --- what differs between modules -------------------------------------------------------------------------------

    def _normalized(self, *args: Any, **arguments: Any) -> dict[str, Any]:
        """Return the arguments by keyword, each under one name."""
        raise NotImplementedError

    def _ended(self) -> Any:
        """Return an object that behaves like a closed connection of the module."""
        raise NotImplementedError

    # --- checkouts --------------------------------------------------------------------------------------------------

    def _held(self) -> Checkout | None:
        """Return the checkout of this thread, if it has one."""
        checkout = self._checkouts.get(get_ident())
        return checkout if checkout is not None and checkout.is_active else None

    def _real(self) -> Any:
        """Return the connection of this thread, checked out now if it has none."""
        checkout = self._held()
        if self._closed:
            self._end(checkout)  # another thread has called close()
            return self._ended()
        if checkout is None:
            return self._check_out().connection
        if checkout.is_outside_request and not is_outside_request():
            # From now on the end of the request takes it back.
            checkout.pool.adopt(checkout.connection)
            checkout.is_outside_request = False
        return checkout.connection if checkout.connection.open else self._ended()

    def _check_out(self) -> Checkout:
        close_orphans()
        pool = pools.pool(self._pool_name())
        try:
            checkout = Checkout(pool, pool.getconn(stacklevel=level_outside(_DRIVERS)))
        except PoolError as error:
            _raise_as_the_module(error)
        try:
            for change in tuple(self._changes.values()):
                change(checkout.connection)
        except BaseException:
            checkout.end(discard=True)
            raise
        vars(self)["_checkouts"][get_ident()] = checkout
        return checkout

    def _end(self, checkout: Checkout | None) -> None:
        if checkout is not None:
            checkout.end()

    def _pool_name(self) -> str:
        arguments = self._arguments
        place = arguments.get("database") or arguments.get("host") or self._module
        name = place.decode(errors="replace") if isinstance(place, bytes) else str(place)
        if not name.isprintable() or name != name.strip():
            name = self._module
        settings = {"reset": "session", "max_size": CONNECTIONS_PER_THREAD * _threads()}
        return _keyed.pool_name(name[: MAX_NAME - 10], (self._module, arguments), self._driver, settings)

    def _driver(self) -> drivers.Driver[Any]:
        """Return the driver for these arguments. Raises ConfigError, or the module's error for a wrong argument."""
        return drivers.driver(self._module, **self._arguments)

    # --- the module's methods ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Return the connection to the pool, rolled back. A second call raises the module's error."""
        if self._closed:
            self._ended().close()
        vars(self)["_closed"] = True
        self._end(self._held())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def ping(self, reconnect: bool = False) -> None:
        """Check that the server answers.

        Args:
            reconnect: Whether a closed or lost connection is replaced by another one of the pool. Its transaction is
                lost. Default ``False``.
        """
        if not reconnect:
            self._real().ping()
            return
        try:
            self._real().ping()
        except Exception:
            self._reconnect()

    def _reconnect(self) -> None:
        """Replace the connection of this thread by another one of the pool; begin again after a `close()`."""
        self._end(self._held())
        vars(self)["_closed"] = False
        self._check_out()

    @property
    def open(self) -> bool:
        """Whether the connection can be used."""
        checkout = self._held()
        return not self._closed and (checkout is None or bool(checkout.connection.open))

    @property  # type: ignore[misc] # object's can be set
    def __class__(self) -> Any:  # so that isinstance() takes it for a connection of the module
        return self._stock

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the connection."""
        if name.startswith("__"):
            raise AttributeError(name)  # Python asks for optional methods; that must not check a connection out
        return getattr(self._real(), name)

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute of the connection, also of those of later checkouts."""
        change = functools.partial(_set, name, value)
        change(self._real())
        self._keep(name, change)

    def __delattr__(self, name: str) -> None:
        """Delete an attribute of the connection that was set."""
        delattr(self._real(), name)
        vars(self)["_changes"].pop(name, None)

    def _keep(self, name: str, change: Callable[[Any], object]) -> None:
        """Make a change after each later checkout too, as the last one: the order matters."""
        changes = vars(self)["_changes"]
        changes.pop(name, None)
        changes[name] = change

    def __reduce__(self) -> NoReturn:
        """Refuse a copy: its end would end the transaction of the original."""
        raise TypeError(f"cannot copy or pickle a connection of {self._module}")

    def __del__(self) -> None:
        """Return the connection of this thread; leave those of other threads to the background, which can wait."""
        if sys.is_finalizing():
            return
        for checkout in tuple(self._checkouts.values()):
            checkout.end_anywhere()


P = TypeVar("P", bound=type[ConnectionProxy])


def with_methods_of(stock: type) -> Callable[[P], P]:
    """Return a decorator that gives a proxy class the methods and errors of the module's connection class.

    Methods must be on the class: the connection's own bound method would not keep the proxy alive in
    ``connect().commit()``.
    """

    def decorate(proxy: P) -> P:
        proxy._stock = stock
        for name in dir(stock):
            value = getattr(stock, name)
            if name == "cursor" or (isinstance(value, type) and issubclass(value, Exception)):
                setattr(proxy, name, value)  # cursor() gives the cursor `self`, so this object
            elif not name.startswith("_") and callable(value) and not hasattr(proxy, name):
                setattr(proxy, name, _through(value, name))
        return proxy

    return decorate


def _through(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    is_kept = name in _KEPT

    @functools.wraps(method)
    def call(proxy: ConnectionProxy, *args: Any, **options: Any) -> Any:
        result = getattr(proxy._real(), name)(*args, **options)
        if is_kept:
            proxy._keep(name, methodcaller(name, *args, **options))
        return result

    return call


def _set(name: str, value: object, connection: Any) -> None:
    setattr(connection, name, value)


def copied(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy with copies of the dictionaries in it, which the program may change later."""
    return {name: dict(value) if type(value) is dict else value for name, value in arguments.items()}


def _threads() -> int:
    server = httpd.this_process()
    return server.threads if server else THREADS_OUTSIDE_HTTPD


def _raise_as_the_module(error: PoolError) -> NoReturn:
    """Raise the error of a checkout in the module's form: with a code first, and of the class of the driver's error."""
    cause = error.__cause__
    if cause is None or not is_database_error(cause):
        error.args = (_TOO_MANY_CONNECTIONS, str(error))
    elif isinstance(error, type(cause)):
        error.args = cause.args
        vars(error).update(vars(cause))
    else:
        raise cause from cause.__cause__
    raise error from cause
