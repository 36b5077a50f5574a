"""Sockets that the child of a fork knows from their first moment, whichever of the parent's threads was opening them.

A child that keeps a socket of its parent's, in a TCP connect or a TLS handshake that it knows nothing of, keeps the
session from ending with the parent's death, while its place in a budget goes to others.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from time import monotonic

LEAST_TIMEOUT = 0.001
"""Seconds; a socket's timeout of 0 would mean something else."""

_making = threading.RLock()
"""Held while a socket is made and noted, and by whoever forks. One that can be entered again: a signal's handler, on
top of such a thread, may fork."""
os.register_at_fork(before=_making.acquire, after_in_parent=_making.release, after_in_child=_making.release)


class Descriptor:
    """The file descriptor of a socket, by its number: its owner may be gone, or in the middle of closing it."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._identity = _identity(number)

    def number(self) -> int:
        """Return it, or -1 if it was closed, though the number may be another file's now."""
        with contextlib.suppress(OSError):
            if _identity(self._number) == self._identity:
                return self._number
        return -1

    def shut_down(self) -> None:
        """End the connection under whoever waits for it in another thread."""
        # It may have been closed meanwhile, by this end or the other.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self.number())) as same:
            same.shutdown(socket.SHUT_RDWR)

    def point_nowhere(self) -> None:
        """Make it one of /dev/null: what a fork's child still sends there reaches nobody.

        Not os.close(): a destructor, or a careless user of the connection, would write to whoever gets the number next.
        """
        number = self.number()
        if number < 0:
            return
        try:
            nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # no descriptor is free: make this one so
            os.close(number)
            nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        if nowhere != number:
            with contextlib.suppress(OSError):  # seen where another thread was just closing it as this process forked
                os.dup2(nowhere, number, inheritable=False)
            os.close(nowhere)


def connect_unix(path: str, timeout: float, note: Callable[[Descriptor], object]) -> socket.socket:
    """Connect to a Unix socket within `timeout` seconds. Raises OSError.

    `note` is called with the socket's descriptor as soon as there is one.
    """
    return _connect(socket.AF_UNIX, path, timeout, None, note)


def connect_tcp(
    host: str, port: int, source: str | None, timeout: float, note: Callable[[Descriptor], object]
) -> socket.socket:
    """Connect to the first address of the host that answers, all of them within `timeout` seconds. Raises OSError.

    Each has its share of the time that is left, so one that swallows everything, of an IPv6 that leads nowhere, say,
    leaves enough for the next. `source` is the address to connect from; `note` is called with the descriptor of each
    socket that is tried.
    """
    deadline = monotonic() + timeout
    failure = OSError(f"{host} has no address")
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for left, (family, _, _, _, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
        try:
            return _connect(family, address, (deadline - monotonic()) / left, source, note)
        except OSError as error:
            failure = error
    raise failure


def _connect(
    family: int,
    address: tuple[object, ...] | str,
    timeout: float,
    source: str | None,
    note: Callable[[Descriptor], object],
) -> socket.socket:
    with _making:
        ours = socket.socket(family, socket.SOCK_STREAM)
        note(Descriptor(ours.fileno()))
    try:
        ours.settimeout(max(timeout, LEAST_TIMEOUT))
        if source is not None:
            ours.bind((source, 0))
        ours.connect(address)
        if family != socket.AF_UNIX:
            ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    except BaseException:
        ours.close()
        raise
    return ours


def _identity(number: int) -> tuple[int, int]:
    status = os.fstat(number)
    return status.st_dev, status.st_ino
