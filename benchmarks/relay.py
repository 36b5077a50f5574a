"""A TCP relay that adds latency to loopback: every byte arrives later, at full throughput."""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import signal
import socket
import threading
import time
from multiprocessing.connection import Connection


class Relay:
    """Passes connections on to a loopback port, with `delay` seconds in each direction; a context manager.

    A process of its own: its threads would wait for the interpreter's lock beside those that are measured.
    """

    def __init__(self, target: int, delay: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._lifeline, end = context.Pipe()
        self._process = context.Process(target=_serve, args=(end, target, delay), daemon=True)
        self._process.start()
        end.close()
        self.port: int = self._lifeline.recv()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self._lifeline.close()
        self._process.join(5)
        self._process.kill()


def _serve(lifeline: Connection, target: int, delay: float) -> None:
    # Ctrl-C in the terminal reaches this process, too. It ends when the parent closes the lifeline, even if killed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, target, delay), daemon=True).start()
    lifeline.send(listener.getsockname()[1])
    with contextlib.suppress(EOFError):
        lifeline.recv()


def _accept(listener: socket.socket, target: int, delay: float) -> None:
    while True:
        client, _ = listener.accept()
        server = socket.create_connection(("127.0.0.1", target))
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for source, sink in ((client, server), (server, client)):
            on_the_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
            threading.Thread(target=_take_in, args=(source, on_the_way, delay), daemon=True).start()
            threading.Thread(target=_pass_on, args=(sink, on_the_way), daemon=True).start()


def _take_in(source: socket.socket, on_the_way: queue.SimpleQueue[tuple[float, bytes]], delay: float) -> None:
    data = b"not yet the end"
    while data:
        try:
            data = source.recv(65536)
        except OSError:
            data = b""
        on_the_way.put((time.monotonic() + delay, data))


def _pass_on(sink: socket.socket, on_the_way: queue.SimpleQueue[tuple[float, bytes]]) -> None:
    with contextlib.suppress(OSError):
        while True:
            due, data = on_the_way.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            sink.sendall(data)
