"""Requests to drain pools, for all processes of the host that share a folder: one empty file for each name.

Each request replaces the file by a new one. A process needs one lstat to see that, and no content can be damaged. A
removed file is no request.
"""

from __future__ import annotations

import os
import secrets
import stat
import zlib
from pathlib import Path

from wsgipool.errors import ConfigError
from wsgipool.shared.folder import open_folder, refuse_shortage

_PREFIX = "drain-1"

Stamp = tuple[int, ...]
"""Values that differ between two files of the same name."""


def request(folder: Path, name: str | None = None) -> None:
    """Request to drain the pools called `name`, or all pools.

    Raises ConfigError if the folder cannot be written, or if other users may enter it.
    """
    path = folder / _file_name(name)
    temporary = f"{path.name}.{secrets.token_hex(8)}"
    descriptor = open_folder(folder)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(temporary, flags, 0o600, dir_fd=descriptor))
        try:
            os.replace(temporary, path.name, src_dir_fd=descriptor, dst_dir_fd=descriptor)
        except BaseException:
            os.unlink(temporary, dir_fd=descriptor)
            raise
    except OSError as error:
        refuse_shortage(path, error)
        if error.errno is None:
            raise  # from a signal handler
        raise ConfigError(f"{path} cannot be written: {error.strerror}, so no pool is drained") from None
    finally:
        os.close(descriptor)


class DrainRequests:
    """The drain requests in a folder, which need not exist, for one process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[tuple[str | None, str], Stamp | None] = {}
        """The last stamp for each name and its path."""

    def register(self, name: str) -> None:
        """Let `take` return the requests for a pool from now on."""
        for each in (None, name):
            path = os.fspath(self._folder / _file_name(each))
            self._seen.setdefault((each, path), _stamp(path))

    def take(self) -> list[str | None]:
        """Return the names with new requests, each request once. None stands for all pools."""
        new: list[str | None] = []
        for (name, path), seen in list(self._seen.items()):
            stamp = _stamp(path)
            if stamp is not None and stamp != seen:
                self._seen[name, path] = stamp
                new.append(name)
        return new


def _stamp(path: str) -> Stamp | None:
    try:
        status = os.lstat(path)
    except OSError as error:
        if error.errno is None:
            raise  # from a signal handler
        return None
    # In /tmp any user can create a folder of that name, with files in it.
    if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode):
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _file_name(name: str | None) -> str:
    if name is None:
        return _PREFIX
    readable = "".join(character if character.isalnum() and character.isascii() else "-" for character in name)
    return f"{_PREFIX}-{readable[:80]}-{zlib.crc32(name.encode('utf-8', 'surrogatepass')):08x}"
