"""MySQL's passwords over TCP without TLS: a missing package is named, and found before it is needed."""

from __future__ import annotations

import socket
import struct
import threading

import pymysql
import pytest

from unit.fakes import PATIENCE
from wsgipool import config
from wsgipool.drivers import for_database
from wsgipool.drivers.mysql_rsa import explain_connect_error, needs_cryptography


def test_the_error_for_missing_cryptography_names_the_remedy() -> None:
    error = RuntimeError("'cryptography' package is required for sha256_password or caching_sha2_password auth methods")

    explained = explain_connect_error(error)

    assert isinstance(explained, pymysql.OperationalError)
    assert explained.args[0] == 2059
    assert 'pip install "wsgipool[mysql-rsa]"' in explained.args[1]
    assert "leave TLS on" in explained.args[1]


@pytest.mark.parametrize("error", [RuntimeError("another"), OSError("cryptography"), KeyboardInterrupt()])
def test_other_errors_are_left_as_they_are(error: BaseException) -> None:
    assert explain_connect_error(error) is None


@pytest.mark.parametrize(
    ("url", "plugin", "encrypted", "needed"),
    [
        ("mysql://shop:pw@db/orders", "caching_sha2_password", False, True),
        ("mariadb://shop:pw@db/orders", "sha256_password", False, True),
        ("mysql://shop:pw@db/orders", "caching_sha2_password", True, False),
        ("mysql://shop:pw@db/orders", "mysql_native_password", False, False),
        ("mysql://shop:pw@/orders?unix_socket=/run/none/x", "caching_sha2_password", False, False),
        ("mysql+mysqlclient://shop:pw@db/orders", "caching_sha2_password", False, False),
    ],
)
def test_missing_cryptography_is_reported_while_the_servers_cache_helps(
    url: str, plugin: str, encrypted: bool, needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    assert needs_cryptography(config.parse_url(url), plugin, encrypted) is needed


def test_cryptography_that_is_there_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)

    assert not needs_cryptography(config.parse_url("mysql://shop:pw@db/x"), "caching_sha2_password", encrypted=False)


def _packet(number: int, content: bytes) -> bytes:
    return struct.pack("<I", len(content))[:3] + bytes([number]) + content


def _ask_for_an_encrypted_password(listener: socket.socket) -> None:
    """Serve as a MySQL without TLS whose cache does not have the password."""
    plugin = b"caching_sha2_password\0"
    flags = 0x0008_8200  # protocol 4.1, secure connection, plugins
    greeting = b"\x0a9.7.0\0" + struct.pack("<I", 1) + b"x" * 8 + b"\0" + struct.pack("<H", flags & 0xFFFF)
    greeting += b"\xff" + struct.pack("<H", 2) + struct.pack("<H", flags >> 16) + bytes([21]) + bytes(10)
    client, _ = listener.accept()
    with client:
        client.sendall(_packet(0, greeting + b"x" * 12 + b"\0" + plugin))
        client.recv(4096)  # the login
        client.sendall(_packet(2, b"\x01\x04"))  # perform full authentication
        client.recv(4096)  # the request for the key
        client.sendall(_packet(4, b"\x01-----BEGIN PUBLIC KEY-----\n"))
        client.recv(4096)  # the end


def test_the_error_of_a_connect_names_missing_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pymysql._auth._have_cryptography", False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=_ask_for_an_encrypted_password, args=(listener,))
        server.start()
        url = f"mysql://shop:pw@127.0.0.1:{listener.getsockname()[1]}/orders"
        driver = for_database(config.load({"databases": {"shop": {"url": url}}}).databases["shop"])

        with pytest.raises(pymysql.OperationalError, match=r"wsgipool\[mysql-rsa\]") as caught:
            driver.connect(PATIENCE)

        server.join(PATIENCE)
    assert caught.value.args[0] == 2059
    assert not server.is_alive()
