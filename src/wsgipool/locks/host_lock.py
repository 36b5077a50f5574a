"""A lock that excludes the other processes of the host: a locked file, which the kernel unlocks when the process dies.

filelock locks it by flock(2), which belongs to the open file and not to the process. So the lock also works between
sub-interpreters, and closing another descriptor of the file does not end it. Neither is true of fcntl's locks, which
fasteners uses. filelock implements shared locks by transactions of SQLite; here they are flock's own, on the same file.

A second file, the gate, comes before the lock. Only the process that has the gate waits for the lock, so readers
cannot starve a writer, and a busy process cannot starve the others. Processes cannot wake each other: a waiting thread
tries again after a pause, which grows to `_MAX_PAUSE`. Only one thread of a process tries; the others wait for it.

A process may be suspended while it has the gate. So a thread whose wait for the gate exceeds `_GATE_TIMEOUT`, or whose
deadline has come, takes the lock without the gate if the lock is entirely free. A running process with the gate would
have taken it.

The file may be removed while it is locked, and a new process would then lock another file. So a holder shows which
file it has locked (`wsgipool.shared.file_usage`), and no process takes the lock while another one shows another file.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import re
import time
from collections import deque
from collections.abc import Iterator
from time import monotonic

from wsgipool.errors import ConfigError
from wsgipool.pools import runtime_dir
from wsgipool.shared.file_usage import UsageLock, identity, identity_at, open_usage_lock
from wsgipool.shared.folder import open_file, open_folder, refuse_shortage

_MIN_PAUSE, _MAX_PAUSE = 0.0002, 0.01
"""Seconds between two attempts. 100 attempts a second cost a waiting process less than 1 % of a processor."""
_GATE_TIMEOUT = 0.05
"""Seconds to wait for the gate: five attempts of the process that has it."""
_NOTE = 512
"""Bytes of the file that describe its holder."""


class HostLock:
    """One lock of this host; see `wsgipool.locks.lock_set.OuterLock`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._start_empty()

    def _start_empty(self) -> None:
        # Each reader opens files of its own, as other processes do, so readers need not be counted.
        self._free: deque[_Files] = deque()
        self._taken: dict[int, _Files] = {}
        self._process = os.getpid()

    def take(self, thread_id: int, shared: bool, deadline: float | None, place: str) -> bool:
        if self._process != os.getpid():
            self.forget()  # a fork in another sub-interpreter or a C library does not call our after-fork function
        try:
            files = self._free.pop()
        except IndexError:
            files = _Files(self._name)
        # Recorded before it is locked, so that it is unlocked in any case.
        self._taken[thread_id] = files
        while True:
            if not files.lock(shared, deadline):
                return False
            if files.is_there():
                break
            # The file was removed: other processes lock the new file of that name.
            files = self._taken[thread_id] = _Files(self._name)
        if not shared:
            files.sign(f"thread {thread_id} of process {os.getpid()}, taken at {place}")
        return True

    def release(self, thread_id: int) -> None:
        files = self._taken.get(thread_id)
        if files is not None:
            files.unlock()
            del self._taken[thread_id]
            self._free.append(files)

    def describe_holder(self) -> str:
        try:
            signature = _Files(self._name).signature()
        except ConfigError as error:
            return f"its holder is not known: {error}"
        return signature or "held by readers in other processes"

    def forget(self) -> None:
        for files in [*self._free, *self._taken.values()]:
            files.close()
        self._start_empty()


