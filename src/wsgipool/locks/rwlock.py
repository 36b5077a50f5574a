"""A reader-writer lock that serves those who wait in the order of their coming.

Its owners are a list. To take the lock is to append a turn and to see who stands there; to give it back is to remove
the turn. Each is one step of the interpreter, so an exception from outside finds a turn there or not, and never a lock
that nobody knows of. Who writes has it where it stands first and nobody behind it reads; who reads where it stands
first, or the first reads too. (Where one who writes has just come between two who read, and the first of these goes, it
stands first and finds the other.) That is all while nobody waits. Those who wait stand in a queue, and what concerns
them is decided under a lock; only the first of them can be next.

Who gives the lock back wakes the first and leaves the lock free for whoever is there. Only once that one has stood
first for `PATIENCE` is the lock handed to it instead. So nobody is overtaken for longer than that, readers do not keep
a writer waiting for ever, and threads that take the lock again and again need not wait for each other's awakening every
time, which would make them about six times as slow.

No wake-up is lost: who comes stands in the queue before it looks at the owners, who goes leaves the owners before it
looks at the queue, so whoever looks second sees what the other has done.
"""

from __future__ import annotations

import contextlib
import threading
from time import monotonic, perf_counter_ns
from typing import Protocol

PATIENCE = 500_000
"""Nanoseconds for which the first in the queue lets others go before it. Waking a thread takes 10 to 100 µs. Where 4 to
32 threads do nothing but write, they have as many turns as with twice of it, 0.9 with a fifth, and 0.2 with nothing."""


class Owner(Protocol):
    """Whose turns these are: a thread, as `wsgipool.locks.holding` knows it."""

    thread_id: int


class Turn:
    """What stands for a thread in the lists of locks: one of it for reading, one for writing; in each at most one."""

    __slots__ = ("_bell", "owner", "shared")

    def __init__(self, owner: Owner, *, shared: bool) -> None:
        self.owner = owner
        self.shared = shared
        self._bell = threading.Lock()
        self._bell.acquire()

    def sleep(self, seconds: float) -> bool:
        """Wait until somebody rings, and tell whether that was within so many seconds; it may have been before."""
        return self._bell.acquire(timeout=seconds)

    def ring(self) -> None:
        """End the sleep, now or when it begins; once more does nothing."""
        with contextlib.suppress(RuntimeError):  # it was released before
            self._bell.release()


class ReadWriteLock:
    """A lock for one thread that writes or for many that read."""

    __slots__ = ("__weakref__", "_guard", "is_rung", "owners", "queue", "strict_from")

    def __init__(self) -> None:
        # These lists are the same for ever: whoever takes the lock often knows them.
        self.owners: list[Turn] = []
        """Who has it, and for a moment who has just come to see whether it is free."""
        self.queue: list[Turn] = []
        """Who waits."""
        self.start_anew()

    def start_anew(self) -> None:
        """Be free, whoever had it: this is the child of a fork."""
        self.owners.clear()
        self.queue.clear()
        self._guard = threading.Lock()
        self.is_rung = False
        """The first in the queue is awake, or will be."""
        self.strict_from = 0
        """From then on, on the clock of `perf_counter_ns`, the lock is handed to it."""

    def take(self, turn: Turn, deadline: float | None = None) -> bool:
        """Take it, and tell whether that was before the deadline (of `monotonic`); `give_back` follows in any case."""
        self.owners.append(turn)
        return len(self.owners) == 1 or self.has_it(turn) or self.wait(turn, deadline)

    def has_it(self, turn: Turn) -> bool:
        """Tell whether a turn that was appended to the owners, and is not alone there, has the lock."""
        # The queue is looked at first: once its first is handed the lock, it may be empty.
        return self._has_it(turn, may_join=not self.queue)

    def wait(self, turn: Turn, deadline: float | None) -> bool:
        """Go on where a turn was appended to the owners and does not have the lock."""
        # Before the guard: while it stands there, who gives back cannot hand the lock to the next.
        self.owners.remove(turn)
        with self._guard:
            self.queue.append(turn)
            if len(self.queue) == 1:
                self._begin_patience()
            self._stir()
        is_over = False
        while True:
            with self._guard:
                if self._is_served(turn):
                    return True
            if is_over:
                return False
            remaining = threading.TIMEOUT_MAX if deadline is None else deadline - monotonic()
            is_over = remaining <= 0 or not turn.sleep(remaining)

    def give_back(self, turn: Turn, now: int) -> None:
        """Take the turn away: from the owners, or from the queue, or where it has been struck in between."""
        owners, queue = self.owners, self.queue
        # Copies: free-threaded Python may miss what it looks for where others are just taken away.
        if not queue or (now < self.strict_from and turn not in queue.copy()):
            if turn in owners.copy():
                owners.remove(turn)
            if self.queue and not self.is_rung:
                self.wake()
            return
        with self._guard:
            # The queue first: it must not be handed the lock itself, where it has been struck while it was served.
            if turn in queue:
                is_first = queue[0] is turn
                queue.remove(turn)
                if is_first:
                    self._begin_patience()
            if turn in owners.copy():
                # The first may stand there too, where it has been struck while it looked: once is enough.
                if queue and now >= self.strict_from and self._is_alone(turn) and queue[0] not in owners:
                    owners[0] = queue[0]
                else:
                    owners.remove(turn)
            self._stir()

    def wake(self) -> None:
        """Wake the first in the queue if the lock may be for it."""
        with self._guard:
            self._stir()

    def holders(self) -> list[Turn]:
        """Return who has it: one that writes or any that read."""
        owners = self.owners.copy()
        return [turn for turn in owners if turn.shared and owners[0].shared] or owners[:1]

    # --- under the guard --------------------------------------------------------------------------------------------

    def _has_it(self, turn: Turn, may_join: bool) -> bool:
        if turn.shared:
            first = self.owners[0]
            return first is turn or (may_join and first.shared)
        return self._is_alone(turn)

    def _is_alone(self, turn: Turn) -> bool:
        """Tell whether a turn stands first, and nobody who reads behind it."""
        owners = self.owners.copy()
        return owners[0] is turn and not any(other.shared for other in owners[1:])

    def _is_served(self, turn: Turn) -> bool:
        """Tell whether one who waits has been handed the lock, or can have it now."""
        self.is_rung = False  # before it looks: who goes after that rings again
        while turn not in self.owners.copy():
            if self.queue[0] is not turn:
                return False
            self.owners.append(turn)
            if not self._has_it(turn, may_join=True):
                self.owners.remove(turn)
                if self.owners:
                    return False
                # Who has just gone may have taken this turn, which was there for a moment, for that of the next.
        if turn in self.queue:
            self.queue.remove(turn)
        self._begin_patience()
        self._stir()
        return True

    def _begin_patience(self) -> None:
        self.strict_from = perf_counter_ns() + PATIENCE
        self.is_rung = False

    def _stir(self) -> None:
        """Wake the first in the queue if it has the lock, or can have it."""
        while self.queue:
            first, owners = self.queue[0], self.owners.copy()
            if first in owners:
                first.ring()
                del self.queue[0]
                self._begin_patience()
                continue
            if not self.is_rung and (not owners or (first.shared and owners[0].shared)):
                first.ring()
                self.is_rung = True
            return
