"""The running httpd of a configuration: its parent process and the environment that its children inherit.

A PidFile of another user, or a process of another user with httpd's name, is ignored: that user could choose the
settings by it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from wsgipool.httpd.dump import Dump

_NAMES = ("apache2", "httpd")
_ELF = b"\x7fELF"

_USUAL_PID_FILES = ("/run/apache2/apache2.pid", "/run/httpd/httpd.pid", "/usr/local/apache2/logs/httpd.pid")
"""Those of Debian, Red Hat, and httpd's own installation."""

_OPTIONS = ("-f", "-d", "-D", "-C", "-c")


@dataclass(frozen=True)
class LiveServer:
    """httpd's parent process."""

    pid: int
    user: str
    """The parent's user, as #NUMBER. Unless it is root, its children have the same user, despite the User directive."""
    environment: Mapping[str, str] = field(repr=False)
    """The environment of the process; empty if this user may not read it."""
    options: Sequence[str] = ()
    """The options of its command line that choose or change the configuration: -f, -d, -D, -C, -c."""


def find(configuration: Dump) -> LiveServer | None:
    """Return the server that the PidFile names, if it runs and is root's or this user's; else None."""
    return _find(configuration.pid_file, configuration.program) if configuration.pid_file else None


def find_usual(program: str) -> LiveServer | None:
    """Return the server of a program whose PidFile is at one of the usual places; see `find`."""
    named = os.environ.get("APACHE_PID_FILE")
    places = [named] if named else _USUAL_PID_FILES
    return next(filter(None, (_find(Path(place), program) for place in places)), None)


def _find(pid_file: Path, program: str) -> LiveServer | None:
    try:
        pid = _number_in(pid_file)
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return None
    # The PidFile of a killed server may name an unrelated process. A set-user-ID program has root's effective user but
    # another user's environment.
    real, effective = map(int, re.findall(r"^Uid:\s+(\d+)\s+(\d+)", status, re.M)[0])
    if name not in _NAMES or real != effective or not _is_trusted(effective):
        return None
    if not _runs(pid, program):
        return None
    return LiveServer(pid, f"#{effective}", _environment(pid), _options(pid))


def _number_in(pid_file: Path) -> int:
    # O_NONBLOCK: opening a FIFO would wait for its other end.
    file = os.open(pid_file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or not _is_trusted(status.st_uid):
            raise ValueError(f"{pid_file} is not httpd's")
        return int(os.read(file, 32))
    finally:
        os.close(file)


def _is_trusted(user_id: int) -> bool:
    return user_id in (0, os.geteuid())


def _runs(pid: int, program: str) -> bool:
    """Return whether a process runs the program, as far as that can be known: `program` may be a script."""
    try:
        running = str(Path(f"/proc/{pid}/exe").readlink()).removesuffix(" (deleted)")
    except OSError:
        # Only root may read this link of root's processes.
        return True
    with suppress(OSError), Path(program).open("rb") as file:
        if file.read(len(_ELF)) == _ELF:
            return os.path.realpath(program) == running
    return Path(running).name in _NAMES


def _environment(pid: int) -> dict[str, str]:
    try:
        content = Path(f"/proc/{pid}/environ").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return {}
    return dict(variable.split("=", 1) for variable in content.split("\0") if "=" in variable)


def _options(pid: int) -> list[str]:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    words = command.rstrip("\0").split("\0")[1:]
    found = []
    while words:
        word = words.pop(0)
        if word[:2] not in _OPTIONS:
            continue
        value = word[2:] or (words.pop(0) if words else "")
        if (word[:2], value) != ("-D", "FOREGROUND"):
            found += [word[:2], value]
    return found
