"""`with` blocks that hold locks: what `Locks.hold()` returns."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

from wsgipool.errors import WrongThread
from wsgipool.locks.holding import Hold, this_holder, this_thread
from wsgipool.locks.plan import NOTHING, Plan

before_block: Callable[[], object] | None = None
"""Called before each block's hold; `wsgipool.request` learns so that a request holds something."""


class Block:
    """Holds while the block runs. It may be entered again, and by several threads, each for itself."""

    __slots__ = ("_is_entered", "_plan")

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._is_entered = False

    def __enter__(self) -> None:
        if before_block is not None:
            before_block()
        self._is_entered = True
        holder = this_thread.holder or this_holder()
        hold = holder.outermost
        if hold.plan is not NOTHING or holder.inner:
            hold = Hold(holder)
        try:
            hold.take(self._plan, id(self), sys._getframe(1))
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
            # See `requiring`; it is at most the second time that this block's hold is sought.
            self._release_rest()
            raise

    def __del__(self) -> None:
        # An exception from outside can strike before the first instruction of __exit__.
        try:
            is_entered = self._is_entered
        except AttributeError:
            return  # or of __init__
        if is_entered:
            with contextlib.suppress(Exception):  # the interpreter ends
                self._release_rest()

    def _release_one_of_many(self, error: BaseException | None) -> None:
        holder = this_holder()
        for hold in reversed(holder.holds):
            if hold.block == id(self):
                hold.raised = error is not None
                hold.release()
                return
        if id(self) in holder.left_to_parent:
            holder.left_to_parent.remove(id(self))
        elif error is None:
            names = ", ".join(str(resource) for *_, resource in self._plan.steps)
            raise WrongThread(f"this thread would give back {names}, which it has not taken; who takes gives back")

    def _release_rest(self) -> None:
        for hold in this_holder().holds[::-1]:
            if hold.block == id(self):
                hold.raised = True
                hold.release()
