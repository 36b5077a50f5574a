"""Lending: how a borrower comes by a connection. It waits, connects and checks, outside the lock of the books.

A borrower that finds nothing idle and nothing lent to others connects by itself. While others hold connections, which
may come back at any moment, it waits for what comes first: one of those, or a new one that is opened in the
background.

Whoever has come into the queue is served before all that come later. A queue that keeps everybody longer than the work
does is given time to end before one more enters it.

No wake-up is lost: who gives back appends to the idle ones and then looks whether anybody waits; who has to wait
enters the queue and then looks once more for an idle one. Whoever finds both brings them together, under the lock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from threading import get_ident
from time import monotonic, sleep
from types import FrameType
from typing import Any

from wsgipool.connector import Connector
from wsgipool.drivers import C
from wsgipool.errors import ConnectFailed, PoolClosed, PoolError, PoolTimeout
from wsgipool.farewell import UNSEEN, Farewell
from wsgipool.housekeeping import housekeeping
from wsgipool.loan import Borrower, Opening, Slot, Waiter, describe_holders
from wsgipool.returning import Returning, release_permit

logger = logging.getLogger("wsgipool")

_SHORTEST_ROUND, _LONGEST_ROUND = 0.05, 30.0
"""Seconds between two rounds of housekeeping; in between, a tenth of the shortest age that it looks for."""
_OPENING_TIMEOUT = 30.0
"""Seconds that a connect in the background may take, where the driver's own connect_timeout is not shorter. Not the
pool's `timeout`, which is a borrower's, and may be 0."""
_LONG_WAIT = 0.25
"""Seconds after which one who waits has housekeeping look whether what would serve it has been lost."""
_LOOK_BY_ITSELF = 0.1
"""Seconds after which one who waits for a place in the budget sees whether housekeeping still asks for one."""
_QUICK_TURN = 75e-6
"""Seconds between two who are served out of a queue, below which it is their coming and going that takes the time: to
wake a thread takes 10 to 60 µs (measured on Linux), a lookup about 150 of the one processor that runs Python."""


class Lending(Returning[C]):
    """What a pool does behind its doors."""

    __slots__ = ("_debug", "_trusted_for", "timeout", "watch")

    def __init__(
        self,
        connector: Connector[C],
        *,
        timeout: float,
        max_lifetime: float,
        debug: bool,
        **sizes: Any,
    ) -> None:
        self.timeout = timeout
        self.max_lifetime = max_lifetime
        self._debug = debug
        self.watch: Callable[[], object] | None = None
        """Called on the thread of the borrower before a loan; not for a plain callable's connections, which are lent as
        they are. What it returns is dropped when the connection has been given back, and not before."""
        self._trusted_for = connector.trusted_for
        super().__init__(connector, **sizes)
        self._lends_as_is = self._is_plain and not debug

    def _borrow(self, borrower: int | Borrower, thread_id: int, timeout: float | None, frame: FrameType) -> Slot[C]:
        watch = None if self.watch is None else self.watch()
        limit = self.timeout if timeout is None else timeout
        slot: Slot[C] | None = None
        try:
            try:
                if not self._by_lock and not self._lends_as_is:
                    slot = self._idle.pop()
            except IndexError:
                pass
            if slot is None:
                return self._wait(borrower, limit, frame, watch)
            slot.borrower = borrower
            slot.watch = watch
            # As _is_usable(), in line: code that is cold in the processor's cache costs by the call.
            slot.since = now = monotonic()
            slot.used = True
            slot.loans += 1
            slot.code = frame.f_code
            slot.instruction = frame.f_lasti
            if self._debug:
                slot.note_stack(frame)
            try:
                is_usable = self._driver.check_out(slot.connection, thread_id, limit)
                if is_usable and now - slot.idle_since > self._trusted_for:
                    self._connector.ask(slot, limit)
            except Exception as error:
                self._connector.explain_closing(error, "it was not fit to be used again")
                is_usable = False  # whatever its driver trips over, nobody could work with it
            return slot if is_usable else self._another(slot, limit, frame)
        except BaseException as error:
            # Whatever its class: a signal handler raises what it likes, wherever this thread is.
            if slot is not None and slot.borrower is borrower:
                self._take_back(slot, None, keep=False)
            slot = None
            with self._lock:
                self._forget_thread(thread_id)
            if not isinstance(error, PoolError):
                self._note_interruption(thread_id, watch)
                self._tell_of_interrupted_blocks(self._find_the_lost())
            elif self._may_have_lost():
                housekeeping.call()
            raise

    def _another(self, slot: Slot[C], limit: float, frame: FrameType) -> Slot[C]:
        """Return another one for a slot whose connection is dead: an idle one, or new."""
        self._refuse_within_itself()
        waiter = Waiter(slot.borrower, limit, slot, asked=slot.since, watch=slot.watch)
        waiter.touched = True
        try:
            self._replace_dead(waiter)
            return self._ready(waiter, frame)
        except BaseException:
            self._withdraw(waiter)
            raise

    def _wait(self, borrower: int | Borrower, limit: float, frame: FrameType, watch: object) -> Slot[C]:
        self._refuse_within_itself()
        waiter: Waiter[C] = Waiter(borrower, limit, watch=watch)
        try:
            if self._waiting and self._turn < _QUICK_TURN:
                self._let_the_queue_end(waiter)
            with self._lock:
                if self._lends_as_is and not self._waiting:
                    self._look_at_use(waiter.asked)
                self._refuse_the_hopeless(waiter)
                if not self._by_lock:
                    self._lend_by_lock(True)
                self._waiting.append(waiter)
                waiter.place = len(self._waiting)
                waiter.queued = monotonic()
                # Mostly all are lent, and whoever gives one back will see to the rest.
                is_open = len(self._slots) < self.max_size or bool(self._idle or self._gone or self._doomed)
                if is_open:
                    self._decide()
                waiter.sleeps = bool(self._waiting) and self._waiting[-1] is waiter
            if is_open and self._is_unsettled():
                self._settle()
            if waiter.sleeps:
                if self.permits is not None:
                    housekeeping.watch(self)  # though it has no connection yet, somebody has to ask for a permit
                if is_open:
                    self._call_for_those_who_wait()
                if not self._sleep(waiter):
                    self._stop_waiting(waiter)
            return self._ready(waiter, frame)
        except BaseException:
            self._withdraw(waiter)
            raise

    def _let_the_queue_end(self, waiter: Waiter[C]) -> None:
        """Wait for as long as the queue should take, instead of at its end: one that all come back to never ends.

        Each turn out of a queue costs a switch of threads. Where that takes longer than what is done with the
        connection, all stand in the queue for the queue's sake; without one, whoever runs has turn after turn. Where
        there is something to do, a turn takes longer, and who comes stands in the queue at once.
        """
        with self._lock:
            self._refuse_the_hopeless(waiter)
            seconds = len(self._waiting) * self._turn
        if seconds < waiter.remaining():
            waiter.has_waited = True
            sleep(seconds)

    def _ready(self, waiter: Waiter[C], frame: FrameType) -> Slot[C]:
        """Return what a served waiter has got, if its connection is dead another, or a new one."""
        while (slot := waiter.slot) is not None:
            slot.watch = waiter.watch
            if self._lends_as_is:
                slot.note(frame, debug=False)
                return slot
            waiter.touched = True
            if self._is_usable(slot, waiter.thread_id, waiter.remaining(), frame):
                return slot
            self._replace_dead(waiter)
        return self._connect(waiter, frame)

    def _is_usable(self, slot: Slot[C], thread_id: int, timeout: float, frame: FrameType) -> bool:
        """Note a loan, make its connection ready for the borrower, and tell whether it is."""
        slot.note(frame, self._debug)
        try:
            if not self._driver.check_out(slot.connection, thread_id, timeout):
                return False
            if slot.since - slot.idle_since > self._trusted_for:
                self._connector.ask(slot, timeout)
        except Exception as error:
            self._connector.explain_closing(error, "it was not fit to be used again")
            return False  # whatever its driver trips over, nobody could work with it
        return True

    def _sleep(self, waiter: Waiter[C]) -> bool:
        if waiter.wait(_LONG_WAIT):
            return True
        if waiter.remaining() <= 0:
            return False
        housekeeping.call()
        if self.permits is None:
            return waiter.wait()
        while not waiter.wait(_LOOK_BY_ITSELF):
            if waiter.remaining() <= 0:
                return False
            if not housekeeping.is_running:
                self._settle()  # the process ends, and its last requests have to ask for themselves
        return True

    def _stop_waiting(self, waiter: Waiter[C]) -> None:
        with self._lock:
            if waiter in self._waiting:
                raise self._timed_out(waiter)
        # Served in the last moment.

    def _replace_dead(self, waiter: Waiter[C]) -> None:
        """Swap a dead connection for another idle one, or for the room to open one: the turn stays the waiter's."""
        dead = waiter.slot
        assert dead is not None
        dead.ending = "broken"
        waiter.permit, dead.permit = dead.permit, None
        farewell = self._say_goodbye(dead, waiter.permit)
        with self._lock:
            dead.borrower = 0
            self._strike_off(dead)
            waiter.slot = idle = self._pop_idle()
            if idle is None:
                self._connecting.add(waiter)
            else:
                idle.borrower = waiter.borrower
        if idle is not None or (waiter.permit is not None and not farewell.wait(waiter.remaining())):
            release_permit(waiter, farewell)
        self._settle()

    def _connect(self, waiter: Waiter[C], frame: FrameType) -> Slot[C]:
        if self._closed:
            raise PoolClosed(f"pool {self.name!r} was closed while this request waited for it")
        pause = self._connector.useless_pause_left()
        if pause > 0:
            # The servers that were reached could do no work. Soon a balancer will have noticed.
            sleep(max(0.0, min(pause, waiter.remaining())))
        remaining = waiter.remaining()
        if remaining <= 0:
            with self._lock:
                raise self._timed_out(waiter)
        slot = self._opened_by(waiter, remaining)
        slot.borrower = waiter.borrower
        slot.watch = waiter.watch
        slot.note(frame, self._debug)
        waiter.touched = True
        with self._lock:
            waiter.slot = slot
            self._enter(slot, waiter)
        self._settle()  # the next may connect
        housekeeping.watch(self)
        return slot

    def _opened_by(self, one: Waiter[C] | Opening, timeout: float) -> Slot[C]:
        is_tried = self._connector.failure_pause_left() <= 0
        if one.permit is not None:
            one.permit.is_used = is_tried
        began = monotonic()
        try:
            slot = self._connector.open(timeout, one.thread_id)
        except ConnectFailed:
            # What took long the server may still be busy with.
            release_permit(one, Farewell(unseen=min(monotonic() - began, UNSEEN) if is_tried else 0.0))
            with self._lock:
                self._connect_failures += is_tried
            raise
        slot.permit, one.permit = one.permit, None
        return slot

    def _withdraw(self, waiter: Waiter[C]) -> None:
        """Undo what a waiter has got that leaves without a connection, and pass its turn on."""
        with self._lock:
            self._connecting.discard(waiter)
            release_permit(waiter)
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            slot = waiter.slot
            if slot is not None and slot.borrower is waiter.borrower:
                slot.borrower = 0
                if waiter.touched:
                    # Interrupted in the middle of an answer, perhaps: it may be out of step.
                    self._doom(slot, "broken")
                else:
                    self._idle.append(slot)
        self._settle()
        self._call_for_those_who_wait()

    def tend(self) -> float | None:
        """Do what time brings, for the thread of `wsgipool.housekeeping`; return the seconds until the next round."""
        if self.permits is not None and self._waiting and not self._slots:
            # There is nothing to look after but its turn, and that may be far away.
            until_turn = self.permits.until_turn()
            if until_turn > 0.0:
                return until_turn
        pause = self._look_after()
        asked = self.permits.tend(bool(self._slots)) if self.permits is not None else None
        return min((one for one in (pause, asked) if one is not None), default=None)

    def _look_after(self) -> float | None:
        with self._lock:
            leaked = self._doom_the_lost()
            self._doom_the_aged(monotonic())
            self._doom_for_others(monotonic())
        self._settle()
        self._tell_of_interrupted_blocks(leaked)
        with self._lock:
            openings = [] if self._connector.pause_left() > 0 else self._begin_openings()
            least = 0 if self._winding_down else self.min_size
            is_short = self.size < (self.max_size if self._waiting else least)
        for opening in openings:
            if not housekeeping.run(partial(self._open, opening)):
                self._open(opening)
        if self._winding_down and not self._slots:
            return None
        if is_short:
            return max(_SHORTEST_ROUND, self._connector.pause_left())
        if self._may_have_lost():
            return _SHORTEST_ROUND
        if not self._slots and not self._connecting:
            return None
        return min(max(_SHORTEST_ROUND, min(self.max_idle, self.max_lifetime) / 10), _LONGEST_ROUND)

    def _open(self, opening: Opening) -> None:
        opening.thread_id = get_ident()
        slot: Slot[C] | None = None
        try:
            slot = self._opened_by(opening, _OPENING_TIMEOUT)
            self._driver.check_in(slot.connection, None)
            slot.idle_since = monotonic()
        except ConnectFailed:
            pass  # it is in the log, and those who wait go on waiting
        finally:
            with self._lock:
                self._connecting.discard(opening)
                release_permit(opening)  # if the slot has not got it
                if slot is not None:
                    self._enter(slot, opening)
                    self._idle.append(slot)
                self._decide()
            self._settle()
            housekeeping.call()

    def _timed_out(self, waiter: Waiter[C]) -> PoolTimeout:
        self._timeouts += 1
        held = [slot for slot in self._slots.values() if slot.thread_id]
        holders = f"; held: {describe_holders(held, monotonic())}" if held else ""
        trouble = self._connector.describe_trouble()
        is_budget = self.permits is not None and self.permits.hungers
        return PoolTimeout(
            f"no connection of pool {self.name!r} became free within {waiter.limit:g} s: {self._counts()}{holders}"
            f"{trouble and f'; {trouble}'}"
            f"{f'; {self.permits.describe()}' if self.permits is not None and is_budget else ''}. "
            f"Hold connections for less time, {'' if is_budget else 'raise max_size, '}or wait longer with timeout"
        )
