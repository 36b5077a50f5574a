"""What a thread holds: taken at once and in one order, given back whatever happens.

A hold knows what it is about to take before it takes it, and giving back takes away what is there. So it can be done
again, and is done again where an exception from outside has struck in the middle of it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from threading import get_ident
from time import monotonic, perf_counter_ns
from types import CodeType, FrameType

from wsgipool.errors import LockLost, LockOrderError, LockTimeout, WrongThread
from wsgipool.loan import line_of
from wsgipool.locks.plan import NOTHING, TIMED, Outer, Plan, Resource, every_resource
from wsgipool.locks.rwlock import Turn

logger = logging.getLogger("wsgipool")

on_new_thread: Callable[[], object] | None = None
"""Called when a thread of this process is about to hold something for the first time."""


class Holder:
    """A thread, and what it holds."""

    def __init__(self) -> None:
        self.thread_id = get_ident()
        self.thread_name = threading.current_thread().name
        self.exclusive = Turn(self, shared=False)
        self.shared = Turn(self, shared=True)
        self.outermost = Hold(self)
        """The hold that is taken while the thread has no other: most are, and it is made once."""
        self.inner: list[Hold] = []
        """Those that were taken while there was another, the outermost first."""
        self.left_to_parent: list[int] = []
        """The blocks that this thread was in when it was forked."""

    @property
    def holds(self) -> list[Hold]:
        """The outermost first."""
        return [hold for hold in (self.outermost, *self.inner) if hold.plan is not NOTHING]

    def free_hold(self) -> Hold:
        """Return a hold to take, in which this thread has nothing yet."""
        hold = self.outermost
        return hold if hold.plan is NOTHING and not self.inner else Hold(self)

    def held(self) -> dict[Resource, tuple[bool, Hold]]:
        """Return what the thread has, whether shared, and by which hold."""
        return {
            resource: (shared, hold) for hold in reversed(self.holds) for _, _, shared, resource in hold.taken.steps
        }

    def give_all_back(self) -> None:
        """Give back what the thread has left behind: a generator that it never closed, a block that it never left."""
        for hold in self.holds[::-1]:
            hold.raised = True  # nobody is there to hear of a lost one
            hold.release()


class _Thread(threading.local):
    """This thread's part."""

    holder: Holder | None = None
    end: _EndOfThread


class _EndOfThread:
    """Lies with what belongs to a thread, and is dropped with it."""

    def __init__(self, holder: Holder) -> None:
        self._holder = holder
        self._holders = _holders

    def __del__(self) -> None:
        if self._holders.get(self._holder.thread_id) is self._holder:
            del self._holders[self._holder.thread_id]
        if this_thread is not None and self._holder.holds:  # None: the interpreter ends
            self._holder.give_all_back()


_holders: dict[int, Holder] = {}
_left_to_parent: list[int] = []
this_thread = _Thread()


def this_holder() -> Holder:
    """Return the thread that calls, as a holder."""
    holder = this_thread.holder
    if holder is None:
        if on_new_thread is not None:
            on_new_thread()
        holder = Holder()
        if holder.thread_id == threading.main_thread().ident:
            # After a fork, the one thread that is there.
            holder.left_to_parent = _left_to_parent.copy()
        this_thread.end = _EndOfThread(holder)
        _holders[holder.thread_id] = holder
        this_thread.holder = holder
    return holder


