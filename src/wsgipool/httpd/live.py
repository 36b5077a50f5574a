"""The httpd that runs with a configuration, if it does: its process, and the environment that its children have.

A PidFile that another user has written, or a process of another user with httpd's name, is not believed: it could name
settings of that user's choice.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from wsgipool.httpd.dump import Dump

_NAMES = ("apache2", "httpd")
_ELF = b"\x7fELF"


@dataclass(frozen=True)
class LiveServer:
    """httpd's parent process."""

    pid: int
    user: str
    """Of the parent, as #NUMBER; unless it is root, its children have it as well, whatever the configuration says."""
    environment: Mapping[str, str] = field(repr=False)
    """What it was started with; empty where this user may not read it."""


def find(configuration: Dump) -> LiveServer | None:
    """Return the server that its PidFile names: root's or this user's; None where that is not running."""
    if configuration.pid_file is None:
        return None
    try:
        pid = _number_in(configuration.pid_file)
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return None
    # A file that a killed server left behind may name whoever has its number now. A program with the set-user-ID bit
    # has root's effective number and another user's environment.
    real, effective = map(int, re.findall(r"^Uid:\s+(\d+)\s+(\d+)", status, re.M)[0])
    if name not in _NAMES or real != effective or not _is_trusted(effective):
        return None
    if not _runs(pid, configuration.program):
        return None
    return LiveServer(pid, f"#{effective}", _environment(pid))


def _number_in(pid_file: Path) -> int:
    # A FIFO would keep us waiting.
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
    """Return whether a process runs the program, as far as can be known: a script such as apachectl runs another."""
    try:
        running = str(Path(f"/proc/{pid}/exe").readlink()).removesuffix(" (deleted)")
    except OSError:
        # Only root may see that of root's processes.
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
