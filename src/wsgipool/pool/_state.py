"""The state of a pool: its slots, its waiters, and all decisions about them.

Nothing here waits, opens, closes, logs or reads a clock. The caller holds `lock`, unless a docstring says otherwise.

Asynchronous exceptions may come after any call, at the start of a function and where a loop jumps back. CPython
delivers them nowhere else. The same holds for signal handlers and destructors, which may use the pool. So each change
is a row of assignments, and its only call comes last; loops go through copies. Sizes are counted from the slots and
stored nowhere else.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Set
from typing import Generic, get_args

from wsgipool._wakeup import Wakeup
from wsgipool.budget.permits import Permit
from wsgipool.drivers import C
from wsgipool.histogram import Histogram
from wsgipool.pool._slot import (
    CHECKED_OUT,
    CLOSED,
    CLOSING,
    CONNECTING,
    IDLE,
    PREPARING,
    RESERVED,
    RETURNING,
    CloseReason,
    Slot,
    Waiter,
)
from wsgipool.pool._threads import NO_THREAD, ThreadRecord


class PoolState(Generic[C]):
    """The slots and waiters of one pool. The sizes are those of `wsgipool.Pool`.

    `needs_permits`: whether each connection needs a permit of a budget. `has_background`: returns whether a background
    thread opens connections for waiters.
    """

    def __init__(
        self,
        *,
        min_size: int,
        max_size: int,
        max_connecting: int,
        max_idle: float,
        needs_permits: bool,
        has_background: Callable[[], bool],
    ) -> None:
        if max_connecting < 1:
            raise ValueError(
                f"max_connecting must be at least 1, is {max_connecting}: the pool would open no connection"
            )
        _check_sizes(min_size, max_size)
        self.min_size = min_size
        self.max_size = max_size
        self.max_connecting = max_connecting
        self.max_idle = max_idle
        self.needs_permits = needs_permits
        self.is_closed = False
        """Whether the pool is closed: no waiter is served any more."""
        self.is_ending = False
        """Whether no connection is kept idle any more, because the pool is closed or the process ends."""
        self._has_background = has_background
        self.reset()

    def reset(self) -> None:
        """Begin without slots and waiters, also in the child of a fork, where a missing thread may hold the lock."""
        # Reentrant: a signal handler or a destructor may use the pool while its thread holds the lock.
        self.lock = threading.RLock()
        self.slots: dict[Slot[C], None] = {}
        """All slots, in the order in which they were created."""
        self.idle: list[Slot[C]] = []
        """The idle slots. The last one was returned last, and is checked out first."""
        self.waiting: deque[Waiter[C]] = deque()
        self.permits: list[Permit] = []
        """Permits taken for waiters and not used yet."""
        self.closers: list[Wakeup] = []
        """The wake-ups of threads that wait in `close` until all connections are closed."""
        self.to_close = 0
        """Not 0 if there may be CLOSING slots without a thread. Each such slot adds one."""
        self.opened = 0
        self.waits = 0
        self.reset_failures = 0
        """Returned connections that could not be cleaned."""
        self.max_in_use = self.max_waiting = 0
        """The largest numbers of connections in use, and of waiters, at the same time."""
        self.wait_time, self.use_time, self.create_time = Histogram(), Histogram(), Histogram()
        """How long served waiters waited, connections were checked out, and connects took."""
        self.closed: dict[CloseReason, int] = dict.fromkeys(get_args(CloseReason), 0)
        self._checkouts_of_closed = 0
        self._counted = (0, 0)
        self._by_connection: dict[int, Slot[C]] = {}

    # --- counts -----------------------------------------------------------------------------------------------------

    @property
    def connecting(self) -> int:
        return sum(slot.state is CONNECTING for slot in tuple(self.slots))

    @property
    def checkouts(self) -> int:
        return self._checkouts_of_closed + sum(slot.checkouts for slot in tuple(self.slots))

    def count_checkouts(self) -> tuple[int, int]:
        """Return the checkouts so far, and those without a wait. Takes no lock; the numbers never decrease.

        A wait is counted before its checkout, and the checkouts of a slot are moved when it is closed.
        """
        checkouts, (known, known_without_wait) = self.checkouts, self._counted
        self._counted = max(known, checkouts), max(known_without_wait, checkouts - self.waits)
        return self._counted

    def held(self) -> list[Slot[C]]:
        """Return the slots that are checked out."""
        return [slot for slot in tuple(self.slots) if slot.state is CHECKED_OUT]

    def has_room(self) -> bool:
        """Return whether one more connection may be opened."""
        return len(self.slots) < self.max_size and self.connecting < self.max_connecting

    def slot_of(self, connection: C) -> Slot[C] | None:
        """Return the slot of a connection, or None. Needs no lock."""
        return self._by_connection.get(id(connection))

    # --- check out --------------------------------------------------------------------------------------------------

    def take_idle(self, thread: ThreadRecord) -> Slot[C] | None:
        """Return an idle slot for a thread to prepare; None if there is none, or if other threads wait already."""
        if self.waiting or not self.idle:
            return None
        slot = self.idle[-1]
        slot.state = PREPARING
        slot.thread = thread
        self.idle.pop()
        if len(self.slots) - len(self.idle) > self.max_in_use:
            self._note_use()
        return slot

    def add_waiter(self, waiter: Waiter[C]) -> None:
        """Add a waiter at the end of the queue, and serve it if possible."""
        self.waiting.append(waiter)
        self.serve(waiter.asked)
        waiter.is_asleep = waiter.slot is None
        self.max_waiting = max(self.max_waiting, len(self.waiting))

    def is_deadlocked(self, thread: ThreadRecord) -> bool:
        """Return whether waiting threads hold all slots, this thread among them."""
        slots = [slot for slot in tuple(self.slots) if slot.state is not CONNECTING]
        if len(slots) < self.max_size or not any(slot.thread is thread for slot in slots):
            return False
        waiting = {thread, *(waiter.thread for waiter in tuple(self.waiting))}
        return all(slot.state is CHECKED_OUT and slot.thread in waiting for slot in slots)

    def is_waiting(self, thread: ThreadRecord) -> bool:
        """Return whether a thread already waits or connects, so that the caller is a signal handler on top of it."""
        return any(waiter.thread is thread for waiter in tuple(self.waiting)) or any(
            slot.thread is thread and slot.state is CONNECTING for slot in tuple(self.slots)
        )

    def serve(self, now: float) -> None:
        """Assign slots to waiters, first come, first served: an idle slot, or a new one if none can become idle.

        If no connection is kept idle any more, the remaining ones are closed.
        """
        while self.waiting:
            waiter = self.waiting[0]
            if waiter.slot is None:
                if self.idle:
                    slot = self.idle[-1]
                    slot.state = RESERVED
                    slot.thread = waiter.thread
                    waiter.slot = slot
                    self.idle.pop()
                elif self._may_connect():
                    slot = Slot(waiter.thread)
                    if self.needs_permits:
                        slot.permit = self.permits.pop()
                    waiter.slot = slot
                    self.slots[slot] = None
                else:
                    break
            waiter.wake()
            if waiter.is_asleep:
                waiter.is_asleep = False
                self.waits += 1
                self.wait_time.add(now - waiter.asked)
            if self.waiting and self.waiting[0] is waiter:
                self.waiting.popleft()
        self._note_use()
        if self.is_closed and not self.slots:
            for wakeup in self.closers:
                wakeup.set()
        if self.is_ending:
            while self.idle:
                self._close_idle(self.idle[-1], "surplus")

    def wants_permit(self) -> bool:
        """Return whether the first waiter would open a connection if it had a permit."""
        return self.needs_permits and not self.permits and bool(self.waiting) and self._needs_new_connection()

    def _may_connect(self) -> bool:
        return (bool(self.permits) or not self.needs_permits) and self._needs_new_connection()

    def _needs_new_connection(self) -> bool:
        """Return whether there is room, nothing is being opened, and waiting threads have all connections.

        Without a background thread room is enough, because only the waiter itself would open a connection.
        """
        if not self.has_room():
            return False
        slots = tuple(self.slots)
        if any(slot.in_background for slot in slots):
            return False
        waiting = {waiter.thread for waiter in tuple(self.waiting)}
        return not self._has_background() or all(
            slot.thread in waiting for slot in slots if slot.state is not CONNECTING
        )

    def withdraw(self, waiter: Waiter[C]) -> bool:
        """Remove a waiter from the queue and return True; return False if it already has a slot."""
        if waiter.slot is not None:
            return False
        if waiter in self.waiting:
            self.waiting.remove(waiter)
        return True

    # --- open -------------------------------------------------------------------------------------------------------

    def missing(self) -> int:
        """Return the number of waiters for which no connection is being opened in the background."""
        return max(0, len(self.waiting) - sum(slot.in_background for slot in tuple(self.slots)))

    def wanted_openings(self) -> int:
        """Return how many connections the background may open now, for waiters and for `min_size`."""
        if self.is_closed:
            return 0
        wanted = self.missing() if self.is_ending else max(self.missing(), self.min_size - len(self.slots))
        return max(0, min(wanted, self.max_size - len(self.slots), self.max_connecting - self.connecting))

    def begin_openings(self, permits: list[Permit]) -> list[Slot[C]]:
        """Return new slots for the background to open: as many as are wanted, and have permits if those are needed.

        Used permits are removed from the list.
        """
        openings: list[Slot[C]] = []
        for _ in range(self.wanted_openings()):
            if self.needs_permits and not permits:
                break
            slot: Slot[C] = Slot(NO_THREAD)
            slot.in_background = True
            if self.needs_permits:
                slot.permit = permits.pop()
            self.slots[slot] = None
            openings.append(slot)
        return openings

    def add_connection(self, slot: Slot[C], connection: C, expires: float, now: float) -> bool:
        """Store the new connection of a slot; return False if the slot was cancelled meanwhile.

        A connection opened by the background becomes idle. Any other one is checked out by its thread.
        """
        key = id(connection)
        if slot.state is not CONNECTING:
            return False
        slot.connection = connection
        slot.expires = expires
        slot.idle_since = now
        self._by_connection[key] = slot
        self.opened += 1
        if not slot.in_background:
            slot.state = PREPARING
            self._note_use()
            return True
        slot.in_background = False
        slot.thread = NO_THREAD
        slot.state = IDLE
        self.idle.append(slot)
        if slot.is_outdated:
            self._close_idle(slot, slot.close_reason)
        elif len(self.slots) > self.max_size:
            self._shrink()
        return True

    def cancel_connect(self, slot: Slot[C]) -> Permit | None:
        """Remove a slot whose connect failed; return its permit, which the caller must release."""
        if slot.state is not CONNECTING:
            return None
        permit = slot.permit
        slot.permit = None
        slot.in_background = False
        slot.state = CLOSED
        self.slots.pop(slot, None)
        return permit

    def replace(self, dead: Slot[C]) -> Slot[C]:
        """Remove a slot with a dead connection; return another slot for its thread, idle or to be opened.

        A slot to be opened takes over the permit. Otherwise the caller must release it.
        """
        key = id(dead.connection)
        if self.idle:
            slot = self.idle[-1]
            slot.state = PREPARING
            slot.thread = dead.thread
            slot.token = dead.token
            self.idle.pop()
            self._remove(dead, key, "broken")
            return slot
        slot = Slot(dead.thread)
        slot.permit, slot.token = dead.permit, dead.token
        dead.permit = None
        self._remove(dead, key, "broken")
        self.slots[slot] = None
        return slot

    # --- check in ---------------------------------------------------------------------------------------------------

    def check_in(self, slot: Slot[C], now: float) -> None:
        """Make a clean returned slot idle, and assign it to the first waiter if there is one."""
        slot.thread = NO_THREAD
        slot.token = None
        slot.idle_since = now
        slot.state = IDLE
        self.idle.append(slot)
        if slot.is_outdated:
            self._close_idle(slot, slot.close_reason)
        elif len(self.slots) > self.max_size:
            self._shrink()
        if self.waiting or self.is_ending:
            self.serve(now)

    def recover(self, thread: ThreadRecord) -> list[Permit]:
        """End everything that a thread left unfinished, after an asynchronous exception or its end.

        Slots being prepared or returned are closed, reserved ones become idle, and the thread's waiter is removed.
        Checked out slots stay. Returns the permits of cancelled connects, which the caller must release.
        """
        for waiter in tuple(self.waiting):
            if waiter.thread is thread and waiter.slot is None:
                self.waiting.remove(waiter)
        permits = [
            self.recover_slot(slot)
            for slot in tuple(self.slots)
            if slot.thread is thread and slot.state is not CHECKED_OUT
        ]
        return [permit for permit in permits if permit is not None]

    def recover_slot(self, slot: Slot[C]) -> Permit | None:
        """End the unfinished work on a slot; return the permit that the caller must release, if any."""
        if slot.state is CONNECTING:
            return self.cancel_connect(slot)
        if slot.state is RESERVED:
            slot.thread = NO_THREAD
            slot.state = IDLE
            self.idle.append(slot)
        elif slot.state is CHECKED_OUT:
            self._close(slot, "leaked")
        elif slot.state in (PREPARING, RETURNING):
            self._close(slot, "broken")
        elif slot.state is CLOSING:
            slot.thread = NO_THREAD
            self.to_close += 1
        return None

    def threads(self, ident: int) -> set[ThreadRecord]:
        """Return the threads with this identifier that have slots or wait. Needs no lock."""
        threads = {slot.thread for slot in tuple(self.slots)} | {waiter.thread for waiter in tuple(self.waiting)}
        return {thread for thread in threads if thread.ident == ident}

    def reclaim(self, threads: Set[ThreadRecord]) -> list[Slot[C]]:
        """Begin to close the slots that these threads have checked out, and return them."""
        leaked = []
        for slot in tuple(self.slots):
            # A return needs no lock, so it must not come between the check and the move.
            if slot.state is CHECKED_OUT and slot.thread in threads:
                slot.close_reason = "leaked"
                slot.thread = NO_THREAD
                slot.state = CLOSING
                self.to_close += 1
                leaked.append(slot)
        return leaked

    # --- close ------------------------------------------------------------------------------------------------------

    def retire(self, slot: Slot[C], reason: CloseReason) -> None:
        """Begin to close a slot: now if it is idle, else when it is returned."""
        if slot.state is IDLE:
            self._close_idle(slot, reason)
        elif not slot.is_outdated:
            slot.close_reason = reason
            slot.is_outdated = True

    def resize(self, min_size: int, max_size: int) -> None:
        _check_sizes(min_size, max_size)
        self.min_size = min_size
        self.max_size = max_size
        self._shrink()

    def retire_aged(self, now: float) -> None:
        """Retire the slots whose lifetime is over, and those that have been idle for too long."""
        for slot in tuple(self.slots):
            if now >= slot.expires and slot.state not in (CONNECTING, CLOSING):
                self.retire(slot, "lifetime")
        for slot in tuple(self.idle):
            if now - slot.idle_since >= self.max_idle and self._remaining() > self.min_size:
                self._close_idle(slot, "idle")

    def used_since(self, moment: float) -> int:
        """Return how many connections have been in use at some time since `moment`."""
        return sum(slot.state is not IDLE or slot.idle_since > moment for slot in tuple(self.slots))

    def yield_idle(self, number: int) -> None:
        """Begin to close up to `number` idle connections for other pools, the longest idle first."""
        for slot in sorted(self.idle, key=lambda slot: slot.idle_since):
            if number > 0 and slot.permit is not None and slot.permit.is_due():
                self._close_idle(slot, "budget")
                number -= 1

    def begin_close(self, slot: Slot[C], thread: ThreadRecord, reason: CloseReason) -> None:
        """Begin to close a slot that the thread holds or returns."""
        slot.close_reason = reason
        slot.thread = thread
        slot.state = CLOSING

    def next_to_close(self, thread: ThreadRecord) -> Slot[C] | None:
        """Return a slot that the thread must close now, or None."""
        noted = self.to_close
        if not noted:
            return None
        for slot in tuple(self.slots):
            if slot.state is CLOSING and slot.thread is NO_THREAD:
                slot.thread = thread
                return slot
        if self.to_close == noted:
            self.to_close = 0
        return None

    def finish_close(self, slot: Slot[C]) -> None:
        """Remove a slot whose connection is closed."""
        key = id(slot.connection)
        if slot.state is CLOSING:
            self._remove(slot, key, slot.close_reason)

    def close(self) -> None:
        """Reject all waiters, and let `serve` close the connections that are idle or will be returned."""
        self.is_closed = self.is_ending = True
        for waiter in tuple(self.waiting):
            waiter.wake()
        self.waiting.clear()

    def _close(self, slot: Slot[C], reason: CloseReason) -> None:
        slot.close_reason = reason
        slot.thread = NO_THREAD
        slot.state = CLOSING
        self.to_close += 1

    def _close_idle(self, slot: Slot[C], reason: CloseReason) -> None:
        if slot.state is IDLE:
            slot.close_reason = reason
            slot.state = CLOSING
            self.to_close += 1
            self.idle.remove(slot)

    def _shrink(self) -> None:
        for slot in reversed(tuple(self.idle)):
            if self._remaining() <= self.max_size:
                return
            self._close_idle(slot, "surplus")

    def _note_use(self) -> None:
        """Keep the largest number of connections in use."""
        self.max_in_use = max(self.max_in_use, len(self.slots) - len(self.idle) - self.connecting)

    def _remaining(self) -> int:
        """Return the number of slots without the closing ones."""
        return sum(slot.state is not CLOSING for slot in tuple(self.slots))

    def _remove(self, slot: Slot[C], key: int, reason: CloseReason) -> None:
        slot.token = None
        slot.state = CLOSED
        self.closed[reason] += 1
        self._checkouts_of_closed += slot.checkouts
        if key in self._by_connection and self._by_connection[key] is slot:
            del self._by_connection[key]
        self.slots.pop(slot, None)


def _check_sizes(min_size: int, max_size: int) -> None:
    if max_size < 1:
        raise ValueError(f"max_size must be at least 1, is {max_size}")
    if not 0 <= min_size <= max_size:
        raise ValueError(f"min_size must be from 0 to max_size, {max_size}, is {min_size}")
