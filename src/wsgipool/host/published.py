"""What each process of the host publishes of itself: a small file of JSON in the folder that they share.

Each process, and each sub-interpreter of it, writes a file of its own and replaces it as a whole, so nobody reads half
of one. Its name says which process wrote it; the files of those that are gone are removed by whoever reads.

Other programs of the same user may put anything there. What is no such file is passed over, and logged once.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wsgipool.host.folder import open_folder
from wsgipool.host.notices import warn_once

_PREFIX, _SUFFIX = "process-1-", ".json"
_MAX_BYTES = 4 << 20
"""Of a file; the counts of a thousand locks are a tenth of it."""


class Publication:
    """This process's file. Raises ConfigError where the folder cannot be used."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.process = os.getpid()
        self._name = f"{_PREFIX}{self.process}-{_start_of(self.process)}-{secrets.token_hex(4)}{_SUFFIX}"

    def write(self, document: dict[str, Any]) -> None:
        """Replace what was published before."""
        folder = open_folder(self._folder)
        try:
            temporary = f"{self._name}.new"
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=folder), "w", encoding="utf-8") as file:
                json.dump({"pid": self.process, **document}, file)
            os.replace(temporary, self._name, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            os.close(folder)

    def remove(self) -> None:
        """Publish nothing any more: the process ends."""
        with contextlib.suppress(OSError):
            (self._folder / self._name).unlink()


def published(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Return what the living processes have published, and where; remove what the others have left behind."""
    descriptor = open_folder(folder)
    try:
        for name in sorted(entry.name for entry in os.scandir(descriptor)):
            if not name.startswith(_PREFIX):
                continue
            process, _, start = name.removeprefix(_PREFIX).partition("-")
            if not (process.isascii() and process.isdigit()) or _start_of(int(process)) != start.partition("-")[0]:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=descriptor)
            elif name.endswith(_SUFFIX):
                try:
                    yield folder / name, _read(descriptor, name)
                except FileNotFoundError:
                    pass  # its process has ended meanwhile
                except (OSError, ValueError, RecursionError) as error:
                    if isinstance(error, OSError) and error.errno is None:
                        raise  # a signal handler's
                    pass_over(folder / name, error)
    finally:
        os.close(descriptor)


def pass_over(path: Path, error: Exception) -> None:
    """Log once that a file is not what a process publishes."""
    warn_once(f"{path} is passed over, it was not written by this version of wsgipool: {error}")


def _read(folder: int, name: str) -> dict[str, Any]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(name, flags, dir_fd=folder)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if status.st_size > _MAX_BYTES:
            raise ValueError(f"it has {status.st_size} bytes")
        document = json.loads(os.pread(descriptor, _MAX_BYTES, 0))
    finally:
        os.close(descriptor)
    if isinstance(document, dict):
        return document
    raise ValueError("it holds no object")


def _start_of(process: int) -> str:
    """Return when a process was started, in ticks since the host was; "" where there is none. proc(5)."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The name of the program, in brackets, may have spaces and brackets.
    return status.rpartition(")")[2].split()[19]