class _Files:
    """The lock's file and its gate, opened once more; dropping the object closes and so unlocks them."""

    # Defaults of the class, for __del__ after an asynchronous exception in __init__.
    _gate = _file = -1
    _usage_lock: UsageLock | None = None
    _signed = False

    def __init__(self, name: str) -> None:
        path = runtime_dir()
        self._path = path / f"lock-1-{_file_name(name)}"
        self._gate_path = self._path.with_name(f"{self._path.name}.gate")
        folder = open_folder(path)
        try:
            self._file = open_file(folder, self._path, _NOTE)
            self._gate = open_file(folder, self._gate_path, 1)
            self._usage_lock = open_usage_lock(self._path, identity(os.fstat(self._file)))
        except OSError as error:
            refuse_shortage(self._path, error)
            raise
        finally:
            os.close(folder)
        self.unlock()

    def lock(self, shared: bool, deadline: float | None) -> bool:
        pauses = _pauses(deadline)
        gate_until = monotonic() + _GATE_TIMEOUT
        has_gate = False
        while True:
            pause = next(pauses, None)
            has_gate = has_gate or self._try(self._gate, False)
            is_locked = (has_gate and self._try(self._file, shared)) or (
                (pause is None or monotonic() >= gate_until) and self._try_if_free(shared)
            )
            if is_locked and self._is_the_only_file():
                fcntl.flock(self._gate, fcntl.LOCK_UN)
                return True
            if pause is None:
                return False
            time.sleep(pause)

    def _try_if_free(self, shared: bool) -> bool:
        # Exclusive first, since that proves the lock free. flock does not change to shared in one step: another process
        # may take the lock in between.
        return self._try(self._file, False) and (not shared or self._try(self._file, True))

    def _is_the_only_file(self) -> bool:
        """Show that this file is locked; return whether no process has locked another file, removed since."""
        if self._usage_lock is None:
            return True
        self._usage_lock.acquire()
        if not self.is_there() or not self._usage_lock.sees_other_file():
            return True
        self._usage_lock.release()
        fcntl.flock(self._file, fcntl.LOCK_UN)
        return False

    def _try(self, descriptor: int, shared: bool) -> bool:
        from filelock import lock_descriptor  # an import of 60 ms, which most processes do not need

        try:
            if not shared:
                return lock_descriptor(descriptor, blocking=False)
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in (None, errno.EBADF, errno.EINTR):
                raise
            raise ConfigError(
                f"{self._path.parent} is on a file system without file locks ({error.strerror}), so the lock would not "
                "exclude other processes; set runtime_dir to a folder on a local disk or a tmpfs"
            ) from None
        return True

    def unlock(self) -> None:
        """Unlock both files, locked or not."""
        if self._signed:
            self._write_note(b"")
            self._signed = False
        if self._usage_lock is not None:
            self._usage_lock.release()
        for descriptor in (self._file, self._gate):
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    def is_there(self) -> bool:
        return all(
            identity(os.fstat(descriptor)) == identity_at(path)
            for descriptor, path in ((self._file, self._path), (self._gate, self._gate_path))
        )

    def sign(self, holder: str) -> None:
        """Write a description of the holder into the file, for the timeout messages of other processes."""
        note = json.dumps([holder[: _NOTE // 2], monotonic(), os.getpid()], ensure_ascii=True).encode()[:_NOTE]
        self._signed = True
        self._write_note(note)

    def _write_note(self, note: bytes) -> None:
        try:
            os.pwrite(self._file, note.ljust(_NOTE, b"\0"), 0)
        except OSError as error:
            if error.errno is None:
                raise  # an exception of a signal handler
            # The disk is full; the description serves messages only.

    def signature(self) -> str:
        """Return a description of the writer that holds the lock; "" if none is known."""
        try:
            holder, since, process = json.loads(os.pread(self._file, _NOTE, 0).rstrip(b"\0"))
            held = monotonic() - float(since)
            if not (isinstance(holder, str) and holder.isprintable() and int(process) > 0 and 0 <= held < math.inf):
                return ""  # another program has written to the file
            os.kill(int(process), 0)
        except (ValueError, TypeError, OverflowError, RecursionError, OSError):
            return ""  # no writer holds it, or the writer was killed
        return f"held by {holder}, for {held:.1f} s"

    def close(self) -> None:
        """Close the descriptors; after a fork, the files stay locked for the parent."""
        descriptors = (self._file, self._gate)
        self._file = self._gate = -1
        if self._usage_lock is not None:
            self._usage_lock.close()
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)

    def __del__(self) -> None:
        self.close()


def _pauses(deadline: float | None) -> Iterator[float]:
    pause = _MIN_PAUSE
    while True:
        remaining = pause if deadline is None else deadline - monotonic()
        if remaining <= 0:
            return
        yield min(pause, remaining)
        pause = min(2 * pause, _MAX_PAUSE)


def _file_name(name: str) -> str:
    readable = re.sub(r"[^A-Za-z0-9_.]", "-", name)
    return f"{readable[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
