"""A server that asks mysqlclient for the password itself gets it only over a private connection."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import MySQLdb
import pytest

from drivers.shops import driver_of
from unit.fakes import PATIENCE, Task

SECRET = "fourteen-geese"
_SCRAMBLE = b"12345678"
_CAPABILITIES = 0x00FF_F7FF  # all old capabilities, without TLS


def packet(number: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([number]) + payload


def greeting(plugin: str) -> bytes:
    low, high = (_CAPABILITIES & 0xFFFF).to_bytes(2, "little"), (_CAPABILITIES >> 16).to_bytes(2, "little")
    return packet(
        0,
        b"\x0a8.0.40\0" + bytes(4) + _SCRAMBLE + b"\0" + low + b"\x2d\x02\x00" + high + b"\x15" + bytes(10)
        + _SCRAMBLE + b"1234\0" + plugin.encode() + b"\0",
    )  # fmt: skip


class Asking:
    """A server that asks for the password by a plugin, and records the client's packets."""

    def __init__(self, listener: socket.socket, first: str, then: str, after_login: bool) -> None:
        self.heard = b""
        self._listener = listener
        self._first, self._then = first, then
        self._after_login = after_login
        listener.settimeout(PATIENCE)
        self.serving = Task(self._serve)

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        with client:
            client.settimeout(PATIENCE)
            client.sendall(greeting(self._first))
            answer = self._hear(client)
            if not answer:
                return  # the greeting is enough
            if self._after_login:
                ok = b"\0\0\0\x02\0\0\0"
                client.sendall(packet(answer[3] + 1, ok))
                while (command := self._hear(client))[4:5] != b"\x11":  # COM_CHANGE_USER
                    client.sendall(packet(1, ok))
                answer = command
            question = b"" if self._then == "mysql_clear_password" else b"\x04Password: "
            client.sendall(packet(answer[3] + 1, b"\xfe" + self._then.encode() + b"\0" + question))
            while self._hear(client):
                pass

    def _hear(self, client: socket.socket) -> bytes:
        data = client.recv(65536)
        self.heard += data
        return data


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def url(listener: socket.socket, options: str = "") -> str:
    return f"mysql+mysqlclient://shop:{SECRET}@127.0.0.1:{listener.getsockname()[1]}/orders?{options}"


@pytest.mark.parametrize("options", ["", "ssl_mode=REQUIRED", "ssl_mode=DISABLED"])
@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("mysql_native_password", "mysql_clear_password"),
        ("mysql_clear_password", "mysql_clear_password"),
        ("mysql_native_password", "dialog"),
        ("dialog", "dialog"),
    ],
)
def test_no_byte_of_a_password_is_sent_in_clear_text(
    first: str, then: str, options: str, listener: socket.socket
) -> None:
    server = Asking(listener, first, then, after_login=False)

    with pytest.raises(MySQLdb.OperationalError, match=r"asks for the password in clear text.*give ssl_ca"):
        driver_of(url(listener, options)).connect(PATIENCE)

    server.serving.result()
    assert SECRET.encode() not in server.heard


def test_a_server_without_tls_gets_no_password_if_it_must_be_verified(listener: socket.socket) -> None:
    server = Asking(listener, "mysql_native_password", "mysql_clear_password", after_login=False)

    with pytest.raises(MySQLdb.OperationalError, match="SSL is required"):
        driver_of(url(listener, "ssl_mode=VERIFY_IDENTITY")).connect(PATIENCE)

    server.serving.result()
    assert server.heard == b""


@pytest.mark.parametrize("plugin", ["mysql_clear_password", "dialog"])
def test_a_session_reset_sends_no_byte_of_the_password_either(plugin: str, listener: socket.socket) -> None:
    server = Asking(listener, "mysql_native_password", plugin, after_login=True)
    driver = driver_of(url(listener))
    connection = driver.connect(PATIENCE)

    with pytest.raises(MySQLdb.OperationalError):
        driver.check_in(connection, "session")

    driver.close(connection)
    server.serving.result()
    assert b"\x11shop" in server.heard
    assert SECRET.encode() not in server.heard


def test_a_unix_socket_may_carry_a_clear_text_password() -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        path = Path(folder, "mysqld.sock")
        listener.bind(str(path))
        listener.listen()
        server = Asking(listener, "mysql_native_password", "mysql_clear_password", after_login=False)

        connecting = Task(
            lambda: driver_of(
                f"mysql+mysqlclient://shop:{SECRET}@/orders?unix_socket={path}&connect_timeout=1"
            ).connect(1)
        )

        with pytest.raises(MySQLdb.OperationalError):  # the server does not answer the password
            connecting.result()
        server.serving.result()
        assert SECRET.encode() in server.heard
