"""Ports for the servers of one test process, which no other process takes meanwhile.

The kernel gives a port that was free a moment ago to the next program that asks. With several workers beside each
other, a server that is being installed or restarted would find its port taken now and then.
"""

from __future__ import annotations

import itertools
import socket
import sys
from collections.abc import Iterator

from wsgipool.httpd import express

kernel_port = express.free_port
"""The package's own function: any port that is free at the moment."""

_FIRST, _LAST = 11_000, 32_000
"""Below the ports that the kernel chooses itself."""
_RANGE = 500

_guards: list[socket.socket] = []


def use_own_ports() -> None:
    """Have `express.free_port` take ports from a range of this process, in all modules that have imported it."""
    ports = itertools.cycle(_own_range())

    def free_port() -> int:
        return next(port for port in ports if _is_free(port))

    for module in list(sys.modules.values()):
        if getattr(module, "free_port", None) is kernel_port:
            module.free_port = free_port  # type: ignore[attr-defined]


def _own_range() -> Iterator[int]:
    """Return the ports of the first range whose guard, a socket at its first port, no other process has."""
    for first in range(_FIRST, _LAST, _RANGE):
        guard = socket.socket()
        try:
            guard.bind(("127.0.0.1", first))
        except OSError:
            guard.close()
        else:
            _guards.append(guard)
            return iter(range(first + 1, first + _RANGE))
    raise RuntimeError(f"all ports from {_FIRST} to {_LAST} are taken")


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
