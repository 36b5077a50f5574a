"""What is left of a session after our goodbye: the server counts it until it has closed its side of the socket as well.

A server that has nothing else to do takes a fraction of a millisecond for that; one that is short of processors, or in
the middle of a statement, as long as that takes.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from time import monotonic

UNSEEN = 0.75
"""Seconds after which a session is taken for ended where there is no socket to tell. On a machine with a hundred
processes at work a server took more than a quarter of a second to see that a client had died."""

_LONGEST = 60.0
"""Seconds after which a server that does not end a session, though its machine has our goodbye, is taken for gone."""
_UNACKNOWLEDGED = 15.0
"""The same for a server whose machine does not say that it has our goodbye: it is off, or the network is cut. Where it
was cut for ten seconds, TCP sends the goodbye again within as many."""
_MOST_BYTES = 1 << 20
"""Of an answer that nobody wants, as many are read; then the socket is closed, so that the server stops sending."""

# linux/tcp_states.h, the first byte of struct tcp_info.
_FIN_WAIT1 = 4
_TCP_INFO = getattr(socket, "TCP_INFO", None)


class Farewell:
    """The end of one session. Made while the connection's socket is open, it keeps that for itself."""

    _socket: socket.socket | None = None

    def __init__(self, descriptor: int = -1, unseen: float = UNSEEN) -> None:
        """Without a descriptor the session is taken for ended after `unseen` seconds."""
        self._began = monotonic()
        self._ends_at = self._began + unseen
        self._bytes = 0
        self.seconds = 0.0
        """How long it took, once it was seen."""
        if descriptor >= 0:
            with contextlib.suppress(OSError):  # it is closed already
                self._socket = socket.socket(fileno=os.dup(descriptor))

    def hang_up(self) -> None:
        """Tell the server that nothing more will come: after the goodbye, or in its place."""
        self._began = monotonic()
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it has closed the connection before us
                self._socket.shutdown(socket.SHUT_WR)

    def wait(self, seconds: float) -> bool:
        """Wait at most so long for the end, and tell whether it has come."""
        deadline = monotonic() + seconds
        while not self.is_over():
            remaining = deadline - monotonic()
            if remaining <= 0:
                return False
            poll = select.poll()
            if (ours := self._socket) is not None:
                poll.register(ours, select.POLLIN)
                poll.poll(remaining * 1000)
            else:
                poll.poll(min(remaining, max(0.0, self._ends_at - monotonic())) * 1000)
        return True

    def is_over(self) -> bool:
        """Tell without waiting whether the server has ended the session, as far as can be known."""
        ours = self._socket
        if ours is None:
            return monotonic() >= self._ends_at
        try:
            while data := ours.recv(65536, socket.MSG_DONTWAIT):
                self._bytes += len(data)
                if self._bytes > _MOST_BYTES:
                    self._ends_at = monotonic() + UNSEEN
                    self.close()
                    return False
        except BlockingIOError:
            if monotonic() - self._began < (_LONGEST if self._is_acknowledged(ours) else _UNACKNOWLEDGED):
                return False
        except OSError:
            pass  # reset by the server
        else:
            self.seconds = monotonic() - self._began
        self._ends_at = 0.0
        self.close()
        return True

    def close(self) -> None:
        """Let go of the socket."""
        ours, self._socket = self._socket, None
        if ours is not None:
            ours.close()

    def __del__(self) -> None:
        self.close()

    @staticmethod
    def _is_acknowledged(ours: socket.socket) -> bool:
        if _TCP_INFO is None:
            return True
        try:
            return ours.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)[0] != _FIN_WAIT1
        except OSError:
            return True  # a Unix socket, whose other end is on this machine
