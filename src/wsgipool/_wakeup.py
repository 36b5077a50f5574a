"""The wake-up of a waiting thread: the only way in which one thread of the package wakes another."""

from __future__ import annotations

import threading


class Wakeup:
    """A flag that wakes one waiting thread, now or when it begins to wait. After that it can be set again.

    Setting it never waits, so a signal handler or a destructor may do it.
    """

    # Not a queue.SimpleQueue: its get() waits for ever if the thread gets the processor only after the timeout.
    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, for at most `timeout` seconds; return whether it was set."""
        if timeout is None:
            return self._lock.acquire()
        return self._lock.acquire(timeout=min(max(0.0, timeout), threading.TIMEOUT_MAX))

    def set(self) -> None:
        """Wake the thread. Setting it twice wakes once."""
        try:  # noqa: SIM105 - contextlib.suppress() would take longer than the rest
            self._lock.release()
        except RuntimeError:
            pass  # it was already set
