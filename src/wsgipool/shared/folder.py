"""The folder that the processes of one host share, and its files, protected against planted files.

The folder belongs to the user of the processes, and no other user may enter it. It may be in /tmp, where any user can
create something of that name first. So links are not followed, every opened file is checked by its descriptor, and
files are opened relative to the checked folder.

The first process that needs the folder creates it. In httpd that is a child, which runs as the Apache user. It can
create a folder in /tmp, but not in /run, where the administrator must create it (systemd: tmpfiles.d).

Other programs of the same user may still change or truncate the files. So they are read and written, never mapped:
truncating a mapped file kills the process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import resource
import shlex
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from wsgipool.errors import ConfigError

RUN = Path("/run")

_origins: dict[Path, str] = {}


def set_origin(path: Path, settings: str) -> None:
    """Record which settings name a folder in `runtime_dir`, for messages."""
    _origins[path] = settings


def default_folder() -> Path:
    """Return the default folder of this user: /run/wsgipool-UID if it exists, else /tmp/wsgipool-UID.

    TMPDIR replaces /tmp, so processes with different values have different folders.
    """
    folder = run_folder(os.geteuid())
    return folder if folder.is_dir() else _temporary(os.geteuid())


def _temporary(user_id: int) -> Path:
    return Path(tempfile.gettempdir()) / run_folder(user_id).name


def run_folder(user_id: int) -> Path:
    """Return the path at which an administrator can create the default folder of a user."""
    return RUN / f"wsgipool-{user_id}"


def open_folder(path: Path) -> int:
    """Open the folder and return its descriptor; create the folder if it is missing.

    Raises ConfigError if that fails, or if other users can enter the folder.
    """
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        refuse_shortage(path, error)
        if error.errno is None:
            raise  # from a signal handler
        if path.is_symlink():
            raise ConfigError(
                f"{_named(path)} is a symbolic link, which is not followed; name its target in runtime_dir"
            ) from None
        raise ConfigError(
            f"{_named(path)}, the folder that the processes of this host share, cannot be created or opened by "
            f"{_name_of(os.geteuid())}: {error.strerror}; {_advice(path)}"
        ) from None
    try:
        _check_owner(os.fstat(descriptor), path, stat.S_ISDIR)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_file(folder: int, path: Path, size: int) -> int:
    """Open the file `path` in the opened folder and return its descriptor; create it, of zeros, if it is missing.

    Raises ConfigError if that fails, or if other users can open the file.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # opening a FIFO would wait
    try:
        descriptor = os.open(path.name, flags, 0o600, dir_fd=folder)
    except OSError as error:
        refuse_shortage(path, error)
        if error.errno is None:
            raise  # from a signal handler
        raise ConfigError(f"{path} cannot be opened by {_name_of(os.geteuid())}: {error.strerror}; remove it") from None
    try:
        _check_owner(os.fstat(descriptor), path, stat.S_ISREG)
        # Not a sparse file, so that later writes need no space on a full disk.
        os.posix_fallocate(descriptor, 0, size)
        # systemd-tmpfiles does not remove files locked like this from /tmp: tmpfiles.d(5).
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno is None:
            raise  # from a signal handler
        raise ConfigError(
            f"{path} cannot be written by {_name_of(os.geteuid())}: {error.strerror}; {_advice(path.parent)}"
        ) from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def refuse_shortage(path: Path, error: OSError) -> None:
    """Raise ConfigError if the error means that the process has no free descriptor."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise ConfigError(
            f"{path} cannot be opened by process {os.getpid()}: {error.strerror}. It may have "
            f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]}; raise that (LimitNOFILE= in systemd, ulimit -n), or "
            "look for the code that leaves files and sockets open"
        ) from None


def _check_owner(status: os.stat_result, path: Path, is_right_kind: Callable[[int], bool]) -> None:
    me = os.geteuid()
    if not is_right_kind(status.st_mode):
        raise ConfigError(f"{_named(path)} is of the wrong kind, {stat.filemode(status.st_mode)}; remove it")
    if status.st_uid != me:
        raise ConfigError(
            f"{_named(path)} belongs to {_name_of(status.st_uid)}, and this process runs as {_name_of(me)}; "
            + (
                _advice_against_squatters(path)
                if path == _temporary(me)
                else f"run it as that user, change the owner (chown -R), or {_advice(path)}"
            )
        )
    if status.st_mode & 0o077:
        raise ConfigError(
            f"{_named(path)} is open to others, {stat.filemode(status.st_mode)}; chmod go= {shlex.quote(str(path))}"
        )
    if stat.S_ISREG(status.st_mode) and status.st_nlink != 1:
        raise ConfigError(f"{path} has {status.st_nlink} hard links; remove it")


def _advice_against_squatters(path: Path) -> str:
    me = _name_of(os.geteuid())
    folder = run_folder(os.geteuid())
    return (
        f"any user of this machine can create a folder of that name in {path.parent} first. Create {folder} at each "
        f"boot, which is used instead: the line 'd {folder} 0700 {_account(os.geteuid()) or os.geteuid()} -' in "
        f"/etc/tmpfiles.d/wsgipool.conf, then systemd-tmpfiles --create; or RuntimeDirectory={folder.name} and "
        f"RuntimeDirectoryMode=0700 in the unit of a service that runs as {me}; or name another folder of {me} in "
        "runtime_dir"
    )


def _named(path: Path) -> str:
    """Return the path as the settings name it."""
    origin = _origins.get(path)
    return f"{origin}: runtime_dir = {path}" if origin else str(path)


def _advice(path: Path) -> str:
    me = _account(os.geteuid())
    another = f"name another folder in runtime_dir, one that {_name_of(os.geteuid())} owns"
    if os.path.lexists(path):
        return another
    return f"create it once: install -d -m 700 -o {me or os.geteuid()} {shlex.quote(str(path))}, or {another}"


def _name_of(user_id: int) -> str:
    return _account(user_id) or f"user id {user_id}"


def _account(user_id: int) -> str | None:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return None
