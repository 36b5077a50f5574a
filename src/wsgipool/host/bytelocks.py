"""Locks on single bytes of a file, which the kernel drops when the process dies, however it dies.

Linux's open-file-description locks (fcntl(2), F_OFD_SETLK). The older F_SETLK belongs to the process: closing any other
descriptor of the file drops it, and two sub-interpreters of a process would not see each other's. One of these costs
1-2 µs and never waits.

A lock lasts as long as the description, and a fork's child has that too: the child must `close()` at once.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

# The same numbers on every Linux; Python has known the names since 3.9.
_F_OFD_GETLK = getattr(fcntl, "F_OFD_GETLK", 36)
_F_OFD_SETLK = getattr(fcntl, "F_OFD_SETLK", 37)
_FORMAT = "hhqqi4x"
"""struct flock: l_type, l_whence, l_start, l_len, and l_pid, which has to be 0."""
_TAKEN = (errno.EAGAIN, errno.EACCES)


class ByteLocks:
    """The locks that one open file description holds."""

    _descriptor = -1  # for an object whose making was interrupted

    def __init__(self, descriptor: int) -> None:
        """Own the descriptor from now on."""
        self._descriptor = descriptor

    def fileno(self) -> int:
        """Return the descriptor; -1 once it is closed."""
        return self._descriptor

    def lock(self, byte: int) -> bool:
        """Lock a byte, and tell whether that went well; another's lock is the only reason why not.

        One that this description has already is "locked" once more: the caller knows what it has. Raises OSError where
        the file system has no such locks.
        """
        return self._try(fcntl.F_WRLCK, byte)

    def lock_shared(self, byte: int) -> bool:
        """Lock a byte together with others that do so; the descriptor need not be open for writing."""
        return self._try(fcntl.F_RDLCK, byte)

    def is_locked_by_others(self, first: int, number: int) -> bool:
        """Return whether another description has a lock on one of these bytes."""
        question = struct.pack(_FORMAT, fcntl.F_WRLCK, os.SEEK_SET, first, number, 0)
        kind: int = struct.unpack(_FORMAT, fcntl.fcntl(self._descriptor, _F_OFD_GETLK, question))[0]
        return kind != fcntl.F_UNLCK

    def unlock(self, byte: int) -> None:
        self._set(fcntl.F_UNLCK, byte)

    def close(self) -> None:
        """Let go of all; in a fork's child only of our share in them: they are the parent's."""
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
