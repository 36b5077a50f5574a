"""`Locks`: each function names the locks it needs and gets all of them at once, in one order.

This module knows names and groups. The others, from the caller downwards:

- `requiring` decorates functions, `context` implements `with` blocks;
- `holding` takes and releases the locks of a call, `lock_set` orders them;
- `rwlock` is the lock between threads, `host_lock` between processes, `database_lock` between hosts;
- `statistics` counts.
"""

from __future__ import annotations

import inspect
import threading
import types
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import CodeType
from typing import Any, ParamSpec, TypeVar

from wsgipool import _runtime
from wsgipool.config import unknown_key
from wsgipool.locks import statistics
from wsgipool.locks.context import LockContext
from wsgipool.locks.database_lock import DatabaseLock
from wsgipool.locks.host_lock import HostLock
from wsgipool.locks.lock_set import SCOPES, LockSet, Resource, Scope
from wsgipool.locks.requiring import locked
from wsgipool.locks.statistics import LocksReport
from wsgipool.pool import Pool

P = ParamSpec("P")
R = TypeVar("R")


class Locks:
    """Locks by name, taken all at once and always in the same order, so that threads cannot deadlock.

    A lock is created when its name is first used. Locks of scope ``"process"`` belong to this object. In the other
    scopes, equal names mean the same lock, in every object and every process.

    Args:
        *names: All valid names, together with those of ``group()``. Any other name is then an error, so that a typo
            does not create another lock. Default: every name is valid.
        scope: The reach of the locks. ``"process"``, the default, excludes the other threads of this process.
            ``"host"`` also excludes all other processes of this user on this host, by a file in the settings'
            ``runtime_dir``. ``"database"`` also excludes all other hosts, by ``GET_LOCK`` of MySQL or MariaDB. Such a
            lock keeps a connection of the pool checked out while it is held. It cannot be shared: ``read=`` takes it
            exclusively.
        database: The pool for scope ``"database"``: a name in the settings or a ``Pool``.

    Raises:
        ValueError: The scope is unknown, or ``database`` does not match it.
    """

    def __init__(self, *names: str, scope: Scope = "process", database: str | Pool[Any] | None = None) -> None:
        self._declared = set(names)
        self._is_closed = bool(names)
        self._scope, self._database = _checked_scope(scope, database)
        self._groups: dict[str, _Group] = {}
        self._resources: dict[str, Resource] = {}
        self._lock_sets: dict[object, LockSet] = {}
        self._making = threading.Lock()
        _every_locks.add(self)

    def group(
        self, name: str, *names: str, scope: Scope | None = None, database: str | Pool[Any] | None = None
    ) -> None:
        """Use one lock for several names that are always needed together.

        Args:
            name: The first name, which is also the name of the lock.
            *names: The other names. Without them, the group only gives ``name`` another scope.
            scope: The scope of this lock; default: the scope of the ``Locks`` object, or ``"database"`` if
                ``database`` is given.
            database: The pool for scope ``"database"``: a name in the settings or a ``Pool``.

        Raises:
            ValueError: A name is already in a group or in use, or ``database`` does not match the scope.
        """
        if scope is None and database is not None:
            scope = "database"
        group = _Group(name, *_checked_scope(scope, database) if scope else (self._scope, self._database))
        with self._making:
            for each in (name, *names):
                if each in self._groups:
                    raise ValueError(
                        f"{each!r} is already in the group {self._groups[each].name!r}; a name has one lock"
                    )
                if each in self._resources:
                    raise ValueError(
                        f"{each!r} was already used as a lock and cannot join the group {name!r}; "
                        "call group() right after Locks(), before any lock is used"
                    )
            for each in (name, *names):
                self._groups[each] = group
                self._declared.add(each)

    def requires(
        self, *names: str, read: str | Iterable[str] = (), timeout: float | None = None
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Decorate a function or method so that each call holds these locks.

        All locks are taken before the function runs and released when it ends.

        Args:
            *names: The locks to take exclusively, for writing.
            read: A name or names to share with other readers. A name in both is taken exclusively.
            timeout: Seconds to wait for all locks together. Default: no limit.

        Returns:
            The decorator. The decorated function raises ``LockTimeout`` when the locks were not free in time,
            ``LockOrderError`` when its caller holds a lock that comes later in the order, and ``LockLost`` when a
            lock of scope ``"database"`` ended before the function did.

        Raises:
            ValueError: A name is not among those of ``Locks(...)``, no name is given, or ``timeout`` is negative.
            TypeError: The decorated object is a generator or an async function, which would keep its locks between
                its steps, or is not a function at all.
        """
        exclusive, shared = self._checked_names(names, read)
        _check_timeout(timeout)

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            code = _code_of(function)
            return locked(function, lambda: self._lock_set(function, exclusive, shared, timeout, code))

        return decorate

    def hold(
        self, *names: str, read: str | Iterable[str] = (), timeout: float | None = None
    ) -> AbstractContextManager[None]:
        """Return a context manager that holds these locks during a ``with`` block.

        Args:
            *names: The locks to take exclusively, for writing.
            read: A name or names to share with other readers. A name in both is taken exclusively.
            timeout: Seconds to wait for all locks together. Default: no limit.

        Returns:
            The context manager. It can be reused, also by several threads. Entering and leaving the block raise the
            errors that a function decorated by ``requires()`` raises.

        Raises:
            ValueError: A name is not among those of ``Locks(...)``, no name is given, or ``timeout`` is negative.
        """
        key = (names, read, timeout)
        try:
            lock_set = self._lock_sets.get(key)
        except TypeError:  # `read` is a list or a set
            key = (names, tuple(read), timeout)
            lock_set = self._lock_sets.get(key)
        if lock_set is None:
            exclusive, shared = self._checked_names(names, read)
            _check_timeout(timeout)
            lock_set = self._lock_set(key, exclusive, shared, timeout, None)
        return LockContext(lock_set)

    def report(self) -> LocksReport:
        """Return how often each lock was taken, waited for and held in this process, with advice.

        Returns:
            A report whose ``str()`` is a table. Times are in seconds, exact to a factor of two.
        """
        return statistics.report([self.counts()])

    def counts(self) -> statistics.Counts:
        """Return the numbers behind ``report()``."""
        parts = [part for lock_set in self._lock_sets.copy().values() for part in lock_set.all_parts()]
        return statistics.counts(self._resources.copy().values(), parts)

    def reset_counts(self) -> None:
        """Begin to count again. The child of a fork does so."""
        for resource in self._resources.copy().values():
            resource.reset_counts()
        for lock_set in self._lock_sets.copy().values():
            lock_set.reset_counts()

    # --- names ------------------------------------------------------------------------------------------------------

    def _checked_names(self, names: Iterable[str], read: str | Iterable[str]) -> tuple[list[str], list[str]]:
        exclusive, shared = list(names), [read] if isinstance(read, str) else list(read)
        for name in (*exclusive, *shared):
            if not isinstance(name, str):
                raise TypeError(f"the name of a lock is a string, not {name!r}")
            if self._is_closed and name not in self._declared:
                raise ValueError(
                    f"{name!r} is not a name of these Locks; {unknown_key(name, self._declared)}. Add a new name to "
                    "Locks(...) or group(...)"
                )
        if not exclusive and not shared:
            raise ValueError("no name is given; name the locks to take")
        return exclusive, shared

    def _lock_set(
        self, key: object, exclusive: Iterable[str], shared: Iterable[str], timeout: float | None, code: CodeType | None
    ) -> LockSet:
        with self._making:
            wanted = {self._resource(name): True for name in shared}
            # Exclusive wins: for a name in both lists, and for locks that cannot be shared.
            wanted |= {resource: False for resource in wanted if resource.scope == "database"}
            wanted |= {self._resource(name): False for name in exclusive}
            self._lock_sets.setdefault(key, LockSet(wanted, timeout, code))
        return self._lock_sets[key]

    def _resource(self, name: str) -> Resource:
        group = self._groups.get(name) or _Group(name, self._scope, self._database)
        resource = self._resources.get(group.name)
        if resource is None:
            resource = self._resources[group.name] = _resource(group)
        return resource


class _Group:
    """The name, scope and database of the lock that some names share."""

    def __init__(self, name: str, scope: Scope, database: str | Pool[Any] | None) -> None:
        self.name = name
        self.scope = scope
        self.database = database


# --- from names to locks --------------------------------------------------------------------------------------------

_beyond_process: dict[tuple[Scope, object, str], Resource] = {}
"""The locks of hosts and databases: one for each name, for all `Locks` objects."""


def _resource(group: _Group) -> Resource:
    if group.scope == "process":
        return Resource(group.name, "process", "", None)
    database = group.database
    key = (group.scope, database if database is None or isinstance(database, str) else id(database), group.name)
    known = _beyond_process.get(key)
    if known is not None:
        return known
    if database is None:
        resource = Resource(group.name, "host", "", HostLock(group.name))
    else:
        named = database if isinstance(database, str) else database.name
        resource = Resource(group.name, "database", named, DatabaseLock(group.name, database))
    return _beyond_process.setdefault(key, resource)


def _checked_scope(scope: Scope, database: str | Pool[Any] | None) -> tuple[Scope, str | Pool[Any] | None]:
    if scope not in SCOPES:
        raise ValueError(f'scope must be "process", "host" or "database", is {scope!r}')
    if scope == "database" and database is None:
        raise ValueError('scope="database" needs database=, a name in the settings or a Pool')
    if scope != "database" and database is not None:
        raise ValueError(f'database= needs scope="database", not {scope!r}')
    return scope, database


def _check_timeout(timeout: float | None) -> None:
    if timeout is not None and not 0 <= timeout <= threading.TIMEOUT_MAX:
        raise ValueError(f"timeout must be at least 0 seconds, or None for no limit, is {timeout!r}")


def _code_of(function: Callable[..., Any]) -> CodeType | None:
    what = next(
        (
            what
            for what, is_it in (
                ("a generator", inspect.isgeneratorfunction),
                ("an async function", inspect.iscoroutinefunction),
                ("an async generator", inspect.isasyncgenfunction),
            )
            if is_it(function)
        ),
        None,
    )
    if what is not None:
        raise TypeError(
            f"{getattr(function, '__qualname__', function)} is {what}, which would hold its locks between its steps, "
            "while other code runs in this thread; put `with locks.hold(...)` around the lines that need the locks, "
            "with no yield or await inside"
        )
    if isinstance(function, staticmethod | classmethod | property | type) or not callable(function):
        raise TypeError(
            f"requires() decorates functions, not {type(function).__name__}; write @staticmethod, @classmethod or "
            "@property above @requires"
        )
    inner = inspect.unwrap(function)
    code: CodeType | None = inner.__code__ if isinstance(inner, types.FunctionType) else None
    return code


_every_locks: weakref.WeakSet[Locks] = weakref.WeakSet()


def all_counts() -> list[statistics.Counts]:
    """Return the counts of all locks of this process, for the scoreboard."""
    return [locks.counts() for locks in list(_every_locks)]


def _after_fork_in_child() -> None:
    for locks in list(_every_locks):
        locks.reset_counts()


_runtime.after_fork(_after_fork_in_child)
