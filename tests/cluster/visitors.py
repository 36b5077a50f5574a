"""Eight threads that write entries through a pool, as a site's visitors do, and the results."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from httpd.background import Background
from wsgipool import Pool

THREADS = 8
_PACE = 0.2
"""Seconds between two entries of a thread. All begin at the same time, so each needs a connection of its own."""
_WORK = 0.05
"""Seconds that a page computes within its transaction."""


@dataclass(frozen=True)
class Failure:
    when: float
    number: int
    error: Exception


@dataclass
class Visitors(Background):
    """Write numbered entries during a `with` block."""

    pool: Pool[Any]
    written: list[int] = field(default_factory=list)
    """The numbers of the entries whose commit was acknowledged."""
    failures: list[Failure] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(*(partial(self._write, thread) for thread in range(THREADS)))
        self._numbers = itertools.count(1)
        self._progress = threading.Condition()

    def wait_for_entries(self, count: int, timeout: float = 30.0) -> None:
        """Wait until this many more entries have been written."""
        with self._progress:
            wanted = len(self.written) + count
            assert self._progress.wait_for(lambda: len(self.written) >= wanted, timeout), self.describe([])

    def wait_until_all_write(self) -> None:
        """Wait until each thread is in the middle of its transaction."""
        deadline = time.monotonic() + 30.0
        while self.pool.in_use < THREADS:
            assert time.monotonic() < deadline, self.describe([])
            time.sleep(0.001)

    def describe(self, noticed: list[float]) -> str:
        """Return the failures and the balancer's notices, with their times."""
        start = min([*noticed, *(failure.when for failure in self.failures)], default=0.0)
        moments = [(when, "the balancer gives up a node") for when in noticed]
        moments += [(failure.when, repr(failure.error)) for failure in self.failures]
        lines = [f"{when - start:.2f} s: {what}" for when, what in sorted(moments)]
        return "\n".join([f"{len(self.written)} entries written, {len(self.failures)} failures", *lines[:100]])

    def _write(self, thread: int) -> None:
        while not self._ending.wait(_PACE - time.monotonic() % _PACE):
            number = next(self._numbers)
            try:
                self.pool.transaction(partial(_enter, number=number, thread=thread), retry=3)
            except Exception as error:  # any error is a result
                self.failures.append(Failure(time.monotonic(), number, error))
            else:
                with self._progress:
                    self.written.append(number)
                    self._progress.notify_all()


def _enter(connection: Any, number: int, thread: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO entries VALUES (%s, %s)", (number, thread))
        time.sleep(_WORK)
        cursor.execute("UPDATE totals SET entries = entries + 1 WHERE thread = %s", (thread,))
