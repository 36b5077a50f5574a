"""Carries out the decisions of `PoolState`, outside its lock: opens and closes the sessions of slots.

Also serves waiters, releases permits, and waits for the end of a session whose permit other processes may want.
"""

from __future__ import annotations

import random
from time import monotonic
from typing import Generic

from wsgipool._background import background
from wsgipool.budget.permits import Permit, Permits
from wsgipool.drivers import C
from wsgipool.drivers.session_end import ASSUMED_AFTER, SessionEnd
from wsgipool.errors import ConnectFailed
from wsgipool.pool._connector import Connector
from wsgipool.pool._slot import CloseReason, Slot, Waiter
from wsgipool.pool._state import PoolState
from wsgipool.pool._threads import ThreadRecord, current

_SESSION_END_TIMEOUT = 0.1
"""Maximum seconds for which a thread waits until the server has ended a session with a permit. Most servers need less
than a millisecond, and then the permit is free at once. After the timeout the budget goes on observing."""

_HANDLER_TIMEOUT = 0.5
"""Maximum seconds for which a signal handler waits for another thread's decision, which takes microseconds."""


class Sessions(Generic[C]):
    """Opens and closes the sessions of one pool."""

    def __init__(
        self,
        state: PoolState[C],
        connector: Connector[C],
        permits: Permits | None,
        max_lifetime: float,
    ) -> None:
        self._state = state
        self._connector = connector
        self._permits = permits
        self._max_lifetime = max_lifetime
        self.connect_failures = 0

    # --- settle -----------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Serve the waiters, and close the connections that are to be closed.

        A destructor, such as that of a generator dropped in a `with` block, may call this while its thread holds the
        lock. Then the work is left to the background, because no I/O happens under the lock.
        """
        state, thread = self._state, current()
        while not self.is_inside():
            with state.lock:
                state.serve(monotonic())
                slot = state.next_to_close(thread)
            if slot is None:
                self._call_background()
                return
            self._end(slot)
        background.wake()

    def settle_anywhere(self) -> None:
        """Settle in a signal handler, even if its thread holds the lock: that thread may never run again."""
        state, thread = self._state, current()
        while state.lock.acquire(timeout=_HANDLER_TIMEOUT):
            try:
                state.serve(monotonic())
                slot = state.next_to_close(thread)
            finally:
                state.lock.release()
            if slot is None:
                return
            self._end(slot)

    def is_inside(self) -> bool:
        """Return whether this thread holds the lock. Then the caller is a signal handler or a destructor."""
        is_inside: bool = self._state.lock._is_owned()  # type: ignore[attr-defined] # as threading.Condition does
        return is_inside

    def recover(self, thread: ThreadRecord) -> None:
        """Clean up after an asynchronous exception in a thread, or after its end."""
        try:
            with self._state.lock:
                permits = self._state.recover(thread)
            for permit in permits:
                permit.release()
        finally:
            self.settle()

    def supply_permit(self) -> None:
        """Take a permit for the first waiter, if that would open a connection with it."""
        if self._permits is None:
            return
        with self._state.lock:
            wanted = len(self._state.waiting) if self._state.wants_permit() else 0
        if not wanted:
            return
        permit = self._permits.take(wanted)
        if permit is None:
            if not self._state.waiting:
                self._permits.satisfied()
            return
        with self._state.lock:
            self._state.permits.append(permit)
            self._state.serve(monotonic())
            unused, self._state.permits = self._state.permits, []
            is_satisfied = not self._state.waiting
        for permit in unused:
            permit.release()
        if is_satisfied:
            self._permits.satisfied()

    def _call_background(self) -> None:
        """Open a connection in the background if there is room: a return may take long."""
        if self._state.waiting and (self._permits is None or not self._permits.is_starved) and self._state.has_room():
            background.wake()

    # --- open -------------------------------------------------------------------------------------------------------

    def open(self, slot: Slot[C], timeout: float) -> None:
        """Open a connection for a slot within `timeout` seconds.

        Raises ConnectFailed, or any exception of a signal handler; then the slot has left the pool.
        """
        is_tried = self._connector.failure_pause_left() <= 0
        if slot.permit is not None:
            slot.permit.is_used = is_tried
        began = monotonic()
        try:
            connection = self._connector.open(timeout, current().ident)
            if slot.in_background:
                self._connector.make_idle(connection)
        except ConnectFailed:
            self.connect_failures += is_tried
            # The server may still be busy with a slow connect.
            assumed_after = min(monotonic() - began, ASSUMED_AFTER) if is_tried else 0.0
            self.recover_slot(slot, SessionEnd(assumed_after=assumed_after))
            raise
        now = monotonic()
        # Minus up to a tenth, so that not all are renewed at once.
        expires = now + random.uniform(0.9, 1.0) * self._max_lifetime
        with self._state.lock:
            self._state.create_time.add(now - began)
            is_added = self._state.add_connection(slot, connection, expires, now)
        if not is_added:
            self._connector.close(connection).close()
            raise ConnectFailed("a signal handler or a destructor failed and ended this connect")

    def recover_slot(self, slot: Slot[C] | None, session_end: SessionEnd | None = None) -> None:
        """End this thread's work on a slot, and free its place for others."""
        if slot is None:
            return
        with self._state.lock:
            permit = self._state.recover_slot(slot) if slot.thread is current() else None
        _release(permit, session_end)
        self.settle()

    def withdraw(self, waiter: Waiter[C]) -> None:
        """Remove a waiter that gives up from the queue, and pass its slot on if it was served already."""
        with self._state.lock:
            is_served = not self._state.withdraw(waiter)
        if is_served:
            self.recover_slot(waiter.slot)
        else:
            self.settle()

    # --- close ------------------------------------------------------------------------------------------------------

    def close(self, slot: Slot[C], reason: CloseReason) -> None:
        """Close the connection of a slot of this thread, and free its place for others."""
        with self._state.lock:
            self._state.begin_close(slot, current(), reason)
        self._end(slot)
        self.settle()

    def replace(self, dead: Slot[C], deadline: float) -> Slot[C]:
        """Close a dead connection; return another slot for its thread, idle or to be opened."""
        session_end = self._end_session(dead)
        with self._state.lock:
            slot = self._state.replace(dead)
        if dead.permit is not None:
            _release_of(dead, session_end)
        elif slot.permit is not None and not session_end.wait(deadline - monotonic()):
            _release_of(slot, session_end)
        self.settle()
        return slot

    def _end(self, slot: Slot[C]) -> None:
        session_end: SessionEnd | None = None
        try:
            # Before the place is free, so that the server never sees more than max_size connections.
            session_end = self._end_session(slot)
        finally:
            _release_of(slot, session_end)
            with self._state.lock:
                self._state.finish_close(slot)

    def _end_session(self, slot: Slot[C]) -> SessionEnd:
        """Close a connection; with a permit, wait for the server to end the session, because it counts until then."""
        session_end = self._connector.close(slot.connection)
        if slot.permit is None:
            session_end.close()
        else:
            session_end.wait(_SESSION_END_TIMEOUT)
        return session_end


def _release(permit: Permit | None, session_end: SessionEnd | None) -> None:
    if permit is not None:
        permit.release(session_end)


def _release_of(slot: Slot[C], session_end: SessionEnd | None) -> None:
    permit, slot.permit = slot.permit, None
    _release(permit, session_end)
