"""The locks that a thread holds: taken at once, in one order, and always released.

A hold records its locks before it takes them, and releasing removes whatever is there. So releasing can be repeated,
and is repeated when an asynchronous exception has interrupted it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from threading import get_ident
from time import monotonic, perf_counter_ns
from types import CodeType, FrameType

from wsgipool import _runtime
from wsgipool._code import line_of
from wsgipool.errors import LockLost, LockOrderError, LockTimeout, WrongThread
from wsgipool.locks.lock_set import NOTHING, TIMED, LockSet, OuterLock, Resource, every_resource
from wsgipool.locks.rwlock import Turn

logger = logging.getLogger("wsgipool")

on_new_thread: Callable[[], object] | None = None
"""Callback before the first hold of each thread of this process."""


class LockHolder:
    """A thread and its holds."""

    def __init__(self) -> None:
        self.thread_id = get_ident()
        self.thread_name = threading.current_thread().name
        self.exclusive = Turn(self, shared=False)
        self.shared = Turn(self, shared=True)
        self.outermost = Hold(self)
        """The hold for a thread that holds nothing yet, the usual case; reused."""
        self.inner: list[Hold] = []
        """The holds that were taken inside another one, the outermost first."""
        self.forked_blocks: list[int] = []
        """The id() of the blocks that this thread was in at a fork; the parent releases their locks."""

    @property
    def holds(self) -> list[Hold]:
        """The active holds of the thread, the outermost first."""
        return [hold for hold in (self.outermost, *self.inner) if hold.wanted is not NOTHING]

    def free_hold(self) -> Hold:
        """Return an unused hold."""
        hold = self.outermost
        return hold if hold.wanted is NOTHING and not self.inner else Hold(self)

    def held(self) -> dict[Resource, tuple[bool, Hold]]:
        """Return the locks of the thread, each with whether it is shared and the hold that took it."""
        return {
            resource: (shared, hold) for hold in reversed(self.holds) for _, _, shared, resource in hold.taken.steps
        }

    def release_all(self) -> None:
        """Release all locks of the thread, such as those of a `with` block in a generator that was never closed."""
        for hold in self.holds[::-1]:
            hold.raised = True  # no caller could handle LockLost
            hold.release()


class _Thread(threading.local):
    """The state of each thread."""

    holder: LockHolder | None = None
    end: _EndOfThread


class _EndOfThread:
    """A thread-local object that Python drops at the end of its thread, and that then releases the thread's locks."""

    _holder: LockHolder | None = None

    def __init__(self, holder: LockHolder) -> None:
        self._holders = _holders
        self._holder = holder

    def __del__(self) -> None:
        if self._holder is None:  # an asynchronous exception came before __init__ had stored it
            return
        if self._holders.get(self._holder.thread_id) is self._holder:
            del self._holders[self._holder.thread_id]
        if this_thread is not None and self._holder.holds:  # None at interpreter exit
            self._holder.release_all()


_holders: dict[int, LockHolder] = {}
_forked_blocks: list[int] = []
this_thread = _Thread()


def this_holder() -> LockHolder:
    """Return the holder of the calling thread."""
    holder = this_thread.holder
    if holder is None:
        if on_new_thread is not None:
            on_new_thread()
        holder = LockHolder()
        if holder.thread_id == threading.main_thread().ident:
            # Only the main thread exists after a fork.
            holder.forked_blocks = _forked_blocks.copy()
        this_thread.end = _EndOfThread(holder)
        _holders[holder.thread_id] = holder
        this_thread.holder = holder
    return holder


