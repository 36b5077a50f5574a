"""Functions that run with locks: what `Locks.requires()` makes of them.

Most calls are made by a thread that holds nothing, for locks that only the threads of the process know. They do here
what `Hold.take` and `Hold.release` do for all others: calls would be half of their time, and a loop a fifth where there
is one lock.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from time import perf_counter_ns
from typing import ParamSpec, TypeVar

from wsgipool.locks.holding import this_holder, this_thread
from wsgipool.locks.plan import NOTHING, TIMED, Plan

P = ParamSpec("P")
R = TypeVar("R")


def holding_one(function: Callable[P, R], make_plan: Callable[[], Plan]) -> Callable[P, R]:
    """Return the function with one lock around it; the plan is made at the first call."""
    plan = NOTHING
    clock = perf_counter_ns

    @functools.wraps(function)
    def with_lock(*arguments: P.args, **keywords: P.kwargs) -> R:
        nonlocal plan
        holder = this_thread.holder
        if holder is None or (hold := holder.outermost).plan is not NOTHING or holder.inner or not plan.is_simple:
            if plan is NOTHING:
                plan = make_plan()
            return _call(plan, function, *arguments, **keywords)
        lock, owners, shared, resource = plan.steps[0]
        turn = holder.shared if shared else holder.exclusive
        try:
            hold.plan = hold.taken = plan
            owners.append(turn)
            if len(owners) > 1 and not (shared and not lock.queue and owners[0].shared):
                hold.deadline = None
                hold.wait(resource, turn)
            hold.since = clock()
            result = function(*arguments, **keywords)
        finally:
            try:
                if (since := hold.since) and not holder.inner:
                    hold.since = 0
                    plan.turns = turns = plan.turns + 1
                    if turns % TIMED == 1:
                        plan.holds[(clock() - since).bit_length()] += 1
                    if lock.queue:
                        lock.give_back(turn, clock())
                    else:
                        owners.remove(turn)
                        if lock.queue and not lock.is_rung:
                            lock.wake()
                    hold.plan = NOTHING
                else:
                    hold.release()
            except BaseException:
                hold.release()
                raise
        return result

    return with_lock


def holding_all(function: Callable[P, R], make_plan: Callable[[], Plan]) -> Callable[P, R]:
    """Return the function with some locks around it; the plan is made at the first call."""
    plan = NOTHING
    clock = perf_counter_ns

    @functools.wraps(function)
    def with_locks(*arguments: P.args, **keywords: P.kwargs) -> R:
        nonlocal plan
        holder = this_thread.holder
        if holder is None or (hold := holder.outermost).plan is not NOTHING or holder.inner or not plan.is_simple:
            if plan is NOTHING:
                plan = make_plan()
            return _call(plan, function, *arguments, **keywords)
        try:
            hold.plan = hold.taken = plan
            hold.deadline = None
            for lock, owners, shared, resource in plan.steps:
                turn = holder.shared if shared else holder.exclusive
                owners.append(turn)
                if len(owners) > 1 and not (shared and not lock.queue and owners[0].shared):
                    hold.wait(resource, turn)
            hold.since = clock()
            result = function(*arguments, **keywords)
        finally:
            try:
                if (since := hold.since) and not holder.inner:
                    hold.since = 0
                    plan.turns = turns = plan.turns + 1
                    if turns % TIMED == 1:
                        plan.holds[(clock() - since).bit_length()] += 1
                    for lock, owners, shared, _ in plan.steps:
                        turn = holder.shared if shared else holder.exclusive
                        if lock.queue:
                            lock.give_back(turn, clock())
                        else:
                            owners.remove(turn)
                            if lock.queue and not lock.is_rung:
                                lock.wake()
                    hold.plan = NOTHING
                else:
                    hold.release()
            except BaseException:
                hold.release()
                raise
        return result

    return with_locks


def _call(plan: Plan, function: Callable[P, R], *arguments: P.args, **keywords: P.kwargs) -> R:
    hold = (this_thread.holder or this_holder()).free_hold()
    try:
        hold.take(plan)
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
