"""What a thread holds: taken at once and in one order, given back whatever happens.

The one order of all locks of a process: those of a database first, then those of the host, then those of the process,
and within a scope by name. So what may take long is waited for before anything that others wait for is held. It is the
same in every process, so neither threads nor processes nor hosts can wait for each other in a circle.

A hold knows what it is about to take before it takes it, and giving back takes away what is there. So it can be done
again, and is done again where an exception from outside has struck in the middle of it.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from threading import get_ident
from time import monotonic, perf_counter_ns
from types import CodeType, FrameType
from typing import Literal, ParamSpec, Protocol, TypeVar

from wsgipool.errors import LockLost, LockOrderError, LockTimeout, WrongThread
from wsgipool.loan import line_of
from wsgipool.rwlock import ReadWriteLock, Turn

logger = logging.getLogger("wsgipool")

P = ParamSpec("P")
R = TypeVar("R")

Scope = Literal["process", "host", "database"]
SCOPES: tuple[Scope, ...] = ("database", "host", "process")
"""In their order."""

BUCKETS = 64
"""Of a histogram of nanoseconds: bucket n counts what took less than 2**n and at least half of that."""

on_new_thread: Callable[[], object] | None = None
"""Called when a thread of this process is about to hold something for the first time."""


class Outer(Protocol):
    """What keeps other processes out, once the thread has the lock within its own."""

    def take(self, thread_id: int, shared: bool, deadline: float | None, place: str) -> bool:
        """Take it for a thread, and tell whether that was before the deadline."""

    def give_back(self, thread_id: int) -> None:
        """Give back what the thread has, if it has anything. Raises LockLost where that had been lost before."""

    def describe_holder(self) -> str:
        """Return who has it, for a message."""

    def forget(self) -> None:
        """Leave all to the parent: this is the child of a fork."""


class Resource:
    """A lock with its name and its counts."""

    __slots__ = ("__weakref__", "contended", "database", "key", "lock", "name", "outer", "scope", "timeouts", "waits")

    def __init__(self, name: str, scope: Scope, database: str, outer: Outer | None) -> None:
        self.name = name
        self.scope = scope
        self.database = database
        """The pool whose connections hold it; "" in the other scopes."""
        self.outer = outer
        # Two of one name belong to two `Locks`: the older one comes first.
        self.key = (SCOPES.index(scope), database, name, next(_numbers))
        self.lock = ReadWriteLock()
        self.contended = self.timeouts = 0
        self.waits = [0] * BUCKETS
        """How long those waited that had to."""
        _every_resource.add(self)

    def __str__(self) -> str:
        if self.scope == "process":
            return repr(self.name)
        return f"{self.name!r} of the host" if self.scope == "host" else f"{self.name!r} of database {self.database!r}"


_numbers = itertools.count()
_every_resource: weakref.WeakSet[Resource] = weakref.WeakSet()

Step = tuple[ReadWriteLock, list[Turn], bool, Resource]
"""A lock to take, its owners, and whether to share it."""


class Plan:
    """What to take, in order. Each function has one of its own, so the counts say who takes what together."""

    __slots__ = ("_parts", "code", "holds", "is_simple", "steps", "timeout")

    def __init__(self, wanted: Mapping[Resource, bool], timeout: float | None, code: CodeType | None = None) -> None:
        """Take `wanted`, of which the values say whether to share it."""
        order = sorted(wanted, key=lambda resource: resource.key)
        self.steps: tuple[Step, ...] = tuple(
            (resource.lock, resource.lock.owners, wanted[resource], resource) for resource in order
        )
        self.is_simple = bool(wanted) and all(resource.outer is None for resource in wanted)
        self.timeout = timeout
        self.code = code
        """The function that requires it; None for `with` blocks, which note their places."""
        # Counted while it is held, so it needs no lock; where free-threaded Python shares it, one in many may be lost.
        self.holds = [0] * BUCKETS
        """How long it was held."""
        self._parts: dict[tuple[Resource, ...], Plan] = {}

    def part(self, wanted: Mapping[Resource, bool]) -> Plan:
        """Return the plan of some of these locks: what is left where the thread has the others already."""
        if len(wanted) == len(self.steps):
            return self
        key = tuple(wanted)
        return self._parts.get(key) or self._parts.setdefault(key, Plan(wanted, self.timeout, self.code))

    def all_parts(self) -> list[Plan]:
        """Return the plans that count the turns: this one and its parts."""
        return [self, *(part for part in self._parts.copy().values() if part.steps)]


class Holder:
    """A thread, and what it holds."""

    def __init__(self) -> None:
        self.thread_id = get_ident()
        self.thread_name = threading.current_thread().name
        self.holds: list[Hold] = []
        """The outermost first."""
        self.exclusive = Turn(self, shared=False)
        self.shared = Turn(self, shared=True)
        self.outermost = Hold(_NOTHING)
        """The hold of a function that is called while the thread holds nothing: most are, and it is made once."""
        self.left_to_parent: list[int] = []
        """The blocks that this thread was in when it was forked."""

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
        if self._holder.holds and _this is not None:  # None: the interpreter ends
            self._holder.give_all_back()


_holders: dict[int, Holder] = {}
_left_to_parent: list[int] = []
_this = _Thread()


def this_holder() -> Holder:
    """Return the thread that calls, as a holder."""
    holder = _this.holder
    if holder is None:
        if on_new_thread is not None:
            on_new_thread()
        holder = Holder()
        if holder.thread_id == threading.main_thread().ident:
            # After a fork, the one thread that is there.
            holder.left_to_parent = _left_to_parent.copy()
        _this.end = _EndOfThread(holder)
        _holders[holder.thread_id] = holder
        _this.holder = holder
    return holder


class Hold:
    """One call's or block's locks. `take` and then, in any case, `release`."""

    __slots__ = ("_code", "_instruction", "block", "deadline", "holder", "plan", "raised", "since", "taken")

    def __init__(self, plan: Plan, block: int = 0) -> None:
        self.plan = plan
        """What is wanted."""
        self.taken = plan
        """What is taken: without what the thread has already."""
        self.block = block
        """The id() of the `with` block, which is not kept alive by what it holds; 0 for a function."""
        self.raised = False
        """Whether the block has raised, so that a lost lock is no more the news."""
        self.holder: Holder | None = None
        self.since = 0
        self.deadline: float | None = None
        self._code: CodeType | None = None
        self._instruction = -1

    def note(self, frame: FrameType) -> None:
        """Note where in the code this is."""
        self._code = frame.f_code
        self._instruction = frame.f_lasti

    def take(self) -> None:
        """Take all that the thread has not yet. Raises LockOrderError and LockTimeout; `release` has to follow then."""
        holder = _this.holder or this_holder()
        holds = holder.holds
        taken = self._without_what_is_held(holder) if holds else self.plan
        self.taken = taken
        self.holder = holder
        holds.append(self)
        for _, owners, shared, resource in taken.steps:
            turn = holder.shared if shared else holder.exclusive
            owners.append(turn)
            if owners[0] is not turn:
                self.wait(resource, turn)
            if resource.outer is not None:
                self._take_outer(resource, resource.outer, shared)
        self.since = perf_counter_ns()

    def release(self) -> None:
        """Give back what was taken, as far as it was; once more does nothing. Raises LockLost, once all is given back.

        Raises WrongThread in another thread than that which holds it, and gives nothing back.
        """
        holder = self.holder
        if holder is None:
            return
        if holder is not _this.holder:
            self._refuse_others(holder)
        holds = holder.holds
        if holds and holds[-1] is not self:
            self._leave_to_others(holder)
        taken = self.taken
        now = perf_counter_ns()
        if self.since:
            taken.holds[(now - self.since).bit_length()] += 1
            self.since = 0
        lost: LockLost | None = None
        for lock, _, shared, resource in taken.steps:
            if resource.outer is not None:
                lost = self._give_back_outer(resource.outer, holder) or lost
            lock.give_back(holder.shared if shared else holder.exclusive, now)
        if self in holds:
            holds.remove(self)
        self.holder = None
        if lost is not None and not self.raised:
            raise lost

    def forget(self) -> None:
        """Hold nothing any more: this is the child of a fork, and what is held is the parent's."""
        self.holder = None

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
        if resource.lock.joins(turn):
            return
        asked = perf_counter_ns()
        if not resource.lock.wait(turn, self._limit()):
            raise self._timed_out(resource, self._describe_holders(resource))
        resource.waits[(perf_counter_ns() - asked).bit_length()] += 1
        resource.contended += 1

    def _take_outer(self, resource: Resource, outer: Outer, shared: bool) -> None:
        assert self.holder is not None
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


