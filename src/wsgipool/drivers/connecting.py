"""Connects whose sockets are known from their creation, so that the child of a fork can release them.

If a child kept a socket that a thread of its parent was connecting, the session would outlive the parent. The budget
would already have given its permit to another process.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from time import monotonic

from wsgipool import _runtime
from wsgipool.drivers.timed_socket import TimedSocket

MIN_TIMEOUT = 0.001
"""Seconds; a timeout of 0 would make the socket non-blocking."""

_creation_lock = threading.RLock()
"""Held while a socket is created and registered, and during a fork.

It is an RLock because a signal handler on the thread that holds it may fork.
"""
_runtime.hold_during_fork(_creation_lock)


class Descriptor:
    """The number of a socket's file descriptor, which the socket's owner may close at any time."""

    def __init__(self, number: int) -> None:
        """Take the number of an open descriptor."""
        self._number = number
        self._identity = _identity(number)

    def number(self) -> int:
        """Return the number, or -1 if the descriptor was closed, even if another file has the number now."""
        with contextlib.suppress(OSError):
            if _identity(self._number) == self._identity:
                return self._number
        return -1

    def shut_down(self) -> None:
        """Shut the socket down, which also ends the wait of a thread in it."""
        # Either end may have closed it meanwhile.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self.number())) as same:
            same.shutdown(socket.SHUT_RDWR)

    def redirect_to_devnull(self) -> None:
        """Make the number refer to /dev/null, so that the child of a fork sends nothing to the server.

        Closing it is no alternative. A destructor or a careless user of the connection would write to the next file
        that gets the number.
        """
        number = self.number()
        if number < 0:
            return
        try:
            devnull = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # no descriptor is free: free this one
            os.close(number)
            devnull = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        if devnull != number:
            with contextlib.suppress(OSError):  # another thread was closing the number at the fork
                os.dup2(devnull, number, inheritable=False)
            os.close(devnull)


def connect_unix(path: str, timeout: float, register: Callable[[Descriptor], object]) -> socket.socket:
    """Connect to a Unix socket.

    Args:
        path: The path of the socket.
        timeout: Maximum seconds.
        register: Called with the descriptor as soon as the socket is created.

    Raises:
        OSError: The connect failed.
    """
    return _connect(socket.AF_UNIX, path, timeout, None, register)


def connect_tcp(
    host: str, port: int, source: str | None, timeout: float, register: Callable[[Descriptor], object]
) -> socket.socket:
    """Connect to the first address of a host that answers.

    Each address gets an equal share of the remaining time. So an address that never answers, such as an IPv6 address
    without a route, leaves enough time for the next.

    Args:
        host: The name or the address of the host.
        port: The port.
        source: The local address to connect from, if any.
        timeout: Maximum seconds for all addresses together.
        register: Called with the descriptor of each socket as soon as it is created.

    Raises:
        OSError: The last address failed.
    """
    deadline = monotonic() + timeout
    failure = OSError(f"{host} has no address")
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for untried, (family, _, _, _, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
        try:
            return _connect(family, address, (deadline - monotonic()) / untried, source, register)
        except OSError as error:
            failure = error
    raise failure


def _connect(
    family: int,
    address: tuple[object, ...] | str,
    timeout: float,
    source: str | None,
    register: Callable[[Descriptor], object],
) -> socket.socket:
    with _creation_lock:
        sock = TimedSocket(family, socket.SOCK_STREAM)
        register(Descriptor(sock.fileno()))
    try:
        sock.settimeout(max(timeout, MIN_TIMEOUT))
        if source is not None:
            sock.bind((source, 0))
        sock.connect(address)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def _identity(number: int) -> tuple[int, int]:
    status = os.fstat(number)
    return status.st_dev, status.st_ino
