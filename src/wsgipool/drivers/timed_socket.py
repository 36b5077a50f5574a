"""A socket whose timeout the kernel keeps."""

from __future__ import annotations

import math
import socket
import struct
from typing import Any

_TIMEVAL = "qq" if socket.SO_RCVTIMEO == 66 else "ll"
"""The kernel's struct for a timeout. 66 is SO_RCVTIMEO_NEW, of 32-bit systems with times of 64 bits."""


class TimedSocket(socket.socket):
    """A socket with the options SO_RCVTIMEO and SO_SNDTIMEO in place of Python's timeout.

    With Python's timeout, each call begins with a poll(2). That is one more system call, and one more release of the
    GIL, which the thread then has to wait for.

    The timeout is that of one system call. So a send that proceeds, but slowly, may take longer, and a signal whose
    handler returns begins the wait again.
    """

    _seconds: float | None = None

    def settimeout(self, value: float | None) -> None:
        """Set the timeout in seconds; 0 is for calls that do not wait, None for calls that wait for ever."""
        self._seconds = value
        if value == 0.0:
            super().settimeout(0.0)
            return
        microseconds = 0 if value is None else math.ceil(value * 1_000_000)
        limit = struct.pack(_TIMEVAL, *divmod(microseconds, 1_000_000))  # 0 is no limit
        self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        if super().gettimeout() is not None:
            super().settimeout(None)

    def gettimeout(self) -> float | None:
        """Return the timeout in seconds. `ssl.SSLSocket` takes it over, and keeps it in Python's way."""
        return self._seconds

    def connect(self, address: Any) -> None:
        """Connect with Python's timeout: after the kernel's, Python would go on waiting."""
        super().settimeout(self._seconds)
        super().connect(address)
        self.settimeout(self._seconds)

    def recv_into(self, *args: Any) -> int:
        """Receive. Raise TimeoutError if nothing comes within the timeout.

        After an asynchronous exception bytes may be lost, so the caller must close the socket.
        """
        try:
            return super().recv_into(*args)
        except BlockingIOError:
            self._raise_timeout()
            raise

    def sendall(self, *args: Any) -> None:
        """Send. Raise TimeoutError if the other end takes nothing within the timeout, or within the next one."""
        try:
            super().sendall(*args)
        except BlockingIOError:
            self._raise_timeout()
            raise

    def _raise_timeout(self) -> None:
        if self._seconds != 0.0:
            raise TimeoutError("timed out") from None
