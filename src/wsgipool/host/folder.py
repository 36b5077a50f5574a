"""The folder for what the processes of one host share, and files in it that nobody else has planted.

It belongs to the user that the processes run as, and nobody else may enter it. It may lie in /tmp, where anybody can
put something of that name first, so nothing is believed for its name: a link is not followed, what was opened is
looked at by its descriptor, and files are opened relative to the folder that was looked at.

Who makes it: whichever process needs it first. In httpd that is a child, which runs as the Apache user and can make a
folder in /tmp, but none in /run; there it has to be made for that user (systemd: tmpfiles.d).

Other programs of the same user may still change, cut or fill the files. So they are read and written, never mapped into
memory: a mapped file that is cut kills the process.
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


def name_origin(path: Path, settings: str) -> None:
    """Note which settings name a folder in `runtime_dir`, for messages."""
    _origins[path] = settings


def default_folder() -> Path:
    """Return the folder of this user where the settings name none: /run/wsgipool-UID if it is there, else in /tmp.

    That is, in the folder of temporary files, which may be another one for processes with another TMPDIR.
    """
    folder = in_run(os.geteuid())
    return folder if folder.is_dir() else _temporary(os.geteuid())


def _temporary(user_id: int) -> Path:
    return Path(tempfile.gettempdir()) / in_run(user_id).name


def in_run(user_id: int) -> Path:
    """Return where an administrator can make the default folder of a user."""
    return RUN / f"wsgipool-{user_id}"


def open_folder(path: Path) -> int:
    """Return a descriptor of the folder, which is made where it is not there.

    Raises ConfigError where it cannot be, or is not this user's alone.
    """
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        refuse_shortage(path, error)
        if error.errno is None:
            raise  # a signal handler's
        if path.is_symlink():
            raise ConfigError(
                f"{_named(path)} is a symbolic link, which is not followed; name its target in runtime_dir"
            ) from None
        raise ConfigError(
            f"{_named(path)}, the folder for what the processes of this host share, cannot be made or opened by "
            f"{_name_of(os.geteuid())}: {error.strerror}; {_advice(path)}"
        ) from None
    try:
        _refuse_what_is_not_ours(os.fstat(descriptor), path, stat.S_ISDIR)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_file(folder: int, path: Path, size: int) -> int:
    """Return a descriptor of the file `path` in the opened folder; it is made, of zeros, where it is not there.

    Raises ConfigError where it cannot be, or is not this user's alone.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO would keep us waiting
    try:
        descriptor = os.open(path.name, flags, 0o600, dir_fd=folder)
    except OSError as error:
        refuse_shortage(path, error)
        if error.errno is None:
            raise  # a signal handler's
        raise ConfigError(
            f"{path} cannot be opened by {_name_of(os.geteuid())}: {error.strerror}; remove what is there"
        ) from None
    try:
        _refuse_what_is_not_ours(os.fstat(descriptor), path, stat.S_ISREG)
        # Not a hole: where the disk is full, writing to the mapped memory would kill the process.
        os.posix_fallocate(descriptor, 0, size)
        # Whoever tidies up /tmp by age leaves alone what is locked so: tmpfiles.d(5).
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno is None:
            raise  # a signal handler's
        raise ConfigError(
            f"{path} cannot be written by {_name_of(os.geteuid())}: {error.strerror}; {_advice(path.parent)}"
        ) from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def refuse_shortage(path: Path, error: OSError) -> None:
    """Raise ConfigError if the error is that of a process that has no descriptor left."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise ConfigError(
            f"{path} cannot be opened by process {os.getpid()}: {error.strerror}. It may have "
            f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]}; raise that (LimitNOFILE= in systemd, ulimit -n), or "
            "look for what leaves files and sockets open"
        ) from None


def _refuse_what_is_not_ours(status: os.stat_result, path: Path, is_right_kind: Callable[[int], bool]) -> None:
    me = os.geteuid()
    if not is_right_kind(status.st_mode):
        raise ConfigError(f"{_named(path)} is not what it should be, {stat.filemode(status.st_mode)}; remove it")
    if status.st_uid != me:
        raise ConfigError(
            f"{_named(path)} belongs to {_name_of(status.st_uid)}, and this process runs as {_name_of(me)}; "
            + (
                _advice_against_squatters(path)
                if path == _temporary(me)
                else f"run it as that user, give the folder away (chown -R), or {_advice(path)}"
            )
        )
    if status.st_mode & 0o077:
        raise ConfigError(
            f"{_named(path)} is open to others, {stat.filemode(status.st_mode)}; chmod go= {shlex.quote(str(path))}"
        )
    if stat.S_ISREG(status.st_mode) and status.st_nlink != 1:
        raise ConfigError(f"{path} has {status.st_nlink} names; remove it")


def _advice_against_squatters(path: Path) -> str:
    me = _name_of(os.geteuid())
    folder = in_run(os.geteuid())
    return (
        f"any user of this machine can make a folder of that name in {path.parent} first. Have {folder} made at each "
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
    return f"make it once: install -d -m 700 -o {me or os.geteuid()} {shlex.quote(str(path))}, or {another}"


def _name_of(user_id: int) -> str:
    return _account(user_id) or f"user id {user_id}"


def _account(user_id: int) -> str | None:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return None
