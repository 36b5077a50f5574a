"""Reads small files of users: settings, passwords, certificates, option files.

Reading never waits: the file is opened without blocking, and must be a regular file of limited size. The content is
returned unchanged.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_bytes(path: Path, limit: int) -> tuple[bytes, os.stat_result]:
    """Return the content of a regular file of at most `limit` bytes, and its status.

    Raises OSError from the system, or ValueError with reason and remedy, such as `is a FIFO; name a regular file`.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK  # without blocking on a FIFO
    try:
        descriptor = os.open(path, flags)
    except ValueError:  # a NUL, or a character outside the file system's encoding
        raise ValueError("has a character in its name that no file name can have") from None
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise ValueError("is a socket; name a regular file") from None
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
            raise ValueError(f"is {kind}; name a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(content) > limit:
        raise ValueError(f"is larger than {limit // 1024} KiB; is it the right file?")
    return content, status


def read_text(path: Path, limit: int) -> str:
    """Return the text of a regular UTF-8 file of at most `limit` bytes. Raises the errors of `read_bytes`."""
    content, _ = read_bytes(path, limit)
    if content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("begins with a byte order mark; save it as UTF-8 without one")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start + 1}); save it as UTF-8") from None