class Hold:
    """The locks of one call or block. Call `take`, and then `release` in any case."""

    __slots__ = ("_code", "_instruction", "block", "deadline", "holder", "raised", "since", "taken", "wanted")

    def __init__(self, holder: LockHolder) -> None:
        self.holder = holder
        self.wanted = NOTHING
        """The locks that the call needs; NOTHING before `take` and after `release`."""
        self.taken = NOTHING
        """The locks that this hold has taken: those wanted, without those that the thread held already."""
        self.block = 0
        """The id() of the `with` block; 0 for a function. A reference would keep the block alive."""
        self.raised = False
        """Whether the block has raised; then `release` does not replace that error by LockLost."""
        self.since = 0
        self.deadline: float | None = None
        self._code: CodeType | None = None
        self._instruction = -1

    def take(self, lock_set: LockSet, block: int = 0, frame: FrameType | None = None) -> None:
        """Take the locks that the thread does not hold yet; `frame` is the place of a `with` block.

        Raises LockOrderError or LockTimeout. Call `release` in any case.
        """
        holder = self.holder
        self.block = block
        if frame is not None:
            self._code = frame.f_code
            self._instruction = frame.f_lasti
        self.raised = False
        self.deadline = None
        if self is holder.outermost:
            self.wanted = self.taken = taken = lock_set
        else:
            self.wanted = lock_set
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
        """Release the taken locks; a second call does nothing.

        Raises LockLost after all locks have been released, if one ended earlier. Raises WrongThread, and releases
        nothing, in a thread that is not the holder.
        """
        if self.wanted is NOTHING:
            return
        holder = self.holder
        if holder is not this_thread.holder:
            self._refuse_others(holder)
        inner = holder.inner
        if inner and inner[-1] is not self:
            self._pass_to_inner_holds(holder)
        taken = self.taken
        if since := self.since:
            self.since = 0
            taken.turns = turns = taken.turns + 1
            if turns % TIMED == 1:
                taken.holds[(perf_counter_ns() - since).bit_length()] += 1
        lost: LockLost | None = None
        for lock, owners, shared, resource in taken.steps:
            if resource.outer is not None:
                lost = self._release_outer(resource.outer, holder) or lost
            turn = holder.shared if shared else holder.exclusive
            if lock.queue or turn not in owners.copy():
                lock.release(turn, perf_counter_ns())
            else:
                owners.remove(turn)
                if lock.queue and not lock.is_first_woken:
                    lock.wake()
        if inner and self in inner:
            inner.remove(self)
        self.forget()
        if lost is not None and not self.raised:
            raise lost

    def forget(self) -> None:
        """Reset to an unused hold."""
        self.block = self.since = 0
        self._code = None
        self.wanted = self.taken = NOTHING

    def __str__(self) -> str:
        names = ", ".join(str(resource) for *_, resource in self.wanted.steps)
        return f"{names}, taken at {self.place}"

    @property
    def place(self) -> str:
        """The place in the code that took the locks: file, line and function."""
        code = self._code or self.wanted.code
        if code is None:
            return "an unknown place"
        line = line_of(code, self._instruction) if self._code else code.co_firstlineno
        return f"{code.co_filename}:{line} in {code.co_name}"

    # --- nested holds -----------------------------------------------------------------------------------------------

    def _without_what_is_held(self, holder: LockHolder) -> LockSet:
        held = holder.held()
        missing: dict[Resource, bool] = {}
        for _, _, shared, resource in self.wanted.steps:
            if resource not in held:
                missing[resource] = shared
            elif held[resource][0] and not shared:
                raise LockOrderError(
                    f"{resource} is wanted for writing at {self.place}, but this thread holds it for reading, taken "
                    f"at {held[resource][1].place}; two threads that do so would wait for each other. Take it for "
                    "writing from the start"
                )
        if missing and held:
            first, last = next(iter(missing)), max(held, key=lambda resource: resource.key)
            if first.key < last.key:
                raise LockOrderError(
                    f"{first} is wanted at {self.place}, but this thread holds {last} already, taken at "
                    f"{held[last][1].place}, and {first} comes before {last} in the order that prevents deadlocks. "
                    "Take both at once, at that place"
                )
        return self.wanted.part(missing)

    def _pass_to_inner_holds(self, holder: LockHolder) -> None:
        """Pass the locks that inner holds need to the first of them; `with` blocks may end in any order."""
        for other in holder.holds:
            if other is self:
                continue
            needed = {resource for *_, resource in other.wanted.steps}
            kept = {resource: shared for _, _, shared, resource in self.taken.steps if resource not in needed}
            if len(kept) < len(self.taken.steps):
                passed_on = {resource: shared for _, _, shared, resource in self.taken.steps if resource in needed}
                others = {resource: shared for _, _, shared, resource in other.taken.steps}
                # One statement, so that no asynchronous exception can come between the two assignments.
                other.taken, self.taken = (
                    LockSet(others | passed_on, None, other.wanted.code),
                    LockSet(kept, None, self.wanted.code),
                )

    def _refuse_others(self, holder: LockHolder) -> None:
        if _holders.get(holder.thread_id) is not holder:
            return  # that thread has ended
        raise WrongThread(
            f"thread {get_ident()} cannot release a lock of thread {holder.thread_id}: {self}; only the thread that "
            "takes a lock can release it"
        )

    # --- waiting ----------------------------------------------------------------------------------

    def wait(self, resource: Resource, turn: Turn) -> None:
        """Wait until the turn has the lock. Raises LockTimeout."""
        if resource.lock.has_it(turn):
            return
        asked = perf_counter_ns()
        if not resource.lock.wait(turn, self._limit()):
            raise self._timed_out(resource, self._describe_holders(resource))
        resource.waits[(perf_counter_ns() - asked).bit_length()] += 1
        resource.contended += 1

    def _take_outer(self, resource: Resource, outer: OuterLock, shared: bool) -> None:
        asked = perf_counter_ns()
        if not outer.take(self.holder.thread_id, shared, self._limit(), self.place):
            raise self._timed_out(resource, outer.describe_holder())
        waited = perf_counter_ns() - asked
        if waited >= _LONG_FOR_AN_OUTER:
            resource.waits[waited.bit_length()] += 1
            resource.contended += 1

    def _release_outer(self, outer: OuterLock, holder: LockHolder) -> LockLost | None:
        try:
            outer.release(holder.thread_id)
        except LockLost as lost:
            return lost
        return None

    def _limit(self) -> float | None:
        """Return the deadline of the whole call, which starts at the first wait."""
        if self.deadline is None and self.wanted.timeout is not None:
            self.deadline = monotonic() + self.wanted.timeout
        return self.deadline

    def _timed_out(self, resource: Resource, holders: str) -> LockTimeout:
        resource.timeouts += 1
        return LockTimeout(
            f"{resource} was not free within {self.wanted.timeout:g} s at {self.place}: {holders}. Hold it for less "
            "time there, share it with read= where nothing is written, or give a longer timeout"
        )

    def _describe_holders(self, resource: Resource) -> str:
        descriptions = []
        for turn in resource.lock.holders():
            owner = turn.owner
            assert isinstance(owner, LockHolder)
            hold = owner.held().get(resource, (False, None))[1]
            if hold is not None and owner is not self.holder:
                descriptions.append(hold._described(owner, "read" if turn.shared else "held"))
        return "; ".join(descriptions) or "its holder has just released it"

    def _described(self, owner: LockHolder, how: str) -> str:
        since = self.since
        duration = f"for {(perf_counter_ns() - since) / 1e9:.1f} s" if since else "and waiting for another lock"
        return f"{how} by thread {owner.thread_id} ({owner.thread_name}), taken at {self.place}, {duration}"


_LONG_FOR_AN_OUTER = 1_000_000
"""Nanoseconds from which an outer lock counts as contended; taking a free one needs less time."""


def reclaim(thread_id: int) -> int:
    """Release the locks that a thread still holds at the end of its request; return the number of holds."""
    holder = _holders.get(thread_id)
    leaked = [str(hold) for hold in holder.holds] if holder is not None else []
    if holder is None or not leaked:
        return 0
    holder.release_all()
    for hold in leaked:
        logger.warning("%s was still held at the end of the request and has been released", hold)
    return len(leaked)


def _after_fork_in_child() -> None:
    """Free all locks: their holders are threads of the parent."""
    holder = this_thread.holder
    _holders.clear()
    if holder is not None:
        blocks = [hold.block for hold in holder.holds if hold.block]
        for hold in holder.holds:
            hold.forget()
        holder.inner.clear()
        # New turns are needed: a thread of the parent may have been about to wake the old ones.
        this_thread.holder = None
        _forked_blocks[:] = holder.forked_blocks + blocks
    for resource in list(every_resource):
        resource.lock.reset()
        if resource.outer is not None:
            resource.outer.forget()


_runtime.after_fork(_after_fork_in_child)
