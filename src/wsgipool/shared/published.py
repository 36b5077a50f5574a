"""Documents that the processes of a host publish: one small JSON file for each process, in the shared folder.

Each process, and each of its sub-interpreters, replaces its own file as a whole, so a reader never sees half a file,
whenever the process is killed. The file is locked as long as its process lives: the kernel drops the lock. Readers add
the files of ended processes up into one file, the sum, and remove them.

The files are written and read, not mapped: truncating a mapped file kills the process that has mapped it. Other
programs of the same user may put anything there. The reader skips other files and logs each of them once.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from wsgipool.shared.bytelocks import ByteLocks
from wsgipool.shared.file_usage import Identity, identity, identity_at
from wsgipool.shared.folder import open_folder
from wsgipool.shared.one_time_warnings import warn_once

Document = Mapping[str, Any]

VERSION = 2
"""The version of the documents. Each version has files of its own, after an upgrade too."""
_PREFIX, _SUFFIX, _NEW = f"process-{VERSION}-", ".json", ".new"
_SUM = f"ended-{VERSION}.json"
_RECORD = f"record-{VERSION}.json"
_READERS = f"readers-{VERSION}"
_MAX_BYTES = 16 << 20
"""Maximum size of a file. A process with four pools writes some 4,000 bytes."""
_ADDING_TIMEOUT = 0.5
"""Seconds for which a reader waits while another process adds documents up. That takes milliseconds, unless the other
process was stopped."""
_UNFINISHED_AFTER = 60.0
"""Seconds after which an unfinished file without a lock is removed. Between creation and lock lie microseconds."""
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)
"""Errors of this moment, after which a file is not known to be bad."""
_CREATE = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Publication:
    """The file of this process. `write` raises ConfigError if the folder cannot be used, and OSError."""

    def __init__(self, folder: Path) -> None:
        self.process = os.getpid()
        self.folder = folder
        self._name = f"{_PREFIX}{self.process}-{secrets.token_hex(8)}{_SUFFIX}"
        self._lock: ByteLocks | None = None

    def write(self, document: Document) -> None:
        """Replace the published document."""
        with _opened(self.folder) as folder:
            temporary = self._name + _NEW
            lock = ByteLocks(os.open(temporary, _CREATE, 0o600, dir_fd=folder))
            # First the lock: a file under the final name without a lock is that of an ended process.
            lock.lock(0)
            # systemd-tmpfiles does not remove files locked like this from /tmp: tmpfiles.d(5).
            _lock(lock.fileno(), fcntl.LOCK_SH)
            _write(lock.fileno(), document)
            os.rename(temporary, self._name, src_dir_fd=folder, dst_dir_fd=folder)
        previous, self._lock = self._lock, lock
        if previous is not None:
            previous.close()

    def is_in_place(self) -> bool:
        """Return whether the document is still there. Other programs remove old files in /tmp."""
        lock = self._lock
        return lock is not None and identity_at(self.folder / self._name) == identity(os.fstat(lock.fileno()))

    def close(self) -> None:
        """Drop the lock, so that the document becomes that of an ended process, or in the child of a fork."""
        if self._lock is not None:
            self._lock.close()


@dataclass(frozen=True)
class Published:
    """All documents in a folder."""

    live: Sequence[tuple[Path, Document]]
    ended: Sequence[tuple[Path, Document]]
    """Those of ended processes that are not in the sum yet."""
    sum: Document
    """The sum of the other ended processes; empty if there is none."""


def read(folder: Path) -> Published:
    """Return the documents in a folder. Raises ConfigError if the folder cannot be used."""
    with _opened(folder) as descriptor:
        # While a document moves to the sum, it could be missed, or counted twice.
        deadline = time.monotonic() + _ADDING_TIMEOUT
        while not _lock(descriptor, fcntl.LOCK_SH) and time.monotonic() < deadline:
            time.sleep(0.001)
        while True:
            before = _identity_of(descriptor, _SUM)
            found = _read_documents(folder, descriptor)
            if _identity_of(descriptor, _SUM) == before:
                return found


def add_up(folder: Path, add: Callable[[Document, Sequence[tuple[Path, Document]]], Document]) -> None:
    """Add the documents of ended processes to the sum, and remove their files.

    `add` returns the new sum from the present one and documents. Nothing happens while another process does this. A
    process that is killed meanwhile leaves no document out, and none is counted twice: the sum names the files that it
    contains.
    """
    with _opened(folder) as descriptor:
        if not _ended(folder, descriptor) or not _lock(descriptor, fcntl.LOCK_EX):
            return
        known = _sum(folder, descriptor)
        _remove(descriptor, known["files"])
        _remove_unfinished(descriptor)
        ended = _documents(folder, descriptor, _ended(folder, descriptor))
        if ended:
            names = [path.name for path, _ in ended]
            _replace(descriptor, _SUM, {"files": names, "sum": add(known["sum"], ended)})
            _remove(descriptor, names)


def seconds_since_record(folder: Path) -> float:
    """Return how long ago the record was claimed or replaced."""
    return _age(None, os.fspath(folder / _RECORD))


def claim_record(folder: Path, interval: float) -> bool:
    """Return whether the caller is the one that replaces the record now: nobody has within `interval` seconds."""
    with _opened(folder) as descriptor:
        is_due = _lock(descriptor, fcntl.LOCK_EX) and _age(descriptor, _RECORD) >= interval
        if is_due and _identity_of(descriptor, _RECORD) is None:
            _replace(descriptor, _RECORD, {})
        elif is_due:
            _touch(descriptor, _RECORD)
        return is_due


def record(folder: Path, document: Document) -> None:
    """Replace the record of the host."""
    with _opened(folder) as descriptor:
        _replace(descriptor, _RECORD, document)


def recorded(folder: Path) -> Document:
    """Return the record of the host; empty if there is none."""
    with _opened(folder) as descriptor:
        return _document(folder, descriptor, _RECORD) or {}


def announce_reader(folder: Path) -> None:
    """Let the processes know that somebody reads their documents now."""
    with contextlib.suppress(OSError), _opened(folder) as descriptor:
        _touch(descriptor, _READERS)


def seconds_since_reader(folder: Path) -> float:
    """Return how long ago `announce_reader` was called."""
    return _age(None, os.fspath(folder / _READERS))


def warn_of_skipped_file(path: Path, error: Exception) -> None:
    """Log once that a file is skipped, because no process of this version wrote it."""
    warn_once(f"{path} is skipped, it was not written by this version of wsgipool: {error}")


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = open_folder(folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(folder: int, how: int) -> bool:
    """Lock the folder until it is closed; return whether that worked at once."""
    try:
        fcntl.flock(folder, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno is None:
            raise  # from a signal handler
        return False
    return True


def _read_documents(folder: Path, descriptor: int) -> Published:
    known = _sum(folder, descriptor)
    ended = _ended(folder, descriptor)
    live = [name for name in _names(descriptor) if name not in ended]
    new = [name for name in ended if name not in known["files"]]
    return Published(_documents(folder, descriptor, live), _documents(folder, descriptor, new), known["sum"])


def _names(descriptor: int) -> list[str]:
    """Return the names of the documents."""
    with os.scandir(descriptor) as entries:
        names = [entry.name for entry in entries]
    return sorted(name for name in names if name.startswith(_PREFIX) and name.endswith(_SUFFIX))


def _ended(folder: Path, descriptor: int) -> list[str]:
    """Return the names of the documents whose processes have ended."""
    names = []
    for name in _names(descriptor):
        try:
            if not _is_locked(descriptor, name):
                names.append(name)
        except FileNotFoundError:
            pass  # another process has added it up
        except OSError as error:
            _skip(folder / name, error)
    return names


def _is_locked(folder: int, name: str) -> bool:
    """Return whether the process of a document lives."""
    while True:
        file = ByteLocks(os.open(name, _READ, dir_fd=folder))
        try:
            # A process drops the lock of its earlier file after it has replaced it.
            if file.is_locked_by_others(0, 1):
                return True
            if _identity_of(folder, name) == identity(os.fstat(file.fileno())):
                return False
        finally:
            file.close()


def _documents(folder: Path, descriptor: int, names: Sequence[str]) -> list[tuple[Path, Document]]:
    found = ((folder / name, _document(folder, descriptor, name)) for name in names)
    return [(path, document) for path, document in found if document is not None]


def _sum(folder: Path, descriptor: int) -> dict[str, Any]:
    document = _document(folder, descriptor, _SUM) or {}
    files, total = document.get("files", []), document.get("sum", {})
    if isinstance(files, list) and all(isinstance(name, str) for name in files) and isinstance(total, dict):
        return {"files": [name for name in files if name.startswith(_PREFIX) and "/" not in name], "sum": total}
    return {"files": [], "sum": {}}


def _document(folder: Path, descriptor: int, name: str) -> Document | None:
    """Return the document in a file; None if there is none."""
    try:
        file = os.open(name, _READ, dir_fd=descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        _skip(folder / name, error)
        return None
    try:
        return _parsed(file)
    except (OSError, ValueError, RecursionError) as error:
        _skip(folder / name, error)
        return None
    finally:
        os.close(file)


def _parsed(file: int) -> Document:
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file")
    if status.st_size > _MAX_BYTES:
        raise ValueError(f"it has {status.st_size} bytes")
    text = os.pread(file, _MAX_BYTES, 0).decode()
    document = json.loads(text, parse_constant=_refuse)
    if "\\ud" in text or "\\uD" in text:
        # A lone surrogate cannot be printed.
        document = json.loads(json.dumps(document, ensure_ascii=False).encode(errors="replace"))
    if isinstance(document, dict):
        return document
    raise ValueError("it holds no object")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}")


def _replace(folder: int, name: str, document: Document) -> None:
    temporary = f"{name}-{secrets.token_hex(8)}{_NEW}"
    file = os.open(temporary, _CREATE | os.O_EXCL, 0o600, dir_fd=folder)
    try:
        _write(file, document)
    finally:
        os.close(file)
    os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)


def _write(file: int, document: Document) -> None:
    text = json.dumps(document, separators=(",", ":")).encode()
    if len(text) > _MAX_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))  # no reader would accept it
    if os.write(file, text) < len(text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _touch(folder: int, name: str) -> None:
    """Set the time of a file's last change to now; create the file if it is missing."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    os.close(os.open(name, flags, 0o600, dir_fd=folder))
    os.utime(name, dir_fd=folder, follow_symlinks=False)


def _remove(folder: int, names: Sequence[str]) -> None:
    for name in names:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder)


def _remove_unfinished(folder: int) -> None:
    """Remove unfinished files of killed processes."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    of_ours = [name for name in names if name.startswith((_PREFIX, _SUM, _RECORD)) and name.endswith(_NEW)]
    _remove(folder, [name for name in of_ours if _age(folder, name) > _UNFINISHED_AFTER])


def _age(folder: int | None, name: str) -> float:
    """Return the seconds since the last change of a file; infinity if there is none."""
    try:
        return abs(time.time() - os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime)
    except OSError:
        return float("inf")


def _identity_of(folder: int, name: str) -> Identity | None:
    try:
        return identity(os.stat(name, dir_fd=folder, follow_symlinks=False))
    except OSError:
        return None


def _skip(path: Path, error: Exception) -> None:
    if isinstance(error, OSError) and error.errno in (None, *_SHORTAGES):
        raise error  # errno is None for an error from a signal handler
    warn_of_skipped_file(path, error)
