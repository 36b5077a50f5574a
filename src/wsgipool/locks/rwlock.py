"""A reader-writer lock that serves waiting threads in the order of their arrival.

The owners are a list of turns. A thread takes the lock by appending its turn and then checking the list; it releases
the lock by removing its turn. Both are one step of the interpreter, so an asynchronous exception leaves the turn in
the list or not, but never a lock without a record. A writer has the lock if its turn is the first and no reader is
behind it. A reader has it if the first turn is its own or another reader's. (A writer may stand between two readers
for a moment. When the first reader leaves, the writer is first and sees the second.) Waiting threads stand in a
queue, which a guard protects. Only the first in the queue can be next.

A releasing thread wakes the first in the queue and leaves the lock free for any thread. Once the first has stood there
for `PATIENCE`, the lock is handed to it. So no thread is overtaken for longer than that, and readers cannot starve
a writer. Strict hand-off from the start would make threads that take the lock often about six times as slow, since
each would wait for the next one to wake up.

No wake-up is lost. A waiter enters the queue before it looks at the owners; a releasing thread leaves the owners before
it looks at the queue. So the second of the two sees what the first has done.
"""

from __future__ import annotations

import threading
from time import monotonic, perf_counter_ns
from typing import Protocol

from wsgipool._wakeup import Wakeup

PATIENCE = 500_000
"""Nanoseconds for which other threads may overtake the first in the queue; waking a thread takes 10 to 100 µs.
Turns per second of 4 to 32 writing threads: as many with twice the patience, 0.9 times with a fifth, 0.2 with none."""


class TurnOwner(Protocol):
    """The thread to which turns belong; see `wsgipool.locks.holding`."""

    thread_id: int


class Turn:
    """A thread's entry in the lists of locks; each thread has one turn for reading and one for writing."""

    __slots__ = ("owner", "shared", "wakeup")

    def __init__(self, owner: TurnOwner, *, shared: bool) -> None:
        self.owner = owner
        self.shared = shared
        self.wakeup = Wakeup()


class ReadWriteLock:
    """A lock for one writing thread or for many reading threads."""

    __slots__ = ("__weakref__", "_guard", "is_first_woken", "owners", "queue", "strict_from")

    def __init__(self) -> None:
        # The lists are never replaced: lock sets keep references to them.
        self.owners: list[Turn] = []
        """The turns that have the lock and, for a moment, those of threads that check whether it is free."""
        self.queue: list[Turn] = []
        """The turns of waiting threads."""
        self.reset()

    def reset(self) -> None:
        """Free the lock: in a new object, or after a fork."""
        self.owners.clear()
        self.queue.clear()
        self._guard = threading.Lock()
        self.is_first_woken = False
        """Whether the first in the queue has been woken."""
        self.strict_from = 0
        """Time (`perf_counter_ns`) from which the lock is handed to the first in the queue."""

    def take(self, turn: Turn, deadline: float | None = None) -> bool:
        """Take the lock; return whether it was free before the deadline (`monotonic`). Call `release` in any case."""
        self.owners.append(turn)
        return len(self.owners) == 1 or self.has_it(turn) or self.wait(turn, deadline)

    def has_it(self, turn: Turn) -> bool:
        """Return whether a turn that was appended to the owners has the lock, though it is not alone there."""
        # The queue is read first: handing over the lock empties it.
        return self._has_it(turn, may_join=not self.queue)

    def wait(self, turn: Turn, deadline: float | None) -> bool:
        """Wait for the lock with a turn that was appended to the owners; return as `take` does."""
        # Outside the guard: while the turn is an owner, a releasing thread cannot hand the lock to the next.
        self.owners.remove(turn)
        with self._guard:
            self.queue.append(turn)
            if len(self.queue) == 1:
                self._begin_patience()
            self._wake_first()
        is_over = False
        while True:
            with self._guard:
                if self._is_served(turn):
                    return True
            if is_over:
                return False
            is_over = not turn.wakeup.wait(None if deadline is None else deadline - monotonic())

    def release(self, turn: Turn, now: int) -> None:
        """Remove the turn from the owners and the queue, wherever an asynchronous exception has left it."""
        owners, queue = self.owners, self.queue
        # Copies, since free-threaded Python may miss an element while another thread removes others.
        if not queue or (now < self.strict_from and turn not in queue.copy()):
            if turn in owners.copy():
                owners.remove(turn)
            if self.queue and not self.is_first_woken:
                self.wake()
            return
        with self._guard:
            # The queue first: an interrupted waiter may be in both lists, and must not hand the lock to itself.
            if turn in queue:
                is_first = queue[0] is turn
                queue.remove(turn)
                if is_first:
                    self._begin_patience()
            if turn in owners.copy():
                # An interrupted waiter may already be an owner while it is the first in the queue.
                if queue and now >= self.strict_from and self._is_alone(turn) and queue[0] not in owners:
                    owners[0] = queue[0]
                else:
                    owners.remove(turn)
            self._wake_first()

    def wake(self) -> None:
        """Wake the first in the queue if it can take the lock."""
        with self._guard:
            self._wake_first()

    def holders(self) -> list[Turn]:
        """Return the turns that have the lock: one of a writer, or any number of readers."""
        owners = self.owners.copy()
        return [turn for turn in owners if turn.shared and owners[0].shared] or owners[:1]

    # --- under the guard --------------------------------------------------------------------------------------------

    def _has_it(self, turn: Turn, may_join: bool) -> bool:
        if turn.shared:
            first = self.owners[0]
            return first is turn or (may_join and first.shared)
        return self._is_alone(turn)

    def _is_alone(self, turn: Turn) -> bool:
        """Return whether a turn is the first owner and no reader is behind it."""
        owners = self.owners.copy()
        return owners[0] is turn and not any(other.shared for other in owners[1:])

    def _is_served(self, turn: Turn) -> bool:
        """Return whether a waiting turn has the lock: handed over, or taken now."""
        self.is_first_woken = False  # first, so that a thread that releases from now on wakes this one again
        while turn not in self.owners.copy():
            if self.queue[0] is not turn:
                return False
            self.owners.append(turn)
            if not self._has_it(turn, may_join=True):
                self.owners.remove(turn)
                if self.owners:
                    return False
                # A releasing thread may have mistaken this turn for the next owner's, so try again.
        if turn in self.queue:
            self.queue.remove(turn)
        self._begin_patience()
        self._wake_first()
        return True

    def _begin_patience(self) -> None:
        self.strict_from = perf_counter_ns() + PATIENCE
        self.is_first_woken = False

    def _wake_first(self) -> None:
        """Wake the first in the queue if it has the lock or can take it."""
        while self.queue:
            first, owners = self.queue[0], self.owners.copy()
            if first in owners:
                first.wakeup.set()
                del self.queue[0]
                self._begin_patience()
                continue
            if not self.is_first_woken and (not owners or (first.shared and owners[0].shared)):
                first.wakeup.set()
                self.is_first_woken = True
            return
