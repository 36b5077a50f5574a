"""File permissions of the current user, as the kernel sees them; `impersonation.as_user` asks for other users."""

from __future__ import annotations

import os
from pathlib import Path

from wsgipool.httpd.users import account


def may_become(user: str) -> bool:
    """Return whether this process can check the permissions of `user`: it is root or that user."""
    known = account(user)
    return known is not None and os.geteuid() in (0, known.pw_uid)


def obstacle(path: Path) -> str:
    """Return what prevents this process from reading `path`: a folder above it or the path itself; "" if nothing."""
    # Path.is_dir() would raise PermissionError.
    mode = os.R_OK | os.X_OK if os.path.isdir(path) else os.R_OK  # noqa: PTH112
    return "" if os.access(path, mode) else closed_above(path) or str(path)


def closed_above(path: Path) -> str:
    """Return the first folder above `path` that this process may not enter; "" if there is none."""
    return next((str(folder) for folder in reversed(path.absolute().parents) if not os.access(folder, os.X_OK)), "")
