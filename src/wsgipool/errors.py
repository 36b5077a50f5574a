"""The errors of wsgipool, and their subclasses for each DB-API module.

::

    wsgipool.Error
    ├── ConfigError         a setting is missing, unknown or wrong; the message names place and remedy
    ├── CacheDeadlock       the creation of a cached value waits for itself
    ├── CacheTimeout        another thread or process kept a cache waiting for too long
    ├── WrongThread         a connection, or a lock, was used by a thread that does not hold it
    ├── LockError           a lock cannot be acquired, or was not held to the end
    │   ├── LockOrderError  a thread asked for a lock against the order, or to write a lock that it reads
    │   ├── LockTimeout     other holders had the lock until the deadline
    │   └── LockLost        the database session of a lock ended while the lock was held
    └── PoolError           no connection can be had now; a site should answer 503
        ├── ConnectFailed   a new connection could not be opened; __cause__ is the driver's error
        ├── TooManyRequests as many requests wait as max_waiting allows
        ├── PoolTimeout     all connections were busy until the deadline
        ├── PoolDeadlock    the thread waits for connections that only waiting threads hold
        └── PoolClosed      the pool was closed

Returning a connection twice, or to another pool, is a bug in the caller and raises ValueError.

The errors of a driver's pool are also errors of the driver's module (PEP 249): a PoolError is an OperationalError, a
WrongThread is an InterfaceError. So ``except pymysql.OperationalError`` catches a PoolTimeout, and frameworks treat it
like any failed connect. ``errors_of`` creates these classes once for each module. They have the names of the classes
here, and can be pickled. ``args`` is the message alone.
"""

from __future__ import annotations

import copyreg
import sys
from dataclasses import dataclass, fields
from typing import Any, TypeGuard


class Error(Exception):
    """Base class of all errors of this package."""


class ConfigError(Error):
    """A setting is missing, unknown or out of range."""


class CacheDeadlock(Error):
    """A thread that creates a cached value waits for a value that depends on it, so it would wait forever."""


class CacheTimeout(Error):
    """Another thread did not create a cached value within the timeout, or another process kept the cache waiting."""


class WrongThread(Error):
    """A thread used a connection, or released a lock, that it does not hold. This is a bug in the caller."""


class LockError(Error):
    """A lock of ``Locks`` cannot be acquired, or was not held to the end."""


class LockOrderError(LockError):
    """A nested lock breaks the order that prevents deadlocks.

    This is a bug in the caller. The message names both places.
    """


class LockTimeout(LockError):
    """Other holders had the lock until the deadline.

    The message names the holders, their places in the code, and since when.
    """


class LockLost(LockError):
    """The database session of a lock with scope "database" ended while the lock was held.

    Other holders may have had the lock since then.
    """


class PoolError(Error):
    """No connection can be had now.

    The site should answer 503 (Service Unavailable).
    """


class ConnectFailed(PoolError):
    """The database refused a new connection or could not be reached.

    ``__cause__`` is the driver's own error.
    """


class TooManyRequests(PoolError):
    """As many requests wait for the pool as ``max_waiting`` allows, so this one was refused at once."""


class PoolTimeout(PoolError):
    """No connection became free within the timeout."""


class PoolDeadlock(PoolError):
    """The thread would wait forever, because this and other waiting threads hold all connections of the pool."""


class PoolClosed(PoolError):
    """The pool is closed."""


@dataclass(frozen=True)
class PoolErrors:
    """The error classes of a pool, by their names."""

    PoolTimeout: type[PoolTimeout] = PoolTimeout
    ConnectFailed: type[ConnectFailed] = ConnectFailed
    TooManyRequests: type[TooManyRequests] = TooManyRequests
    PoolDeadlock: type[PoolDeadlock] = PoolDeadlock
    PoolClosed: type[PoolClosed] = PoolClosed
    WrongThread: type[WrongThread] = WrongThread


PLAIN_ERRORS = PoolErrors()
"""The classes without a DB-API module."""


_made: dict[tuple[type, type], PoolErrors] = {}


def errors_of(operational: type[Exception], interface: type[Exception]) -> PoolErrors:
    """Return the error classes of a pool as subclasses of a DB-API module's errors.

    Args:
        operational: The module's ``OperationalError``.
        interface: The module's ``InterfaceError``.

    Returns:
        The classes, the same ones for each call with equal arguments.
    """
    if (operational, interface) not in _made:
        _made.setdefault((operational, interface), _derived(operational, interface))
    return _made[operational, interface]


def _derived(operational: type[Exception], interface: type[Exception]) -> PoolErrors:
    def derived(name: str) -> Any:
        base = getattr(PLAIN_ERRORS, name)
        dbapi = interface if base is WrongThread else operational

        def reduce(error: Exception) -> tuple[Any, ...]:
            return _unpickled, (name, operational, interface, error.args)

        members = {"__module__": __name__, "__doc__": base.__doc__, "__reduce__": reduce}
        kind = _DerivedClass(name, (base, dbapi), members)
        kind.origin = (operational, interface)
        return kind

    return PoolErrors(**{field.name: derived(field.name) for field in fields(PoolErrors)})


class _DerivedClass(type):
    """The type of the derived classes. pickle would look for them by name, and find those they are derived from."""

    origin: tuple[type[Exception], type[Exception]]

    def reduce(cls) -> tuple[Any, ...]:
        return _unpickled_class, (cls.__name__, *cls.origin)


copyreg.pickle(_DerivedClass, _DerivedClass.reduce)


def _unpickled_class(name: str, operational: type[Exception], interface: type[Exception]) -> type[Exception]:
    kind: type[Exception] = getattr(errors_of(operational, interface), name)
    return kind


def _unpickled(
    name: str, operational: type[Exception], interface: type[Exception], arguments: tuple[object, ...]
) -> Exception:
    return _unpickled_class(name, operational, interface)(*arguments)


def errors_like(kind: type) -> PoolErrors:
    """Return the error classes of a pool for the DB-API module of a class.

    Args:
        kind: The class of a connection or of an error. The module's errors are its attributes (PEP 249, optional
            extensions), or those of its package.

    Returns:
        The classes; ``PLAIN_ERRORS`` if the class belongs to no DB-API module.
    """
    for cls in kind.__mro__:
        for place in (cls, sys.modules.get(cls.__module__.partition(".")[0])):
            operational = getattr(place, "OperationalError", None)
            interface = getattr(place, "InterfaceError", None)
            if _is_exception(operational) and _is_exception(interface):
                return errors_of(operational, interface)
    return PLAIN_ERRORS


def _is_exception(value: object) -> TypeGuard[type[Exception]]:
    return isinstance(value, type) and issubclass(value, Exception)
