"""Invalidations of cached keys, for the caches of one name in all processes of a host.

The first two words of the file are the number of the last invalidation. So a reader sees a new one by one read, without
a lock. The last `LENGTH` invalidations follow, each as a token of its key. A reader that has missed more than these, or
finds a damaged one, drops everything. That is always safe, and rare.

A lock of the operating system admits one writer at a time. Each invalidation is stored with its number and counts only
when the first words have reached that number. So a writer that dies before that has invalidated nothing, and the next
one overwrites its entry.

Other programs may truncate or overwrite the file. So it is read and written, not mapped: truncating a mapped file kills
the process. A number without its complement is damaged. Then readers drop everything, and the next writer continues
with an unused number.
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys
import threading
import time
import weakref
import zlib
from collections.abc import Hashable
from pathlib import Path

from wsgipool.errors import CacheTimeout, ConfigError
from wsgipool.shared.bytelocks import ByteLocks
from wsgipool.shared.file_usage import identity, identity_at
from wsgipool.shared.folder import open_file, open_folder
from wsgipool.shared.one_time_warnings import warn_once

LENGTH = 1024
"""Maximum number of invalidations between two reads of a process without dropping everything."""

EVERYTHING = 0
"""The token of all keys."""

_WRITER_TIMEOUT = 10.0
"""Seconds to wait for another writer. Writing takes microseconds, unless the writer was stopped."""

_FIRST = 8  # in words
_SIZE = 8 * (_FIRST + 2 * LENGTH)
_LOCK = 0
_WORD = (1 << 64) - 1
_DAMAGED = -1
"""The number of the last invalidation in a damaged file."""


def token(key: Hashable) -> int | None:
    """Return a number that equal keys have in every process, or None for a key of another type.

    Supported are None, bool, int, float, str, bytes, and tuples of these, but no subclasses, which may be equal to
    anything. hash() of a text differs between processes, so it cannot be used.
    """
    parts: list[bytes] = []
    if not _encode(key, parts):
        return None
    return int.from_bytes(hashlib.blake2b(b"".join(parts), digest_size=8).digest(), "little")


def _encode(key: Hashable, parts: list[bytes]) -> bool:
    kind = type(key)
    if isinstance(key, str) and kind is str:
        text = key.encode("utf-8", "surrogatepass")
        parts.append(b"s%d:" % len(text) + text)
    elif isinstance(key, bytes) and kind is bytes:
        parts.append(b"b%d:" % len(key) + key)
    elif key is None:
        parts.append(b"n")
    elif kind in (int, bool, float):
        # Equal numbers have the same hash in every process, whatever their type: 1 == 1.0 == True.
        parts.append(b"i%d;" % hash(key))
    elif isinstance(key, tuple) and kind is tuple:
        parts.append(b"t%d:" % len(key))
        return all(_encode(part, parts) for part in key)
    else:
        return False
    return True


class Invalidations:
    """The invalidations of the caches called `name`, for the processes that share `folder`.

    Raises ConfigError if the folder cannot be used, or if its file system has no such locks.
    """

    def __init__(self, folder: Path, name: str) -> None:
        readable = "".join(character if character.isalnum() else "-" for character in name)
        self.path = folder / f"cache-2-{readable[:80]}-{zlib.crc32(name.encode()):08x}"
        self._thread_lock = threading.Lock()
        # Weak, so that the lock of an interrupted writer ends with its last reference.
        self._writing: weakref.WeakSet[ByteLocks] = weakref.WeakSet()
        self._file = ByteLocks(self._open())
        self._identity = identity(os.fstat(self._file.fileno()))
        self._descriptor = self._file.fileno()
        self._last = b"", _DAMAGED
        self._begin(ByteLocks(self._open()))

    @property
    def number(self) -> int:
        """Number of the last invalidation; negative if it is unknown."""
        words, last = os.pread(self._descriptor, 16, 0), self._last
        if words != last[0]:
            self._last = last = words, _number(words)
        return last[1]

    def since(self, seen: int) -> tuple[int, set[int]]:
        """Return the number of the last invalidation, and the tokens after `seen` (EVERYTHING if unknown)."""
        content = os.pread(self._descriptor, _SIZE, 0)
        last = _number(content[:16])
        if last == _DAMAGED or seen == _DAMAGED or not 0 <= last - seen <= LENGTH:
            return last, {EVERYTHING}
        tokens = set()
        for number in range(seen + 1, last + 1):
            place = 8 * _place(number)
            entry = content[place : place + 16]
            # The number differs if the ring was overwritten, or if a processor shows the first words before the entry.
            if len(entry) < 16 or int.from_bytes(entry[:8], sys.byteorder) ^ number != int.from_bytes(
                entry[8:], sys.byteorder
            ):
                return last, {EVERYTHING}
            tokens.add(int.from_bytes(entry[:8], sys.byteorder))
        return last, tokens

    def post(self, key_token: int) -> bool:
        """Invalidate the keys with this token in all processes.

        Returns False, without an effect, if the file is no longer at its path. Raises CacheTimeout if another writer
        does not finish.
        """
        with self._thread_lock:
            # A new description each time, so that its lock ends with it, also after an exception.
            descriptor = self._open()
            locks = ByteLocks(descriptor)
            if identity(os.fstat(descriptor)) != self._identity:
                return False
            self._writing.add(locks)
            self._wait_for_lock(locks)
            last = self.number
            if last == _DAMAGED:
                warn_once(f"{self.path} was damaged by another program; its caches drop all values")
                last = _unused_number()
            number = last + 1
            self._write(struct.pack("QQ", key_token, key_token ^ number), 8 * _place(number))
            self._write_number(number)
            # Not only by closing: a child forked at this moment shares the description.
            locks.unlock(_LOCK)
            return True

    def is_in_place(self) -> bool:
        """Return whether the file is still at its path, where other processes open it."""
        return identity_at(self.path) == self._identity

    def reset(self) -> None:
        """Leave the lock to the parent, in the child after a fork."""
        self._thread_lock = threading.Lock()
        for locks in list(self._writing):
            locks.close()

    def _write_number(self, number: int) -> None:
        self._write(struct.pack("QQ", number, number ^ _WORD), 0)

    def _write(self, words: bytes, place: int) -> None:
        try:
            os.pwrite(self._descriptor, words, place)
        except OSError as error:
            if error.errno is None:
                raise  # from a signal handler
            raise ConfigError(
                f"{self.path} cannot be written: {error.strerror}; other processes get no invalidations"
            ) from None

    def _open(self) -> int:
        folder = open_folder(self.path.parent)
        try:
            return open_file(folder, self.path, _SIZE)
        finally:
            os.close(folder)

    def _begin(self, locks: ByteLocks) -> None:
        """Write the first number into a new file."""
        try:
            locks.lock(_LOCK)
        except OSError as error:
            if error.errno is None:
                raise  # from a signal handler
            raise ConfigError(
                f"{self.path.parent} is on a file system without open-file-description locks ({error.strerror}), so "
                "caches could not share invalidations; name a folder on a local disk or a tmpfs in "
                "runtime_dir"
            ) from None
        if self.number == _DAMAGED:
            self._wait_for_lock(locks)
            if self.number == _DAMAGED:
                self._write_number(_unused_number())
        locks.close()

    def _wait_for_lock(self, locks: ByteLocks) -> None:
        deadline = time.monotonic() + _WRITER_TIMEOUT
        pause = 0.0001
        while not locks.lock(_LOCK):
            if time.monotonic() > deadline:
                raise CacheTimeout(
                    f"another process has been writing {self.path} for {_WRITER_TIMEOUT:g} s, so nothing was "
                    "invalidated; look for a stopped process (state T in ps)"
                )
            time.sleep(pause)
            pause = min(2 * pause, 0.01)


def _place(number: int) -> int:
    return _FIRST + 2 * (number % LENGTH)


def _unused_number() -> int:
    """Return a number that no process has seen: the time, far above all numbers counted from an earlier time."""
    return time.time_ns()


def _number(words: bytes) -> int:
    if len(words) == 16:
        number, complement = struct.unpack("QQ", words)
        if number ^ complement == _WORD and number < 1 << 63:
            return int(number)
    return _DAMAGED
