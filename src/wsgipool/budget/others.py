"""Other budgets for the same server: processes of this host that count their connections in another folder.

Each budget allows its own number, so the server gets the sum. A budget file is named after its server, and each process
of the budget has it open.
"""

from __future__ import annotations

import pwd
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wsgipool.shared.file_usage import Identity, identity, identity_at

_PROC = Path("/proc")


@dataclass(frozen=True)
class OtherBudget:
    """A budget in another folder, and one of its processes."""

    folder: Path
    process: int
    user: str


def other_budgets(path: Path) -> list[OtherBudget]:
    """Return the budgets in use for the server of a budget file, each once, without the one at this path.

    Root sees those of all users, another user its own. Processes with a network of their own, such as those of a
    container, count as another host.
    """
    own, own_place = identity_at(path), (path.parent.resolve(), _namespace("self", "mnt"))
    found: dict[Path, OtherBudget] = {}
    for process in _processes():
        for file, file_identity in _open_files(process, path.name):
            # A path has one meaning in one mount namespace: PrivateTmp= creates another one.
            if file_identity != own and (file.parent, _namespace(process, "mnt")) != own_place:
                found.setdefault(file.parent, OtherBudget(file.parent, int(process), _user(process)))
    return list(found.values())


def _processes() -> list[str]:
    network = _namespace("self", "net")
    ids = sorted((entry.name for entry in _PROC.iterdir() if entry.name.isdecimal()), key=int)
    return [process for process in ids if _namespace(process, "net") == network]


def _open_files(process: str, name: str) -> Iterator[tuple[Path, Identity]]:
    """Yield the open files of this name; none if the process has ended or is another user's."""
    with suppress(OSError):
        for descriptor in (_PROC / process / "fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                file = Path(str(descriptor.readlink()).removesuffix(" (deleted)"))
                if file.name == name:
                    yield file, identity(descriptor.stat())


def _namespace(process: str, kind: str) -> str:
    try:
        return str((_PROC / process / "ns" / kind).readlink())
    except OSError:
        return ""


def _user(process: str) -> str:
    try:
        owner = (_PROC / process).stat().st_uid
    except OSError:
        return "an unknown user"
    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return f"user id {owner}"
