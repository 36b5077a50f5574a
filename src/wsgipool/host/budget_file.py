"""The file that all pools of one budget share: a locked byte for each permit that is taken, and the board.

It knows no turns and no hunger. A byte can be locked wherever nothing is stored: behind the end of the file.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from wsgipool.errors import ConfigError
from wsgipool.host.board import MOST_POOLS, SIZE, Board
from wsgipool.host.bytelocks import ByteLocks
from wsgipool.host.folder import open_file, open_folder

_FIRST_PLACE = 1 << 20
"""The byte of a pool's place on the board; those of the permits come before."""
_FIRST_ASKER = 1 << 32
"""The byte of an account, locked while one of its pools asks the server what it allows."""


def path_of(folder: Path, server: str) -> Path:
    """Return the path of the file for a server. The 2 is the version of what is in it."""
    readable = "".join(character if character.isalnum() or character == "." else "-" for character in server)
    return folder / f"budget-2-{readable[:80]}-{zlib.crc32(server.encode()):08x}"


class BudgetFile:
    """The file as one pool has it open: `locks`, `board`, and the pool's `place` on that.

    Raises ConfigError where the folder cannot be used, or its file system has no such locks.
    """

    def __init__(self, path: Path, account: int) -> None:
        folder = open_folder(path.parent)
        try:
            # Two descriptions: the board's stays with a fork's child, which shares its memory; that must hold no lock.
            self.locks = ByteLocks(open_file(folder, path, SIZE))
            board = open_file(folder, path, SIZE)
        finally:
            os.close(folder)
        try:
            self.board = Board(board)
            self.place = self._take_place(path, ByteLocks(os.dup(board)))
        finally:
            os.close(board)
        self.board.take_place(self.place, account)
        self._process = os.getpid()

    def is_ours(self) -> bool:
        """Tell whether this process opened it, and not the one that it was forked from."""
        return self._process == os.getpid()

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

    def _take_place(self, path: Path, others: ByteLocks) -> int:
        try:
            place = next((place for place in range(MOST_POOLS) if self.locks.lock(_FIRST_PLACE + place)), None)
        except OSError as error:
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
        return place