class Hold:
    """One call's or block's locks. `take` and then, in any case, `release`."""

    __slots__ = ("_code", "_instruction", "block", "deadline", "holder", "plan", "raised", "since", "taken")

    def __init__(self, holder: Holder) -> None:
        self.holder = holder
        self.plan = NOTHING
        """What is wanted; NOTHING until it is taken, and once it is given back."""
        self.taken = NOTHING
        """What is taken: without what the thread has already."""
        self.block = 0
        """The id() of the `with` block, which is not kept alive by what it holds; 0 for a function."""
        self.raised = False
        """Whether the block has raised, so that a lost lock is no more the news."""
        self.since = 0
        self.deadline: float | None = None
        self._code: CodeType | None = None
        self._instruction = -1

    def take(self, plan: Plan, block: int = 0, frame: FrameType | None = None) -> None:
        """Take all that the thread has not yet, for a function or for a block and its place in the code.

        Raises LockOrderError and LockTimeout; `release` has to follow then.
        """
        holder = self.holder
        self.block = block
        if frame is not None:
            self._code = frame.f_code
            self._instruction = frame.f_lasti
        self.raised = False
        self.deadline = None
        if self is holder.outermost:
            self.plan = self.taken = taken = plan
        else:
            self.plan = plan
            self.taken = taken = self._without_what_is_held(holder)
            holder.inner.append(self)
        for _, owners, shared, resource in taken.steps:
            turn = holder.shared if shared else holder.exclusive
            owners.append(turn)
            if len(owners) > 1:
                self.wait(resource, turn)
            if resource.outer is not None:
                self._take_outer(resource, resource.outer, shared)
        self.since = perf_counter_ns()

    def release(self) -> None:
        """Give back what was taken, as far as it was; once more does nothing. Raises LockLost, once all is given back.

        Raises WrongThread in another thread than that which holds it, and gives nothing back.
        """
        if self.plan is NOTHING:
            return
        holder = self.holder
        if holder is not this_thread.holder:
            self._refuse_others(holder)
        inner = holder.inner
        if inner and inner[-1] is not self:
            self._leave_to_others(holder)
        taken = self.taken
        if since := self.since:
            self.since = 0
            taken.turns = turns = taken.turns + 1
            if turns % TIMED == 1:
                taken.holds[(perf_counter_ns() - since).bit_length()] += 1
        lost: LockLost | None = None
        for lock, owners, shared, resource in taken.steps:
            if resource.outer is not None:
                lost = self._give_back_outer(resource.outer, holder) or lost
            turn = holder.shared if shared else holder.exclusive
            if lock.queue or turn not in owners.copy():
                lock.give_back(turn, perf_counter_ns())
            else:
                owners.remove(turn)
                if lock.queue and not lock.is_rung:
                    lock.wake()
        if inner and self in inner:
            inner.remove(self)
        self.forget()
        if lost is not None and not self.raised:
            raise lost

    def forget(self) -> None:
        """Hold nothing any more."""
        self.block = self.since = 0
        self._code = None
        self.plan = self.taken = NOTHING

    def __str__(self) -> str:
        names = ", ".join(str(resource) for *_, resource in self.plan.steps)
        return f"{names}, taken at {self.place}"

    @property
    def place(self) -> str:
        """Where in the code it was taken: file, line and function."""
        code = self._code or self.plan.code
        if code is None:
            return "an unknown place"
        line = line_of(code, self._instruction) if self._code else code.co_firstlineno
        return f"{code.co_filename}:{line} in {code.co_name}"

    # --- what is held already ---------------------------------------------------------------------------------------

    def _without_what_is_held(self, holder: Holder) -> Plan:
        held = holder.held()
        wanted: dict[Resource, bool] = {}
        for _, _, shared, resource in self.plan.steps:
            if resource not in held:
                wanted[resource] = shared
            elif held[resource][0] and not shared:
                raise LockOrderError(
                    f"{resource} is wanted for writing at {self.place}, and this thread has it for reading only, taken "
                    f"at {held[resource][1].place}; two that did so would wait for each other. Take it for writing "
                    "from the start"
                )
        if wanted and held:
            first, last = next(iter(wanted)), max(held, key=lambda resource: resource.key)
            if first.key < last.key:
                raise LockOrderError(
                    f"{first} is wanted at {self.place}, but this thread holds {last} already, taken at "
                    f"{held[last][1].place}, and {first} comes before {last} in the order that keeps threads from "
                    f"waiting for each other. Take both there, at once"
                )
        return self.plan.part(wanted)

    def _leave_to_others(self, holder: Holder) -> None:
        """Leave what inner holds of this thread rely on to the first of them: blocks may end in another order."""
        for other in holder.holds:
            if other is self:
                continue
            relied_on = {resource for *_, resource in other.plan.steps}
            mine = {resource: shared for _, _, shared, resource in self.taken.steps if resource not in relied_on}
            if len(mine) < len(self.taken.steps):
                left = {resource: shared for _, _, shared, resource in self.taken.steps if resource in relied_on}
                others = {resource: shared for _, _, shared, resource in other.taken.steps}
                # Both at once, as far as an exception from outside can tell.
                other.taken, self.taken = Plan(others | left, None, other.plan.code), Plan(mine, None, self.plan.code)

    def _refuse_others(self, holder: Holder) -> None:
        if _holders.get(holder.thread_id) is not holder:
            return  # that thread has ended
        raise WrongThread(
            f"thread {get_ident()} would give back what thread {holder.thread_id} holds: {self}; who takes gives back"
        )

    # --- what has to be waited for ----------------------------------------------------------------------------------

    def wait(self, resource: Resource, turn: Turn) -> None:
        if resource.lock.has_it(turn):
            return
        asked = perf_counter_ns()
        if not resource.lock.wait(turn, self._limit()):
            raise self._timed_out(resource, self._describe_holders(resource))
        resource.waits[(perf_counter_ns() - asked).bit_length()] += 1
        resource.contended += 1

    def _take_outer(self, resource: Resource, outer: Outer, shared: bool) -> None:
        asked = perf_counter_ns()
        if not outer.take(self.holder.thread_id, shared, self._limit(), self.place):
            raise self._timed_out(resource, outer.describe_holder())
        waited = perf_counter_ns() - asked
        if waited >= _LONG_FOR_AN_OUTER:
            resource.waits[waited.bit_length()] += 1
            resource.contended += 1

    def _give_back_outer(self, outer: Outer, holder: Holder) -> LockLost | None:
        try:
            outer.give_back(holder.thread_id)
        except LockLost as lost:
            return lost
        return None

    def _limit(self) -> float | None:
        """Return the deadline of the whole call. What came before the first wait took no time."""
        if self.deadline is None and self.plan.timeout is not None:
            self.deadline = monotonic() + self.plan.timeout
        return self.deadline

    def _timed_out(self, resource: Resource, holders: str) -> LockTimeout:
        resource.timeouts += 1
        return LockTimeout(
            f"{resource} was not to be had within {self.plan.timeout:g} s at {self.place}: {holders}. Hold it for less "
            "time there, share it by read= where nothing is written, or wait longer with timeout"
        )

    def _describe_holders(self, resource: Resource) -> str:
        told = []
        for turn in resource.lock.holders():
            owner = turn.owner
            assert isinstance(owner, Holder)
            hold = owner.held().get(resource, (False, None))[1]
            if hold is not None and owner is not self.holder:
                told.append(hold._described(owner, "read" if turn.shared else "held"))
        return "; ".join(told) or "its holder has just given it back"

    def _described(self, owner: Holder, how: str) -> str:
        since = self.since
        duration = (
            f"for {(perf_counter_ns() - since) / 1e9:.1f} s" if since else "and waiting for another lock that it needs"
        )
        return f"{how} by thread {owner.thread_id} ({owner.thread_name}), taken at {self.place}, {duration}"


_LONG_FOR_AN_OUTER = 1_000_000
"""Nanoseconds: asking the kernel or a database near by takes less where nobody else has it."""


def reclaim(thread_id: int) -> int:
    """Give back what a thread of this process has left behind at the end of its request; return how many holds."""
    holder = _holders.get(thread_id)
    left = [str(hold) for hold in holder.holds] if holder is not None else []
    if holder is None or not left:
        return 0
    holder.give_all_back()
    for hold in left:
        logger.warning("%s was still held at the end of the request, and has been given back", hold)
    return len(left)


def _after_fork_in_child() -> None:
    """Free all locks: the threads that hold them are the parent's."""
    holder = this_thread.holder
    _holders.clear()
    if holder is not None:
        blocks = [hold.block for hold in holder.holds if hold.block]
        for hold in holder.holds:
            hold.forget()
        holder.inner.clear()
        # A new one, turns and all: another thread of the parent may have been ringing.
        this_thread.holder = None
        _left_to_parent[:] = holder.left_to_parent + blocks
    for resource in list(every_resource):
        resource.lock.start_anew()
        if resource.outer is not None:
            resource.outer.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
