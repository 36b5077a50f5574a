"""Usage locks: they show the other processes of the host which file a process uses, even a removed one.

The file at a path may be removed, renamed or replaced while processes have it open. A process that opens the path later
gets another file, and both would go on separately. So each process that uses a file holds a shared lock on one byte of
the root folder, which cannot be replaced. The number of the byte identifies the file. The kernel drops the lock when
the process dies. One system call returns whether another process uses another file.

Processes with another root folder (containers) are not seen. Any local user may lock bytes of the root folder. That can
make processes wait, but never exceeds a limit. This needs Linux's open-file-description locks.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

from wsgipool.shared.bytelocks import ByteLocks
from wsgipool.shared.one_time_warnings import warn_once

ROOT = Path("/")

Identity = tuple[int, int]
"""Device and inode of a file."""

_BITS = 32
"""Number of lower bits of a byte's number that identify the file. The 30 bits above identify the name."""


def identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def identity_at(path: Path) -> Identity | None:
    """Return the identity of the file at a path, without following a link, or None if there is none."""
    try:
        return identity(path.lstat())
    except OSError:
        return None


def open_usage_lock(path: Path, file: Identity, folder: int | None = None) -> UsageLock | None:
    """Return a usage lock for the file at a path: in the root folder, or in `folder`, the opened folder of the path.

    In the root folder it sees the processes with the same path, also after a replacement of the file. It also sees
    those with the same parent of the path's folder. In `folder` it sees the processes of other containers that share
    the folder. Returns None if folders cannot be locked. Raises OSError if no descriptor is free.
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
        usage_lock = UsageLock(ROOT if folder is None else folder, names, file)
        usage_lock.acquire()
        usage_lock.release()
    except OSError as error:
        if error.errno in (None, errno.EMFILE, errno.ENFILE):
            raise
        warn_once(
            f"{ROOT if folder is None else path.parent} cannot be locked ({error.strerror}): if {path} is removed "
            "in use, processes that start later may use another file than those that have it open"
        )
        return None
    return usage_lock


def _mounts() -> int:
    """Return the mount namespace, in which a path has one meaning. PrivateTmp= creates another one."""
    try:
        return Path("/proc/self/ns/mnt").stat().st_ino
    except OSError:
        return 0


class UsageLock:
    """The usage lock of one process in one folder, under some names. The caller closes `folder`."""

    def __init__(self, folder: int | Path, names: Iterable[str], file: Identity) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        path, parent = (folder, None) if isinstance(folder, Path) else (".", folder)
        self._locks = ByteLocks(os.open(path, flags, dir_fd=parent))
        self._firsts = [(zlib.crc32(os.fsencode(name)) & 0x3FFFFFFF) << _BITS for name in names]
        self._own = zlib.crc32(b"%d:%d" % file)

    def acquire(self) -> None:
        """Show that this process uses the file. Raises OSError if folders cannot be locked."""
        for first in self._firsts:
            if not self._locks.lock_shared(first + self._own):
                # No process can lock a folder exclusively, so a security module must have refused.
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def release(self) -> None:
        """End the use of the file."""
        for first in self._firsts:
            self._locks.unlock(first + self._own)

    def sees_other_file(self) -> bool:
        """Return whether a process uses another file under one of the names."""
        below, above = self._own, (1 << _BITS) - self._own - 1
        return any(
            (below and self._locks.is_locked_by_others(first, below))
            or (above and self._locks.is_locked_by_others(first + self._own + 1, above))
            for first in self._firsts
        )

    def close(self) -> None:
        self._locks.close()