_NOTHING = Plan({}, None)


def holding(function: Callable[P, R], make_plan: Callable[[], Plan]) -> Callable[P, R]:
    """Return the function with its locks around it; the plan is made at the first call."""
    plan = _NOTHING
    clock = perf_counter_ns

    @functools.wraps(function)
    def with_locks(*arguments: P.args, **keywords: P.kwargs) -> R:
        nonlocal plan
        holder = _this.holder
        if holder is None or holder.holds or not plan.is_simple:
            if plan is _NOTHING:
                plan = make_plan()
            return _call(plan, function, *arguments, **keywords)
        # What follows is _call(), Hold.take() and Hold.release() for what most calls are: half of their time is calls.
        hold = holder.outermost
        try:
            hold.plan = hold.taken = plan
            hold.deadline = None
            hold.raised = False
            hold.holder = holder
            holder.holds.append(hold)
            for _, owners, shared, resource in plan.steps:
                turn = holder.shared if shared else holder.exclusive
                owners.append(turn)
                if owners[0] is not turn:
                    hold.wait(resource, turn)
            hold.since = clock()
            result = function(*arguments, **keywords)
        except BaseException:
            hold.raised = True
            raise
        finally:
            try:
                if holder.holds[-1] is hold and (since := hold.since):
                    now = clock()
                    hold.since = 0
                    plan.holds[(now - since).bit_length()] += 1
                    for lock, owners, shared, _ in plan.steps:
                        turn = holder.shared if shared else holder.exclusive
                        if owners[0] is not turn or (lock.queue and now >= lock.strict_from):
                            lock.give_back(turn, now)
                        else:
                            del owners[0]
                            if lock.queue and not lock.is_rung:
                                lock.wake()
                    hold.holder = None
                    holder.holds.pop()
                else:
                    hold.release()
            except BaseException:
                hold.release()
                raise
        return result

    return with_locks


