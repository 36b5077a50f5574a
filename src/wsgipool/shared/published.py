"""Reports that each process of the host publishes: small JSON files in the shared folder.

Each process, and each of its sub-interpreters, writes its own file and replaces it as a whole, so a reader never sees
half a file. The name of the file identifies the process. A reader removes the files of ended processes.

Other programs of the same user may put anything there. The reader skips other files and logs each of them once.
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

from wsgipool.shared.folder import open_folder
from wsgipool.shared.one_time_warnings import warn_once

_PREFIX, _SUFFIX = "process-1-", ".json"
_MAX_BYTES = 4 << 20
"""Maximum size of a file. The counts of a thousand locks take a tenth of it."""


class Publication:
    """The file of this process. `write` raises ConfigError if the folder cannot be used."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.process = os.getpid()
        self._name = f"{_PREFIX}{self.process}-{_start_of(self.process)}-{secrets.token_hex(4)}{_SUFFIX}"

    def write(self, document: dict[str, Any]) -> None:
        """Replace the published document."""
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
        """Remove the file, at the end of the process."""
        with contextlib.suppress(OSError):
            (self._folder / self._name).unlink()


def published(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield path and document of each live process; remove the files of ended processes."""
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
                    pass  # its process has just ended
                except (OSError, ValueError, RecursionError) as error:
                    if isinstance(error, OSError) and error.errno is None:
                        raise  # from a signal handler
                    warn_of_skipped_file(folder / name, error)
    finally:
        os.close(descriptor)


def warn_of_skipped_file(path: Path, error: Exception) -> None:
    """Log once that a file is skipped, because no process of this version wrote it."""
    warn_once(f"{path} is skipped, it was not written by this version of wsgipool: {error}")


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
    """Return the start of a process in ticks since the host's start, or "" if there is none; see proc(5)."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The name of the program, in parentheses, may contain spaces and parentheses.
    return status.rpartition(")")[2].split()[19]
