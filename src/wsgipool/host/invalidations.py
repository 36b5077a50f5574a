"""What the caches of one name tell each other across the processes of a host: these keys are no longer true.

A file in shared memory: its first word is the number of the last invalidation, so whether there is news costs a reader
one read and no lock. Behind it lie the last `LENGTH` invalidations, each as a number made of the key. Who has missed
more than these, or finds one that is not what it should be, drops everything: that is never wrong, and rarely needed.

One writer at a time, by a lock of the operating system. Each invalidation is written with its number woven in and
counts when the first word says so. So a writer that dies on the way has said nothing and left nothing behind; the next
one writes over it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
import time
import weakref
import zlib
from collections.abc import Hashable
from pathlib import Path

from wsgipool.errors import CacheTimeout, ConfigError
from wsgipool.host.bytelocks import ByteLocks
from wsgipool.host.folder import open_file, open_folder

LENGTH = 1024
"""Invalidations that a process may miss, between two looks, without dropping all that it has."""

EVERYTHING = 0
"""Stands for all keys."""

_PATIENCE = 10.0
"""Seconds to wait for another writer. Writing takes microseconds: one that takes so long was stopped, by a debugger."""

_NUMBER = 0  # in words
_FIRST = 8
_SIZE = 8 * (_FIRST + 2 * LENGTH)
_LOCK = 0


def token(key: Hashable) -> int | None:
    """Return a number that every process makes of this key and of all that are equal to it; None if there is none.

    There is one for None, bool, int, float, str, bytes, and tuples of these. hash() will not do: that of a text is
    another one in each process. Of a subclass nobody knows what it is equal to.
    """
    parts: list[bytes] = []
    if not _spell(key, parts):
        return None
    return int.from_bytes(hashlib.blake2b(b"".join(parts), digest_size=8).digest(), "little")


def _spell(key: Hashable, parts: list[bytes]) -> bool:
    kind = type(key)
    if isinstance(key, str) and kind is str:
        text = key.encode("utf-8", "surrogatepass")
        parts.append(b"s%d:" % len(text) + text)
    elif isinstance(key, bytes) and kind is bytes:
        parts.append(b"b%d:" % len(key) + key)
    elif key is None:
        parts.append(b"n")
    elif kind in (int, bool, float):
        # Equal numbers have one hash, whatever their type, and it is the same everywhere: 1 == 1.0 == True.
        parts.append(b"i%d;" % hash(key))
    elif isinstance(key, tuple) and kind is tuple:
        parts.append(b"t%d:" % len(key))
        return all(_spell(part, parts) for part in key)
    else:
        return False
    return True


class Invalidations:
    """The invalidations of the caches called `name` among the processes that share `folder`.

    Raises ConfigError where the folder cannot be used, or has no locks.
    """

    def __init__(self, folder: Path, name: str) -> None:
        readable = "".join(character if character.isalnum() else "-" for character in name)
        self.path = folder / f"cache-1-{readable[:80]}-{zlib.crc32(name.encode()):08x}"
        self._thread_lock = threading.Lock()
        # Weak: whatever interrupts a writer, the lock goes with its last reference.
        self._writing: weakref.WeakSet[ByteLocks] = weakref.WeakSet()
        descriptor = self._open()
        try:
            self._file = _identity(os.fstat(descriptor))
            # mmap keeps a descriptor of its own.
            self._words = memoryview(mmap.mmap(descriptor, _SIZE)).cast("Q")
        finally:
            os.close(descriptor)
        self._try_lock(ByteLocks(self._open()))

    @property
    def number(self) -> int:
        """The number of the last invalidation: whoever has seen it has missed nothing."""
        return self._words[_NUMBER]

    def since(self, seen: int) -> tuple[int, set[int]]:
        """Return the number of the last invalidation and the tokens of those after `seen`; EVERYTHING if in doubt."""
        words = self._words
        last = words[_NUMBER]
        if not 0 <= last - seen <= LENGTH:
            return last, {EVERYTHING}
        tokens = set()
        for number in range(seen + 1, last + 1):
            place = _place(number)
            told = words[place]
            # Another number is woven in where the ring has gone round, and where a processor shows us the first word
            # before what was written earlier.
            if told ^ words[place + 1] != number:
                return last, {EVERYTHING}
            tokens.add(told)
        return last, tokens

    def post(self, told: int) -> bool:
        """Tell all processes that the keys with this token are no longer true.

        False if nothing was told, since the file is no longer the one at its path. Raises CacheTimeout where another
        writer keeps everybody waiting.
        """
        with self._thread_lock:
            # A description of its own each time: however this ends, it is closed, and with it goes the lock.
            descriptor = self._open()
            locks = ByteLocks(descriptor)
            if _identity(os.fstat(descriptor)) != self._file:
                return False
            self._writing.add(locks)
            self._wait_for_lock(locks)
            number = self._words[_NUMBER] + 1
            place = _place(number)
            self._words[place] = told
            self._words[place + 1] = told ^ number
            self._words[_NUMBER] = number
            # Not by closing alone: a child that was forked at this moment has the description too.
            locks.unlock(_LOCK)
            return True

    def is_in_place(self) -> bool:
        """Tell whether the file is still the one at its path; if not, others will not hear of it and not be heard."""
        try:
            return _identity(self.path.lstat()) == self._file
        except OSError:
            return False

    def start_anew(self) -> None:
        """Leave the parent's lock to the parent: this is the child of a fork."""
        self._thread_lock = threading.Lock()
        for locks in list(self._writing):
            locks.close()

    def _open(self) -> int:
        folder = open_folder(self.path.parent)
        try:
            return open_file(folder, self.path, _SIZE)
        finally:
            os.close(folder)

    def _try_lock(self, locks: ByteLocks) -> None:
        try:
            locks.lock(_LOCK)
        except OSError as error:
            raise ConfigError(
                f"{self.path.parent} is on a file system without open-file-description locks ({error.strerror}), so "
                "caches could not tell each other what is no longer true; name a folder on a local disk or a tmpfs in "
                "runtime_dir"
            ) from None
        locks.close()

    def _wait_for_lock(self, locks: ByteLocks) -> None:
        deadline = time.monotonic() + _PATIENCE
        pause = 0.0001
        while not locks.lock(_LOCK):
            if time.monotonic() > deadline:
                raise CacheTimeout(
                    f"another process has been writing {self.path} for {_PATIENCE:g} s, so nothing was invalidated; "
                    "look for one that was stopped (state T in ps)"
                )
            time.sleep(pause)
            pause = min(2 * pause, 0.01)


def _place(number: int) -> int:
    return _FIRST + 2 * (number % LENGTH)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
