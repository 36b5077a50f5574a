"""A permit that this process holds: the record of its locked byte, and the object that the pool gets.

The pool gets a `FilePermit`. If an exception drops that object without a release, its destructor releases it.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Protocol

from wsgipool.drivers.session_end import SessionEnd

TURN = 0.06
"""Minimum seconds for which a permit stays with a pool: each move costs a cooldown and a connect.

Measured with 64 prefork children on 8 connections for 30 s, in requests of a child: turns of 0.1 s gave 79 to 116,
turns of 0.06 s gave 73 to 96.
"""


class PermitRecord:
    """The record of a byte that the pool has locked, or is about to lock."""

    __slots__ = ("end", "index", "is_marked", "is_used", "is_yielded", "permit", "taken_at")

    def __init__(self, index: int, taken_at: int) -> None:
        self.index = index
        self.taken_at = taken_at
        """Nanoseconds of CLOCK_MONOTONIC."""
        self.permit: Callable[[], FilePermit | None] = _none
        """A weak reference to the pool's `FilePermit`, once there is one."""
        self.is_marked = False
        """Whether the board shows the permit as taken, so that its release must be written there, too."""
        self.is_used = False
        """Whether a connection may have been opened with it."""
        self.is_yielded = False
        """Whether the pool was told to close the connection for another pool."""
        self.end: SessionEnd | None = None
        """The end of the session, once the pool has released the permit."""

    @property
    def is_closing(self) -> bool:
        """Whether the permit will be free as soon as its connection has ended."""
        return self.is_yielded or self.end is not None

    def unobserved_end(self) -> SessionEnd:
        """Return a session end for a permit released without one."""
        return SessionEnd() if self.is_used else SessionEnd.without_session()


class PermitOwner(Protocol):
    """The owner of the records; `wsgipool.budget.process_permits` implements it."""

    def release(self, record: PermitRecord, end: SessionEnd | None) -> None: ...

    def now(self) -> int: ...


class FilePermit:
    """Permission to have one connection; see `wsgipool.budget.permits.Permit`."""

    __slots__ = ("__weakref__", "_owner", "_record")

    def __init__(self, owner: PermitOwner, record: PermitRecord) -> None:
        self._owner = owner
        self._record = record
        record.permit = weakref.ref(self)

    @property
    def is_used(self) -> bool:
        return self._record.is_used

    @is_used.setter
    def is_used(self, is_used: bool) -> None:
        self._record.is_used = is_used

    @property
    def is_yielded(self) -> bool:
        """Whether the pool was told to close the connection for another pool."""
        return self._record.is_yielded

    @is_yielded.setter
    def is_yielded(self, is_yielded: bool) -> None:
        self._record.is_yielded = is_yielded

    def release(self, session_end: SessionEnd | None = None) -> None:
        self._owner.release(self._record, session_end)

    def is_due(self) -> bool:
        return self._owner.now() - self._record.taken_at >= TURN * 1e9

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # at the end of the interpreter; the kernel unlocks the byte
            self.release()


def _none() -> None:
    return None
