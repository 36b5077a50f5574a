"""What is left of a session after our goodbye: the server counts it until it has closed its side of the socket as well.

A server that has nothing else to do takes a fraction of a millisecond for that; one that is short of processors, or in
the middle of a statement, as long as that takes.
"""

from __future__ import annotations

import errno
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

    is_of_a_session = True
    """Whether the server may have counted a session at all."""

    def __init__(self, descriptor: int = -1, unseen: float = UNSEEN) -> None:
        """Without a descriptor the session is taken for ended after `unseen` seconds."""
        self._began = monotonic()
        self._ends_at = self._began + unseen
        self._bytes = 0
        self._sockets: list[socket.SocketType] = []
        """Ours, as long as there is something to see."""
        self.seconds = 0.0
        """How long it took, once it was seen."""
        if descriptor >= 0:
            try:
                # In one step, as far as an asynchronous exception can tell: a copy of the descriptor that nobody knows
                # would keep the session open.
                self._sockets.extend(map(socket.SocketType, (-1,), (-1,), (-1,), map(os.dup, (descriptor,))))
            except OSError as error:
                if error.errno is None:
                    raise  # a signal handler's
                # It is closed already, or there is no free descriptor: then nobody can tell.

    @classmethod
    def of_nothing(cls) -> Farewell:
        """Return the end of a session that was never begun."""
        end = cls(unseen=0.0)
        end.is_of_a_session = False
        return end

    def hang_up(self) -> None:
        """Tell the server that nothing more will come: after the goodbye, or in its place."""
        self._began = monotonic()
        for ours in self._sockets:
            try:
                ours.shutdown(socket.SHUT_WR)
            except OSError as error:
                if error.errno is None:
                    raise  # a signal handler's; else the server has closed the connection before us

    def wait(self, seconds: float) -> bool:
        """Wait at most so long for the end, and tell whether it has come."""
        deadline = monotonic() + seconds
        while not self.is_over():
            remaining = deadline - monotonic()
            if remaining <= 0:
                return False
            poll = select.poll()
            if ours := self._open_socket():
                poll.register(ours, select.POLLIN)
                poll.poll(remaining * 1000)
            else:
                poll.poll(min(remaining, max(0.0, self._ends_at - monotonic())) * 1000)
        return True

    def is_over(self) -> bool:
        """Tell without waiting whether the server has ended the session, as far as can be known."""
        ours = self._open_socket()
        if ours is None:
            return monotonic() >= self._ends_at
        try:
            while data := ours.recv(65536, socket.MSG_DONTWAIT):
                self._bytes += len(data)
                if self._bytes > _MOST_BYTES:
                    self._ends_at = monotonic() + UNSEEN
                    self.close()
                    return False
        except OSError as error:
            if error.errno is None:
                raise  # a signal handler's, which says nothing of the server
            if error.errno == errno.EBADF:  # another thread has seen the end
                return monotonic() >= self._ends_at
            if error.errno == errno.EAGAIN:
                waited = monotonic() - self._began
                if waited < (_LONGEST if self._is_acknowledged(ours) else _UNACKNOWLEDGED):
                    return False
            # Else it was reset by the server.
        else:
            self.seconds = monotonic() - self._began
        self._ends_at = 0.0
        self.close()
        return True

    def close(self) -> None:
        """Let go of the socket."""
        sockets = getattr(self, "_sockets", ())  # there is none if its making was interrupted
        while sockets:
            try:
                ours = sockets.pop()
            except IndexError:  # another thread came first
                return
            ours.close()

    def __del__(self) -> None:
        self.close()

    def _open_socket(self) -> socket.SocketType | None:
        return next(iter(self._sockets), None)

    @staticmethod
    def _is_acknowledged(ours: socket.SocketType) -> bool:
        if _TCP_INFO is None:
            return True
        try:
            return ours.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)[0] != _FIN_WAIT1
        except OSError:
            return True  # a Unix socket, whose other end is on this machine
