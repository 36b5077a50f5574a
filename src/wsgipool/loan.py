"""Who has a connection, who waits for one: the two records that a pool keeps, and where in a program they come from."""

from __future__ import annotations

import contextlib
import itertools
import threading
from time import monotonic
from types import CodeType, FrameType
from typing import Generic

from wsgipool.drivers import C


class Slot(Generic[C]):
    """The place of an open connection in its pool."""

    __slots__ = ("_code", "_instruction", "answer_due", "connection", "expires", "idle_since", "loan", "since")

    def __init__(self, connection: C, expires: float) -> None:
        self.connection = connection
        self.expires = expires
        self.loan: list[int] = []
        """The thread that has it, or nothing; a new list for each loan. Whoever pops it has the right to give the
        connection back: one atomic step, so that two who try at once do not both succeed, and a block that ends late
        cannot end the next loan."""
        self.since = 0.0
        self.idle_since = 0.0
        self.answer_due = False

    def borrowed_at(self, frame: FrameType) -> None:
        """Note when and where it was borrowed."""
        self.since = monotonic()
        self._code = frame.f_code
        self._instruction = frame.f_lasti  # its line is looked up when somebody asks

    def claim(self) -> bool:
        """Take the right to give it back; False if it is not lent, or another was first."""
        try:
            self.loan.pop()
        except IndexError:
            return False
        return True

    def is_lent_to(self, thread_id: int) -> bool:
        return self.loan == [thread_id]

    @property
    def place(self) -> str:
        """Where in the program it was borrowed."""
        return describe_place(self._code, self._instruction)


class Waiter(Generic[C]):
    """Someone who wants a connection: waits for one, or for the room to open one, until a deadline."""

    __slots__ = ("_asleep", "deadline", "limit", "slot", "thread_id", "touched")

    def __init__(self, limit: float, slot: Slot[C] | None) -> None:
        self.limit = limit
        self.deadline = monotonic() + min(limit, threading.TIMEOUT_MAX)
        self.thread_id = threading.get_ident()
        self.slot = slot
        self.touched = False  # something may have been sent or read on the slot's connection
        self._asleep: threading.Lock | None = None

    def fall_asleep(self) -> None:
        self._asleep = threading.Lock()
        self._asleep.acquire()

    def wait(self) -> bool:
        """Wait until woken, and tell whether that was before the deadline."""
        assert self._asleep is not None
        return self._asleep.acquire(timeout=max(0.0, self.remaining()))

    def wake(self) -> None:
        """End the wait; once more does nothing."""
        if self._asleep is not None:
            with contextlib.suppress(RuntimeError):  # it was released before
                self._asleep.release()

    def remaining(self) -> float:
        """Return the seconds to the deadline, or fewer than none."""
        return self.deadline - monotonic()


def describe(error: BaseException) -> str:
    """Return an error's type and text in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def describe_place(code: CodeType, instruction: int) -> str:
    """Return the file, line and function of an instruction."""
    line = next(itertools.islice(code.co_positions(), instruction // 2, None), (None,))[0]
    return f"{code.co_filename}:{line} in {code.co_name}"
