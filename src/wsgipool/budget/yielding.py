"""Yielding: how many connections a pool closes so that waiting pools get their permits.

- A pool with more permits than a waiting pool yields until both have the same number. If there is less than one permit
  for each pool, the pools take turns.
- Between pools with the same number nothing moves, unless one of them has connections that it does not need.
- Waiting pools that free or closing permits can serve are not counted.

A permit stays with a pool for at least one turn (`wsgipool.budget.file_permit.TURN`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from wsgipool.budget.board import Notice
from wsgipool.budget.file_permit import FilePermit
from wsgipool.budget.token_lock import TokenLock

_CHECK_INTERVAL = 0.01
"""Minimum seconds between two counts of the connections to yield."""


class Yielding:
    """The number of connections that one pool still has to yield: counted at most every 10 ms."""

    def __init__(self) -> None:
        self.quiet_until = 0.0
        """The time.monotonic() until which no connection has to be yielded."""
        self._next_count = 0.0
        self._due: deque[None] = deque()
        """One element for each connection to yield, because several threads may take one at the same time."""
        self._lock = TokenLock()

    def must_yield(self, permit: FilePermit, now: float, count: Callable[[], int]) -> bool:
        """Return whether the connection of this permit has to be closed. `count` returns how many are to be closed."""
        if now >= self._next_count:
            self._count(now, count)
        if permit.is_yielded:
            return True
        if self._due and permit.is_due():
            # Set the mark first, or a count by another thread would include this connection again.
            permit.is_yielded = True
            permit.is_yielded = self._pop()
        self.quiet_until = 0.0 if self._due else self._next_count
        return permit.is_yielded

    def forget(self) -> None:
        """Forget the last count: maintenance closes that many idle connections."""
        self._due.clear()

    def _count(self, now: float, count: Callable[[], int]) -> None:
        token = self._lock.acquire()
        try:
            if token is not None:
                self._next_count = now + _CHECK_INTERVAL
                self._due.clear()
                self._due.extend([None] * count())
        finally:
            token = None

    def _pop(self) -> bool:
        try:
            self._due.pop()
        except IndexError:
            return False  # another thread was first
        return True


def number_to_yield(notices: Iterable[Notice], kept: int, free: int, keep: int) -> int:
    """Return how many of `kept` connections to close for the pools of these notices.

    `free`: permits that are free, or about to be; `keep`: connections to keep unless another pool has fewer.
    """
    yielded = 0
    for notice in notices:
        for theirs in range(notice.held, notice.held + notice.wanted):
            if free > 0:
                free -= 1
            elif theirs < kept - yielded or kept - yielded > keep:
                yielded += 1
            else:
                break
    return yielded
