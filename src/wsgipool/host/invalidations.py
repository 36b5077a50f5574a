"""What the caches of one name tell each other across the processes of a host: these keys are no longer true.

A file: its first two words are the number of the last invalidation, so whether there is news costs a reader one read
and no lock. Behind them lie the last `LENGTH` invalidations, each as a number made of the key. Who has missed
more than these, or finds one that is not what it should be, drops everything: that is never wrong, and rarely needed.

One writer at a time, by a lock of the operating system. Each invalidation is written with its number woven in and
counts when the first words say so. So a writer that dies on the way has said nothing and left nothing behind; the next
one writes over it.

Others can cut the file, fill it, or write anything into it. So it is read and written, not mapped: a mapped file that
is cut kills the process. A number without its complement beside it is damage: readers drop everything, and the next
writer begins anew with a number that was never used.
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
from wsgipool.host.bytelocks import ByteLocks
from wsgipool.host.folder import open_file, open_folder
from wsgipool.host.notices import warn_once
from wsgipool.host.witness import identity, identity_at

LENGTH = 1024
"""Invalidations that a process may miss, between two looks, without dropping all that it has."""

EVERYTHING = 0
"""Stands for all keys."""

_PATIENCE = 10.0
"""Seconds to wait for another writer. Writing takes microseconds: one that takes so long was stopped, by a debugger."""

_FIRST = 8  # in words
_SIZE = 8 * (_FIRST + 2 * LENGTH)
_LOCK = 0
_WORD = (1 << 64) - 1
_DAMAGED = -1
"""Stands for the number of the last invalidation where the file does not say it."""


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
        self.path = folder / f"cache-2-{readable[:80]}-{zlib.crc32(name.encode()):08x}"
        self._thread_lock = threading.Lock()
        # Weak: whatever interrupts a writer, the lock goes with its last reference.
        self._writing: weakref.WeakSet[ByteLocks] = weakref.WeakSet()
        self._file = ByteLocks(self._open())
        self._identity = identity(os.fstat(self._file.fileno()))
        self._descriptor = self._file.fileno()
        self._last = b"", _DAMAGED
        self._begin(ByteLocks(self._open()))

    @property
    def number(self) -> int:
        """The number of the last invalidation: whoever has seen it has missed nothing. Negative where it is unknown."""
        words, last = os.pread(self._descriptor, 16, 0), self._last
        if words != last[0]:
            self._last = last = words, _number(words)
        return last[1]

    def since(self, seen: int) -> tuple[int, set[int]]:
        """Return the number of the last invalidation and the tokens of those after `seen`; EVERYTHING if in doubt."""
        content = os.pread(self._descriptor, _SIZE, 0)
        last = _number(content[:16])
        if last == _DAMAGED or seen == _DAMAGED or not 0 <= last - seen <= LENGTH:
            return last, {EVERYTHING}
        tokens = set()
        for number in range(seen + 1, last + 1):
            place = 8 * _place(number)
            entry = content[place : place + 16]
            # Another number is woven in where the ring has gone round, and where a processor shows us the first words
            # before what was written earlier.
            if len(entry) < 16 or int.from_bytes(entry[:8], sys.byteorder) ^ number != int.from_bytes(
                entry[8:], sys.byteorder
            ):
                return last, {EVERYTHING}
            tokens.add(int.from_bytes(entry[:8], sys.byteorder))
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
            if identity(os.fstat(descriptor)) != self._identity:
                return False
            self._writing.add(locks)
            self._wait_for_lock(locks)
            last = self.number
            if last == _DAMAGED:
                warn_once(f"{self.path} was damaged by something else than wsgipool; its caches begin anew")
                last = _unused_number()
            number = last + 1
            self._write(struct.pack("QQ", told, told ^ number), 8 * _place(number))
            self._write_number(number)
            # Not by closing alone: a child that was forked at this moment has the description too.
            locks.unlock(_LOCK)
            return True

    def is_in_place(self) -> bool:
        """Tell whether the file is still the one at its path; if not, others will not hear of it and not be heard."""
        return identity_at(self.path) == self._identity

    def start_anew(self) -> None:
        """Leave the parent's lock to the parent: this is the child of a fork."""
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
                raise  # a signal handler's
            raise ConfigError(
                f"{self.path} cannot be written: {error.strerror}; other processes do not hear what is no longer true"
            ) from None

    def _open(self) -> int:
        folder = open_folder(self.path.parent)
        try:
            return open_file(folder, self.path, _SIZE)
        finally:
            os.close(folder)

    def _begin(self, locks: ByteLocks) -> None:
        """Give a new file its first number."""
        try:
            locks.lock(_LOCK)
        except OSError as error:
            if error.errno is None:
                raise  # a signal handler's
            raise ConfigError(
                f"{self.path.parent} is on a file system without open-file-description locks ({error.strerror}), so "
                "caches could not tell each other what is no longer true; name a folder on a local disk or a tmpfs in "
                "runtime_dir"
            ) from None
        if self.number == _DAMAGED:
            self._wait_for_lock(locks)
            if self.number == _DAMAGED:
                self._write_number(_unused_number())
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


def _unused_number() -> int:
    """Return a number that no process has seen: far above all that were counted from an earlier one."""
    return time.time_ns()


def _number(words: bytes) -> int:
    if len(words) == 16:
        number, complement = struct.unpack("QQ", words)
        if number ^ complement == _WORD and number < 1 << 63:
            return int(number)
    return _DAMAGED
