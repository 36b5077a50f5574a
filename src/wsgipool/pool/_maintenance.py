"""Maintenance of a pool, on the background thread.

Closes connections that are too old, idle for too long or orphaned, and opens connections for `min_size` and waiters.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from threading import get_ident
from time import monotonic
from typing import Generic

from wsgipool._background import background
from wsgipool.budget.permits import IDLE_PERIOD, Permit, Permits
from wsgipool.drivers import C
from wsgipool.errors import ConnectFailed
from wsgipool.pool._connector import Connector
from wsgipool.pool._log import log
from wsgipool.pool._orphans import orphaned_slots, orphaned_waiters
from wsgipool.pool._sessions import Sessions
from wsgipool.pool._slot import CHECKED_OUT, Slot
from wsgipool.pool._state import PoolState
from wsgipool.pool._threads import current, last_end

_MIN_PAUSE, _MAX_PAUSE = 0.05, 30.0
"""Minimum and maximum seconds between two rounds. The pause is a tenth of the shortest maximum age."""
_OPENING_TIMEOUT = 30.0
"""Maximum seconds of a connect in the background, unless the driver's connect_timeout is shorter. The pool's `timeout`
is for requests, and may be 0."""


class Maintenance(Generic[C]):
    """The maintenance of one pool."""

    def __init__(
        self,
        name: str,
        state: PoolState[C],
        sessions: Sessions[C],
        connector: Connector[C],
        permits: Permits | None,
        max_lifetime: float,
    ) -> None:
        self._name = name
        self._state = state
        self._sessions = sessions
        self._connector = connector
        self._permits = permits
        self._max_lifetime = max_lifetime
        self._last_end = last_end()

    def __repr__(self) -> str:
        return f"pool {self._name!r}"

    def begin(self) -> None:
        """Have the background maintain this pool from now on."""
        background.register(self)

    def maintain(self) -> float | None:
        """Do the maintenance that is due; return the seconds until the next round, None if none is due."""
        permits, state = self._permits, self._state
        if permits is None:
            return self._round()
        if state.waiting and not state.slots:
            # Only the pool's turn needs maintenance, and that may be far away.
            until_turn = permits.until_turn()
            if until_turn > 0.0:
                return until_turn
        if not state.waiting and permits.is_starved:
            permits.satisfied()
        pauses = self._round(), permits.maintain(bool(state.slots))
        return min((pause for pause in pauses if pause is not None), default=None)

    def reclaim_ended(self) -> None:
        """Take back the connections of ended threads. Costs one comparison if none has ended since."""
        seen = last_end()
        if seen is self._last_end:
            return
        state = self._state
        with state.lock:
            ended = {slot.thread for slot in tuple(state.slots) if slot.thread.has_ended}
            ended |= {waiter.thread for waiter in tuple(state.waiting) if waiter.thread.has_ended}
            leaked = state.reclaim(ended)
        for thread in ended:
            self._sessions.recover(thread)
        self._last_end = seen
        if leaked:
            self._sessions.settle()
            self._warn_of_leaks(leaked, "before its thread ended, and has been closed")

    def reclaim(self, thread_id: int) -> int:
        """Take back the connections that a thread has not returned; see `Pool.reclaim`."""
        if not self._state.threads(thread_id):
            return 0
        try:
            leaked = self._reclaimed(thread_id)
        except BaseException:
            self._reclaimed(thread_id)  # completes it after an asynchronous exception
            raise
        self._warn_of_leaks(leaked, "before its request ended, and has been closed")
        return len(leaked)

    def _reclaimed(self, thread_id: int) -> list[Slot[C]]:
        with self._state.lock:
            threads = self._state.threads(thread_id)
            leaked = self._state.reclaim(threads)
        for thread in threads:
            if thread.has_ended or thread.ident == get_ident():
                self._sessions.recover(thread)
        self._sessions.settle()
        return leaked

    def _warn_of_leaks(self, leaked: Iterable[Slot[C]], how: str) -> None:
        """Log where the leaked connections were checked out."""
        for slot in leaked:
            now = monotonic()
            log(
                logging.WARNING,
                "leaked",
                self._name,
                "a connection of pool %r was not returned %s; it was checked out %s%s",
                self._name,
                how,
                slot.origin(now),
                slot.stack and f":\n{slot.stack}",
                place=slot.hold().place,
                held_for=now - slot.since,
            )

    def _round(self) -> float | None:
        state = self._state
        self.reclaim_ended()
        self._recover_orphans()
        self._yield_idle()
        with state.lock:
            state.retire_aged(monotonic())
        self._sessions.settle()
        self._sessions.supply_permit()
        openings = self._begin_openings()
        pause = self._pause()
        for slot in openings:
            open_it = partial(self._open, slot)
            if not background.run(open_it):
                open_it()
        return pause

    def _pause(self) -> float | None:
        state = self._state
        min_size = 0 if state.is_ending else state.min_size
        is_starved = self._permits is not None and self._permits.is_starved
        if not is_starved and len(state.slots) < (state.max_size if state.waiting else min_size):
            return max(_MIN_PAUSE, self._connector.pause_left())
        if not state.slots:
            return None
        return min(max(_MIN_PAUSE, min(state.max_idle, self._max_lifetime) / 10), _MAX_PAUSE)

    def _recover_orphans(self) -> None:
        state = self._state
        with state.lock:
            for waiter in orphaned_waiters(tuple(state.waiting)):
                state.withdraw(waiter)
            orphans = orphaned_slots(tuple(state.slots))
            leaked = [slot for slot in orphans if slot.state is CHECKED_OUT]
            permits = [state.recover_slot(slot) for slot in orphans]
        for permit in permits:
            if permit is not None:
                permit.release()
        if orphans:
            self._sessions.settle()
        self._warn_of_leaks(leaked, "and nothing refers to it any more")

    def _yield_idle(self) -> None:
        """Close idle connections if other pools of the budget wait for their permits."""
        if self._permits is None or not self._state.idle:
            return
        with self._state.lock:
            used = self._state.used_since(monotonic() - IDLE_PERIOD)
        number = self._permits.count_to_yield(keep=used)
        if number:
            with self._state.lock:
                self._state.yield_idle(number)

    def _begin_openings(self) -> list[Slot[C]]:
        if self._connector.pause_left() > 0:
            return []
        state = self._state
        with state.lock:
            wanted, missing = state.wanted_openings(), state.missing()
        permits = self._take_permits(wanted, missing) if wanted else []
        with state.lock:
            openings = state.begin_openings(permits)
        for permit in permits:
            permit.release()
        return openings

    def _take_permits(self, wanted: int, missing: int) -> list[Permit]:
        """Take up to `wanted` permits. `missing` of them are for waiters, the others for `min_size`."""
        taken: list[Permit] = []
        while self._permits is not None and len(taken) < wanted:
            permit = self._permits.take(max(0, missing - len(taken)))
            if permit is None:
                break
            taken.append(permit)
        return taken

    def _open(self, slot: Slot[C]) -> None:
        slot.thread = current()
        try:
            self._sessions.open(slot, _OPENING_TIMEOUT)
        except ConnectFailed:
            pass  # logged already; the waiters go on waiting
        finally:
            self._sessions.settle()
            background.wake()
