"""A lock that keeps out the other processes of the host: a locked file, which the kernel frees when the process dies.

filelock does the locking, by flock(2), which belongs to the open file and not to the process: so it holds between
sub-interpreters too, and closing another descriptor of the file does not end it. (fasteners takes fcntl's locks, of
which neither is true.) Its shared locks are transactions of SQLite; these here are flock's own, on the same file.

Before the lock comes the gate, a second file: who has passed it waits at the lock alone, so those who read cannot keep
one who writes waiting for ever, nor one busy process the others. There is no wake-up between processes: who waits looks
again, after a pause that grows to `_LONGEST_PAUSE`; one thread of a process looks, its others wait for that one.

A process may be stopped in the gate. Whoever has waited for the gate for `_GATE_TIMEOUT`, or can wait no longer, takes
the lock without it if nobody holds the lock, not even to read: a process in the gate that runs would have taken it.

The file may be removed while somebody holds it; a new process would then lock another one. So a holder shows which file
it has locked (`wsgipool.host.witness`), and nobody takes the lock beside one that shows another.
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
from wsgipool.host.folder import open_file, open_folder, refuse_shortage
from wsgipool.host.witness import Witness, identity, identity_at, open_witness
from wsgipool.process import runtime_dir

_FIRST_PAUSE, _LONGEST_PAUSE = 0.0002, 0.01
"""Seconds between two looks. 100 looks a second cost a waiting process less than 1 % of a processor."""
_GATE_TIMEOUT = 0.05
"""Seconds: five looks of a process in the gate."""
_NOTE = 512
"""Bytes of the file that say who writes."""


class HostLock:
    """One lock of this host; see `wsgipool.locks.plan.Outer`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._start_empty()

    def _start_empty(self) -> None:
        # Who reads has files of its own, as other processes have: then nothing has to be counted.
        self._free: deque[_Files] = deque()
        self._taken: dict[int, _Files] = {}
        self._process = os.getpid()

    def take(self, thread_id: int, shared: bool, deadline: float | None, place: str) -> bool:
        if self._process != os.getpid():
            self.forget()  # a fork by another sub-interpreter, or by a C library, calls none of our functions
        try:
            files = self._free.pop()
        except IndexError:
            files = _Files(self._name)
        # Noted before it is locked: what is noted is unlocked.
        self._taken[thread_id] = files
        while True:
            if not files.lock(shared, deadline):
                return False
            if files.is_there():
                break
            # Somebody has tidied up, and the next to come would lock another file of that name.
            files = self._taken[thread_id] = _Files(self._name)
        if not shared:
            files.sign(f"thread {thread_id} of process {os.getpid()}, taken at {place}")
        return True

    def give_back(self, thread_id: int) -> None:
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
        return signature or "held by those who read, in other processes"

    def forget(self) -> None:
        for files in [*self._free, *self._taken.values()]:
            files.close()
        self._start_empty()


class _Files:
    """The lock's file and its gate, opened once more. Dropped, they are closed, and so unlocked."""

    def __init__(self, name: str) -> None:
        self._gate = self._file = -1
        self._witness: Witness | None = None
        self._signed = False
        path = runtime_dir()
        self._path = path / f"lock-1-{_file_name(name)}"
        self._gate_path = self._path.with_name(f"{self._path.name}.gate")
        folder = open_folder(path)
        try:
            self._file = open_file(folder, self._path, _NOTE)
            self._gate = open_file(folder, self._gate_path, 1)
            self._witness = open_witness(self._path, identity(os.fstat(self._file)))
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
        # From the one to the other is not one step: somebody else may come in between.
        return self._try(self._file, False) and (not shared or self._try(self._file, True))

    def _is_the_only_file(self) -> bool:
        """Show that this file is locked; return whether no process has locked another one, which had been removed."""
        if self._witness is None:
            return True
        self._witness.show()
        if not self.is_there() or not self._witness.sees_another():
            return True
        self._witness.hide()
        fcntl.flock(self._file, fcntl.LOCK_UN)
        return False

    def _try(self, descriptor: int, shared: bool) -> bool:
        from filelock import lock_descriptor  # 60 ms, for those who have such locks

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
                f"{self._path.parent} is on a file system without locks ({error.strerror}), so nothing would keep "
                "other processes out; name a folder on a local disk or a tmpfs in runtime_dir"
            ) from None
        return True

    def unlock(self) -> None:
        """Give both back; that was not locked, or is given back already, does no harm."""
        if self._signed:
            self._write_note(b"")
            self._signed = False
        if self._witness is not None:
            self._witness.hide()
        for descriptor in (self._file, self._gate):
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    def is_there(self) -> bool:
        return all(
            identity(os.fstat(descriptor)) == identity_at(path)
            for descriptor, path in ((self._file, self._path), (self._gate, self._gate_path))
        )

    def sign(self, holder: str) -> None:
        """Write down who has it, for those who wait in vain."""
        note = json.dumps([holder[: _NOTE // 2], monotonic(), os.getpid()], ensure_ascii=True).encode()[:_NOTE]
        self._signed = True
        self._write_note(note)

    def _write_note(self, note: bytes) -> None:
        try:
            os.pwrite(self._file, note.ljust(_NOTE, b"\0"), 0)
        except OSError as error:
            if error.errno is None:
                raise  # a signal handler's
            # The disk is full. It is only for messages.

    def signature(self) -> str:
        """Return who has it for writing, as far as that is known."""
        try:
            holder, since, process = json.loads(os.pread(self._file, _NOTE, 0).rstrip(b"\0"))
            held = monotonic() - float(since)
            if not (isinstance(holder, str) and holder.isprintable() and int(process) > 0 and 0 <= held < math.inf):
                return ""  # others have written something else
            os.kill(int(process), 0)
        except (ValueError, TypeError, OverflowError, RecursionError, OSError):
            return ""  # nobody writes, or who did was killed
        return f"held by {holder}, for {held:.1f} s"

    def close(self) -> None:
        """Let go of our share in them: in a fork's child they stay locked for the parent."""
        descriptors = (self._file, self._gate)
        self._file = self._gate = -1
        if self._witness is not None:
            self._witness.close()
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)

    def __del__(self) -> None:
        self.close()


def _pauses(deadline: float | None) -> Iterator[float]:
    pause = _FIRST_PAUSE
    while True:
        remaining = pause if deadline is None else deadline - monotonic()
        if remaining <= 0:
            return
        yield min(pause, remaining)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _file_name(name: str) -> str:
    readable = re.sub(r"[^A-Za-z0-9_.]", "-", name)
    return f"{readable[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
