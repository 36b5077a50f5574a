"""The checkouts of old code.

A checkout ends in one of three ways, and the first one returns the connection: `close()`, the end of the program's last
reference to its connection, or the end of the request.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from threading import get_ident
from typing import Any

from wsgipool import _runtime, pools
from wsgipool._background import background
from wsgipool.drivers import Reset
from wsgipool.pool import Pool


class Checkout:
    """A connection that a thread has checked out for a proxy."""

    __slots__ = ("connection", "held", "is_outside_request", "pool")

    def __init__(self, pool: Pool[Any], connection: Any) -> None:
        self.pool = pool
        self.connection = connection
        self.held = _thread.held
        self.is_outside_request = is_outside_request()
        """Whether it began outside a request, so that no end of a request returns it."""
        self.held.add(self)

    @property
    def is_active(self) -> bool:
        """Whether it belongs to this thread and has not ended."""
        return self in _thread.held

    def end(self, *, discard: bool = False, **how: Reset | None) -> None:
        """Return the connection to the pool. Does nothing if the checkout has ended."""
        if self._claim():
            self._return(discard, **how)

    def end_anywhere(self) -> None:
        """End it in a destructor, on any thread; the background ends that of another thread, because it may wait."""
        is_own = self.held is _thread.held
        if not self._claim():
            return
        if is_own:
            self._return()
        else:
            _orphans.append(self)
            background.wake()

    def discard(self) -> None:
        """Close the connection of an orphaned checkout."""
        self._return(discard=True)

    def _claim(self) -> bool:
        """Return whether the caller may end it; only the first caller may."""
        try:
            self.held.remove(self)
        except KeyError:
            return False
        return True

    def _return(self, discard: bool = False, **how: Reset | None) -> None:
        with contextlib.suppress(ValueError):  # the pool has taken it back
            self.pool.putconn(self.connection, discard=discard, **how)


class _Thread(threading.local):
    """The checkouts of one thread that have not ended."""

    def __init__(self) -> None:
        self.held: set[Checkout] = set()


_thread = _Thread()

_orphans: deque[Checkout] = deque()
"""Checkouts to be closed: their proxies were collected on other threads than the holders."""


def is_outside_request() -> bool:
    """Return whether mod_wsgi runs this code outside a request, for instance while it imports a script."""
    return pools.request_token is not None and pools.request_token() is None


def close_orphans() -> None:
    """Close the connections of proxies that were collected on other threads than the holders."""
    while _orphans:
        try:
            checkout = _orphans.popleft()
        except IndexError:  # another thread took the last one
            return
        checkout.discard()


class _OrphansTask:
    """Closes orphaned connections in the background."""

    def maintain(self) -> None:
        close_orphans()


def _end_of_request(thread_id: int) -> None:
    close_orphans()
    if thread_id == get_ident():
        for checkout in tuple(_thread.held):
            checkout.end()


def _after_fork_in_child() -> None:
    # The pools have released the parent's connections.
    _thread.held.clear()
    _orphans.clear()
    background.register_passive(_orphans_task)


_orphans_task = _OrphansTask()
background.register_passive(_orphans_task)
pools.before_reclaim(_end_of_request)
_runtime.after_fork(_after_fork_in_child)
