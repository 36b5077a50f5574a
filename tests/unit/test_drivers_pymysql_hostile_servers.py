"""Hostile servers: one asks for the password, one sends an endless answer, one takes forever."""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Callable, Iterator

import pymysql
import pytest

from unit.fakes import PATIENCE, Task
from unit.test_drivers_pymysql import answer, driver, packet

MAX_BYTES = 4 << 20
"""Maximum bytes that a hostile server can send, including the buffers of both sockets."""

OK = packet(2, bytes(7))

Serve = Callable[[socket.socket], object]


def greeting() -> bytes:
    capabilities = 0x0008_F7FF  # all capabilities without TLS
    return packet(
        0,
        b"\x0a8.4.0\0" + (7).to_bytes(4, "little") + b"12345678\0"
        + (capabilities & 0xFFFF).to_bytes(2, "little") + b"\x21\x02\x00"
        + (capabilities >> 16).to_bytes(2, "little") + b"\x15" + bytes(10) + b"123456789012\0"
        + b"mysql_native_password\0",
    )  # fmt: skip


@contextlib.contextmanager
def rogue(serve: Serve) -> Iterator[str]:
    """The URL of a server that greets a client, reads the login and continues as scripted."""

    def meet(listening: socket.socket) -> None:
        server, _ = listening.accept()
        with server, contextlib.suppress(OSError):
            server.settimeout(PATIENCE)
            server.sendall(greeting())
            server.recv(1 << 16)
            serve(server)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = Task(lambda: meet(listening))
        yield f"mysql://shop:sesame@127.0.0.1:{listening.getsockname()[1]}/orders"
        serving.result()


@pytest.mark.parametrize("plugin", [b"mysql_clear_password", b"dialog"])
def test_no_password_goes_in_clear_text_to_a_server_that_asks_for_it(plugin: bytes) -> None:
    received = bytearray()

    def ask(server: socket.socket) -> None:
        server.sendall(packet(2, b"\xfe" + plugin + b"\0Password: "))
        while data := server.recv(1 << 16):
            received.extend(data)

    with (
        rogue(ask) as url,
        pytest.raises(pymysql.OperationalError, match=rf"clear text \({plugin.decode()}\).*ssl_ca"),
    ):
        driver(url).connect(PATIENCE)

    assert b"sesame" not in received


def rows_without_end() -> Iterator[bytes]:
    yield answer("title", "rows")[:-9]
    for number in itertools.count(5):
        yield packet(number % 256, b"\xfc\x00\x40" + b"x" * 16384)


def packets_without_end() -> Iterator[bytes]:
    for number in itertools.count(1):
        yield b"\xff\xff\xff" + bytes([number % 256]) + b"\x00" * 0xFFFFFF


def drops() -> Iterator[bytes]:
    for byte in packet(1, bytes(7) + b"x" * 250):
        time.sleep(0.1)
        yield bytes([byte])


@pytest.mark.parametrize("answers", [rows_without_end, packets_without_end, drops])
@pytest.mark.parametrize("moment", ["while it logs in", "after that"])
@pytest.mark.parametrize("fast_reading", ["true", "false"])
def test_an_endless_answer_does_not_delay_a_connect(
    fast_reading: str, moment: str, answers: Callable[[], Iterator[bytes]]
) -> None:
    sent = 0

    def talk(server: socket.socket) -> None:
        nonlocal sent
        if moment == "after that":
            server.sendall(OK)
            server.recv(1 << 16)
        for piece in answers():
            for start in range(0, len(piece), 1 << 16):
                part = piece[start : start + (1 << 16)]
                server.sendall(part)
                sent += len(part)

    with rogue(talk) as url:
        began = time.monotonic()
        with pytest.raises(pymysql.Error):
            driver(f"{url}?fast_reading={fast_reading}").connect(1.0)
        took = time.monotonic() - began

    assert took < 1.0 + PATIENCE / 2
    assert sent <= MAX_BYTES
