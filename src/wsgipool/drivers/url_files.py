"""The files that a database URL names: certificates, keys and option files.

A file that cannot be used is a ConfigError that names it.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from wsgipool import files
from wsgipool.errors import ConfigError
from wsgipool.showing import shown

MAX_SIZE = 4 * 1024 * 1024
"""Maximum bytes of a file. A system's bundle of certificates has a quarter of a megabyte."""


def read(path: str, where: str) -> bytes:
    """Return the content of a file. Raise ConfigError, beginning with `where`, which names the option."""
    return read_with_status(path, where)[0]


def read_with_status(path: str, where: str) -> tuple[bytes, os.stat_result]:
    """Return the content and the status of a file. Raise ConfigError, beginning with `where`."""
    _refuse_relative(path, where)
    try:
        content, status = files.read_bytes(Path(path), MAX_SIZE)
    except OSError as error:
        raise _unreadable(path, where, error) from None
    except ValueError as reason:
        raise ConfigError(f"{where}: {shown(path)} {reason}") from None
    if not content.strip():
        raise ConfigError(f"{where}: {shown(path)} is empty")
    return content, status


def names_in(path: str, where: str) -> list[str]:
    """Return the sorted names in a folder. Raise ConfigError, beginning with `where`, which names the option."""
    _refuse_relative(path, where)
    try:
        return sorted(os.listdir(path))  # noqa: PTH208 - names, not paths
    except NotADirectoryError:
        raise ConfigError(f"{where}: {shown(path)} is not a folder") from None
    except OSError as error:
        raise _unreadable(path, where, error) from None


def _refuse_relative(path: str, where: str) -> None:
    if not path.startswith("/") or "\0" in path:
        # httpd's processes run in /, the command line runs anywhere, and '~' depends on the user.
        raise ConfigError(f"{where}: {shown(path)} is not an absolute path; write it whole, from /")


def _unreadable(path: str, where: str, error: OSError) -> ConfigError:
    if error.errno == errno.ENOENT:
        return ConfigError(f"{where}: {shown(path)} does not exist")
    remedy = "; give that user's group read access (chgrp, chmod g+r)" if error.errno == errno.EACCES else ""
    return ConfigError(f"{where}: {shown(path)} cannot be read by user id {os.geteuid()}: {error.strerror}{remedy}")
