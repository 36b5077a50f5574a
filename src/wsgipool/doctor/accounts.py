"""What another user may do, asked of the kernel by a process that is that user for a moment."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from wsgipool.httpd.users import account


def may_become(user: str) -> bool:
    """Tell whether this process can find out what `user` may do: it is root, or that user."""
    known = account(user)
    return known is not None and os.geteuid() in (0, known.pw_uid)


def as_user(user: str, question: Callable[[], str]) -> str:
    """Return the answer to a question, asked by a process of `user`; should it fail, what went wrong is the answer.

    Raises ValueError where there is no such user.
    """
    known = account(user)
    if known is None:
        raise ValueError(f"this host has no user {user}")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        # Only what cannot touch the parent's state, and out by the shortest way.
        try:
            if os.geteuid() != known.pw_uid:
                os.initgroups(known.pw_name, known.pw_gid)
                os.setgid(known.pw_gid)
                os.setuid(known.pw_uid)
            os.write(writer, question().encode())
        except BaseException as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return text


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
