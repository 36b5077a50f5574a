"""`Slot`, the place of one connection in its pool, and `Waiter`, a thread that waits for a slot.

A slot has one state at any time. `MOVES` lists the allowed moves; only `_state`, `_wait_queue` and `pool` make them.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from enum import Enum
from time import monotonic
from types import CodeType, FrameType
from typing import Generic, Literal, cast

from wsgipool._code import place_of
from wsgipool._wakeup import Wakeup
from wsgipool.budget.permits import Permit
from wsgipool.drivers import C
from wsgipool.pool._threads import ThreadRecord
from wsgipool.pool.holds import Hold

CloseReason = Literal["idle", "lifetime", "broken", "leaked", "surplus", "budget"]
"""Why a connection was closed.

idle: unused for max_idle. lifetime: its max_lifetime was over. broken: not usable again. leaked: not returned by the
holder. surplus: the pool was made smaller, drained or closed. budget: another process needed the permit.
"""


class SlotState(Enum):
    """State of a slot. It belongs to one thread, `Slot.thread`, except while IDLE, or CLOSING without a thread yet."""

    CONNECTING = "connecting"
    """The thread opens a connection for the slot."""
    IDLE = "idle"
    """The connection is free, and clean as soon as the answer to its cleaning was read."""
    RESERVED = "reserved"
    """The slot was assigned to a waiter, which has not used it yet."""
    PREPARING = "preparing"
    """The thread makes the connection ready: it reads the answer to the cleaning, and checks that it is alive."""
    CHECKED_OUT = "checked out"
    """The thread holds the connection."""
    RETURNING = "returning"
    """The thread cleans the connection."""
    CLOSING = "closing"
    """The connection is to be closed; the thread, if there is one, closes it."""
    CLOSED = "closed"
    """The slot has left the pool."""


CONNECTING = SlotState.CONNECTING
IDLE = SlotState.IDLE
RESERVED = SlotState.RESERVED
PREPARING = SlotState.PREPARING
CHECKED_OUT = SlotState.CHECKED_OUT
RETURNING = SlotState.RETURNING
CLOSING = SlotState.CLOSING
CLOSED = SlotState.CLOSED

MOVES: dict[SlotState, frozenset[SlotState]] = {
    CONNECTING: frozenset({IDLE, PREPARING, CLOSED}),
    IDLE: frozenset({RESERVED, PREPARING, CLOSING}),
    RESERVED: frozenset({IDLE, PREPARING}),
    PREPARING: frozenset({CHECKED_OUT, CLOSING, CLOSED}),
    CHECKED_OUT: frozenset({RETURNING, CLOSING}),
    RETURNING: frozenset({IDLE, CLOSING}),
    CLOSING: frozenset({CLOSED}),
    CLOSED: frozenset(),
}
"""The states that may follow each state. In the child of a fork, every slot becomes CLOSED."""


class Slot(Generic[C]):
    """The place of one connection. Its first state is CONNECTING."""

    __slots__ = (
        "checkouts", "close_reason", "code", "connection", "expires", "idle_since", "in_background", "in_block",
        "instruction", "is_outdated", "permit", "since", "stack", "state", "thread", "token",
    )  # fmt: skip

    def __init__(self, thread: ThreadRecord) -> None:
        self.state = CONNECTING
        self.connection: C = cast(C, None)  # until it is opened
        self.thread = thread
        self.in_background = False
        """Whether the background opens the connection, for the first waiter."""
        self.permit: Permit | None = None
        """The permit for this connection, if the pool has a budget."""
        self.expires = 0.0
        self.idle_since = 0.0
        self.is_outdated = False
        """Whether the connection is to be closed when it is returned."""
        self.close_reason: CloseReason = "broken"
        self.token: object = None
        """The result of `Pool.request_token` for this checkout."""
        self.checkouts = 0
        self.in_block = False
        """Whether a `with` block holds the connection, so that only the block may return it."""
        self.since = 0.0
        self.code: CodeType | None = None
        self.instruction = 0
        """Time and place of the checkout: `time.monotonic()`, and the caller's `f_code` and `f_lasti`."""
        self.stack = ""
        """With `debug`, the stack of the checkout."""

    def origin(self, now: float) -> str:
        """Return place and time of the checkout, for messages."""
        code = self.code
        place = f"at {place_of(code, self.instruction)}, " if code else ""
        return f"{place}{now - self.since:.1f} s ago"

    def hold(self) -> Hold:
        """Return the checkout, as a record that does not refer to this slot."""
        return Hold(self.thread.ident, self.since, self.code, self.instruction)


class Waiter(Generic[C]):
    """A thread that waits for a slot, with a connection or to open one."""

    __slots__ = ("_wakeup", "asked", "deadline", "is_asleep", "limit", "slot", "thread")

    def __init__(self, thread: ThreadRecord, limit: float, asked: float) -> None:
        self.thread = thread
        self.limit = limit
        """Maximum seconds of the whole wait."""
        self.asked = asked
        self.deadline = asked + limit
        self.slot: Slot[C] | None = None
        """The slot that was assigned to this waiter."""
        self.is_asleep = False
        self._wakeup = Wakeup()

    def wait(self, seconds: float) -> bool:
        """Wait for at most `seconds`, and not beyond the deadline; return whether it was woken."""
        return self._wakeup.wait(min(seconds, self.deadline - monotonic()))

    def wake(self) -> None:
        """End the wait, also one that has not begun yet."""
        self._wakeup.set()


def stack_of(frame: FrameType) -> str:
    return "".join(traceback.format_stack(frame))


def describe_holders(slots: Iterable[Slot[C]], now: float, limit: int = 5) -> str:
    """Return the threads that hold these connections, and since when, the longest first."""
    held = sorted(slots, key=lambda slot: slot.since)
    described = [f"by thread {slot.thread.ident}, checked out {slot.origin(now)}" for slot in held[:limit]]
    if len(held) > limit:
        described.append(f"{len(held) - limit} more")
    return "; ".join(described)


def longest_hold(slots: Iterable[Slot[C]]) -> Hold | None:
    """Return the checkout that has lasted for longest, or None."""
    return min((slot.hold() for slot in slots), key=lambda hold: hold.since, default=None)


def describe_places(slots: Iterable[Slot[C]], now: float, limit: int = 3) -> str:
    """Return the places where these connections were checked out, and for how long they are held, the longest first."""
    by_place: dict[str, list[float]] = {}
    for hold in sorted((slot.hold() for slot in slots), key=lambda hold: hold.since):
        by_place.setdefault(hold.place, []).append(now - hold.since)
    places = [
        f"{len(held)} checked out at {place}, {'the longest ' if len(held) > 1 else ''}for {held[0]:.1f} s"
        for place, held in by_place.items()
    ]
    more = [f"{len(places) - limit} more places"] if len(places) > limit else []
    return "; ".join(places[:limit] + more)


def describe_stacks(slots: Iterable[Slot[C]]) -> str:
    """Return the stacks of these checkouts, as far as they were recorded."""
    return "".join(
        f"\nchecked out by thread {slot.thread.ident}:\n{slot.stack.rstrip()}" for slot in slots if slot.stack
    )
