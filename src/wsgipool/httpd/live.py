"""The httpd that runs with a configuration, if it does: its process, and the environment that its children have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wsgipool.httpd.dump import Dump


@dataclass(frozen=True)
class LiveServer:
    """httpd's parent process."""

    pid: int
    user: str
    """Of the parent, as #NUMBER; unless it is root, its children have it as well, whatever the configuration says."""
    environment: Mapping[str, str] = field(repr=False)
    """What it was started with; empty where this user may not read it."""


def find(configuration: Dump) -> LiveServer | None:
    """Return the server that its PidFile names, or None where that is not running."""
    if configuration.pid_file is None:
        return None
    try:
        pid = int(configuration.pid_file.read_text(encoding="ascii"))
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    # A file that a killed server left behind may name whoever has its number now.
    if name not in ("apache2", "httpd"):
        return None
    _, effective = re.findall(r"^Uid:\s+(\d+)\s+(\d+)", status, re.M)[0]
    return LiveServer(pid, f"#{effective}", _environment(pid))


def _environment(pid: int) -> dict[str, str]:
    try:
        content = Path(f"/proc/{pid}/environ").read_text(encoding="utf-8", errors="surrogateescape")
    except PermissionError:
        return {}
    return dict(variable.split("=", 1) for variable in content.split("\0") if "=" in variable)
