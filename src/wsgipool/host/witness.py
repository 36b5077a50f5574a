"""Which file a process goes by, made known to the others of the host where removing that file does not hide it.

A path is no identity: the file at it may be removed, renamed or replaced while processes have it open, and a process
that opens the path later has another file. Both would keep to their own. So each process that goes by a file holds a
shared lock on one byte of a folder that stays where it is, the root folder: the byte stands for the file. The kernel
drops the lock when the process dies. Whether another process goes by another file is one question to the kernel.

What it cannot see: processes with another root folder (containers). Any local user may lock bytes of the root folder:
that keeps processes waiting, never lets one too many through. Only Linux's open-file-description locks will do.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

from wsgipool.host.bytelocks import ByteLocks
from wsgipool.host.notices import warn_once

ROOT = Path("/")

Identity = tuple[int, int]
"""What makes a file the same one: its device and inode."""

_BITS = 32
"""Of a byte's number, the lower bits stand for the file, the 30 above for the name."""


def identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def identity_at(path: Path) -> Identity | None:
    """Return what is at a path, without following a link; None where nothing is, or nothing can be seen."""
    try:
        return identity(path.lstat())
    except OSError:
        return None


def open_witness(path: Path, file: Identity, folder: int | None = None) -> Witness | None:
    """Return a witness for the file at a path: in the root folder, or in `folder`, the opened one of the path.

    In the root folder, it sees the processes for which the path is the same, whatever lies there now, and those that
    see the same parent of the path's folder; in the folder, those of other containers that share that. None where
    folders cannot be locked. Raises OSError where no descriptor is free.
    """
    try:
        user = os.geteuid()
        names = [f"{user} {path.name}"]
        if folder is None:
            parent, mounts = path.parent.parent.stat(), _mounts()
            names = [
                f"{user} {path.name} {path.parent.name} {parent.st_dev}:{parent.st_ino}",
                f"{user} {path} {mounts}",
            ]
        witness = Witness(ROOT if folder is None else folder, names, file)
        witness.show()
        witness.hide()
    except OSError as error:
        if error.errno in (None, errno.EMFILE, errno.ENFILE):
            raise
        warn_once(
            f"{ROOT if folder is None else path.parent} cannot be locked ({error.strerror}): should {path} be removed "
            "in use, processes that start later may go by another file than those that have it open"
        )
        return None
    return witness


def _mounts() -> int:
    """Return what makes paths mean the same: processes with a /tmp of their own have another one (PrivateTmp=)."""
    try:
        return Path("/proc/self/ns/mnt").stat().st_ino
    except OSError:
        return 0


class Witness:
    """One process's part: what it shows in one folder, under some names. `folder` stays the caller's."""

    def __init__(self, folder: int | Path, names: Iterable[str], file: Identity) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        path, parent = (folder, None) if isinstance(folder, Path) else (".", folder)
        self._locks = ByteLocks(os.open(path, flags, dir_fd=parent))
        self._firsts = [(zlib.crc32(os.fsencode(name)) & 0x3FFFFFFF) << _BITS for name in names]
        self._own = zlib.crc32(b"%d:%d" % file)

    def show(self) -> None:
        """Show that this process goes by its file. Raises OSError where folders cannot be locked."""
        for first in self._firsts:
            if not self._locks.lock_shared(first + self._own):
                # Nobody can have a folder locked for itself alone: a security module forbids it.
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def hide(self) -> None:
        """Show nothing any more."""
        for first in self._firsts:
            self._locks.unlock(first + self._own)

    def sees_another(self) -> bool:
        """Return whether some process shows another file under one of the names."""
        below, above = self._own, (1 << _BITS) - self._own - 1
        return any(
            (below and self._locks.is_locked_by_others(first, below))
            or (above and self._locks.is_locked_by_others(first + self._own + 1, above))
            for first in self._firsts
        )

    def close(self) -> None:
        self._locks.close()
