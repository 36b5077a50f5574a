"""The files that a database URL names: certificates, keys, option files. Each is read whole, or refused by its name."""

from __future__ import annotations

import errno
import os
import stat

from wsgipool.errors import ConfigError
from wsgipool.showing import shown

MAX_SIZE = 4 * 1024 * 1024
"""Bytes; a system's bundle of certificates has a quarter of a megabyte."""


def read(path: str, where: str) -> bytes:
    """Return the content of a file. Raises ConfigError; `where` begins it and names the option."""
    return read_with_status(path, where)[0]


def read_with_status(path: str, where: str) -> tuple[bytes, os.stat_result]:
    """Return the content of a file, and what the system says of it. Raises ConfigError."""
    _refuse_relative(path, where)
    try:
        # Without O_NONBLOCK a FIFO would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise _unreadable(path, where, error) from None
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise ConfigError(f"{where}: {shown(path)} is a folder; name a file in it")
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{where}: {shown(path)} is not a regular file")
        if status.st_size > MAX_SIZE:
            raise ConfigError(f"{where}: {shown(path)} has more than {MAX_SIZE >> 20} MB; is it the right file?")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_SIZE)
    except OSError as error:
        raise _unreadable(path, where, error) from None
    finally:
        os.close(descriptor)
    if not content.strip():
        raise ConfigError(f"{where}: {shown(path)} is empty")
    return content, status


def names_in(path: str, where: str) -> list[str]:
    """Return the sorted names in a folder. Raises ConfigError; `where` begins it and names the option."""
    _refuse_relative(path, where)
    try:
        return sorted(os.listdir(path))  # noqa: PTH208 - names, not paths
    except NotADirectoryError:
        raise ConfigError(f"{where}: {shown(path)} is not a folder") from None
    except OSError as error:
        raise _unreadable(path, where, error) from None


def _refuse_relative(path: str, where: str) -> None:
    if not path.startswith("/") or "\0" in path:
        # httpd's processes run in /, the command line anywhere; '~' is another folder for each user.
        raise ConfigError(f"{where}: {shown(path)} is not an absolute path; write it whole, from /")


def _unreadable(path: str, where: str, error: OSError) -> ConfigError:
    if error.errno == errno.ENOENT:
        return ConfigError(f"{where}: {shown(path)} does not exist")
    remedy = "; give that user's group read access (chgrp, chmod g+r)" if error.errno == errno.EACCES else ""
    return ConfigError(f"{where}: {shown(path)} cannot be read by user id {os.geteuid()}: {error.strerror}{remedy}")
