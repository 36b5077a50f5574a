"""What a pool asks of a budget that it shares with other processes: leave to open each connection.

A pool without one has None in its place. `wsgipool.host.budget` is the real thing; the pool knows only this.
"""

from __future__ import annotations

from typing import Protocol

from wsgipool.farewell import Farewell

MOST_PERMITS = 16384
"""As many connections as one budget has room for: 8 bytes of a shared file each."""

IDLE_LOOK = 0.25
"""Seconds between two looks of a pool that has connections; one that nobody has used for so long is given up to others,
within half a second in all."""


class Permit(Protocol):
    """Leave to have one connection; it belongs to whoever opens it, then to the connection's slot."""

    is_used: bool
    """Whether a connection may have been opened with it."""

    def release(self, farewell: Farewell | None = None) -> None:
        """Give it back, as soon as the connection's `farewell` is over; once more does nothing. Takes no lock.

        Without a farewell nobody knows how the connection has ended, or whether it was opened at all.
        """

    def is_due(self) -> bool:
        """Tell whether its turn is over, so that it may go to others."""

    def is_wanted(self) -> bool:
        """Tell whether the connection, which has just come back, should be closed for others."""


class Permits(Protocol):
    """A pool's part in a budget. Nothing here waits; `take` and `sated` are called under the pool's lock."""

    @property
    def hungers(self) -> bool:
        """Whether the pool wants permits and gets none."""

    def describe(self) -> str:
        """Return what is used up, with its numbers, and what would do: for a message."""

    def take(self, wanted: int) -> Permit | None:
        """Return a permit, or None where there is none now. The pool then hungers for `wanted`, unless that is 0."""

    def until_turn(self) -> float:
        """Renew what others know of the pool's hunger; return the seconds for which `take` would be in vain, or 0."""

    def sated(self) -> None:
        """Learn that the pool wants no more permits."""

    def others_hunger(self) -> bool:
        """Tell at next to no cost whether others want permits: asked at each return of a connection."""

    def is_news(self) -> bool:
        """Tell whether the pool should look at its idle connections earlier than it has planned."""

    def to_give_up(self, keep: int) -> int:
        """Return how many connections the pool should close for others, and keep so many if nobody has fewer."""

    def tend(self, has_connections: bool) -> float | None:
        """Do what time brings; return the seconds until the pool should look again, None if it need not."""
