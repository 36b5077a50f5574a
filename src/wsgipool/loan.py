"""Who has a connection, who waits for one, who opens one: the records that a pool keeps, and where they come from."""

from __future__ import annotations

import itertools
import threading
import traceback
from collections.abc import Iterable
from threading import get_ident
from time import monotonic
from types import CodeType, FrameType
from typing import Generic, Literal, Protocol

from wsgipool.drivers import C
from wsgipool.permits import Permit

Ending = Literal["idle", "lifetime", "broken", "leaked", "surplus", "budget"]
"""Why a connection was closed: nobody needed it; its time was over; it could not be used again; its borrower forgot it;
the pool was made smaller, drained or closed; another process of the host needed its place in the budget."""


NOTED = 2
"""Of a slot's `used`: its last loan was noted, so more is known of it than that."""


class Borrower(Protocol):
    """What stands for a loan: a `with` block."""

    thread_id: int


class Slot(Generic[C]):
    """The place of an open connection in its pool."""

    __slots__ = (
        "borrower", "carrier", "code", "connection", "ending", "expires", "idle_since", "instruction", "is_leaving",
        "key", "loans", "permit", "quiet_since", "retired", "since", "stack", "used", "watch",
    )  # fmt: skip

    def __init__(self, connection: C, expires: float) -> None:
        self.connection = connection
        kind = type(connection)
        is_itself = kind.__hash__ is object.__hash__ and kind.__eq__ is object.__eq__
        self.key: object = connection if is_itself else id(connection)
        """What its pool knows it by: itself, which is the quickest, unless it is compared otherwise."""
        self.expires = expires
        self.borrower: int | Borrower = 0
        """Who has it: the thread, or the `with` block, which is another one for each loan; 0 while nobody has. Only
        this thread or block gives it back, so that needs no lock."""
        self.carrier = 0
        """The thread that takes it back, until it is idle or gone."""
        self.watch: object = None
        """What `Lending.watch` has returned for this loan."""
        self.permit: Permit | None = None  # where the pool has a budget
        self.loans = 0  # those that were noted
        self.used: int = True
        """Whether it was lent since the last look: no, yes, or `NOTED`, if the last time that was noted."""
        self.quiet_since = 0.0  # when a look found it unused first
        self.idle_since = 0.0
        self.retired = False  # closed when it comes back
        self.is_leaving = False  # about to be closed, or just being
        self.ending: Ending = "surplus"
        self.since = 0.0
        """When the loan began, or, without `code`, when it was first seen."""
        self.stack = ""
        """How the program came to where it was borrowed, with `debug`; else nothing."""
        self.code: CodeType | None = None
        self.instruction = 0
        """Where it was borrowed, as far as that was noted: a frame's `f_code` and `f_lasti`."""

    @property
    def thread_id(self) -> int:
        """The thread that has borrowed it, or 0."""
        borrower = self.borrower
        return borrower if isinstance(borrower, int) else borrower.thread_id

    def note(self, frame: FrameType, debug: bool) -> None:
        """Note when and where it was borrowed, with `debug` the whole stack."""
        self.used = NOTED
        self.loans += 1
        self.since = monotonic()
        self.code = frame.f_code
        self.instruction = frame.f_lasti
        if debug:
            self.note_stack(frame)

    def note_stack(self, frame: FrameType) -> None:
        """Note how the program came to where it was borrowed."""
        self.stack = "".join(traceback.format_stack(frame))

    def origin(self, now: float) -> str:
        """Where and when it was borrowed, as far as that was noted."""
        if self.code is None:
            return f"at least {now - self.since:.1f} s ago, where debug=True would tell"
        line = line_of(self.code, self.instruction)
        return f"at {self.code.co_filename}:{line} in {self.code.co_name}, {now - self.since:.1f} s ago"


class Waiter(Generic[C]):
    """Someone who wants a connection: waits for one, or for the room to open one, until a deadline."""

    __slots__ = (
        "_asleep",
        "asked",
        "borrower",
        "deadline",
        "has_waited",
        "is_outdated",
        "limit",
        "permit",
        "place",
        "queued",
        "sleeps",
        "slot",
        "thread_id",
        "touched",
        "watch",
    )

    def __init__(
        self,
        borrower: int | Borrower,
        limit: float,
        slot: Slot[C] | None = None,
        asked: float | None = None,
        watch: object = None,
    ) -> None:
        self.borrower = borrower
        self.watch = watch
        self.limit = limit
        self.asked = monotonic() if asked is None else asked
        self.deadline = self.asked + limit
        self.thread_id = get_ident()
        self.slot = slot
        self.permit: Permit | None = None  # to open a connection
        self.is_outdated = False  # the pool was drained since the connect began
        self.touched = False  # something may have been sent or read on the slot's connection
        self.has_waited = False  # before it stood in the queue
        self.place = 0  # in the queue when it came; the next to be served is 1
        self.queued = 0.0
        self.sleeps = False
        self._asleep = threading.Lock()
        self._asleep.acquire()

    def wait(self, at_most: float = threading.TIMEOUT_MAX) -> bool:
        """Wait until woken, and tell whether that was before the deadline, or within `at_most` seconds."""
        seconds = self.deadline - monotonic()
        if seconds < 0.0:
            seconds = 0.0
        return self._asleep.acquire(True, seconds if seconds < at_most else at_most)

    def wake(self) -> None:
        """End the wait, now or when it begins; once more does nothing."""
        try:  # noqa: SIM105 - contextlib.suppress() takes longer than all that is done here
            self._asleep.release()
        except RuntimeError:
            pass  # it was released before

    def remaining(self) -> float:
        """Return the seconds to the deadline, or fewer than none."""
        return self.deadline - monotonic()


class Opening:
    """A connection that is being opened in the background, for whoever comes first."""

    __slots__ = ("is_outdated", "permit", "thread_id")

    def __init__(self) -> None:
        self.thread_id = 0
        self.permit: Permit | None = None
        self.is_outdated = False  # the pool was drained since


def line_of(code: CodeType, instruction: int) -> int | None:
    """Return the line of an instruction, as a frame's `f_lasti` names it."""
    return next(itertools.islice(code.co_positions(), instruction // 2, None), (None,))[0]


def describe(error: BaseException) -> str:
    """Return an error's type and text in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def describe_holders(slots: Iterable[Slot[C]], now: float, most: int = 5) -> str:
    """Return who has these connections and since when, the longest first."""
    held = sorted(slots, key=lambda slot: slot.since)
    told = [f"by thread {slot.thread_id}, borrowed {slot.origin(now)}" for slot in held[:most]]
    if len(held) > most:
        told.append(f"{len(held) - most} more")
    return "; ".join(told)


def describe_stacks(slots: Iterable[Slot[C]]) -> str:
    """Return how the program came to borrow these, as far as that was noted."""
    return "".join(f"\nborrowed by thread {slot.thread_id}:\n{slot.stack.rstrip()}" for slot in slots if slot.stack)
