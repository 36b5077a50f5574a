"""The file that all pools of one budget share: a locked byte for each permit that is taken, and the board.

It knows no turns and no hunger. A byte can be locked wherever nothing is stored: behind the end of the file.

The file may be removed, renamed or replaced while processes have it open. A new process then opens another file. So a
process takes a permit only while it shows which file it goes by (`wsgipool.host.witness`), and only if no process that
has permits goes by another one. `Budget` says how those processes move to the new file.
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from pathlib import Path
from time import monotonic_ns

from wsgipool.errors import ConfigError
from wsgipool.host.board import MOST_POOLS, SIZE, Board
from wsgipool.host.bytelocks import ByteLocks
from wsgipool.host.folder import open_file, open_folder, refuse_shortage
from wsgipool.host.notices import note_once
from wsgipool.host.witness import identity, identity_at, open_witness

_FIRST_PLACE = 1 << 20
"""The byte of a pool's place on the board; those of the permits come before."""
_MAKING = _FIRST_PLACE - 1
"""The byte that is locked while the board is made."""
_FIRST_ASKER = 1 << 32
"""The byte of an account, locked while one of its pools asks the server what it allows."""
_MAKING_TIMEOUT = 0.5
"""Seconds to wait for another process that makes the board, which takes it less than a millisecond."""


def path_of(folder: Path, server: str) -> Path:
    """Return the path of the file for a server. The 3 is the version of what is in it."""
    readable = "".join(character if character.isalnum() or character == "." else "-" for character in server)
    return folder / f"budget-3-{readable[:80]}-{zlib.crc32(server.encode()):08x}"


class BudgetFile:
    """The file as one pool has it open: `locks`, `board`, and the pool's `place` on that.

    Raises ConfigError where the folder cannot be used, or its file system has no such locks.
    """

    def __init__(self, path: Path, account: int) -> None:
        self._process = os.getpid()
        self._path = path
        self._account = account
        self._may_be_shown = self._is_shown = self._is_alone = False
        folder = open_folder(path.parent)
        try:
            self.locks = ByteLocks(open_file(folder, path, SIZE))
            self.identity = identity(os.fstat(self.locks.fileno()))
            self.board = Board(self.locks)
            self.place = self._take_place(ByteLocks(open_file(folder, path, SIZE)))
            witnesses = [open_witness(path, self.identity), open_witness(path, self.identity, folder)]
            self._witnesses = [witness for witness in witnesses if witness is not None]
        except OSError as error:
            refuse_shortage(path, error)
            raise
        finally:
            os.close(folder)

    def is_ours(self) -> bool:
        """Tell whether this process opened it, and not the one that it was forked from."""
        return self._process == os.getpid()

    def is_in_place(self) -> bool:
        """Return whether the file is the one at its path, which a new process would open."""
        return identity_at(self._path) == self.identity

    def close(self) -> None:
        """Close it, in a fork's child at once: what is locked stays locked as long as the child has it open."""
        for witness in self._witnesses:
            witness.close()
        self.locks.close()

    # --- which file this process goes by ----------------------------------------------------------------------------

    def show(self) -> bool:
        """Show the others that this process goes by this file; return whether no process goes by another one."""
        if not self._is_shown:
            self._is_alone = False
            self._may_be_shown = True
            for witness in self._witnesses:
                witness.show()
            self._is_shown = True
        if not self._is_alone:
            # First it is shown, then looked: of two that do so at once, one at least sees the other.
            self._is_alone = not any(witness.sees_another() for witness in self._witnesses)
        return self._is_alone

    def hide(self) -> None:
        """Show nothing any more: the pool has nothing of this file."""
        if self._may_be_shown:
            self._is_shown = self._is_alone = False
            for witness in self._witnesses:
                witness.hide()
            self._may_be_shown = False

    # --- places and accounts ----------------------------------------------------------------------------------------

    def mend(self, limit: int) -> bool:
        """Make the board anew where others have damaged it; return whether they had."""
        now = monotonic_ns()
        is_damaged = self.board.mend(limit, now) if self.board.is_whole() else self.board.make(now, is_new=False)
        if not self.board.has_place(self.place, self._account):
            is_damaged = True
            self.board.take_place(self.place, self._account)
        if is_damaged:
            note_once(f"{self._path} was damaged by something else than wsgipool, and has been mended")
        return is_damaged

    def clear_left_places(self) -> None:
        """Clear the places of pools that are no more."""
        for place in range(self.board.used_places):
            if place != self.place and self.locks.lock(_FIRST_PLACE + place):
                self.board.leave_place(place)
                self.locks.unlock(_FIRST_PLACE + place)

    def lock_asking(self, account: int) -> bool:
        """Tell whether this pool is the one of its account that may ask the server what it allows."""
        return self.locks.lock(_FIRST_ASKER + account)

    def unlock_asking(self, account: int) -> None:
        self.locks.unlock(_FIRST_ASKER + account)

    def _take_place(self, others: ByteLocks) -> int:
        path = self._path
        try:
            self._make()
            place = next((place for place in range(MOST_POOLS) if self.locks.lock(_FIRST_PLACE + place)), None)
        except OSError as error:
            if error.errno is None:
                raise  # a signal handler's
            raise ConfigError(
                f"{path.parent} is on a file system without open-file-description locks ({error.strerror}), so nothing "
                "would keep to the budget; name a folder on a local disk or a tmpfs in runtime_dir"
            ) from None
        if place is None:
            raise ConfigError(f"{path}: {MOST_POOLS} pools share this budget already")
        if others.lock(_FIRST_PLACE + place):
            raise ConfigError(
                f"{path.parent} is on a file system whose locks keep nobody out, so nothing would keep to the budget; "
                "name a folder on a local disk or a tmpfs in runtime_dir"
            )
        self.board.take_place(place, self._account)
        return place

    def _make(self) -> None:
        """Make the board, unless it is there."""
        deadline = time.monotonic() + _MAKING_TIMEOUT
        while not self.locks.lock(_MAKING) and time.monotonic() < deadline:
            time.sleep(0.001)
        with contextlib.ExitStack() as stack:
            stack.callback(self.locks.unlock, _MAKING)
            if not self.board.is_whole():
                is_used = self.locks.is_locked_by_others(_FIRST_PLACE, MOST_POOLS)
                self.board.make(monotonic_ns(), is_new=not is_used)
