"""One thread creates a value, the others wait for it: what they share, and how a wait for oneself is found out.

A thread that waits is noted with what it waits for, and what is waited for knows its thread. So before each wait the
chain is followed: whoever would come back to itself that way would wait for ever, and gets CacheDeadlock instead. The
notes are those of the whole process, since a chain may lead through several caches.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from threading import get_ident
from time import monotonic
from types import TracebackType
from typing import Any, Generic, TypeVar

from wsgipool.errors import CacheDeadlock, CacheTimeout

V = TypeVar("V")


class Creation(Generic[V]):
    """A value that a thread creates, for all who ask for it in the meantime."""

    def __init__(self, cache_name: str, token: int | None, create: Callable[..., V]) -> None:
        self.token = token
        self.thread_id = get_ident()
        self.is_over = False
        self._cache_name = cache_name
        self._create = create
        self._begun = monotonic()
        self._values: list[V] = []
        self._error: Exception | None = None
        self._traceback: TracebackType | None = None
        self._sleepers: list[_Sleeper] = []

    def __str__(self) -> str:
        function = self._create if hasattr(self._create, "__qualname__") else type(self._create)
        names = filter(None, (getattr(function, "__module__", None), function.__qualname__))
        return f"{'.'.join(names)}, which creates a value of cache {self._cache_name!r}"

    def succeed(self, value: V) -> None:
        self._values.append(value)
        self.end()

    def fail(self, error: Exception) -> None:
        # Kept for those who wait alone: it leads, by its traceback, back to what keeps it.
        if self._sleepers:
            self._error, self._traceback = error, error.__traceback__
        self.end()

    def end(self) -> None:
        """Wake all who wait; where there is neither a value nor an error, one of them has to create the value anew."""
        self.is_over = True
        for sleeper in list(self._sleepers):
            sleeper.wake()

    def wait(self, deadline: float | None) -> list[V]:
        """Return the value, in a list that is empty where it has to be created anew; raise the error.

        Raises CacheTimeout, and CacheDeadlock where this wait could never end.
        """
        sleeper, me = _Sleeper(), get_ident()
        self._sleepers.append(sleeper)
        try:
            with _lock:
                self._refuse_circle(me)
                _waiting[me] = self
            # Looked at once more now that the end would wake us.
            if not self.is_over and not sleeper.sleep(deadline):
                raise CacheTimeout(
                    f"{self}, has not come to its end in time: thread {self.thread_id} began it "
                    f"{monotonic() - self._begun:.1f} s ago"
                )
        finally:
            _waiting.pop(me, None)
        if self._error is not None:
            # As it was raised there: each raise adds to the traceback, and many threads may raise this one.
            raise self._error.with_traceback(self._traceback)
        return self._values

    def _refuse_circle(self, me: int) -> None:
        seen: list[Creation[Any]] = []
        creation: Creation[Any] | None = self
        while creation is not None and not creation.is_over and creation not in seen:
            seen.append(creation)
            if creation.thread_id == me:
                through = "; that one waits for ".join(map(str, seen))
                raise CacheDeadlock(
                    f"thread {me} is in the middle of a value that it would have to wait for: it waits for {through}. "
                    "Let no value be made from itself, and values from each other in one direction only"
                )
            creation = _waiting.get(creation.thread_id)


class Ending:
    """Ends a creation when the last reference to it is dropped, whatever else was interrupted."""

    _creation: Creation[Any] | None = None

    def __init__(self, creation: Creation[Any]) -> None:
        self._creation = creation

    def __del__(self) -> None:
        if self._creation is not None and not self._creation.is_over:
            self._creation.end()


class _Sleeper:
    """A thread that sleeps until it is woken. A plain lock: to wake never waits, so a destructor may do it."""

    def __init__(self) -> None:
        self._asleep = threading.Lock()
        self._asleep.acquire()

    def sleep(self, deadline: float | None) -> bool:
        """Tell whether it was woken before the deadline."""
        if deadline is None:
            return self._asleep.acquire()
        return self._asleep.acquire(timeout=min(max(0.0, deadline - monotonic()), threading.TIMEOUT_MAX))

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # it was woken before
            self._asleep.release()


_lock = threading.Lock()
_waiting: dict[int, Creation[Any]] = {}


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    _waiting.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
