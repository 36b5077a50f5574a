"""A lock with its name, and sets of locks in the one order in which every thread takes them.

Locks of databases come first, then those of the host, then those of the process; within a scope the name decides.
So a thread waits longest while it holds nothing that other threads of its process need. The order is the same in
every process, so threads, processes and hosts cannot wait for each other in a circle.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Mapping
from types import CodeType
from typing import Literal, Protocol

from wsgipool.locks.rwlock import ReadWriteLock, Turn

Scope = Literal["process", "host", "database"]
SCOPES: tuple[Scope, ...] = ("database", "host", "process")
"""All scopes, in the order in which their locks are taken."""

TIMED = 7
"""Every 7th hold is timed, starting with the first: timing takes a tenth of an uncontended hold.
The number is prime, so that it rarely coincides with a period of the program."""

BUCKETS = 64
"""Number of buckets of a histogram: bucket n counts times from 2**(n-1) to below 2**n nanoseconds."""


class OuterLock(Protocol):
    """A lock that excludes other processes; a thread takes it after the lock within its process."""

    def take(self, thread_id: int, shared: bool, deadline: float | None, place: str) -> bool:
        """Take the lock for a thread; return whether it was free before the deadline."""

    def release(self, thread_id: int) -> None:
        """Release the lock if the thread holds it. Raises LockLost if the lock ended earlier."""

    def describe_holder(self) -> str:
        """Return a description of the holder for an error message."""

    def forget(self) -> None:
        """Drop all state after a fork: the locks belong to the parent."""


class Resource:
    """A lock with its name and its counts."""

    __slots__ = ("__weakref__", "contended", "database", "key", "lock", "name", "outer", "scope", "timeouts", "waits")

    def __init__(self, name: str, scope: Scope, database: str, outer: OuterLock | None) -> None:
        self.name = name
        self.scope = scope
        self.database = database
        """The pool whose connections hold the lock; "" in the other scopes."""
        self.outer = outer
        # Two `Locks` objects may use one name: the older lock comes first.
        self.key = (SCOPES.index(scope), database, name, next(_numbers))
        self.lock = ReadWriteLock()
        self.contended = self.timeouts = 0
        self.waits = [0] * BUCKETS
        """Histogram of the waits; turns without a wait are not counted."""
        every_resource.add(self)

    def reset_counts(self) -> None:
        """Begin to count again, in the child of a fork."""
        self.contended = self.timeouts = 0
        self.waits = [0] * BUCKETS

    def __str__(self) -> str:
        if self.scope == "process":
            return repr(self.name)
        return f"{self.name!r} of the host" if self.scope == "host" else f"{self.name!r} of database {self.database!r}"


_numbers = itertools.count()
every_resource: weakref.WeakSet[Resource] = weakref.WeakSet()

Step = tuple[ReadWriteLock, list[Turn], bool, Resource]
"""A lock to take, its owners, and whether to share it."""


class LockSet:
    """The locks that a function or a block takes, in order, with the counts of taking them together."""

    __slots__ = ("_parts", "code", "holds", "is_simple", "steps", "timeout", "turns")

    def __init__(self, wanted: Mapping[Resource, bool], timeout: float | None, code: CodeType | None = None) -> None:
        """Order the locks in `wanted`; the value True means shared with other readers."""
        order = sorted(wanted, key=lambda resource: resource.key)
        self.steps: tuple[Step, ...] = tuple(
            (resource.lock, resource.lock.owners, wanted[resource], resource) for resource in order
        )
        self.is_simple = bool(wanted) and all(resource.outer is None for resource in wanted)
        self.timeout = timeout
        self.code = code
        """The code of the function that requires the locks; None for `with` blocks, which record their line."""
        # Counted while the locks are held, so no other lock is needed. Free-threaded Python may miss a few turns of
        # shared locks.
        self.turns = 0
        self.holds = [0] * BUCKETS
        """Histogram of the timed holds."""
        self._parts: dict[tuple[Resource, ...], LockSet] = {}

    def part(self, wanted: Mapping[Resource, bool]) -> LockSet:
        """Return the set of those locks that a thread still needs, because it holds the others already."""
        if len(wanted) == len(self.steps):
            return self
        key = tuple(wanted)
        return self._parts.get(key) or self._parts.setdefault(key, LockSet(wanted, self.timeout, self.code))

    def reset_counts(self) -> None:
        """Begin to count again, in the child of a fork."""
        for part in self.all_parts():
            part.turns = 0
            part.holds = [0] * BUCKETS

    def all_parts(self) -> list[LockSet]:
        """Return all sets with counts: this one and its parts."""
        return [self, *(part for part in self._parts.copy().values() if part.steps)]


NOTHING = LockSet({}, None)
