"""Small text files that somebody else has written: settings, passwords, option files.

Whatever the path leads to, reading it ends soon: it is opened without waiting, and must be a regular file of bounded
size. The text is what the file has, to the last byte.
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


def read_text(path: Path, limit: int) -> str:
    """Return the text of a regular file of UTF-8, of at most `limit` bytes.

    Raises OSError where the system refuses, or ValueError with a reason and a remedy: `is a FIFO; name a regular file`.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK  # a FIFO would wait for its writer
    try:
        descriptor = os.open(path, flags)
    except ValueError:  # a NUL, or what the file system's encoding does not have
        raise ValueError("has a character in its name that no file's name can have") from None
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise ValueError("is a socket; name a regular file") from None
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise ValueError(f"is {_KINDS.get(stat.S_IFMT(mode), 'something else')}; name a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(content) > limit:
        raise ValueError(f"is larger than {limit // 1024} KiB; is it the right file?")
    if content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("begins with a byte order mark; save it as UTF-8 without one")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start + 1}); save it as UTF-8") from None
