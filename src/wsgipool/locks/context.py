"""`with` blocks that hold locks: the context manager of `Locks.hold()`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

from wsgipool.errors import WrongThread
from wsgipool.locks.holding import Hold, this_holder, this_thread
from wsgipool.locks.lock_set import NOTHING, LockSet

before_block: Callable[[], object] | None = None
"""Callback before each `with` block. `wsgipool.request` sets it to know which requests hold locks."""


class LockContext:
    """Hold locks while a `with` block runs. Reusable, also by several threads at once."""

    __slots__ = ("_is_entered", "_lock_set")

    def __init__(self, lock_set: LockSet) -> None:
        self._lock_set = lock_set
        self._is_entered = False

    def __enter__(self) -> None:
        if before_block is not None:
            before_block()
        self._is_entered = True
        holder = this_thread.holder or this_holder()
        hold = holder.outermost
        if hold.wanted is not NOTHING or holder.inner:
            hold = Hold(holder)
        try:
            hold.take(self._lock_set, id(self), sys._getframe(1))
        except BaseException:
            hold.raised = True
            hold.release()
            raise

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            holder = this_thread.holder
            if holder is None or holder.inner or (hold := holder.outermost).block != id(self):
                self._release_one_of_many(error)
            else:
                hold.raised = error is not None
                hold.release()
            self._is_entered = False
        except BaseException:
            # An asynchronous exception may have interrupted the release.
            self._release_rest()
            raise

    def __del__(self) -> None:
        # An asynchronous exception can come before the first instruction of __exit__.
        try:
            is_entered = self._is_entered
        except AttributeError:
            return  # the exception came before __init__
        if is_entered:
            with contextlib.suppress(Exception):  # at interpreter exit
                self._release_rest()

    def _release_one_of_many(self, error: BaseException | None) -> None:
        holder = this_holder()
        for hold in reversed(holder.holds):
            if hold.block == id(self):
                hold.raised = error is not None
                hold.release()
                return
        if id(self) in holder.forked_blocks:
            holder.forked_blocks.remove(id(self))
        elif error is None:
            names = ", ".join(str(resource) for *_, resource in self._lock_set.steps)
            raise WrongThread(
                f"this thread would release {names}, which it has not taken; only the thread that takes a lock can "
                "release it"
            )

    def _release_rest(self) -> None:
        for hold in this_holder().holds[::-1]:
            if hold.block == id(self):
                hold.raised = True
                hold.release()
