"""Locks on single bytes of a file. The kernel drops them when the process dies in any way.

These are Linux's open-file-description locks (fcntl(2), F_OFD_SETLK). A call costs 1-2 µs and never waits. The older
F_SETLK belongs to the process: closing any other descriptor of the file drops it, and sub-interpreters of one process
do not see each other's locks.

A lock lasts as long as the file description. The child of a fork shares the description, so it must `close()` at once.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

# The numbers are the same on every Linux. Python defines the names since 3.9.
_F_OFD_GETLK = getattr(fcntl, "F_OFD_GETLK", 36)
_F_OFD_SETLK = getattr(fcntl, "F_OFD_SETLK", 37)
_FORMAT = "hhqqi4x"
"""struct flock: l_type, l_whence, l_start, l_len, and l_pid, which must be 0."""
_TAKEN = (errno.EAGAIN, errno.EACCES)


class ByteLocks:
    """The byte locks of one open file description."""

    _descriptor = -1  # for an object whose constructor was interrupted

    def __init__(self, descriptor: int) -> None:
        """Take over the descriptor."""
        self._descriptor = descriptor

    def fileno(self) -> int:
        """Return the descriptor; -1 once it is closed."""
        return self._descriptor

    def lock(self, byte: int) -> bool:
        """Lock a byte; return False if another description has locked it.

        Returns True for a byte that this description has locked already: the caller must know its own locks.
        Raises OSError if the file system has no such locks.
        """
        return self._try(fcntl.F_WRLCK, byte)

    def lock_shared(self, byte: int) -> bool:
        """Lock a byte, shared with other descriptions. The file need not be open for writing."""
        return self._try(fcntl.F_RDLCK, byte)

    def is_locked_by_others(self, first: int, number: int) -> bool:
        """Return whether another description has a lock on one of these bytes."""
        query = struct.pack(_FORMAT, fcntl.F_WRLCK, os.SEEK_SET, first, number, 0)
        kind: int = struct.unpack(_FORMAT, fcntl.fcntl(self._descriptor, _F_OFD_GETLK, query))[0]
        return kind != fcntl.F_UNLCK

    def unlock(self, byte: int) -> None:
        self._set(fcntl.F_UNLCK, byte)

    def close(self) -> None:
        """Close the descriptor. That drops all locks, except in the child of a fork, where the parent keeps them."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()

    def _try(self, kind: int, byte: int) -> bool:
        try:
            self._set(kind, byte)
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            raise
        return True

    def _set(self, kind: int, byte: int) -> None:
        fcntl.fcntl(self._descriptor, _F_OFD_SETLK, struct.pack(_FORMAT, kind, os.SEEK_SET, byte, 1, 0))
