"""The budget file, shared by all pools of one budget: a locked byte for each taken permit, and the board.

A byte can be locked anywhere, also behind the end of the file. This module does not decide which pool is next.

The file may be removed, renamed or replaced while processes have it open. A new process then opens another file. So
a process that takes a permit announces its file (`wsgipool.shared.file_usage`). It takes none while a process holds
permits of another file. `wsgipool.budget.process_permits` moves permits to the new file.
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from pathlib import Path
from time import monotonic_ns

from wsgipool.budget.board import MAX_POOLS, SIZE, Board
from wsgipool.errors import ConfigError
from wsgipool.shared.bytelocks import ByteLocks
from wsgipool.shared.file_usage import identity, identity_at, open_usage_lock
from wsgipool.shared.folder import open_file, open_folder, refuse_shortage
from wsgipool.shared.one_time_warnings import defer_warning

_FIRST_PLACE = 1 << 20
"""The byte of the first place on the board. The bytes below belong to the permits."""
_INITIALIZING = _FIRST_PLACE - 1
"""The byte that is locked while the board is initialized."""
_FIRST_ASKER = 1 << 32
"""The byte of account 0. An account's byte is locked while one of its pools asks the server for its limit."""
_INITIALIZING_TIMEOUT = 0.5
"""Seconds to wait for another process that initializes the board. That takes less than a millisecond."""


def path_of(folder: Path, server: str) -> Path:
    """Return the path of the file for a server. The 3 is the version of the file's layout."""
    readable = "".join(character if character.isalnum() or character == "." else "-" for character in server)
    return folder / f"budget-3-{readable[:80]}-{zlib.crc32(server.encode()):08x}"


class BudgetFile:
    """The budget file, opened by one pool: its `locks`, its `board`, and the pool's `place` on the board.

    Raises ConfigError if the folder cannot be used, or if its file system has no such locks.
    """

    def __init__(self, path: Path, account: int) -> None:
        self._process = os.getpid()
        self._path = path
        self._account = account
        self._may_be_claimed = self._is_claimed = self._is_alone = False
        folder = open_folder(path.parent)
        try:
            self.locks = ByteLocks(open_file(folder, path, SIZE))
            self.identity = identity(os.fstat(self.locks.fileno()))
            self.board = Board(self.locks)
            self.place = self._take_place(ByteLocks(open_file(folder, path, SIZE)))
            usage_locks = [open_usage_lock(path, self.identity), open_usage_lock(path, self.identity, folder)]
            self._usage_locks = [usage_lock for usage_lock in usage_locks if usage_lock is not None]
        except OSError as error:
            refuse_shortage(path, error)
            raise
        finally:
            os.close(folder)

    def is_ours(self) -> bool:
        """Return whether this process opened the file, and not the parent of a fork."""
        return self._process == os.getpid()

    def is_in_place(self) -> bool:
        """Return whether the file is still at its path, so that a new process would open it."""
        return identity_at(self._path) == self.identity

    def close(self) -> None:
        """Close the file. The child of a fork must do so at once, or the parent's locks last as long as the child."""
        for usage_lock in self._usage_locks:
            usage_lock.close()
        self.locks.close()

    # --- which file this process uses -------------------------------------------------------------------------------

    def claim(self) -> bool:
        """Announce that this process uses this file; return whether no process uses another one."""
        if not self._is_claimed:
            self._is_alone = False
            self._may_be_claimed = True
            for usage_lock in self._usage_locks:
                usage_lock.acquire()
            self._is_claimed = True
        if not self._is_alone:
            # First announce, then check: of two concurrent processes, at least one sees the other.
            self._is_alone = not any(usage_lock.sees_other_file() for usage_lock in self._usage_locks)
        return self._is_alone

    def unclaim(self) -> None:
        """End the announcement: the pool holds no permit of this file."""
        if self._may_be_claimed:
            self._is_claimed = self._is_alone = False
            for usage_lock in self._usage_locks:
                usage_lock.release()
            self._may_be_claimed = False

    # --- places and accounts ----------------------------------------------------------------------------------------

    def repair(self, limit: int) -> bool:
        """Repair the board if other programs have damaged it; return whether they had."""
        now = monotonic_ns()
        is_damaged = (
            self.board.repair(limit, now) if self.board.is_valid() else self.board.initialize(now, is_new=False)
        )
        if not self.board.has_place(self.place, self._account):
            is_damaged = True
            self.board.take_place(self.place, self._account)
        if is_damaged:
            defer_warning(f"{self._path} was damaged by another program and has been repaired")
        return is_damaged

    def clear_places_of_ended_processes(self) -> None:
        """Clear the places of pools of ended processes."""
        for place in range(self.board.used_places):
            if place != self.place and self.locks.lock(_FIRST_PLACE + place):
                self.board.clear_place(place)
                self.locks.unlock(_FIRST_PLACE + place)

    def lock_asking(self) -> bool:
        """Lock the right to ask the server for its limit; return whether this pool has it for its account."""
        return self.locks.lock(_FIRST_ASKER + self._account)

    def unlock_asking(self) -> None:
        self.locks.unlock(_FIRST_ASKER + self._account)

    def _take_place(self, others: ByteLocks) -> int:
        path = self._path
        try:
            self._initialize()
            place = next((place for place in range(MAX_POOLS) if self.locks.lock(_FIRST_PLACE + place)), None)
        except OSError as error:
            if error.errno is None:
                raise  # from a signal handler
            raise ConfigError(
                f"{path.parent} is on a file system without open-file-description locks ({error.strerror}), so the "
                "budget could not be kept; name a folder on a local disk or a tmpfs in runtime_dir"
            ) from None
        if place is None:
            raise ConfigError(f"{path}: {MAX_POOLS} pools already share this budget")
        if others.lock(_FIRST_PLACE + place):
            raise ConfigError(
                f"{path.parent} is on a file system whose locks have no effect, so the budget could not be kept; "
                "name a folder on a local disk or a tmpfs in runtime_dir"
            )
        self.board.take_place(place, self._account)
        return place

    def _initialize(self) -> None:
        """Initialize the board, unless it is valid."""
        deadline = time.monotonic() + _INITIALIZING_TIMEOUT
        while not self.locks.lock(_INITIALIZING) and time.monotonic() < deadline:
            time.sleep(0.001)
        with contextlib.ExitStack() as stack:
            stack.callback(self.locks.unlock, _INITIALIZING)
            if not self.board.is_valid():
                is_used = self.locks.is_locked_by_others(_FIRST_PLACE, MAX_POOLS)
                self.board.initialize(monotonic_ns(), is_new=not is_used)
