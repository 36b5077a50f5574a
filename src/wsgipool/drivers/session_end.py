"""The end of a session: the server counts it until the server has closed its side of the socket.

An idle server takes a fraction of a millisecond. A server with busy processors takes longer, and a server that runs a
statement takes as long as the statement.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from time import monotonic

ASSUMED_AFTER = 0.75
"""Seconds after which a session counts as ended if there is no socket to observe.

On a machine with a hundred busy processes, a server took more than 0.25 s to notice the death of a client.
"""

_MAX_WAIT = 60.0
"""Seconds to wait for a server whose machine has acknowledged the last packet, COM_QUIT or the FIN."""
_MAX_WAIT_UNACKNOWLEDGED = 15.0
"""Seconds to wait if the last packet is not acknowledged: the server's machine is off, or the network is cut.

After a cut of ten seconds, TCP sends the packet again within ten seconds.
"""
_MAX_BYTES = 1 << 20
"""Maximum bytes of an unread answer; then the socket is closed, so that the server stops sending."""

# linux/tcp_states.h, the first byte of struct tcp_info.
_FIN_WAIT1 = 4
_TCP_INFO = getattr(socket, "TCP_INFO", None)


class SessionEnd:
    """The end of one session, observed on a duplicate of the connection's socket.

    Make it while the socket is open.
    """

    has_session = True
    """Whether the server may have counted a session."""

    def __init__(self, descriptor: int = -1, assumed_after: float = ASSUMED_AFTER) -> None:
        """Begin to observe the session.

        Args:
            descriptor: The file descriptor of the connection's socket; -1 if there is none.
            assumed_after: Without a descriptor, the seconds after which the session counts as ended.
        """
        self._started = monotonic()
        self._ends_at = self._started + assumed_after
        self._bytes = 0
        self._sockets: list[socket.SocketType] = []
        """The duplicate, until the end was observed."""
        self.seconds = 0.0
        """The time that the end took, once it was observed."""
        if descriptor >= 0:
            try:
                # One call, which no asynchronous exception can divide: a leaked duplicate would keep the session open.
                self._sockets.extend(map(socket.SocketType, (-1,), (-1,), (-1,), map(os.dup, (descriptor,))))
            except OSError as error:
                if error.errno is None:
                    raise  # from a signal handler
                # The socket is closed, or no descriptor is free: the end cannot be observed.

    @classmethod
    def without_session(cls) -> SessionEnd:
        """Return the end of a session that never began."""
        end = cls(assumed_after=0.0)
        end.has_session = False
        return end

    def shut_down_writing(self) -> None:
        """Shut the socket down for writing: after the closing handshake, or in its place."""
        self._started = monotonic()
        for sock in self._sockets:
            try:
                sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                if error.errno is None:
                    raise  # from a signal handler; otherwise the server has closed the connection already

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` for the end; return whether it has come."""
        deadline = monotonic() + seconds
        while not self.is_over():
            remaining = deadline - monotonic()
            if remaining <= 0:
                return False
            poll = select.poll()
            if sock := self._open_socket():
                poll.register(sock, select.POLLIN)
                poll.poll(remaining * 1000)
            else:
                poll.poll(min(remaining, max(0.0, self._ends_at - monotonic())) * 1000)
        return True

    def is_over(self) -> bool:
        """Return whether the server has ended the session, as far as is known, without waiting."""
        sock = self._open_socket()
        if sock is None:
            return monotonic() >= self._ends_at
        try:
            while data := sock.recv(65536, socket.MSG_DONTWAIT):
                self._bytes += len(data)
                if self._bytes > _MAX_BYTES:
                    self._ends_at = monotonic() + ASSUMED_AFTER
                    self.close()
                    return False
        except OSError as error:
            if error.errno is None:
                raise  # from a signal handler
            if error.errno == errno.EBADF:  # another thread has observed the end
                return monotonic() >= self._ends_at
            if error.errno == errno.EAGAIN:
                waited = monotonic() - self._started
                if waited < (_MAX_WAIT if self._is_acknowledged(sock) else _MAX_WAIT_UNACKNOWLEDGED):
                    return False
            # Otherwise the server has reset the connection, or the wait was too long.
        else:
            self.seconds = monotonic() - self._started
        self._ends_at = 0.0
        self.close()
        return True

    def close(self) -> None:
        """Release the socket."""
        sockets = getattr(self, "_sockets", ())  # missing if an asynchronous exception came in __init__
        while sockets:
            try:
                sock = sockets.pop()
            except IndexError:  # another thread was faster
                return
            sock.close()

    def __del__(self) -> None:
        """Release the socket."""
        self.close()

    def _open_socket(self) -> socket.SocketType | None:
        return next(iter(self._sockets), None)

    @staticmethod
    def _is_acknowledged(sock: socket.SocketType) -> bool:
        if _TCP_INFO is None:
            return True
        try:
            return sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)[0] != _FIN_WAIT1
        except OSError:
            return True  # a Unix socket: the other end is on this machine
