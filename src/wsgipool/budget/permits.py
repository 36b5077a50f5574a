"""The interface between a pool and its budget: a permit for each connection.

The pool knows only these protocols; `wsgipool.budget.budget` implements them. A pool without a budget has None instead.
"""

from __future__ import annotations

from typing import Protocol

from wsgipool.drivers.session_end import SessionEnd

IDLE_PERIOD = 0.25
"""Seconds after which an unused connection counts as idle, and between two calls of `maintain` for a pool with
connections. So other pools get the permits of idle connections within half a second."""


class Permit(Protocol):
    """Permission to have one connection. It belongs to the thread that opens the connection, then to the slot."""

    is_used: bool
    """Whether a connection may have been opened with it."""

    def release(self, session_end: SessionEnd | None = None) -> None:
        """Release the permit as soon as the server has ended the session. Does not wait; a second call does nothing.

        Without a `session_end` the permit cools down for longer, because the end cannot be observed.
        """

    def is_due(self) -> bool:
        """Return whether the turn is over, so that another pool may get the permit."""


class Permits(Protocol):
    """One pool's part in a budget. Any thread may call it at any time, without the pool's lock. Calls may do I/O."""

    @property
    def is_starved(self) -> bool:
        """Whether the pool waits for a permit: the last `take` for a waiter returned None.

        A `take` that returns a permit ends this, and so does `satisfied`.
        """

    def describe(self) -> str:
        """Return the state of the budget in numbers, and what to do, for a message."""

    def take(self, wanted: int) -> Permit | None:
        """Return a permit, or None if none is free for this pool now.

        `wanted`: permits that waiters need; 0 if no thread waits. If it is not 0, None makes the pool starved.
        A call costs 1 µs while the pool has its share and no permit moves, otherwise 20 to 40 µs.
        """

    def satisfied(self) -> None:
        """End the wait: the pool wants no more permits."""

    def until_turn(self) -> float:
        """Renew the pool's notice; return the seconds until `take` may return a permit, or 0."""

    def must_yield(self, permit: Permit, now: float) -> bool:
        """Return whether the caller must close a connection that was just returned, for another pool.

        `now`: time.monotonic(). Costs one comparison; one call in 10 ms reads the board.
        """

    def count_to_yield(self, keep: int) -> int:
        """Return how many idle connections the pool should close for other pools.

        `keep`: connections that the pool needs, such as the recent maximum in use. It keeps these unless another pool
        has fewer.
        """

    def maintain(self, has_connections: bool) -> float | None:
        """Release the permits of ended sessions; return the seconds until the next call, None if none is due."""
