"""The budget: at most N connections from one host to a database server, at any moment, over all its processes.

A permit is one byte of one file, locked by the process with the connection. The kernel drops the lock when that process
dies in any way. So no permit leaks, and no daemon is needed.

While all permits are taken, pools take turns. A pool that wants a permit posts a notice and polls
(`wsgipool.budget.waiting`). Other pools see the notice when a connection is returned to them, and during maintenance
(`wsgipool.budget.yielding`).

The file may be removed, renamed or replaced while it is in use. A process with permits notices that within a quarter of
a second. It moves to the new file at the path and locks the same bytes there (`wsgipool.budget.process_permits`). While
one process holds permits of an earlier file, no process takes a permit of the new one. So there are never two budgets.
A stopped process notices nothing and keeps the others waiting.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from pathlib import Path
from time import monotonic_ns

from wsgipool import _runtime
from wsgipool.budget.allowance import Allowance, BudgetLimit
from wsgipool.budget.file import BudgetFile, path_of
from wsgipool.budget.file_permit import TURN, FilePermit
from wsgipool.budget.permits import IDLE_PERIOD, Permit
from wsgipool.budget.process_permits import ProcessPermits
from wsgipool.budget.waiting import Waiting
from wsgipool.budget.yielding import Yielding, number_to_yield
from wsgipool.shared.one_time_warnings import log_deferred_warnings

__all__ = ["Budget", "BudgetLimit"]

_MIN_POLL = 0.01
"""Minimum seconds between two polls."""
_BLOCKED_POLL = 0.05
"""Seconds between two polls while another process holds permits of another file."""


class Budget:
    """One pool's part in the budget of a server; see `wsgipool.budget.permits.Permits`.

    `server` names the database server. All pools of this user on this host with the same `server` and `folder` share
    its permits. `account`: the database user, which may have a limit of its own. `clock`: nanoseconds of
    CLOCK_MONOTONIC. Raises ConfigError if the folder cannot be used, or if its file system has no such locks.
    """

    def __init__(
        self, folder: Path, server: str, limit: BudgetLimit, account: str = "", clock: Callable[[], int] = monotonic_ns
    ) -> None:
        self.server = server
        self.path = path_of(folder, server)
        self._clock = clock
        self._allowance = Allowance(limit, server, account)
        self._waiting = Waiting()
        self._yielding = Yielding()
        self._by_process: dict[int, ProcessPermits] = {}
        self._permits()
        _every_budget.add(self)

    def __str__(self) -> str:
        board = self.file.board
        is_known = self._allowance.is_known(board)
        number = self._allowance.permits(board) if is_known else 'an "auto" number (the first asks the server) of'
        return f"{number} connections of this host to {self.server}, counted in {self.path}"

    def count(self) -> tuple[int | None, int]:
        """Return the number of permits of this host, None if it is not known yet, and how many are taken."""
        board = self.file.board
        limit = self._allowance.permits(board)
        return limit if self._allowance.is_known(board) else None, len(board.taken(limit))

    @property
    def file(self) -> BudgetFile:
        """The open file with the locked bytes and the board."""
        return self._permits().file

    @property
    def held(self) -> int:
        """Number of permits that this pool holds."""
        return self._permits().number

    # --- to get a permit --------------------------------------------------------------------------------------------

    @property
    def is_starved(self) -> bool:
        return self._waiting.is_starved

    def take(self, wanted: int) -> Permit | None:
        permits, now = self._permits(), self._clock()
        if wanted and self._waiting.waits_without_poll(permits.kept, wanted, now):
            return None
        file = permits.refresh()
        permit = permits.take(file, now, lambda: self._waiting.ahead(file, permits.kept, wanted, now))
        if permit is not None:
            self._waiting.end(file, now)
        elif wanted:
            self._waiting.post(file, permits.kept, wanted, now)
            self._seconds_until_turn(permits, file, now)
        return permit

    def satisfied(self) -> None:
        if self._waiting.is_starved:
            self._waiting.end(self.file, self._clock())

    def until_turn(self) -> float:
        if not self._waiting.is_starved:
            return 0.0
        permits = self._permits()
        file, now = permits.refresh(), self._clock()
        self._waiting.renew(file, permits.kept, now)
        return self._seconds_until_turn(permits, file, now)

    def _seconds_until_turn(self, permits: ProcessPermits, file: BudgetFile, now: int) -> float:
        if permits.is_blocked and not permits.enter(file, now):
            return _BLOCKED_POLL
        free = len(permits.available(file, now))
        limit = self._allowance.permits(file.board)
        return self._waiting.seconds(file, limit, permits.number, permits.kept, free, now)

    def usage(self) -> tuple[int, int]:
        """Return how many connections of this host to the server are open, and how many may be."""
        board = self.file.board
        limit = self._allowance.permits(board)
        return len(board.taken(limit)), limit

    def describe(self) -> str:
        permits = self._permits()
        if permits.is_blocked:
            return (
                f"{self.path}, which counts the connections to {self.server}, was removed or replaced, and a process "
                "of this user still has connections that are counted in the earlier file. A running process moves "
                "them within a second; look for a stopped process (state T in ps)"
            )
        taken, limit = self.usage()
        return (
            f"the budget of this host is used up: {taken} of {limit} connections to "
            f"{self.server} are open, {permits.number} of them in this pool; "
            f"waiting pools: {len(permits.file.board.notices(self._clock(), -1))}. "
            "Raise connections in [budget], if the server allows more"
        )

    # --- to yield permits -------------------------------------------------------------------------------------------

    def must_yield(self, permit: Permit, now: float) -> bool:
        if now < self._yielding.quiet_until:
            return False
        assert isinstance(permit, FilePermit)
        return self._yielding.must_yield(permit, now, self._excess)

    def count_to_yield(self, keep: int) -> int:
        self._yielding.forget()
        permits = self._permits()
        return self._number_to_yield(permits, permits.kept if self._waiting.needs_all(self._clock()) else keep)

    def maintain(self, has_connections: bool) -> float | None:
        permits = self._permits()
        file = permits.refresh()
        log_deferred_warnings()
        now = self._clock()
        self._waiting.withdraw(file)
        if permits.has_ending:
            return _MIN_POLL
        if self._waiting.is_starved:
            return max(_MIN_POLL, self._seconds_until_turn(permits, file, now))
        if not has_connections:
            return None
        return TURN if file.board.has_notices(now) and not self._waiting.needs_all(now) else IDLE_PERIOD

    def _excess(self) -> int:
        """Return how many connections to yield to pools that have fewer."""
        permits = self._permits()
        return self._number_to_yield(permits, permits.kept)

    def _number_to_yield(self, permits: ProcessPermits, keep: int) -> int:
        board, now, kept = permits.file.board, self._clock(), permits.kept
        if not board.has_notices(now):
            return 0
        notices = board.notices(now, permits.file.place)
        if not notices or (notices[0].held >= kept and keep >= kept):
            return 0
        limit = self._allowance.permits(board)
        free = limit - len(board.taken(limit)) + permits.closing(limit)
        return number_to_yield(notices, kept, free, keep)

    # --- what the server allows -------------------------------------------------------------------------------------

    @property
    def asks_server(self) -> bool:
        """Whether this process still has to ask the server for its limit."""
        return self._allowance.asks_server

    def learn(self, sessions: int, own: int | None = None) -> None:
        """Store the number of sessions that the server allows, in total and to this account, for all pools."""
        self._allowance.learn(self.file, sessions, own)

    # --- after a fork -----------------------------------------------------------------------------------------------

    def after_fork(self) -> None:
        """Forget the parent's permits, in the child after a fork."""
        for process in list(self._by_process):
            if process != os.getpid() and (inherited := self._by_process.pop(process, None)) is not None:
                inherited.close()
        self._allowance.reset()
        self._waiting = Waiting()
        self._yielding = Yielding()

    def _permits(self) -> ProcessPermits:
        # By process, because a fork by another sub-interpreter or by a C library calls none of our functions.
        permits = self._by_process.get(os.getpid())
        if permits is None:
            permits = ProcessPermits(self.path, self._allowance, self._clock)
            # One of several concurrent threads opens the file for all.
            permits = self._by_process.setdefault(permits.process, permits)
            self.after_fork()
        return permits


_every_budget: weakref.WeakSet[Budget] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for budget in list(_every_budget):
        budget.after_fork()


_runtime.after_fork(_after_fork_in_child)
