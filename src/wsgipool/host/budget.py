"""At most so many connections of one host to a database server, at any moment, whichever of its processes has them.

A permit is one byte of one file, locked by the process that has the connection. The kernel drops the lock when that
process dies, however it dies, so no permit is ever lost, and nothing has to run but the processes themselves.

Where all are taken the turn goes round. A pool that wants a permit puts up a notice, and looks again when its turn may
have come; the others see it when a connection comes back to them, or when their housekeeping looks at the idle ones:

- A permit that became free goes to the pool that has the fewest, of these to the one that has waited longest.
- A pool gives up what it does not need, and keeps one as long as it is at work.
- A pool that needs all it has gives one up to a pool that has fewer. So all have about as many, and where there is
  less than one for each they take turns, of `TURN` seconds at least: a turn costs a connect.

Nobody is asked in vain: those who could be served by what is free already, or about to be, are not counted.
"""

from __future__ import annotations

import contextlib
import os
import weakref
import zlib
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from time import monotonic_ns
from typing import Literal

from wsgipool.farewell import UNSEEN, Farewell
from wsgipool.host.board import UNLIMITED, Board
from wsgipool.host.budget_file import BudgetFile, path_of
from wsgipool.permits import IDLE_LOOK, MOST_PERMITS

TURN = 0.06
"""Seconds that a permit stays where it is, however many others want it: each move costs a rest and a connect.

With 64 prefork children on 8 connections, turns of 0.1 s gave 79 to 116 requests each in 30 s, of 0.06 s 73 to 96.
"""
_LOOK = 0.01
"""Seconds between two looks where something may have changed already."""
_REST = 20_000_000
"""Nanoseconds that a permit rests after the server has closed the connection, besides what it took for that at worst of
late: it closes its side first and then ends its count of it, and on a busy machine other processes run in between."""
_LONGEST_LOOK = 0.2
"""Seconds between two looks of a hungry pool at most; well within the lease of its notice."""
_DELAYS = 4
"""As many times the server may take longer to see that a process has died than it takes to end a session on demand."""
_LONGEST_DELAY = 100_000_000
"""Nanoseconds that one slow end of a session counts for at most: the server may have been at a statement until then."""


@dataclass(frozen=True)
class Limit:
    """How many connections a host may have to a server."""

    connections: int | Literal["auto"]
    """A number, or the host's part of what the server says that it allows."""
    hosts: int = 1
    """With "auto": the hosts that share the server."""
    reserve: int = 0
    """With "auto": sessions left to others."""

    def share(self, sessions: int) -> int:
        """Return the number of permits where the server allows so many sessions; 0 is unknown."""
        if self.connections != "auto":
            return self.connections
        # One process at a time may ask the server.
        return min(max(1, (sessions - self.reserve) // self.hosts), MOST_PERMITS)


class Budget:
    """One pool's part in the budget of a server; see `wsgipool.permits.Permits`.

    `server` names the database server; all pools of this user on this host that name it so, and have the same
    `folder`, share its permits. `account` names whom the server may have a limit for. Raises ConfigError where the
    folder cannot be used, or has no such locks.
    """

    def __init__(self, folder: Path, server: str, limit: Limit, account: str = "") -> None:
        self.server = server
        self.limit = limit
        self.path = path_of(folder, server)
        self._account = zlib.crc32(account.encode())
        self._shared: BudgetFile | None = BudgetFile(self.path, self._account)
        self._begin()
        _every_budget.add(self)

    def _begin(self) -> None:
        self._held: dict[int, int] = {}  # the id() of the object, which may be dropped: it is not kept alive here
        self._farewells: deque[tuple[_Permit, Farewell]] = deque()  # connections that the server still counts
        self._hungry_since = 0
        self._wanted = 0
        self._freed_before = 0  # those that the board had counted when it became hungry
        self._told_at = 0
        self._has_asked_server = False
        self._is_asking = False  # or its connection is about to

    def __str__(self) -> str:
        is_known = self.limit.connections != "auto" or self._opened().board.allowed() > 0
        number = self._limit() if is_known else 'an "auto" number (the first asks the server) of'
        return f"{number} connections of this host to {self.server}, counted in {self.path}"

    @property
    def held(self) -> int:
        """Permits that this pool has."""
        return len(self._held)

    @property
    def hungers(self) -> bool:
        return self._hungry_since != 0

    def describe(self) -> str:
        """Return the numbers for a message."""
        board, now = self._opened().board, monotonic_ns()
        return (
            f"the budget of this host is used up: {len(board.taken(self._limit()))} of {self._limit()} connections to "
            f"{self.server} are open, {self.held} of them in this pool; {len(board.hungry(now, -1))} pools want one. "
            "Raise connections in [budget], if the server allows more"
        )

    # --- to take ----------------------------------------------------------------------------------------------------

    def take(self, wanted: int) -> _Permit | None:
        shared, now = self._opened(), monotonic_ns()
        self._see_off()
        permit = self._take_free(shared, wanted, now) if self._knows_or_asks(shared) else None
        self._leave_the_asking_to_others(shared)
        if permit is None and wanted:
            self._wanted = wanted
            if not self._hungry_since:
                self._begin_to_wait(shared.board, now)
            shared.board.note_hunger(now, shared.place, self.held, self._hungry_since, wanted)
        elif self._hungry_since:
            # Should the pool want more: it has had its turn.
            self._begin_to_wait(shared.board, now)
        return permit

    def _begin_to_wait(self, board: Board, now: int) -> None:
        self._hungry_since = now
        self._freed_before = board.freed

    def until_turn(self) -> float:
        if not self._hungry_since:
            return 0.0
        self._see_off()
        shared, now = self._opened(), monotonic_ns()
        shared.board.note_hunger(now, shared.place, self.held, self._hungry_since, self._wanted)
        return self._until_turn(shared, now)

    def _until_turn(self, shared: BudgetFile, now: int) -> float:
        """Return the seconds until a permit may be there for this pool.

        It looks again when the permit that will be its has rested. As long as that is not free yet it may sleep for a
        rest, since that will come; and for half the time that its turn will take if others get theirs as they did up to
        now. So two hundred hungry processes do not keep a machine busy with looking.
        """
        board = shared.board
        free = len(self._takeable(shared, now))
        rests = board.rests(self._limit(), now)
        ahead = board.ahead_of(shared.place, self.held, self._hungry_since, now)
        if ahead < free:
            return 0.0
        if ahead < free + len(rests):
            return (rests[ahead - free] - now) / 1e9
        turns = ahead - free - len(rests)
        pace = (now - self._hungry_since) / 1e9 / (board.freed - self._freed_before + 1)
        return min(max(_REST / 1e9, turns * pace / 2), _LONGEST_LOOK)

    def sated(self) -> None:
        if self._hungry_since:
            self._hungry_since = 0
            self._opened().board.clear_hunger(self._opened().place)

    def _take_free(self, shared: BudgetFile, wanted: int, now: int) -> _Permit | None:
        free, ahead = self._takeable(shared, now), 0
        if free and shared.board.is_hunger(now):
            if not wanted and shared.board.hungry(now, shared.place):
                return None
            ahead = shared.board.ahead_of(shared.place, self.held, self._hungry_since or now, now)
        # Those before us will take the first of them.
        for index in free[ahead:]:
            permit = self._lock(shared, index, now)
            if permit is not None:
                return permit
        return None

    def _takeable(self, shared: BudgetFile, now: int) -> list[int]:
        limit = self._limit()
        free = shared.board.takeable(limit, now)
        if not free and shared.board.is_time_to_search(now):
            self._find_the_ownerless(shared, limit, now)
        return free

    def _lock(self, shared: BudgetFile, index: int, now: int) -> _Permit | None:
        permit = _Permit(self, index, now)
        if self._held.setdefault(index, id(permit)) != id(permit):
            return None
        try:
            # Taken, used and given back since we looked: then it rests.
            permit.is_taken = shared.locks.lock(index) and shared.board.is_takeable(index, now)
            if not permit.is_taken:
                return None
            shared.board.note_taken(index)
            return permit
        finally:
            if not permit.is_taken:
                self._forget(shared, permit)

    def _see_off(self) -> None:
        """Give back the permits of connections that the server has ended meanwhile."""
        for _ in range(len(self._farewells)):
            try:
                permit, farewell = self._farewells.popleft()
            except IndexError:
                return
            permit.release(farewell)

    def _forget(self, shared: BudgetFile, permit: _Permit) -> None:
        permit.is_taken = False  # as soon as it is unlocked it may be another's
        shared.locks.unlock(permit.index)
        self._held.pop(permit.index, None)

    def _find_the_ownerless(self, shared: BudgetFile, limit: int, now: int) -> None:
        for index in shared.board.taken(limit):
            # As if to take it: another thread of this process, whose lock it would be too, has to keep off meanwhile.
            permit = _Permit(self, index, now)
            if self._held.setdefault(index, id(permit)) != id(permit):
                continue
            try:
                if shared.locks.lock(index):
                    died_before = monotonic_ns()
                    rest = int(UNSEEN * 1e9) + _REST + _DELAYS * shared.board.delay(now)
                    shared.board.note_free(index, died_before + rest)
            finally:
                self._forget(shared, permit)

    def _limit(self) -> int:
        return self.limit.share(0 if self.limit.connections != "auto" else self._opened().board.allowed())

    # --- what the server allows -------------------------------------------------------------------------------------

    @property
    def asks_server(self) -> bool:
        """Whether somebody should ask the server how many sessions it allows: once a process."""
        return self.limit.connections == "auto" and not self._has_asked_server

    def learn(self, sessions: int, own: int | None = None) -> None:
        """Learn how many sessions the server allows, to all and to this account; who shares the budget hears it."""
        self._has_asked_server = True
        shared = self._opened()
        shared.board.note_allowed(shared.place, self._account, sessions, UNLIMITED if own is None else own)
        shared.clear_left_places()  # and what was allowed to accounts that are no longer used

    def _knows_or_asks(self, shared: BudgetFile) -> bool:
        """Tell whether a connection may be opened: one, by one pool, as long as nobody knows what the account may."""
        if self.limit.connections != "auto" or self._has_asked_server or shared.board.allowed_to(self._account):
            return True
        if self._held:
            return False
        self._is_asking = True
        return shared.lock_asking(self._account)

    def _leave_the_asking_to_others(self, shared: BudgetFile) -> None:
        if self._is_asking and not self._held:
            shared.unlock_asking(self._account)
            self._is_asking = False

    # --- to give up -------------------------------------------------------------------------------------------------

    def others_hunger(self) -> bool:
        return self._shared is not None and self._shared.board.may_be_hunger()

    def is_news(self) -> bool:
        now = monotonic_ns()
        is_news = now - self._told_at >= TURN * 1e9
        if is_news:
            self._told_at = now
        return is_news

    def to_give_up(self, keep: int) -> int:
        shared, now = self._opened(), monotonic_ns()
        board = shared.board
        if not board.is_hunger(now):
            return 0
        limit = self._limit()
        free = limit - len(board.taken(limit))
        held, given = self.held, 0
        for other in board.hungry(now, shared.place):
            for theirs in range(other.held, other.held + other.wanted):
                if free > 0:
                    free -= 1
                elif theirs < held - given or (not self.hungers and held - given > keep):
                    given += 1
                else:
                    break
        return given

    def tend(self, has_connections: bool) -> float | None:
        self._see_off()
        if self.hungers:
            return max(_LOOK, self._until_turn(self._opened(), monotonic_ns()))
        if self._farewells:
            return _LOOK
        if not has_connections:
            return None
        return TURN if self.others_hunger() else IDLE_LOOK

    # --- the shared file --------------------------------------------------------------------------------------------

    def start_anew(self) -> None:
        """Leave everything to the parent: this is the child of a fork."""
        if self._shared is not None:
            # The locks are the parent's, and would outlive it as long as this process has the description too.
            self._shared.locks.close()
            self._shared = None
        self._begin()

    def _opened(self) -> BudgetFile:
        # A fork by another sub-interpreter, or by a C library, calls none of our functions.
        if self._shared is not None and not self._shared.is_ours():
            self.start_anew()
        if self._shared is None:
            self._shared = BudgetFile(self.path, self._account)
        return self._shared


_every_budget: weakref.WeakSet[Budget] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for budget in list(_every_budget):
        budget.start_anew()


os.register_at_fork(after_in_child=_after_fork_in_child)


class _Permit:
    """A locked byte. Dropped without a word, by an exception at the wrong moment, it gives itself back."""

    __slots__ = ("_budget", "index", "is_taken", "is_used", "taken_at")

    def __init__(self, budget: Budget, index: int, taken_at: int) -> None:
        self._budget = budget
        self.index = index
        self.taken_at = taken_at
        self.is_taken = False
        """Whether the board says so because of this, and is to be told of the end."""
        self.is_used = False

    def release(self, farewell: Farewell | None = None) -> None:
        budget, shared = self._budget, self._budget._shared
        # In a fork's child the locks are the parent's: to unlock would be for both.
        if shared is None or budget._held.get(self.index) != id(self) or not shared.is_ours():
            return
        if self.is_taken:
            if self.is_used and farewell is None:
                farewell = Farewell()
            if farewell is not None and not farewell.is_over():
                budget._farewells.append((self, farewell))
                return
            # It rests from here on: where many want a processor, to look may have taken longer than the whole rest.
            now, rest = monotonic_ns(), 0
            if farewell is not None:
                if farewell.seconds:
                    shared.board.note_delay(now, min(int(farewell.seconds * 1e9), _LONGEST_DELAY))
                rest = _REST + shared.board.delay(now)
            shared.board.note_free(self.index, now + rest)
        budget._forget(shared, self)
        budget._leave_the_asking_to_others(shared)

    def is_due(self) -> bool:
        return monotonic_ns() - self.taken_at >= TURN * 1e9

    def is_wanted(self) -> bool:
        return self.is_due() and self._budget.to_give_up(1) > 0

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the interpreter ends, and the kernel does it
            self.release()
