"""The permits that one pool holds in one process: takes them, releases them, moves them to another file.

A permit is one locked byte of the file. Its record (`PermitRecord`) exists from before the byte is locked until after
it is unlocked. `release_due` finds the records of orphaned permits and of ended sessions. So no permit leaks after an
asynchronous exception.

Any thread may call this at any time. One thread at a time changes the records, under a lock for which a thread waits
20 ms at most. A thread that does not get the lock leaves its work to the holder.

This module does not decide which pool is next.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from wsgipool.budget.allowance import Allowance
from wsgipool.budget.board import COOLDOWN, DELAYS, MAX_DELAY
from wsgipool.budget.file import BudgetFile
from wsgipool.budget.file_permit import FilePermit, PermitRecord
from wsgipool.budget.token_lock import TokenLock
from wsgipool.drivers.session_end import ASSUMED_AFTER, SessionEnd
from wsgipool.errors import ConfigError
from wsgipool.shared.one_time_warnings import defer_warning

_LOCK_TIMEOUT = 0.02
"""Seconds to wait for another thread that changes the records. That takes microseconds."""
_FILE_ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.ENOLCK, errno.ENOMEM)


class ProcessPermits:
    """The permits that one pool holds in this process, and the file with their locked bytes.

    `now`: returns nanoseconds of CLOCK_MONOTONIC. Raises ConfigError as `BudgetFile` does.
    """

    def __init__(self, path: Path, allowance: Allowance, now: Callable[[], int]) -> None:
        self.process = os.getpid()
        self._path = path
        self._allowance = allowance
        self._now = now
        self._lock = TokenLock()
        self._has_due = False
        self._records: dict[int, PermitRecord] = {}
        self._is_asking = False
        """Whether this pool's connection is the one that asks the server for its limit."""
        self.is_blocked = False
        """Whether no permit may be taken, because another process holds permits of another file."""
        self._earlier: list[BudgetFile] = []
        """Files that were at the path before. The bytes of the permits are locked there, too."""
        self.file = BudgetFile(path, allowance.account)

    # --- numbers ----------------------------------------------------------------------------------------------------

    def now(self) -> int:
        return self._now()

    @property
    def number(self) -> int:
        """Number of permits that the pool holds."""
        return len(self._records)

    @property
    def kept(self) -> int:
        """Number of permits that the pool holds, without the closing ones."""
        return sum(not record.is_closing for record in list(self._records.values()))

    def closing(self, limit: int) -> int:
        """Return how many permits below `limit` will be free as soon as their sessions have ended."""
        return sum(record.is_closing and record.index < limit for record in list(self._records.values()))

    @property
    def has_ending(self) -> bool:
        """Whether the server may still have to end a session of this pool."""
        return any(record.end is not None for record in list(self._records.values()))

    # --- to take ----------------------------------------------------------------------------------------------------

    def take(self, file: BudgetFile, now: int, ahead: Callable[[], int]) -> FilePermit | None:
        """Take a free permit, or return None. `ahead` returns how many of the free ones belong to other pools."""
        permit = self._take_one(file, now, ahead)
        self.release_due()
        return permit

    def _take_one(self, file: BudgetFile, now: int, ahead: Callable[[], int]) -> FilePermit | None:
        token = self._lock.acquire_within(_LOCK_TIMEOUT)
        try:
            # `_may_enter` announces the use of this file; that lasts until the permit is recorded.
            if token is not None and self._may_enter(file, now) and file is self.file and self._may_open_one(file):
                free = self.available(file, now)
                for index in free[ahead() :] if free else ():
                    permit = self._lock_byte(file, index, now)
                    if permit is not None:
                        return permit
        except OSError as error:
            _log_file_error(error)
        finally:
            token = None  # a traceback may keep the frame alive
        return None

    def enter(self, file: BudgetFile, now: int) -> bool:
        """Return whether no process holds permits of another file."""
        token = self._lock.acquire_within(_LOCK_TIMEOUT)
        try:
            if token is not None:
                self._may_enter(file, now)
        finally:
            token = None
        self.release_due()
        return not self.is_blocked

    def available(self, file: BudgetFile, now: int) -> list[int]:
        """Return the permits that seem to be free. If there are none, search for permits of dead processes."""
        limit = self._allowance.permits(file.board)
        free = file.board.available(limit, now)
        if not free and file.board.is_time_to_search(now):
            self._free_permits_of_dead_processes(file, limit, now)
            if self._has_due:
                self.release_due()
        return free

    def _may_enter(self, file: BudgetFile, now: int) -> bool:
        self.is_blocked = not file.claim()
        if self.is_blocked:
            file.board.cool_down_all(self._allowance.permits(file.board), now)
        return not self.is_blocked

    def _may_open_one(self, file: BudgetFile) -> bool:
        """Return whether a connection may be opened. While the account's limit is unknown, one pool may open one."""
        if self._allowance.is_known_for_account(file.board):
            return True
        if self._records:
            return False
        self._is_asking = True
        return file.lock_asking()

    def _lock_byte(self, file: BudgetFile, index: int, now: int) -> FilePermit | None:
        record = PermitRecord(index, now)
        permit = FilePermit(self, record)
        if self._records.setdefault(index, record) is record:
            # The board is read again: another process may have taken and released the permit meanwhile.
            if file.locks.lock(index) and file.board.is_available(index, now):
                record.is_marked = True
                if file.board.mark_taken(index):
                    return permit
            self._forget(file, record)
        return None

    def _free_permits_of_dead_processes(self, file: BudgetFile, limit: int, now: int) -> None:
        token = self._lock.acquire()
        try:
            for index in file.board.taken(limit) if token is not None else ():
                # Recorded as if taken: the byte lock belongs to the whole process, so other threads must not take it.
                record = PermitRecord(index, now)
                if self._records.setdefault(index, record) is not record:
                    continue
                try:
                    if file.locks.lock(index):
                        died_before = self._now()
                        cooldown = int(ASSUMED_AFTER * 1e9) + COOLDOWN + DELAYS * file.board.delay(now)
                        file.board.mark_free(index, died_before + cooldown)
                finally:
                    self._forget(file, record)
        finally:
            token = None

    # --- to release -------------------------------------------------------------------------------------------------

    def release(self, record: PermitRecord, end: SessionEnd | None) -> None:
        """Release a permit as soon as the server has ended the session."""
        # In the child of a fork the locks belong to the parent: unlocking would unlock them for both.
        if not self.file.is_ours() or self._records.get(record.index) is not record:
            return
        if record.end is None:
            record.end = end or record.unobserved_end()
        self.release_due()

    def release_due(self) -> None:
        """Release the permits of ended sessions, and the orphaned permits.

        If another thread holds the lock, that thread does this before it has finished.
        """
        self._has_due = True
        while self._has_due and not self._lock.is_mine():
            token = self._lock.acquire()
            try:
                if token is None:
                    return
                self._has_due = False
                self._release_due()
            except OSError as error:
                _log_file_error(error)
            finally:
                token = None

    def _release_due(self) -> None:
        file = self.file
        if not file.is_ours():
            return
        for record in list(self._records.values()):
            self._release_if_ended(file, record)
        for earlier in self._earlier:
            if earlier is not file:
                earlier.unclaim()
        if not self._records:
            self._unblock_others(file)

    def _unblock_others(self, file: BudgetFile) -> None:
        """Drop the locks that keep other processes from taking permits: this pool holds none."""
        if self._is_asking:
            file.unlock_asking()
            self._is_asking = False
        file.unclaim()
        self._earlier = []

    def _release_if_ended(self, file: BudgetFile, record: PermitRecord) -> None:
        if self._records.get(record.index) is not record:
            return
        if record.end is None:
            if record.permit() is not None:
                return
            record.end = record.unobserved_end()
        if not record.is_marked:
            self._forget(file, record)
            return
        if not record.end.is_over():
            return
        # The cooldown begins now: on a busy machine is_over() may have taken longer than a cooldown.
        now, cooldown = self._now(), 0
        if record.end.has_session:
            if record.end.seconds:
                file.board.record_delay(now, min(int(record.end.seconds * 1e9), MAX_DELAY))
            cooldown = COOLDOWN + file.board.delay(now)
        # Without a written board there would be no cooldown: then the permit stays taken.
        if file.board.mark_free(record.index, now + cooldown):
            self._forget(file, record)

    def _forget(self, file: BudgetFile, record: PermitRecord) -> None:
        # Once unlocked, the byte may belong to another process.
        file.locks.unlock(record.index)
        if self._records.get(record.index) is record:
            del self._records[record.index]

    # --- the file at the path ---------------------------------------------------------------------------------------

    def refresh(self) -> BudgetFile:
        """Return the repaired file at the path, after moving there if the file was replaced. Release due permits."""
        file = self.file
        try:
            if not file.is_in_place() and not self._lock.is_mine():
                file = self._move(file)
            self._repair(file)
        except OSError as error:
            _log_file_error(error)
        self.release_due()
        return file

    def close(self) -> None:
        """Close the files, in the child of a fork: the parent's locks would outlive the parent."""
        for file in (self.file, *self._earlier):
            file.close()

    def _move(self, old: BudgetFile) -> BudgetFile:
        try:
            new = next((earlier for earlier in self._earlier if earlier.is_in_place()), None) or BudgetFile(
                self._path, self._allowance.account
            )
        except ConfigError as error:
            defer_warning(f"{error}. The budget file was removed or replaced; this process goes on with the old one")
            return old
        token = self._lock.acquire_within(_LOCK_TIMEOUT)
        try:
            if token is None or not self._move_to(new, old):
                return old
        finally:
            token = None
        defer_warning(f"{self._path} was removed or replaced in use; its connections are now counted in the new file")
        return new

    def _move_to(self, new: BudgetFile, old: BudgetFile) -> bool:
        if self.file is not old:
            return False  # another thread was first
        if self._records:
            new.claim()
        # No process takes a permit of the new file while this one announces the old file.
        if not all(new.locks.lock(index) for index in list(self._records)):
            return False
        new.board.copy_from(old.board, self._allowance.permits(old.board), self._now())
        if self._is_asking:
            new.lock_asking()
        self._earlier = [*(earlier for earlier in self._earlier if earlier is not new), old]
        self.file = new
        return True

    def _repair(self, file: BudgetFile) -> None:
        if file.repair(self._allowance.permits(file.board)) or self._allowance.is_unpublished(file.board):
            self._allowance.publish(file)
        token = self._lock.acquire()
        try:
            if token is not None:
                self._mark_taken_again(file)
        finally:
            token = None

    def _mark_taken_again(self, file: BudgetFile) -> None:
        for record in list(self._records.values()):
            if record.is_marked and not file.board.is_taken(record.index):
                file.board.mark_taken(record.index)
        if self._earlier and self._records and file.claim():
            self._earlier = []


def _log_file_error(error: OSError) -> None:
    """Log an error of the budget file, so that the pool goes on without free permits; raise any other error."""
    if error.errno not in _FILE_ERRORS:
        raise error  # from a signal handler
    defer_warning(f"the budget file cannot be used: {error.strerror}; until it can be, permits are scarce")
