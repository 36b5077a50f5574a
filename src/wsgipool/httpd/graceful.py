"""A graceful restart of the running httpd: checked before, and awaited.

httpd reads its configuration again in the environment and with the options that it was started with. If it cannot, it
ends. So the configuration is checked in that environment and with these options before the signal.
"""

from __future__ import annotations

import os
import select
import signal
import time
from pathlib import Path

from wsgipool.errors import Error
from wsgipool.httpd import dump, live, users
from wsgipool.httpd.dump import Dump
from wsgipool.httpd.live import LiveServer

TIMEOUT = 60.0
"""Seconds to wait for httpd; large configurations with many modules and names to look up take some."""
_POLL = 0.05


class RestartFailed(Error):
    """httpd was not restarted."""


def refuse_other_user(server: LiveServer) -> None:
    """Raise RestartFailed if this user may not send signals to httpd."""
    if os.geteuid() != 0 and server.user != f"#{os.geteuid()}":
        raise RestartFailed(
            f"httpd runs as {users.name(server.user)} (process {server.pid}), so only that user can restart it; run "
            "`sudo wsgipool apache reload`"
        )


def check(server: LiveServer) -> None:
    """Check the configuration as the running httpd will read it. Raises HttpdConfigError."""
    process = Path(f"/proc/{server.pid}")
    program = str((process / "exe").readlink()).removesuffix(" (deleted)")
    options = [os.fsdecode(option) for option in (process / "cmdline").read_bytes().split(b"\0")[1:-1]]
    # With -t, httpd neither starts nor sends signals, whatever the other options are.
    dump.ask([program, *options, "-t"], environment=server.environment, folder=process / "cwd")


def restart(server: LiveServer, configured: Dump) -> None:
    """Restart httpd gracefully and wait until it has read its configuration. Raises RestartFailed."""
    pid_file = configured.pid_file
    assert pid_file is not None  # it led to the server
    before = _version(pid_file)
    process = os.pidfd_open(server.pid)
    try:
        # The number may be that of another process by now, but not from here on.
        if live.find(configured) != server:
            raise RestartFailed(f"process {server.pid} is not the httpd that was examined; run the command again")
        signal.pidfd_send_signal(process, signal.SIGUSR1)
        deadline = time.monotonic() + TIMEOUT
        # httpd writes its PidFile again as soon as it has read its configuration.
        while not _has_ended(process, _POLL) and _version(pid_file) == before:
            if time.monotonic() > deadline:
                raise RestartFailed(
                    f"process {server.pid} has not restarted within {TIMEOUT:g} s; httpd's error log says what it does"
                )
        if _has_ended(process):
            raise RestartFailed(
                f"process {server.pid} ended instead of restarting, so httpd does not run; its error log says why"
            )
    finally:
        os.close(process)


def _has_ended(process: int, timeout: float = 0) -> bool:
    """Return whether a process ends within the timeout."""
    return bool(select.select([process], [], [], timeout)[0])


def _version(pid_file: Path) -> tuple[int, int] | None:
    """Return what changes when the file is written, or None if it is missing."""
    try:
        status = pid_file.lstat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns
