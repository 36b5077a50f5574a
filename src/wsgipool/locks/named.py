"""Locks for what threads share: each function says what it needs, and gets all of it at once, in one order.

What is named and grouped is here; `requiring` makes functions that hold, and `block` blocks; `holding` takes and gives
back, `rwlock` lets threads wait, and what keeps other processes and hosts out is in `host` and `database`.
"""

from __future__ import annotations

import inspect
import threading
import types
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import CodeType
from typing import Any, ParamSpec, TypeVar

from wsgipool.config import unknown_key
from wsgipool.locks import book, statistics
from wsgipool.locks.block import Block
from wsgipool.locks.database import DatabaseLock
from wsgipool.locks.host import HostLock
from wsgipool.locks.plan import SCOPES, Plan, Resource, Scope
from wsgipool.locks.requiring import holding_all, holding_one
from wsgipool.locks.statistics import Report
from wsgipool.pool import Pool

P = ParamSpec("P")
R = TypeVar("R")


class Locks:
    """Locks by name, each made when it is first used. What a call needs is taken at once, in one order.

    `names`: all names that there are, together with those of `group()`. Any other is an error then, where it is
    written: a typo would be a lock of its own that keeps nobody out. Without names every name is a lock.
    `scope`: "process" keeps out the other threads of the process; "host" those of all processes of this user on the
    host too, by a file in the settings' `runtime_dir`; "database" those of all hosts, by GET_LOCK of MySQL and MariaDB
    on a connection of the pool `database`, a name of the settings or a `Pool`, which it keeps as long as it holds.
    A lock of scope "database" is never shared: `read=` takes it for writing.

    Locks of the process belong to this object; those of the other scopes are the same wherever they have the same name.
    """

    def __init__(self, *names: str, scope: Scope = "process", database: str | Pool[Any] | None = None) -> None:
        self._declared = set(names)
        self._is_closed = bool(names)
        self._scope, self._database = _checked_scope(scope, database)
        self._groups: dict[str, _Group] = {}
        self._resources: dict[str, Resource] = {}
        self._plans: dict[object, Plan] = {}
        self._making = threading.Lock()
        book.add(self)

    def group(
        self, name: str, *names: str, scope: Scope | None = None, database: str | Pool[Any] | None = None
    ) -> None:
        """Make one lock of names that are always used together; it is called by the first of them.

        With `scope`, or `database`, that is the lock's; a group of one name gives that alone another scope. Raises
        ValueError where one of the names is in another group, or is a lock that was used before.
        """
        if scope is None and database is not None:
            scope = "database"
        group = _Group(name, *_checked_scope(scope, database) if scope else (self._scope, self._database))
        with self._making:
            for each in (name, *names):
                if each in self._groups:
                    raise ValueError(
                        f"{each!r} is in the group {self._groups[each].name!r} already; a name has one lock"
                    )
                if each in self._resources:
                    raise ValueError(
                        f"{each!r} is a lock that was used already, so it cannot become that of the group {name!r}; "
                        "make groups before anything is taken, beside the Locks() itself"
                    )
            for each in (name, *names):
                self._groups[each] = group
                self._declared.add(each)

    def requires(
        self, *names: str, read: str | Iterable[str] = (), timeout: float | None = None
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Decorate a function or method: it runs with these locks, taken at once when it is called.

        `names` are taken for writing, those of `read` shared with others that read; a name in both is written.
        `timeout`: seconds to wait for all of them together; None waits as long as it takes. The call raises
        LockTimeout, LockOrderError where the caller holds locks that come later in the order, or LockLost.
        A generator or async function is a TypeError: between its steps it would hold for as long as others please.
        """
        exclusive, shared = self._checked_names(names, read)
        _check_timeout(timeout)

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            code = _code_of(function)
            holding = holding_one if len(exclusive) + len(shared) == 1 else holding_all
            return holding(function, lambda: self._plan(function, exclusive, shared, timeout, code))

        return decorate

    def hold(
        self, *names: str, read: str | Iterable[str] = (), timeout: float | None = None
    ) -> AbstractContextManager[None]:
        """Hold these locks for a `with` block; the arguments, and the errors, are those of `requires()`."""
        key = (names, read, timeout)
        try:
            plan = self._plans.get(key)
        except TypeError:  # `read` is a list or a set
            key = (names, tuple(read), timeout)
            plan = self._plans.get(key)
        if plan is None:
            exclusive, shared = self._checked_names(names, read)
            _check_timeout(timeout)
            plan = self._plan(key, exclusive, shared, timeout, None)
        return Block(plan)

    def report(self) -> Report:
        """Return what these locks were asked for so far in this process, and what would make them better."""
        return statistics.report([self.counts()])

    def counts(self) -> statistics.Counts:
        """Return the numbers behind `report()`."""
        plans = list(self._plans.copy().values())
        return statistics.counts(self._resources.copy().values(), [part for plan in plans for part in plan.all_parts()])

    # --- names ------------------------------------------------------------------------------------------------------

    def _checked_names(self, names: Iterable[str], read: str | Iterable[str]) -> tuple[list[str], list[str]]:
        exclusive, shared = list(names), [read] if isinstance(read, str) else list(read)
        for name in (*exclusive, *shared):
            if not isinstance(name, str):
                raise TypeError(f"the name of a lock is a string, not {name!r}")
            if self._is_closed and name not in self._declared:
                raise ValueError(
                    f"{name!r} is none of the names of these Locks; {unknown_key(name, self._declared)}. What is meant "
                    "belongs in Locks(...) or in group(...), above"
                )
        if not exclusive and not shared:
            raise ValueError("no name: say what to lock")
        return exclusive, shared

    def _plan(
        self, key: object, exclusive: Iterable[str], shared: Iterable[str], timeout: float | None, code: CodeType | None
    ) -> Plan:
        with self._making:
            wanted = {self._resource(name): True for name in shared}
            # What is read and written is written; so is what cannot be shared.
            wanted |= {resource: False for resource in wanted if resource.scope == "database"}
            wanted |= {self._resource(name): False for name in exclusive}
            self._plans.setdefault(key, Plan(wanted, timeout, code))
        return self._plans[key]

    def _resource(self, name: str) -> Resource:
        group = self._groups.get(name) or _Group(name, self._scope, self._database)
        resource = self._resources.get(group.name)
        if resource is None:
            resource = self._resources[group.name] = _resource(group)
        return resource


class _Group:
    """The lock that some names stand for."""

    def __init__(self, name: str, scope: Scope, database: str | Pool[Any] | None) -> None:
        self.name = name
        self.scope = scope
        self.database = database


# --- what names stand for --------------------------------------------------------------------------------------------

_beyond_process: dict[tuple[Scope, object, str], Resource] = {}
"""The locks that other processes know too: one each, whichever `Locks` names it."""


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
        raise ValueError(f'scope = {scope!r}: it is "process", "host" or "database"')
    if scope == "database" and database is None:
        raise ValueError('scope = "database" needs database=, the name of one in the settings, or a Pool')
    if scope != "database" and database is not None:
        raise ValueError(f'database= goes with scope = "database", not with {scope!r}')
    return scope, database


def _check_timeout(timeout: float | None) -> None:
    if timeout is not None and not 0 <= timeout <= threading.TIMEOUT_MAX:
        raise ValueError(
            f"timeout = {timeout!r}: it is a number of seconds from 0, or None to wait as long as it takes"
        )


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
            "while others run in this thread; put `with locks.hold(...)` around what needs them, without a yield or "
            "await in it"
        )
    if isinstance(function, staticmethod | classmethod | property | type) or not callable(function):
        raise TypeError(
            f"requires() decorates functions, not {type(function).__name__}; write @staticmethod, @classmethod and "
            "@property above it"
        )
    inner = inspect.unwrap(function)
    code: CodeType | None = inner.__code__ if isinstance(inner, types.FunctionType) else None
    return code
