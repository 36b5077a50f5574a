"""A pool's wait for a permit: its notice on the board, and the time until its turn.

A free permit goes to the waiting pool with the fewest permits; among those, to the one that has waited longest. A
waiting pool posts a notice on the board and renews it.

The pool polls again when its permit has cooled down. If its permit is not free yet, the pool sleeps for half the time
until its expected turn, but at least for one cooldown. So two hundred waiting processes use little processor time.

A pool has its share if no pool has more permits and no permit is free or cooling. Only another pool can help then, so
the pool polls five times a second. In between it may wait, be satisfied and wait again without a system call.
"""

from __future__ import annotations

from typing import NamedTuple

from wsgipool.budget.board import COOLDOWN
from wsgipool.budget.file import BudgetFile
from wsgipool.budget.permits import IDLE_PERIOD
from wsgipool.config import MAX_PERMITS

MAX_POLL = 0.2
"""Maximum seconds between two polls of a waiting pool, far less than the lease of its notice."""
_SHARE_VALIDITY = 0.18
"""Seconds for which a poll proves that the pool has its share: until just before the next poll."""


class Waiting:
    """The state of one pool: whether it waits for a permit, and since when."""

    def __init__(self) -> None:
        self._wait: _Wait | None = None
        self._ended_at: int | None = None
        """When the last wait ended."""
        self._is_posted = False
        """Whether the board may show a notice of this pool."""
        self._share: tuple[int, int] = 0, 0
        """The pool's share, and the time until which no poll is needed to know that the pool has it."""
        self._freed = 0
        """`Board.freed` at the last poll."""

    @property
    def is_starved(self) -> bool:
        return self._wait is not None

    def needs_all(self, now: int) -> bool:
        """Return whether the pool needs all its connections: it waits for more, or did so a moment ago.

        A busy pool waits again after milliseconds. It would soon want back a connection that it yields in between.
        """
        ended_at = self._ended_at
        return self._wait is not None or (ended_at is not None and now - ended_at < IDLE_PERIOD * 1e9)

    def post(self, file: BudgetFile, kept: int, wanted: int, now: int) -> None:
        """Begin or continue a wait for `wanted` permits. `kept`: the permits that the pool keeps."""
        wait = self._wait
        since, freed_before = (wait.since, wait.freed_before) if wait is not None else (now, file.board.freed)
        self._wait = wait = _Wait(since, wanted, freed_before)
        self._write(wait, file, kept, now)

    def waits_without_poll(self, kept: int, wanted: int, now: int) -> bool:
        """Wait without a poll if the last one showed that the pool has its share; return whether that is so."""
        share, until = self._share
        if now >= until or kept < share:
            return False
        wait = self._wait
        since, freed_before = (wait.since, wait.freed_before) if wait is not None else (now, self._freed)
        self._wait = _Wait(since, wanted, freed_before)
        return True

    def renew(self, file: BudgetFile, kept: int, now: int) -> None:
        """Renew the notice if the pool waits."""
        wait = self._wait
        if wait is not None:
            self._write(wait, file, kept, now)

    def end(self, file: BudgetFile, now: int) -> None:
        """End the wait. If the pool has its share, its notice stays until maintenance or the end of its lease."""
        if self._wait is not None:
            self._wait = None
            self._ended_at = now
            if now >= self._share[1]:
                self.withdraw(file)

    def withdraw(self, file: BudgetFile) -> None:
        """Remove the notice if the pool does not wait."""
        if self._is_posted and self._wait is None:
            self._is_posted = False
            file.board.remove_notice(file.place)

    def ahead(self, file: BudgetFile, kept: int, wanted: int, now: int) -> int:
        """Return how many of the free permits belong to other pools."""
        if not file.board.has_notices(now):
            return 0
        if not wanted:
            return MAX_PERMITS if file.board.notices(now, file.place) else 0
        wait = self._wait
        return file.board.rivals(file.place, kept, now if wait is None else wait.since, now).ahead

    def seconds(self, file: BudgetFile, limit: int, held: int, kept: int, free: int, now: int) -> float:
        """Return the seconds until a permit may be free for this pool; 0 means now.

        `held`: the pool's permits; `kept`: those without the closing ones; `free`: the permits that are free now.
        """
        wait = self._wait
        if wait is None:
            return 0.0
        self._share = 0, 0
        board = file.board
        ahead, most, theirs = board.rivals(file.place, kept, wait.since, now)
        if ahead < free:
            return 0.0
        cooling = board.cooling(limit, now)
        if ahead < free + len(cooling):
            return (cooling[ahead - free] - now) / 1e9
        if not free and not cooling:
            # A single pool that does not wait may hold all permits that the waiting pools do not hold.
            elsewhere = len(board.taken(limit)) - theirs - held
            if max(most, elsewhere) <= kept:
                self._freed = board.freed
                self._share = kept, now + int(_SHARE_VALIDITY * 1e9)
                self._write(wait, file, kept, now)  # `take` does not renew the notice until then
                return MAX_POLL
        turns = ahead - free - len(cooling)
        pace = (now - wait.since) / 1e9 / max(1, board.freed - wait.freed_before + 1)
        return min(max(COOLDOWN / 1e9, turns * pace / 2), MAX_POLL)

    def _write(self, wait: _Wait, file: BudgetFile, kept: int, now: int) -> None:
        self._is_posted = True
        file.board.post_notice(now, file.place, kept, wait.since, wait.wanted)
        if self._wait is None:
            # Another thread has ended the wait meanwhile, perhaps before this notice was written.
            self._is_posted = True
            self.withdraw(file)


class _Wait(NamedTuple):
    since: int
    wanted: int
    freed_before: int
    """`Board.freed` when the wait began."""
