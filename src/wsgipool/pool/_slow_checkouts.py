"""Logs checkouts that took longer than `log_slow` seconds: where, for how long, and what they waited for.

The holder to name is the one that held a connection for most of the wait. The one at the begin of the wait may have
returned its connection a moment later, and the one whose return ends the wait is no holder any more. So a waiter looks
when it begins to wait, and at each of its wake-ups.
"""

from __future__ import annotations

import logging
from time import monotonic
from types import FrameType
from typing import Generic

from wsgipool._code import place_of
from wsgipool.budget.permits import Permits
from wsgipool.drivers import C
from wsgipool.pool._log import is_logging, log
from wsgipool.pool._slot import Slot, longest_hold
from wsgipool.pool._state import PoolState
from wsgipool.pool.holds import Hold
from wsgipool.wording import counted


class SlowCheckouts(Generic[C]):
    """Logs the checkouts of one pool that take longer than `limit` seconds; none if that is 0."""

    def __init__(self, name: str, state: PoolState[C], permits: Permits | None, limit: float) -> None:
        self._name = name
        self._state = state
        self._permits = permits
        self._limit = limit

    def begin_wait(self, asked: float) -> Wait[C] | None:
        """Return the record of a wait that begins now; None if it will not be logged."""
        if not self._limit or is_logging(self._name):
            return None
        return Wait(self._state, self._permits, asked)

    def end_wait(self, wait: Wait[C], frame: FrameType, *, timed_out: bool) -> None:
        """Log a wait that has ended, if it was slow. `frame`: that of the checkout."""
        now = monotonic()
        seconds = now - wait.asked
        if seconds <= self._limit:
            return
        wait.look()
        place = place_of(frame.f_code, frame.f_lasti)
        hold = wait.hold
        log(
            logging.WARNING,
            "slow_checkout",
            self._name,
            "a checkout of pool %r at %s %s %.1f s%s; %s",
            self._name,
            place,
            "timed out after" if timed_out else "waited",
            seconds,
            f", behind {counted(wait.ahead, 'other')}" if wait.ahead else "",
            wait.describe(now),
            place=place,
            waited=seconds,
            timed_out=timed_out,
            ahead=wait.ahead,
            holder_place=hold.place if hold else None,
            held_for=now - hold.since if hold else None,
        )

    def log_connect(self, slot: Slot[C], seconds: float, address: str) -> None:
        """Log a connect of a checkout, if it was slow."""
        if not self._limit or seconds <= self._limit or is_logging(self._name):
            return
        place = slot.hold().place
        log(
            logging.WARNING,
            "slow_connect",
            self._name,
            "a checkout of pool %r at %s connected for %.1f s to %s",
            self._name,
            place,
            seconds,
            address,
            place=place,
            connected_for=seconds,
            address=address,
        )


class Wait(Generic[C]):
    """The wait of one checkout, and what it waits for. It refers to no slot, so that maintenance can find orphans."""

    __slots__ = ("_is_connecting", "_is_starved", "_permits", "_seconds", "_state", "ahead", "asked", "hold")

    def __init__(self, state: PoolState[C], permits: Permits | None, asked: float) -> None:
        self._state = state
        self._permits = permits
        self.asked = asked
        self.ahead = max(0, len(state.waiting) - 1)
        """How many waiters were in the queue already."""
        self.hold: Hold | None = None
        """The hold that has lasted for most of this wait so far."""
        self._seconds = -1.0
        """For how much of the wait it has lasted."""
        self._is_connecting = self._is_starved = False
        self.look()

    def look(self) -> None:
        """Look who holds connections now."""
        now = monotonic()
        hold = longest_hold(self._state.held())
        if hold is not None and now - max(hold.since, self.asked) > self._seconds:
            self.hold = hold
            self._seconds = now - max(hold.since, self.asked)
        self._is_connecting = self._is_connecting or self._state.connecting > 0
        self._is_starved = self._is_starved or (self._permits is not None and self._permits.is_starved)

    def describe(self, now: float) -> str:
        """Return what the checkout waited for."""
        causes = []
        if self.hold is not None:
            causes.append(f"meanwhile held for longest {self.hold.describe(now)}")
        if self._is_connecting:
            causes.append("the process was connecting")
        if self._is_starved:
            causes.append("the budget had no free permit")
        return "; ".join(causes) or "no connection was held"
