"""The books of a pool: which connections there are, who has them, who waits, and what becomes of them next.

Every open connection has a slot. A slot is idle, or lent to one thread, or on its way between the two in the hands of
the thread that carries it; doomed, when it is to be closed; gone, when it is. Sizes are counted from what is there
and kept nowhere else, so an exception at any point, an asynchronous one too, leaves nothing that a look at the books
does not put right.

Nothing here waits, opens, closes or logs. What decides is called under the lock; lending an idle connection and
taking it back are a pop and an append of a deque, which are atomic (on free-threaded Python too), and need none.
"""

from __future__ import annotations

import threading
from collections import deque
from time import monotonic
from typing import Any, Generic, get_args

from wsgipool.drivers import C
from wsgipool.errors import PoolClosed, PoolDeadlock, TooManyRequests
from wsgipool.housekeeping import housekeeping
from wsgipool.loan import NOTED, Ending, Opening, Slot, Waiter, describe_holders, describe_stacks
from wsgipool.lost import find_lost, find_lost_waiters
from wsgipool.permits import IDLE_LOOK, Permits


class Ledger(Generic[C]):
    """What a pool knows of itself. The settings are those of `wsgipool.Pool`."""

    # What a loan touches lies side by side, here and in the subclasses: in a site, and with a thousand pools, it is the
    # processor's cache that decides.
    __slots__ = (
        "__dict__", "__weakref__", "_by_lock", "_free", "_idle", "_lends_as_is", "_returns_as_is", "_slots", "permits",
    )  # fmt: skip

    def __init__(
        self,
        *,
        name: str,
        min_size: int,
        max_size: int,
        max_waiting: int,
        max_connecting: int,
        max_idle: float,
        permits: Permits | None = None,
    ) -> None:
        self.name = name
        self.min_size = min_size
        self.max_size = max_size
        self.max_waiting = max_waiting
        self.max_connecting = max_connecting
        self.max_idle = max_idle
        self.permits = permits
        self._lends_as_is = self._returns_as_is = False
        """Whether there is nothing to do when a connection is lent, and when it comes back."""
        self._closed = False
        self._winding_down = False
        self._start_empty()

    def _start_empty(self) -> None:
        self._lock = threading.RLock()  # never entered twice, but it knows whether this thread is in it: _settle()
        self._slots: dict[object, Slot[C]] = {}  # by Slot.key
        self._idle: deque[Slot[C]] = deque()
        self._gone: deque[Slot[C]] = deque()  # closed, and still to be struck off the slots
        self._connecting: set[Waiter[C] | Opening] = set()
        self._waiting: deque[Waiter[C]] = deque()
        self._doomed: deque[Slot[C]] = deque()  # to be closed by whoever comes by
        self._closers: list[Waiter[C]] = []
        self._interrupted: dict[int, object] = {}  # by thread: the watch on its request
        self._retiring = False  # some connections are to be closed when they come back
        self._lend_by_lock(self._winding_down)
        self._loans_of_the_gone = 0
        self._waits = self._timeouts = self._refused = self._opened = self._connect_failures = 0
        self._wait_seconds = 0.0
        self._turn = 1.0
        """Seconds between two who are served out of the queue, as the last eight or so have seen it."""
        self._endings: dict[Ending, int] = dict.fromkeys(get_args(Ending), 0)

    @property
    def idle(self) -> int:
        """Connections that are open and free."""
        return len(self._idle)

    @property
    def in_use(self) -> int:
        """Connections that a borrower holds."""
        return len(self._slots) - len(self._gone) - len(self._idle)

    @property
    def waiting(self) -> int:
        """Borrowers that wait for a connection."""
        return len(self._waiting)

    @property
    def size(self) -> int:
        """Connections that are open or being opened; never more than `max_size`."""
        return len(self._slots) - len(self._gone) + len(self._connecting)

    def _lend_by_lock(self, by_lock: bool) -> None:
        """Say whether somebody waits, or else: then idle connections go to nobody without the lock."""
        self._by_lock = by_lock
        self._free = _NONE if by_lock else self._idle
        """Those that can be lent at once."""

    # --- under the lock: who comes next -----------------------------------------------------------------------------

    def _refuse_within_itself(self) -> None:
        """Raise where this thread is in the middle of changing the state: in a signal handler or a destructor."""
        if self._lock._is_owned():  # type: ignore[attr-defined]
            raise PoolDeadlock(
                f"a signal handler or a destructor asked pool {self.name!r} for a connection while its thread was "
                "giving one out; it cannot wait for what the thread under it would do"
            )

    def _refuse_the_hopeless(self, waiter: Waiter[C]) -> None:
        if self._closed:
            raise PoolClosed(f"pool {self.name!r} is closed")
        if any(one.thread_id == waiter.thread_id for one in (*self._connecting, *self._waiting)):
            raise PoolDeadlock(
                f"a signal handler or a destructor asked pool {self.name!r} for a connection while its thread was "
                "waiting for one; it cannot wait for what would go to the thread under it first"
            )
        if self._holds_one(waiter.thread_id) and self.in_use >= self.max_size:
            holding = {slot.thread_id for slot in self._slots.values()}
            # Where one is on its way back 0 is among those that hold, and never among those that wait.
            if holding <= self._threads_that_wait(waiter):
                held = list(self._slots.values())
                raise PoolDeadlock(
                    f"all {self.max_size} connections of pool {self.name!r} are held by this thread and others that "
                    f"wait for one more ({describe_holders(held, waiter.asked)}), so it would never come; give "
                    "back what was borrowed before, by putconn() (a connection's close() does not), or pass it on"
                    f"{describe_stacks(held)}"
                )
        if self.max_waiting and len(self._waiting) >= self.max_waiting:
            self._refused += 1
            raise TooManyRequests(
                f"{len(self._waiting)} requests wait for pool {self.name!r} already, as many as max_waiting allows: "
                f"{self._counts()}"
            )

    def _holds_one(self, thread_id: int) -> bool:
        for slot in self._slots.values():
            borrower = slot.borrower  # as Slot.thread_id, in line: whoever has to wait asks this of all
            if borrower == thread_id or (not isinstance(borrower, int) and borrower.thread_id == thread_id):
                return True
        return False

    def _threads_that_wait(self, one_more: Waiter[C]) -> set[int]:
        return {waiter.thread_id for waiter in (one_more, *self._waiting)}

    def _decide(self) -> bool:
        """Say what becomes of the idle connections and of those who wait, and whether one was woken. Under the lock.

        Each waiter is recorded as served, then woken, then taken from the queue, so that an exception between any two
        of these lines strands nobody: the next to come by goes on from there.
        """
        has_woken = False
        while self._gone:
            self._strike_off(self._gone[0])
            self._gone.popleft()
        if self._retiring:
            self._doom_the_surplus()
        while self._waiting:
            waiter = self._waiting[0]
            if waiter.slot is None and waiter not in self._connecting:
                try:
                    idle = self._idle.pop() if self._idle else None
                except IndexError:
                    idle = None  # lent meanwhile
                if idle is not None:
                    waiter.slot = idle
                    idle.borrower = waiter.borrower
                else:
                    is_full = len(self._slots) >= self.max_size
                    if is_full or not self._may_connect_itself() or not self._take_permit(waiter, len(self._waiting)):
                        break
                    self._connecting.add(waiter)
            waiter.wake()
            if waiter.sleeps or waiter.has_waited:
                now = monotonic()
                self._waits += 1
                self._wait_seconds += now - waiter.asked
                if waiter.sleeps:
                    has_woken = True
                    self._turn += ((now - waiter.queued) / waiter.place - self._turn) / 8
            self._waiting.popleft()
        if self.permits is not None and not self._waiting:
            self.permits.sated()
        by_lock = bool(self._waiting) or self._retiring
        if by_lock != self._by_lock:
            self._lend_by_lock(by_lock)
        if self._winding_down:
            self._lend_by_lock(True)  # a signal handler may have said so in the middle of the lines above
        if self._closed and not self.size:
            for closer in self._closers:
                closer.wake()
        return has_woken

    def _may_connect_itself(self) -> bool:
        """Tell whether a waiter has nothing to wait for: nobody else can give back, and nothing is being opened."""
        if not self._has_room() or self._openings():
            return False
        waiting = {waiter.thread_id for waiter in self._waiting}
        # 0 is one on its way back.
        return not housekeeping.is_running or all(slot.thread_id in waiting for slot in self._slots.values())

    def _begin_openings(self) -> list[Opening]:
        if self._closed:
            return []
        hunger = wanted = max(0, len(self._waiting) - self._openings())
        if not self._winding_down:
            wanted = max(wanted, self.min_size - self.size)
        room = min(wanted, self.max_size - self.size, self.max_connecting - len(self._connecting))
        openings: list[Opening] = []
        # What min_size asks for is no hunger: nobody waits for it.
        while len(openings) < room and self._take_permit(opening := Opening(), max(0, hunger - len(openings))):
            self._connecting.add(opening)
            openings.append(opening)
        return openings

    def _take_permit(self, one: Waiter[C] | Opening, wanted: int) -> bool:
        """Get leave to open a connection, where the pool has a budget; tell whether it may be opened."""
        if self.permits is None or one.permit is not None:
            return True
        one.permit = self.permits.take(wanted)
        return one.permit is not None

    def _openings(self) -> int:
        return sum(isinstance(one, Opening) for one in self._connecting)

    def _enter(self, slot: Slot[C], opener: Waiter[C] | Opening) -> None:
        """Enter a connection that was just opened. Under the lock."""
        self._slots[slot.key] = slot  # an exception from outside comes with a call: the two lines are done or not
        self._opened += 1
        self._connecting.discard(opener)
        if opener.is_outdated:
            self._retire(slot, "surplus")

    def _has_room(self) -> bool:
        return self.size < self.max_size and len(self._connecting) < self.max_connecting

    def _is_unsettled(self) -> bool:
        return bool(self._gone or self._doomed or (self._idle and (self._waiting or self._winding_down)))

    def _idle_now(self) -> list[Slot[C]]:
        while True:
            try:
                return list(self._idle)
            except RuntimeError:
                pass  # without a GIL: one was lent or given back meanwhile

    def _missing(self) -> list[Slot[C]]:
        """Return the slots that are neither idle nor lent nor carried: on their way from one to the other, or lost."""
        idle = set(self._idle_now())
        return [slot for slot in list(self._slots.values()) if not (slot.borrower or slot.carrier or slot in idle)]

    def _may_have_lost(self) -> bool:
        """Tell whether some are missing that nobody is closing."""
        return any(not slot.is_leaving for slot in self._missing())

    def _pop_idle(self) -> Slot[C] | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    # --- under the lock: what is to be closed -----------------------------------------------------------------------

    def _retire(self, slot: Slot[C], ending: Ending) -> None:
        """Have a slot closed when it comes back, or now if it is idle."""
        slot.ending = ending
        slot.retired = True
        self._retiring = True
        self._lend_by_lock(True)

    def _doom(self, slot: Slot[C], ending: Ending) -> None:
        """Leave a slot that nobody can borrow any more to `_settle`, which closes it outside the lock."""
        slot.ending = ending
        slot.retired = False
        slot.is_leaving = True
        self._doomed.append(slot)

    def _staying(self) -> int:
        """Return how many connections there will be when those are gone that somebody is about to close, or closes."""
        return self.size - sum(slot.is_leaving for slot in self._slots.values())

    def _doom_the_surplus(self) -> None:
        for slot in self._idle_now():
            if slot.retired and self._grab(slot):
                self._doom(slot, slot.ending)
        while self._staying() > self.max_size and (idle := self._pop_idle()) is not None:
            self._doom(idle, "surplus")
        self._retiring = self._staying() > self.max_size or any(slot.retired for slot in self._slots.values())

    def _doom_the_aged(self, now: float) -> None:
        self._look_at_use(now)
        for slot in self._slots.values():
            if now >= slot.expires and not slot.retired:
                self._retire(slot, "lifetime")
        for slot in self._idle_now():
            if self._staying() <= self.min_size:
                break
            if now - slot.quiet_since >= self.max_idle and self._grab(slot):
                self._doom(slot, "idle")

    def _look_at_use(self, now: float) -> None:
        """Note which were lent since the last look: those that are lent as they are tell no more than that."""
        for slot in self._slots.values():
            if slot.used:
                if self._lends_as_is and slot.used != NOTED:
                    slot.since = now
                    slot.code = None
                slot.used = False
                slot.quiet_since = now
            elif slot.borrower:
                slot.quiet_since = now

    def _doom_for_others(self, now: float) -> None:
        """Give up idle connections, the oldest first, where other processes that share the budget want them."""
        if self.permits is None or not self.permits.others_hunger():
            return
        idle = sorted(self._idle_now(), key=lambda slot: slot.idle_since)
        if not idle:
            return
        is_at_work = self.in_use > 0 or any(now - slot.idle_since < IDLE_LOOK for slot in idle)
        for slot in idle[: self.permits.to_give_up(keep=int(is_at_work))]:
            if slot.permit is not None and slot.permit.is_due() and self._grab(slot):
                self._doom(slot, "budget")

    def _doom_the_lost(self) -> list[Slot[C]]:
        """Doom the slots that nobody will give back any more, and return those that are still lent. Under the lock."""
        for one in find_lost_waiters(self._connecting):
            self._connecting.discard(one)
            if one.permit is not None:
                one.permit.release()
        for waiter in find_lost_waiters(self._waiting):
            self._waiting.remove(waiter)
        dropped, left = find_lost(self._slots.values())
        for slot in dropped:
            self._doom(slot, "broken")
        for slot in left:
            slot.borrower = 0
            self._doom(slot, "leaked")
        return left

    def _note_interruption(self, thread_id: int, watch: object) -> None:
        """Keep a watch that is not over, so that the end of its request has the thread looked after."""
        if watch is not None:
            self._interrupted[thread_id] = watch

    def _forget_thread(self, thread_id: int) -> None:
        """Forget that a thread waits or connects. Under the lock.

        An asynchronous exception can strike before, or in, the code that would have undone these.
        """
        if any(one.thread_id == thread_id for one in (*self._connecting, *self._waiting)):
            self._connecting = {one for one in self._connecting if one.thread_id != thread_id}
            self._waiting = deque(waiter for waiter in self._waiting if waiter.thread_id != thread_id)

    def _grab(self, slot: Slot[C]) -> bool:
        """Take a certain slot from the idle ones; False if it has been lent meanwhile."""
        try:
            self._idle.remove(slot)
        except (ValueError, IndexError):
            return False
        return True

    def _strike_off(self, slot: Slot[C]) -> None:
        slot.watch = None
        if self._slots.get(slot.key) is slot:
            # An exception from outside comes with a call: the three lines are done or not.
            del self._slots[slot.key]
            self._loans_of_the_gone += slot.loans
            self._endings[slot.ending] += 1

    def _loans_so_far(self) -> int:
        return self._loans_of_the_gone + sum(slot.loans for slot in self._slots.values())

    # --- in words ---------------------------------------------------------------------------------------------------

    def _not_lent(self) -> ValueError:
        return ValueError(
            f"this connection is not lent out by pool {self.name!r}: it was given back before, taken back at the end "
            "of its request, or belongs to another pool"
        )

    def _counts(self) -> str:
        return (
            f"{self.in_use} in use, {len(self._connecting)} connecting, {self.idle} idle of max_size {self.max_size}, "
            f"{self.waiting} waiting"
        )


_NONE: deque[Any] = deque()
