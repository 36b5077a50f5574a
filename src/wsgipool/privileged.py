"""Files that root changes in folders where another user may write, without giving that user root's rights.

A user who may write to a folder can put a link, a FIFO or a foreign file where root expects a file. So root opens no
path through such a folder. Instead, a child process changes the file with the rights of that user.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import secrets
import stat
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from wsgipool.errors import ConfigError
from wsgipool.impersonation import as_user

T = TypeVar("T")

_MAX_FILE = 4 * 1024 * 1024
"""Maximum size in bytes of a file that is read: settings, httpd's configuration, a password."""
_MAX_LINKS = 40
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ACCESS_LIST = "system.posix_acl_access"


def read_text(path: Path) -> str:
    """Return the text of a file that will be changed. Raises ConfigError."""
    return _where(path, partial(_read, path))


def replace_text(path: Path, content: str, *, backup: bool = True) -> Path:
    """Overwrite an existing file in place, so that its owner, mode and access list stay.

    Returns the path of the backup, which is written if `backup` is true. Raises ConfigError.
    """
    name = _where(path, partial(_replace, path, content, backup))
    return path.resolve().with_name(name)


def create_text(path: Path, content: str, mode: int, group: int | None = None) -> bool:
    """Create a file that does not exist yet; return whether it got the group. Raises ConfigError."""
    return _where(path, partial(_create, path, content, mode, group))


def rename(path: Path, name: str) -> None:
    """Rename a file in its folder, replacing a file of that name. Raises ConfigError."""
    _where(path, partial(_rename, path, name))


def refuse_shared(folder: Path) -> None:
    """Raise ConfigError if a user other than this one or root could replace files in the folder."""
    opened, _, owner = _open_folder(folder / "file")
    os.close(opened)
    if owner not in (0, os.geteuid()):
        raise ConfigError(f"{folder} is below a folder of {_name_of(owner)}, who could replace it")


def owner_of(path: Path) -> str:
    """Return the only user other than root who could replace a file, as #NUMBER; #0 if none. Raises ConfigError."""
    opened, name, owner = _open_folder(path, to_read=True)
    try:
        status = _status(name, opened)
    finally:
        os.close(opened)
    if status is None:
        return f"#{owner}"
    if status.st_mode & 0o022:
        raise ConfigError(f"other users may write to {path} ({stat.filemode(status.st_mode)}); chmod go-w {path}")
    return f"#{_only({owner, status.st_uid}, path)}"


def _where(path: Path, action: Callable[[int, str], T]) -> T:
    """Call `action` with the opened folder of a file and the file's name, as the user who may write there."""
    folder, name, owner = _open_folder(path)
    try:
        if os.geteuid() != 0 or owner == 0:
            return action(folder, name)
    finally:
        os.close(folder)
    return as_user(f"#{owner}", lambda: _where(path, action))


def _open_folder(path: Path, *, to_read: bool = False) -> tuple[int, str, int]:
    """Open the folder of a file: return its descriptor, the file's name in it, and the user who may change the file.

    The user is root if only root could replace a folder or link on the way, else the one user who could. Raises
    ConfigError if there are several. With `to_read`, the folder may be a sticky one or not exist.
    """
    todo = deque(path.absolute().parts[1:])
    place, links = Path("/"), 0
    owners: set[int] = set()
    folder = os.open("/", _FOLDER)
    try:
        while True:
            name = todo.popleft() if todo else "."
            status = _status(name, folder)
            if status is not None and stat.S_ISLNK(status.st_mode):
                links += 1
                owners.add(status.st_uid)
                target = _target(name, folder, links)
                todo.extendleft(reversed([part for part in target.parts if part != "/"]))
                if target.is_absolute():
                    place, folder = Path("/"), _step_into(folder, "/")
            elif not todo:
                return folder, name, _only(owners, path)
            else:
                place, folder = place / name, _step_into(folder, name)
                owners.add(_owner(folder, place, is_last=len(todo) == 1 and not to_read))
    except OSError as error:
        if to_read and isinstance(error, FileNotFoundError):
            return folder, name, _only(owners, path)
        os.close(folder)
        raise ConfigError(f"{path} cannot be opened{_by()}: {error.strerror}") from None
    except BaseException:
        os.close(folder)
        raise


def _target(name: str, folder: int, links: int) -> Path:
    if links > _MAX_LINKS:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return Path(os.readlink(name, dir_fd=folder))


def _step_into(folder: int, name: str) -> int:
    """Open a folder inside an opened one, and close the outer one."""
    inner = os.open(name, _FOLDER, dir_fd=folder)
    os.close(folder)
    return inner


