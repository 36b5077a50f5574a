"""The slow way of a checkout: no connection is idle, so the thread waits for one, or opens one itself."""

from __future__ import annotations

from time import monotonic
from types import FrameType
from typing import Generic

from wsgipool._background import background
from wsgipool.budget.permits import Permits
from wsgipool.drivers import C
from wsgipool.errors import PoolError
from wsgipool.pool._errors import ErrorFactory
from wsgipool.pool._exhaustion import Exhaustion
from wsgipool.pool._log import is_logging
from wsgipool.pool._maintenance import Maintenance
from wsgipool.pool._sessions import Sessions
from wsgipool.pool._slot import PREPARING, RESERVED, Slot, Waiter
from wsgipool.pool._slow_checkouts import SlowCheckouts, Wait
from wsgipool.pool._state import PoolState
from wsgipool.pool._threads import ThreadRecord

_MAINTENANCE_INTERVAL = 0.25
"""Seconds for which a waiter waits before it asks maintenance to scan for orphaned connections."""


class WaitQueue(Generic[C]):
    """Lets threads wait for connections of one pool, and counts timeouts and refusals."""

    def __init__(
        self,
        name: str,
        state: PoolState[C],
        sessions: Sessions[C],
        maintenance: Maintenance[C],
        errors: ErrorFactory[C],
        exhaustion: Exhaustion[C],
        slow_checkouts: SlowCheckouts[C],
        permits: Permits | None,
        max_waiting: int,
    ) -> None:
        self._name = name
        self._state = state
        self._sessions = sessions
        self._maintenance = maintenance
        self._errors = errors
        self._exhaustion = exhaustion
        self._slow_checkouts = slow_checkouts
        self._permits = permits
        self._max_waiting = max_waiting
        self.reset_counts()

    def reset_counts(self) -> None:
        """Begin to count timeouts and refusals, also in the child of a fork."""
        self.timeouts = self.refused = 0

    def wait_for_slot(self, thread: ThreadRecord, limit: float, asked: float, frame: FrameType) -> Slot[C]:
        """Wait in the queue; return the slot assigned to this thread, with a connection or to open one.

        `frame`: that of the checkout, for log lines.
        """
        if self._sessions.is_inside():
            raise self._errors.reentered()
        self._maintenance.reclaim_ended()
        waiter: Waiter[C] = Waiter(thread, limit, asked)
        try:
            with self._state.lock:
                self._check_may_wait(thread)
                self._state.add_waiter(waiter)
            if waiter.slot is None:
                if is_logging(self._name):
                    raise self._errors.reentered_while_logging()
                self._wait(waiter, frame)
            slot = waiter.slot
            if slot is None:
                raise self._errors.closed_while_waiting()
        except PoolError:
            self._sessions.withdraw(waiter)
            raise
        if slot.state is RESERVED:
            slot.state = PREPARING
        return slot

    def timed_out(self, limit: float) -> PoolError:
        """Count a timeout, and return its error."""
        error = self._errors.timed_out(limit)
        self.timeouts += 1
        return error

    def _check_may_wait(self, thread: ThreadRecord) -> None:
        """Raise an error if waiting cannot succeed, or if too many threads wait already. The caller holds the lock."""
        state = self._state
        if state.is_closed:
            raise self._errors.closed()
        if state.is_waiting(thread):
            raise self._errors.reentered_while_waiting()
        if state.is_deadlocked(thread):
            raise self._errors.deadlock()
        if self._max_waiting and len(state.waiting) >= self._max_waiting:
            self.refused += 1
            raise self._errors.too_many()

    def _request_connection(self) -> None:
        """Request a new connection for the waiters, if there is room."""
        if self._permits is not None:
            if not self._permits.is_starved:
                self._sessions.supply_permit()
            if not self._state.slots:
                self._maintenance.begin()  # it must ask for a permit, even without a connection
        self._sessions.settle()

    def _wait(self, waiter: Waiter[C], frame: FrameType) -> None:
        """Wait until the waiter is served or the pool is closed. Raises PoolTimeout."""
        self._request_connection()
        wait = self._slow_checkouts.begin_wait(waiter.asked)
        error = None if self._sleep(waiter, wait) else self._give_up(waiter)
        if waiter.limit > 0 and not self._state.is_closed:
            # A checkout with a timeout of 0 does not show that the pool is too busy.
            self._exhaustion.count(waiter.asked, timed_out=error is not None)
            if wait is not None:
                self._slow_checkouts.end_wait(wait, frame, timed_out=error is not None)
        if error is not None:
            raise error

    def _sleep(self, waiter: Waiter[C], wait: Wait[C] | None) -> bool:
        """Wait until the waiter is served or the pool is closed; return False if the deadline has passed."""
        while not waiter.wait(_MAINTENANCE_INTERVAL):
            if monotonic() >= waiter.deadline:
                return False
            if not background.is_running:
                self._sessions.supply_permit()  # the process ends: its last requests must ask themselves
            background.wake()
            if wait is not None:
                wait.look()
            self._exhaustion.maintain()
        return True

    def _give_up(self, waiter: Waiter[C]) -> PoolError | None:
        """Return PoolTimeout, or None if the waiter is served at the last moment."""
        error = self._errors.timed_out(waiter.limit)
        with self._state.lock:
            if not self._state.withdraw(waiter):
                return None
            is_last = not self._state.waiting
        self.timeouts += 1
        if is_last and self._permits is not None:
            self._permits.satisfied()
        return error
