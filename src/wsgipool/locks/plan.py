"""What is to be taken: locks by name, and plans that name some of them in the one order of all locks of a process.

Those of a database come first, then those of the host, then those of the process, and within a scope it goes by name.
So what may take long is waited for before anything that others wait for is held. It is the same in every process, so
neither threads nor processes nor hosts can wait for each other in a circle.
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
"""In their order."""

TIMED = 7
"""Of so many turns one is timed, the first to begin with: a second look at the clock and the record of it took a tenth
of a turn. A prime, so that a program's own rhythm seldom falls in with it."""

BUCKETS = 64
"""Of a histogram of nanoseconds: bucket n counts what took less than 2**n and at least half of that."""


class Outer(Protocol):
    """What keeps other processes out, once the thread has the lock within its own."""

    def take(self, thread_id: int, shared: bool, deadline: float | None, place: str) -> bool:
        """Take it for a thread, and tell whether that was before the deadline."""

    def give_back(self, thread_id: int) -> None:
        """Give back what the thread has, if it has anything. Raises LockLost where that had been lost before."""

    def describe_holder(self) -> str:
        """Return who has it, for a message."""

    def forget(self) -> None:
        """Leave all to the parent: this is the child of a fork."""


class Resource:
    """A lock with its name and its counts."""

    __slots__ = ("__weakref__", "contended", "database", "key", "lock", "name", "outer", "scope", "timeouts", "waits")

    def __init__(self, name: str, scope: Scope, database: str, outer: Outer | None) -> None:
        self.name = name
        self.scope = scope
        self.database = database
        """The pool whose connections hold it; "" in the other scopes."""
        self.outer = outer
        # Two of one name belong to two `Locks`: the older one comes first.
        self.key = (SCOPES.index(scope), database, name, next(_numbers))
        self.lock = ReadWriteLock()
        self.contended = self.timeouts = 0
        self.waits = [0] * BUCKETS
        """How long those waited that had to."""
        every_resource.add(self)

    def __str__(self) -> str:
        if self.scope == "process":
            return repr(self.name)
        return f"{self.name!r} of the host" if self.scope == "host" else f"{self.name!r} of database {self.database!r}"


_numbers = itertools.count()
every_resource: weakref.WeakSet[Resource] = weakref.WeakSet()

Step = tuple[ReadWriteLock, list[Turn], bool, Resource]
"""A lock to take, its owners, and whether to share it."""


class Plan:
    """What to take, in order. Each function has one of its own, so the counts say who takes what together."""

    __slots__ = ("_parts", "code", "holds", "is_simple", "steps", "timeout", "turns")

    def __init__(self, wanted: Mapping[Resource, bool], timeout: float | None, code: CodeType | None = None) -> None:
        """Take `wanted`, of which the values say whether to share it."""
        order = sorted(wanted, key=lambda resource: resource.key)
        self.steps: tuple[Step, ...] = tuple(
            (resource.lock, resource.lock.owners, wanted[resource], resource) for resource in order
        )
        self.is_simple = bool(wanted) and all(resource.outer is None for resource in wanted)
        self.timeout = timeout
        self.code = code
        """The function that requires it; None for `with` blocks, which note their places."""
        # Counted while it is held, so it needs no lock; where free-threaded Python shares it, one in many may be lost.
        self.turns = 0
        self.holds = [0] * BUCKETS
        """How long it was held, in those turns that were timed."""
        self._parts: dict[tuple[Resource, ...], Plan] = {}

    def part(self, wanted: Mapping[Resource, bool]) -> Plan:
        """Return the plan of some of these locks: what is left where the thread has the others already."""
        if len(wanted) == len(self.steps):
            return self
        key = tuple(wanted)
        return self._parts.get(key) or self._parts.setdefault(key, Plan(wanted, self.timeout, self.code))

    def all_parts(self) -> list[Plan]:
        """Return the plans that count the turns: this one and its parts."""
        return [self, *(part for part in self._parts.copy().values() if part.steps)]


NOTHING = Plan({}, None)