def _owner(folder: int, place: Path, *, is_last: bool) -> int:
    status = os.fstat(folder)
    # In a sticky folder, users cannot replace the files of others, but they can create files of any free name.
    if status.st_mode & 0o022 and (is_last or not status.st_mode & stat.S_ISVTX):
        raise ConfigError(
            f"other users may write to {place} ({stat.filemode(status.st_mode)}) and could replace files in it; "
            f"chmod go-w {place}, or move the file to a folder where only one user may write"
        )
    return status.st_uid


def _only(owners: set[int], path: Path) -> int:
    others = owners - {0}
    if others - {os.geteuid()} and (os.geteuid() != 0 or len(others) > 1):
        names = " and ".join(sorted(map(_name_of, others)))
        raise ConfigError(f"{path} is below folders or links of {names}, who could replace it; nothing was changed")
    return others.pop() if others else 0


def _status(name: str, folder: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _name_of(user_id: int) -> str:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return f"user id {user_id}"


def _by() -> str:
    return f" by {_name_of(os.geteuid())}"


# --- actions in an opened folder -------------------------------------------------------------------------------------


def _read(path: Path, folder: int, name: str) -> str:
    try:
        with _regular(path, name, os.O_RDONLY, folder) as file:
            return _content(path, file).decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read{_by()}: {error.strerror}") from None


def _replace(path: Path, content: str, backup: bool, folder: int, name: str) -> str:
    kept = f"{name}.bak"
    try:
        with _regular(path, name, os.O_RDWR, folder) as file:
            if backup:
                _keep(path.with_name(kept), _content(path, file), os.fstat(file), file, folder)
            _overwrite(file, content.encode())
    except OSError as error:
        raise ConfigError(f"{path} cannot be written{_by()}: {error.strerror}; nothing was changed") from None
    return kept


def _create(path: Path, content: str, mode: int, group: int | None, folder: int, name: str) -> bool:
    try:
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            _overwrite(file, content.encode())
            has_group = group is None or _give_to_group(file, group)
            os.fchmod(file, mode)
        except BaseException:
            os.unlink(name, dir_fd=folder)
            raise
        finally:
            os.close(file)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written{_by()}: {error.strerror}") from None
    return has_group


def _rename(path: Path, new: str, folder: int, name: str) -> None:
    try:
        with _regular(path, name, os.O_RDONLY, folder):
            os.rename(name, new, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError as error:
        raise ConfigError(f"{path} cannot be renamed{_by()}: {error.strerror}") from None


@contextlib.contextmanager
def _regular(path: Path, name: str, how: int, folder: int) -> Iterator[int]:
    """Open a regular file that has only one name."""
    # O_NONBLOCK: opening a FIFO would wait for its other end.
    file = os.open(name, how | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        _refuse_odd(path, os.fstat(file))
        yield file
    finally:
        os.close(file)


def _refuse_odd(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path} is not a regular file ({stat.filemode(status.st_mode)}); nothing was changed")
    if status.st_nlink != 1:
        raise ConfigError(
            f"{path} has {status.st_nlink} hard links, so it may be a file of another user; nothing was changed"
        )


def _content(path: Path, file: int) -> bytes:
    content = os.pread(file, _MAX_FILE + 1, 0)
    if len(content) > _MAX_FILE:
        raise ConfigError(f"{path} has more than {_MAX_FILE} bytes; nothing was changed")
    return content


def _overwrite(file: int, content: bytes) -> None:
    size = os.fstat(file).st_size
    try:
        # Fails on a full disk before anything is overwritten.
        if content:
            os.posix_fallocate(file, 0, len(content))
    except OSError:
        os.ftruncate(file, size)
        raise
    os.pwrite(file, content, 0)
    os.ftruncate(file, len(content))
    os.fsync(file)


def _keep(path: Path, content: bytes, status: os.stat_result, original: int, folder: int) -> None:
    """Write the previous content of a file to `path` in the folder, readable by the same users at most."""
    there = _status(path.name, folder)
    if there is not None and not stat.S_ISDIR(there.st_mode):
        _refuse_odd(path, there)
    temporary = f".{path.name}.{secrets.token_hex(8)}"
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        _overwrite(file, content)
        mode = status.st_mode & 0o777
        if os.geteuid() == 0:
            os.fchown(file, status.st_uid, status.st_gid)
        # With an access list, the group bits are the list's mask.
        if not _give_to_group(file, status.st_gid) or _has_access_list(original):
            mode &= 0o700
        os.fchmod(file, mode)
        os.rename(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(temporary, dir_fd=folder)
        raise
    finally:
        os.close(file)


def _has_access_list(file: int) -> bool:
    try:
        return _ACCESS_LIST in os.listxattr(file)
    except OSError:
        return False


def _give_to_group(file: int, group: int) -> bool:
    """Give a file to a group; return whether this user may do so."""
    try:
        os.fchown(file, -1, group)
    except PermissionError:
        return False
    return True