def _call(plan: Plan, function: Callable[P, R], *arguments: P.args, **keywords: P.kwargs) -> R:
    hold = Hold(plan)
    try:
        hold.take()
        result = function(*arguments, **keywords)
    except BaseException:
        hold.raised = True
        raise
    finally:
        try:
            hold.release()
        except BaseException:
            # An exception from outside has struck here; or a lock was lost, and then this does nothing.
            hold.release()
            raise
    return result


_LONG_FOR_AN_OUTER = 1_000_000
"""Nanoseconds: asking the kernel or a database near by takes less where nobody else has it."""


def reclaim(thread_id: int) -> int:
    """Give back what a thread of this process has left behind at the end of its request; return how many holds."""
    holder = _holders.get(thread_id)
    if holder is None or not holder.holds:
        return 0
    left = holder.holds.copy()
    holder.give_all_back()
    for hold in left:
        logger.warning("%s was still held at the end of the request, and has been given back", hold)
    return len(left)


def _after_fork_in_child() -> None:
    """Free all locks: the threads that hold them are the parent's."""
    holder = _this.holder
    _holders.clear()
    if holder is not None:
        blocks = [hold.block for hold in holder.holds if hold.block]
        for hold in holder.holds:
            hold.forget()
        holder.holds.clear()
        # A new one, turns and all: another thread of the parent may have been ringing.
        _this.holder = None
        _left_to_parent[:] = holder.left_to_parent + blocks
    for resource in list(_every_resource):
        resource.lock.start_anew()
        if resource.outer is not None:
            resource.outer.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
