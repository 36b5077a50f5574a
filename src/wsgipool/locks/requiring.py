"""Functions that run with locks: what `Locks.requires()` makes of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from time import perf_counter_ns
from typing import ParamSpec, TypeVar

from wsgipool.locks.holding import Hold, this_thread
from wsgipool.locks.plan import NOTHING, Plan

P = ParamSpec("P")
R = TypeVar("R")


def holding(function: Callable[P, R], make_plan: Callable[[], Plan]) -> Callable[P, R]:
    """Return the function with its locks around it; the plan is made at the first call."""
    plan = NOTHING
    clock = perf_counter_ns

    @functools.wraps(function)
    def with_locks(*arguments: P.args, **keywords: P.kwargs) -> R:
        nonlocal plan
        holder = this_thread.holder
        if holder is None or holder.holds or not plan.is_simple:
            if plan is NOTHING:
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
