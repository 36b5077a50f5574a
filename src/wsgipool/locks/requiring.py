"""Decorated functions that hold locks: the result of `Locks.requires()`.

Most calls come from a thread that holds nothing and needs locks of the process only. For these, `Hold.take` and
`Hold.release` are written inline: calling the two would double the time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from time import perf_counter_ns
from typing import ParamSpec, TypeVar

from wsgipool.locks.holding import this_holder, this_thread
from wsgipool.locks.lock_set import NOTHING, TIMED, LockSet

P = ParamSpec("P")
R = TypeVar("R")


def locked(function: Callable[P, R], make_lock_set: Callable[[], LockSet]) -> Callable[P, R]:
    """Return the function with its locks around it; the lock set is created at the first call."""
    lock_set = NOTHING
    clock = perf_counter_ns

    @functools.wraps(function)
    def with_locks(*arguments: P.args, **keywords: P.kwargs) -> R:
        nonlocal lock_set
        holder = this_thread.holder
        if holder is None or (hold := holder.outermost).wanted is not NOTHING or holder.inner or not lock_set.is_simple:
            if lock_set is NOTHING:
                lock_set = make_lock_set()
            return _call(lock_set, function, *arguments, **keywords)
        try:
            hold.wanted = hold.taken = lock_set
            hold.deadline = None
            for lock, owners, shared, resource in lock_set.steps:
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
                    lock_set.turns = turns = lock_set.turns + 1
                    if turns % TIMED == 1:
                        lock_set.holds[(clock() - since).bit_length()] += 1
                    for lock, owners, shared, _ in lock_set.steps:
                        turn = holder.shared if shared else holder.exclusive
                        if lock.queue:
                            lock.release(turn, clock())
                        else:
                            owners.remove(turn)
                            if lock.queue and not lock.is_first_woken:
                                lock.wake()
                    hold.wanted = NOTHING
                else:
                    hold.release()
            except BaseException:
                hold.release()
                raise
        return result

    return with_locks


def _call(lock_set: LockSet, function: Callable[P, R], *arguments: P.args, **keywords: P.kwargs) -> R:
    hold = (this_thread.holder or this_holder()).free_hold()
    try:
        hold.take(lock_set)
        result = function(*arguments, **keywords)
    except BaseException:
        hold.raised = True
        raise
    finally:
        try:
            hold.release()
        except BaseException:
            # An asynchronous exception may have interrupted the release. After LockLost this does nothing.
            hold.release()
            raise
    return result
