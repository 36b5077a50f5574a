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

The file may be removed, renamed or replaced in use. A process with permits notices that at its next look, a quarter of
a second later at most: it locks the same bytes in the file that is at the path now, and goes by that one. As long as
one process has permits of another file, nobody takes a permit: so there are never two budgets, and a process that was
stopped, which notices nothing, keeps the others waiting.

What the pool has is in `_held` from before its byte is locked until after it is unlocked. A permit that nobody has any
more, and one whose connection has ended, is found there at every look; so an asynchronous exception loses none.
"""

from __future__ import annotations

import contextlib
import errno
import os
import weakref
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic_ns
from typing import Literal

from wsgipool.errors import ConfigError
from wsgipool.farewell import UNSEEN, Farewell
from wsgipool.host.board import DELAYS, MAX_DELAY, REST, UNLIMITED, Board
from wsgipool.host.budget_file import BudgetFile, path_of
from wsgipool.host.notices import log_notes, note_once, warn_once
from wsgipool.host.turn import Turn
from wsgipool.permits import IDLE_LOOK, MOST_PERMITS

TURN = 0.06
"""Seconds that a permit stays where it is, however many others want it: each move costs a rest and a connect.

With 64 prefork children on 8 connections, turns of 0.1 s gave 79 to 116 requests each in 30 s, of 0.06 s 73 to 96.
"""
_LOOK = 0.01
"""Seconds between two looks where something may have changed already."""
_LONGEST_LOOK = 0.2
"""Seconds between two looks of a hungry pool at most; well within the lease of its notice."""
_LOOK_FOR_OTHERS = 0.05
"""Seconds between two looks of a pool that waits for others to leave another file."""
_TURN_TIMEOUT = 0.02
"""Seconds to wait for another thread of the process that changes what is held, which takes it microseconds."""
_MAX_SESSIONS = 262_143
"""What a server can allow at most: PostgreSQL's largest max_connections; MySQL's is 100,000."""


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
        self._turn = Turn()  # to change what is held
        self._is_unsettled = False
        self._held: dict[int, _Taken] = {}
        self._left: list[BudgetFile] = []  # files that were at the path before; what is held is locked there, too
        self._is_kept_out = False
        self._hungry_since = 0
        self._wanted = 0
        self._freed_before = 0  # those that the board had counted when it became hungry
        self._told_at = 0
        self._learnt: tuple[int, int] | None = None
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
        if self._is_kept_out:
            return (
                f"{self.path}, which counts the connections to {self.server}, was removed or replaced, and a process "
                "of this user still has connections that it counts in the earlier file. A process that runs moves "
                "them within a second; look for one that is stopped (state T in ps)"
            )
        board, now = self._opened().board, monotonic_ns()
        return (
            f"the budget of this host is used up: {len(board.taken(self._limit()))} of {self._limit()} connections to "
            f"{self.server} are open, {self.held} of them in this pool; {len(board.hungry(now, -1))} pools want one. "
            "Raise connections in [budget], if the server allows more"
        )

    # --- to take ----------------------------------------------------------------------------------------------------

    def take(self, wanted: int) -> _Permit | None:
        shared, now = self._in_place(), monotonic_ns()
        self._settle()
        permit = self._take_in_turn(shared, wanted, now)
        self._settle()
        if permit is None and wanted:
            self._wanted = wanted
            if not self._hungry_since:
                self._begin_to_wait(shared.board, now)
            shared.board.note_hunger(now, shared.place, self.held, self._hungry_since, wanted)
        elif self._hungry_since:
            # Should the pool want more: it has had its turn.
            self._begin_to_wait(shared.board, now)
        return permit

    def _take_in_turn(self, shared: BudgetFile, wanted: int, now: int) -> _Permit | None:
        token = self._turn.wait(_TURN_TIMEOUT)
        try:
            # What is shown stays shown until the permit is noted.
            if (
                token is not None
                and self._may_enter(shared, now)
                and shared is self._shared
                and self._knows_or_asks(shared)
            ):
                return self._take_free(shared, wanted, now)
        except OSError as error:
            _excuse(error)
        finally:
            token = None  # a traceback may keep the frame
        return None

    def _may_enter(self, shared: BudgetFile, now: int) -> bool:
        """Return whether nobody has permits of another file."""
        self._is_kept_out = not shared.show()
        if self._is_kept_out:
            shared.board.rest_all(self._limit(), now)
        return not self._is_kept_out

    def _begin_to_wait(self, board: Board, now: int) -> None:
        self._hungry_since = now
        self._freed_before = board.freed

    def until_turn(self) -> float:
        if not self._hungry_since:
            return 0.0
        shared, now = self._in_place(), monotonic_ns()
        self._settle()
        shared.board.note_hunger(now, shared.place, self.held, self._hungry_since, self._wanted)
        return self._until_turn(shared, now)

    def _until_turn(self, shared: BudgetFile, now: int) -> float:
        """Return the seconds until a permit may be there for this pool.

        It looks again when the permit that will be its has rested. As long as that is not free yet it may sleep for a
        rest, since that will come; and for half the time that its turn will take if others get theirs as they did up to
        now. So two hundred hungry processes do not keep a machine busy with looking.
        """
        if self._is_kept_out:
            token = self._turn.wait(_TURN_TIMEOUT)
            try:
                if token is not None:
                    self._may_enter(shared, now)
            finally:
                token = None
            self._settle()
            if self._is_kept_out:
                return _LOOK_FOR_OTHERS
        board = shared.board
        free = len(self._takeable(shared, now))
        rests = board.rests(self._limit(), now)
        ahead = board.ahead_of(shared.place, self.held, self._hungry_since, now)
        if ahead < free:
            return 0.0
        if ahead < free + len(rests):
            return (rests[ahead - free] - now) / 1e9
        turns = ahead - free - len(rests)
        pace = (now - self._hungry_since) / 1e9 / max(1, board.freed - self._freed_before + 1)
        return min(max(REST / 1e9, turns * pace / 2), _LONGEST_LOOK)

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
        taken = _Taken(index, now)
        permit = _Permit(self, taken)
        taken.permit = weakref.ref(permit)
        if self._held.setdefault(index, taken) is taken:
            # Taken, used and given back since we looked: then it rests.
            if shared.locks.lock(index) and shared.board.is_takeable(index, now):
                taken.is_noted = True
                if shared.board.note_taken(index):
                    return permit
            self._forget(shared, taken)
        return None

    def _find_the_ownerless(self, shared: BudgetFile, limit: int, now: int) -> None:
        token = self._turn.take()
        try:
            for index in shared.board.taken(limit) if token is not None else ():
                # As if to take it: another thread of this process, whose lock it would be too, keeps off meanwhile.
                taken = _Taken(index, now)
                if self._held.setdefault(index, taken) is not taken:
                    continue
                try:
                    if shared.locks.lock(index):
                        died_before = monotonic_ns()
                        rest = int(UNSEEN * 1e9) + REST + DELAYS * shared.board.delay(now)
                        shared.board.note_free(index, died_before + rest)
                finally:
                    self._forget(shared, taken)
        finally:
            token = None

    # --- to give back -----------------------------------------------------------------------------------------------

    def _release(self, taken: _Taken, end: Farewell | None) -> None:
        shared = self._shared
        # In a fork's child the locks are the parent's: to unlock would be for both.
        if shared is None or not shared.is_ours() or self._held.get(taken.index) is not taken:
            return
        if taken.end is None:
            taken.end = end or taken.end_of_the_unknown()
        self._settle()

    def _settle(self) -> None:
        """Give back the permits of connections that have ended, and those that nobody has any more.

        Where another thread has the turn, that one does so as well, after its turn.
        """
        self._is_unsettled = True
        while self._is_unsettled and not self._turn.is_mine():
            token = self._turn.take()
            try:
                if token is None:
                    return
                self._is_unsettled = False
                self._settle_in_turn()
            except OSError as error:
                _excuse(error)
            finally:
                token = None

    def _settle_in_turn(self) -> None:
        shared = self._shared
        if shared is None or not shared.is_ours():
            return
        for taken in list(self._held.values()):
            self._give_back_what_has_ended(shared, taken)
        for left in self._left:
            if left is not shared:
                left.hide()
        if not self._held:
            self._leave(shared)

    def _leave(self, shared: BudgetFile) -> None:
        """With nothing held, keep nobody else from anything."""
        if self._is_asking:
            shared.unlock_asking(self._account)
            self._is_asking = False
        shared.hide()
        self._left = []

    def _give_back_what_has_ended(self, shared: BudgetFile, taken: _Taken) -> None:
        if self._held.get(taken.index) is not taken:
            return
        if taken.end is None:
            if taken.permit() is not None:
                return
            taken.end = taken.end_of_the_unknown()
        if not taken.is_noted:
            self._forget(shared, taken)
            return
        if not taken.end.is_over():
            return
        # It rests from here on: where many want a processor, to look may have taken longer than the whole rest.
        now, rest = monotonic_ns(), 0
        if taken.end.is_of_a_session:
            if taken.end.seconds:
                shared.board.note_delay(now, min(int(taken.end.seconds * 1e9), MAX_DELAY))
            rest = REST + shared.board.delay(now)
        # Where that cannot be noted it would not rest: then it stays.
        if shared.board.note_free(taken.index, now + rest):
            self._forget(shared, taken)

    def _forget(self, shared: BudgetFile, taken: _Taken) -> None:
        # As soon as it is unlocked it may be another's.
        shared.locks.unlock(taken.index)
        if self._held.get(taken.index) is taken:
            del self._held[taken.index]

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
        if not _is_believable(sessions):
            warn_once(
                f"{self.server} says that it allows {sessions!r} connections, which cannot be; the budget of this host "
                f"stays at {self._limit()}. Write the number of connections in [budget]"
            )
            return
        self._learnt = sessions, own if own is not None and _is_believable(own) else UNLIMITED
        self._tell_what_was_learnt(self._opened())
        self._opened().clear_left_places()  # and what was allowed to accounts that are no longer used

    def _tell_what_was_learnt(self, shared: BudgetFile) -> None:
        if self._learnt is not None:
            shared.board.note_allowed(shared.place, self._account, *self._learnt)

    def _knows_or_asks(self, shared: BudgetFile) -> bool:
        """Tell whether a connection may be opened: one, by one pool, as long as nobody knows what the account may."""
        if self.limit.connections != "auto" or self._has_asked_server or shared.board.allowed_to(self._account):
            return True
        if self._held:
            return False
        self._is_asking = True
        return shared.lock_asking(self._account)

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
        shared = self._in_place()
        self._settle()
        log_notes()
        if self.hungers:
            return max(_LOOK, self._until_turn(shared, monotonic_ns()))
        if any(taken.end is not None for taken in list(self._held.values())):
            return _LOOK
        if not has_connections:
            return None
        return TURN if self.others_hunger() else IDLE_LOOK

    # --- the shared file --------------------------------------------------------------------------------------------

    def start_anew(self) -> None:
        """Leave everything to the parent: this is the child of a fork."""
        # The locks are the parent's, and would outlive it as long as this process has the descriptions too.
        for shared in (self._shared, *self._left):
            if shared is not None:
                shared.close()
        self._shared = None
        self._begin()

    def _opened(self) -> BudgetFile:
        # A fork by another sub-interpreter, or by a C library, calls none of our functions.
        if self._shared is not None and not self._shared.is_ours():
            self.start_anew()
        if self._shared is None:
            self._shared = BudgetFile(self.path, self._account)
        return self._shared

    def _in_place(self) -> BudgetFile:
        """Return the file that is at the path: what was removed or replaced is left, and what is damaged is mended."""
        shared = self._opened()
        try:
            if not shared.is_in_place() and not self._turn.is_mine():
                shared = self._move(shared)
            self._mend(shared)
        except OSError as error:
            _excuse(error)
        return shared

    def _move(self, old: BudgetFile) -> BudgetFile:
        try:
            new = next((left for left in self._left if left.is_in_place()), None) or BudgetFile(
                self.path, self._account
            )
        except ConfigError as error:
            note_once(f"{error}. The file of the budget was removed or replaced; this process goes on with the old one")
            return old
        token = self._turn.wait(_TURN_TIMEOUT)
        try:
            if token is None or not self._move_in_turn(old, new):
                return old
        finally:
            token = None
        note_once(
            f"{self.path} was removed or replaced in use; its connections are counted in the new file from now on"
        )
        self._settle()
        return new

    def _move_in_turn(self, old: BudgetFile, new: BudgetFile) -> bool:
        if self._shared is not old:
            return False  # another thread came first
        if self._held:
            new.show()
        # Nobody takes a permit there as long as the old file is shown.
        if not all(new.locks.lock(index) for index in list(self._held)):
            return False
        new.board.carry_over(old.board, self._limit(), monotonic_ns())
        if self._is_asking:
            new.lock_asking(self._account)
        self._left = [*(left for left in self._left if left is not new), old]
        self._shared = new
        return True

    def _mend(self, shared: BudgetFile) -> None:
        if shared.mend(self._limit()) or (self._learnt is not None and not shared.board.allowed()):
            self._tell_what_was_learnt(shared)
        token = self._turn.take()
        try:
            if token is not None:
                self._mend_in_turn(shared)
        finally:
            token = None

    def _mend_in_turn(self, shared: BudgetFile) -> None:
        for taken in list(self._held.values()):
            if taken.is_noted and not shared.board.is_taken(taken.index):
                shared.board.note_taken(taken.index)
        if self._left and self._held and shared.show():
            self._left = []


def _excuse(error: OSError) -> None:
    """Note an error of the shared file, with which the pool goes on as if nothing were free; raise any other one."""
    if error.errno not in _OF_FILES:
        raise error  # a signal handler's
    note_once(f"the file of a budget cannot be used: {error.strerror}; until it can be, permits are scarce")


_OF_FILES = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.ENOLCK, errno.ENOMEM)


def _is_believable(sessions: object) -> bool:
    return isinstance(sessions, int) and 0 < sessions <= _MAX_SESSIONS


_every_budget: weakref.WeakSet[Budget] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for budget in list(_every_budget):
        budget.start_anew()


os.register_at_fork(after_in_child=_after_fork_in_child)


class _Taken:
    """A byte that the pool has locked, or is about to lock."""

    __slots__ = ("end", "index", "is_noted", "is_used", "permit", "taken_at")

    def __init__(self, index: int, taken_at: int) -> None:
        self.index = index
        self.taken_at = taken_at
        self.permit: Callable[[], _Permit | None] = _nobody
        """Weak: whoever has the permit has leave for the connection."""
        self.is_noted = False
        """Whether the byte is locked for the permit, and the board is to be told of its end."""
        self.is_used = False
        self.end: Farewell | None = None
        """The end of the connection, once that is known to end."""

    def end_of_the_unknown(self) -> Farewell:
        """Return the end of a connection of which nothing is known but whether it may have been opened."""
        return Farewell() if self.is_used else Farewell.of_nothing()


def _nobody() -> None:
    return None


class _Permit:
    """Leave to have a connection. Dropped without a word, by an exception at the wrong moment, it gives itself back."""

    __slots__ = ("__weakref__", "_budget", "_taken")

    def __init__(self, budget: Budget, taken: _Taken) -> None:
        self._budget = budget
        self._taken = taken

    @property
    def is_used(self) -> bool:
        return self._taken.is_used

    @is_used.setter
    def is_used(self, is_used: bool) -> None:
        self._taken.is_used = is_used

    def release(self, farewell: Farewell | None = None) -> None:
        self._budget._release(self._taken, farewell)

    def is_due(self) -> bool:
        return monotonic_ns() - self._taken.taken_at >= TURN * 1e9

    def is_wanted(self) -> bool:
        return self.is_due() and self._budget.to_give_up(1) > 0

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the interpreter ends, and the kernel does it
            self.release()
