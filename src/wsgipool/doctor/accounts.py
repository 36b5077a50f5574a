"""What this user may do, asked of the kernel; `impersonation.as_user` asks it of another."""

from __future__ import annotations

import os
from pathlib import Path

from wsgipool.httpd.users import account


def may_become(user: str) -> bool:
    """Tell whether this process can find out what `user` may do: it is root, or that user."""
    known = account(user)
    return known is not None and os.geteuid() in (0, known.pw_uid)


def obstacle(path: Path) -> str:
    """Return what keeps this process from reading `path`: the path itself or a folder above it; "" if nothing does."""
    if os.access(
        path,
        os.R_OK
        | (
            os.X_OK if os.path.isdir(path) else 0  # noqa: PTH112 - Path's raises where it may not look
        ),
    ):
        return ""
    return closed_above(path) or str(path)


def closed_above(path: Path) -> str:
    """Return the first folder above `path` that this process may not enter; "" if there is none."""
    return next((str(folder) for folder in reversed(path.absolute().parents) if not os.access(folder, os.X_OK)), "")
