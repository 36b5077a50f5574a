"""A value that one thread creates while others wait for it, with the detection of deadlocks.

The module records for which creation each thread waits, and each creation knows its thread. Before each wait this chain
is followed. If it leads back to the waiting thread, that thread gets CacheDeadlock, since it would wait for ever. The
records cover the whole process, since a chain may lead through several caches.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from threading import get_ident
from time import monotonic
from types import TracebackType
from typing import Any, Generic, TypeVar

from wsgipool import _runtime
from wsgipool._wakeup import Wakeup
from wsgipool.errors import CacheDeadlock, CacheTimeout

V = TypeVar("V")


class Creation(Generic[V]):
    """A value that one thread creates for all threads that ask for it in the meantime."""

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
        self._wakeups: list[Wakeup] = []

    def __str__(self) -> str:
        function = self._create if hasattr(self._create, "__qualname__") else type(self._create)
        names = filter(None, (getattr(function, "__module__", None), function.__qualname__))
        return f"{'.'.join(names)}, which creates a value of cache {self._cache_name!r}"

    def succeed(self, value: V) -> None:
        """End the creation with a value."""
        self._values.append(value)
        self.end()

    def fail(self, error: Exception) -> None:
        """End the creation with an error."""
        # Kept only for waiting threads, since the traceback refers to frames that refer to this creation.
        if self._wakeups:
            self._error, self._traceback = error, error.__traceback__
        self.end()

    def end(self) -> None:
        """Wake all waiting threads. If there is neither a value nor an error, one of them creates the value."""
        self.is_over = True
        for wakeup in list(self._wakeups):
            wakeup.set()

    def wait(self, deadline: float | None) -> list[V]:
        """Return the value in a list; an empty list means that the value must be created again.

        Raises the error of the creation, CacheTimeout, or CacheDeadlock if this wait could never end.
        """
        wakeup, me = Wakeup(), get_ident()
        self._wakeups.append(wakeup)
        try:
            with _lock:
                self._refuse_circle(me)
                _waiting[me] = self
            # Check again: the creation may have ended before this thread was recorded.
            if not self.is_over and not wakeup.wait(None if deadline is None else deadline - monotonic()):
                raise CacheTimeout(
                    f"{self}, has not ended in time: thread {self.thread_id} began it "
                    f"{monotonic() - self._begun:.1f} s ago"
                )
        finally:
            _waiting.pop(me, None)
        if self._error is not None:
            # Reset the traceback, since each raise adds to it and many threads may raise this one error.
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
                    f"thread {me} would wait for a value that it is creating itself: it waits for {through}. "
                    "A value must not need itself, and values may need each other in one direction only"
                )
            creation = _waiting.get(creation.thread_id)


class Ending:
    """Ends a creation when the last reference to this object is dropped, also after an asynchronous exception."""

    _creation: Creation[Any] | None = None

    def __init__(self, creation: Creation[Any]) -> None:
        self._creation = creation

    def __del__(self) -> None:
        if self._creation is not None and not self._creation.is_over:
            self._creation.end()


_lock = threading.Lock()
_waiting: dict[int, Creation[Any]] = {}


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    _waiting.clear()


_runtime.after_fork(_after_fork_in_child)
