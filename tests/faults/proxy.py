"""A TCP proxy between a pool and its server that forwards, refuses, resets, drops, delays or cuts.

`refuse()`, `listen()` and the attribute `greeting` concern new connections. `swallowing`, `delay`, `answers_twice` and
`cut()` concern open ones. Everything takes effect with the next connection or the next piece of data.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Literal

from wsgipool.httpd.express import free_port

Greeting = Literal["pass", "reset", "black hole"]

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)
_LOGGED_IN, _LOGIN_FAILED = 0x00, 0xFF


class Proxy:
    """A proxy on a port of its own; a context manager that ends all threads and sockets."""

    def __init__(self, upstream: int) -> None:
        self.port = free_port()
        self.upstream = upstream
        self.greeting: Greeting = "pass"
        """The fate of a new connection: the server, a reset, or silence."""
        self.swallowing = False
        """Whether all data is dropped."""
        self.delay = 0.0
        """Seconds that each piece of data takes in each direction."""
        self.answer_limit: int | None = None
        """The number of bytes that clients still receive; the rest is dropped."""
        self.impatient = False
        """Whether a client has sent a command before the answer to the one before."""
        self.answers_twice = False
        """Whether each piece of the server's data is sent two times."""
        self.accepted = 0
        self.max_logins_at_once = 0
        self.to_server = bytearray()
        self.to_client = bytearray()
        self._links: set[_Link] = set()
        self._logging_in: set[_Link] = set()
        self._lock = threading.Lock()
        # Bound by its number, so the port stays reserved while nothing listens on it.
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))
        self._accepting: threading.Thread | None = None

    def through(self, url: str) -> str:
        """Return the URL of the same database through this proxy."""
        assert f"127.0.0.1:{self.upstream}/" in url
        return url.replace(f"127.0.0.1:{self.upstream}/", f"127.0.0.1:{self.port}/")

    @property
    def open(self) -> int:
        """The number of open connections."""
        return len(self._links)

    def listen(self) -> None:
        """Accept connections, for the first time or again."""
        assert self._accepting is None
        self._listener.listen(128)
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def refuse(self) -> None:
        """Refuse new connections and keep the open ones."""
        if self._accepting is not None:
            self._listener.shutdown(socket.SHUT_RDWR)  # on Linux: ends listening and accept(), keeps the port
            self._accepting.join()
            self._accepting = None

    def cut(self) -> None:
        """Reset all open connections at both ends."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.cut()

    def __enter__(self) -> Proxy:
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.accepted += 1
            if self.greeting == "reset":
                _close_with_reset(client)
            else:
                self._link(client)

    def _link(self, client: socket.socket) -> None:
        server = None
        if self.greeting == "pass":
            try:
                server = socket.create_connection(("127.0.0.1", self.upstream), timeout=10)
            except OSError:
                _close_with_reset(client)
                return
            server.settimeout(None)
        link = _Link(self, client, server)
        with self._lock:
            self._links.add(link)
            self._logging_in.add(link)
            self.max_logins_at_once = max(self.max_logins_at_once, len(self._logging_in))
        link.start()

    def _logged_in(self, link: _Link) -> None:
        with self._lock:
            self._logging_in.discard(link)

    def _ended(self, link: _Link) -> None:
        with self._lock:
            self._links.discard(link)
            self._logging_in.discard(link)


class _Link:
    """One connection through the proxy: a thread for each direction."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket | None) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._cut = threading.Event()
        self._is_answered = True
        self._threads = [threading.Thread(target=self._from_client, daemon=True)]
        if server is not None:
            self._threads.append(threading.Thread(target=self._from_server, daemon=True))
        self._still_running = len(self._threads)
        self._lock = threading.Lock()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def cut(self) -> None:
        self._cut.set()
        self._wake()
        for thread in self._threads:
            thread.join()

    def _wake(self) -> None:
        for end in (self._client, self._server):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RD)

    def _from_client(self) -> None:
        for data in self._pieces(self._client):
            self._proxy.to_server += data
            if commands := _commands_in(data):
                self._proxy.impatient |= commands > 1 or not self._is_answered
                self._is_answered = False
            self._pass_on(data, self._server)
        self._end(self._server)

    def _from_server(self) -> None:
        assert self._server is not None
        greeted = False
        for data in self._pieces(self._server):
            self._is_answered = True
            if greeted and data[4:5] in (bytes([_LOGGED_IN]), bytes([_LOGIN_FAILED])):
                # Counted before the client gets it, since the client may then start the next connect.
                self._proxy._logged_in(self)
            greeted = True
            if self._proxy.answer_limit is not None:
                data = data[: self._proxy.answer_limit]
                self._proxy.answer_limit -= len(data)
            self._pass_on(data * 2 if self._proxy.answers_twice else data, self._client)
            self._proxy.to_client += data
        self._end(self._client)

    def _pieces(self, source: socket.socket) -> Iterator[bytes]:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self._proxy.delay:
                    self._cut.wait(self._proxy.delay)
                yield data

    def _pass_on(self, data: bytes, sink: socket.socket | None) -> None:
        if sink is not None and not self._proxy.swallowing:
            try:
                sink.sendall(data)
            except OSError:
                self._wake()

    def _end(self, sink: socket.socket | None) -> None:
        """End one direction; close both ends when both directions have ended."""
        if sink is not None and not self._cut.is_set():
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
        with self._lock:
            self._still_running -= 1
            last = self._still_running == 0
        if not last:
            return
        self._proxy._ended(self)
        for end in (self._client, self._server):
            if end is not None and self._cut.is_set():
                _close_with_reset(end)
            elif end is not None:
                end.close()


def _commands_in(data: bytes) -> int:
    """Return how many packets begin a command: those have the number 0."""
    commands = 0
    while len(data) >= 5:
        commands += data[3] == 0
        data = data[4 + int.from_bytes(data[:3], "little") :]
    return commands


def _close_with_reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
    end.close()
