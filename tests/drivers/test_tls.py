"""TLS against real servers: whom each URL trusts, and that TLS which is required cannot be taken away on the way."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drivers.shops import driver_of, run, value
from unit.certificates import Authority
from unit.fakes import PATIENCE
from wsgipool.demo.mariadb import MariaDB
from wsgipool.demo.postgresql import PostgreSQL

SCHEMES = ["mysql", "mysql+mysqlclient"]
_CLIENT_SSL = 0x0800


@pytest.fixture(scope="module")
def folder(servers_folder: Path) -> Path:
    """Certificates: own.pem and other.pem of two authorities, server.pem of the first for 127.0.0.1 alone."""
    folder = servers_folder / "tls"
    folder.mkdir()
    Authority(folder, "other")
    own = Authority(folder, "own")
    own.issue("server", "IP:127.0.0.1")
    own.issue("client", "DNS:client")
    for path in folder.iterdir():
        path.chmod(0o644)
    return folder


@pytest.fixture(scope="module")
def secured(servers_folder: Path, folder: Path) -> Iterator[MariaDB]:
    """A MariaDB with that certificate."""
    own = servers_folder / "mariadb-tls"
    own.mkdir()
    settings: dict[str, str | int] = {
        "ssl_ca": f"{folder}/own.pem",
        "ssl_cert": f"{folder}/server.pem",
        "ssl_key": f"{folder}/server.key",
        "innodb_fast_shutdown": 2,  # its data is thrown away
    }
    with MariaDB(own, settings) as server:
        server.start()
        yield server


@pytest.fixture(scope="module")
def shop(secured: MariaDB) -> str:
    """A database there: its URL after the scheme."""
    return secured.create_database("tls_shop").removeprefix("mysql://")


@contextlib.contextmanager
def connected(url: str) -> Iterator[Any]:
    driver = driver_of(url.rstrip("?"))
    connection = driver.connect(PATIENCE)
    try:
        assert driver.check_out(connection, threading.get_ident(), PATIENCE)
        yield connection
    finally:
        driver.close(connection)


def cipher_of(url: str) -> str:
    with connected(url) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
        return str(cursor.fetchone()[1])


def refusal_of(url: str) -> str:
    """Return the error of the DB-API module: no connection, and nothing else."""
    driver = driver_of(url.rstrip("?"))
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of two modules
        driver.connect(PATIENCE)
    assert type(caught.value).__name__ == "OperationalError"
    return str(caught.value)


# --- whom a URL trusts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "options",
    [
        "ssl_mode=REQUIRED",
        "ssl_ca={}/own.pem",
        "ssl_ca={}/own.pem&ssl_verify_identity=true",
        "ssl_ca={}/own.pem&ssl_mode=VERIFY_IDENTITY&ssl_cert={}/client.pem&ssl_key={}/client.key",
        "ssl_cert={}/client.pem&ssl_key={}/client.key",
    ],
)
def test_the_server_that_the_url_trusts_is_reached_by_tls(options: str, scheme: str, shop: str, folder: Path) -> None:
    assert cipher_of(f"{scheme}://{shop}?{options.replace('{}', str(folder))}")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "options",
    [
        "ssl_ca={}/other.pem",
        "ssl_ca={}/other.pem&ssl_verify_cert=true",
        "ssl_ca={}/other.pem&ssl_mode=VERIFY_IDENTITY",
        "ssl_verify_identity=true",
        "ssl_verify_cert=true",
    ],
)
def test_a_server_of_another_authority_is_refused(options: str, scheme: str, shop: str, folder: Path) -> None:
    assert "certificate" in refusal_of(f"{scheme}://{shop}?{options.replace('{}', str(folder))}")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("options", ["ssl_ca={}/own.pem", "ssl_ca={}/own.pem&ssl_verify_cert=true"])
def test_a_certificate_for_another_name_is_refused(options: str, scheme: str, shop: str, folder: Path) -> None:
    elsewhere = shop.replace("@127.0.0.1:", "@localhost:")

    assert "certificate" in refusal_of(f"{scheme}://{elsewhere}?{options.replace('{}', str(folder))}")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_systems_authorities_verify_the_name_too(
    scheme: str, shop: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", f"{folder}/own.pem")

    assert cipher_of(f"{scheme}://{shop}?ssl_verify_identity=true")
    elsewhere = shop.replace("@127.0.0.1:", "@localhost:")
    assert "certificate" in refusal_of(f"{scheme}://{elsewhere}?ssl_verify_identity=true")


@pytest.mark.parametrize("option", ["ssl_mode=VERIFY_CA", "ssl_verify_identity=false"])
def test_pymysql_leaves_the_name_out_where_the_url_says_so(option: str, shop: str, folder: Path) -> None:
    elsewhere = shop.replace("@127.0.0.1:", "@localhost:")

    assert cipher_of(f"mysql://{elsewhere}?ssl_ca={folder}/own.pem&{option}")
    assert "certificate" in refusal_of(f"mysql://{elsewhere}?ssl_ca={folder}/other.pem&{option}")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_tls_is_used_where_the_url_says_so(scheme: str, shop: str) -> None:
    assert cipher_of(f"{scheme}://{shop}?ssl_mode=DISABLED") == ""


# --- a server without TLS, or a man in the middle who says so --------------------------------------------------------


@pytest.fixture(scope="module")
def stripped(secured: MariaDB, shop: str) -> Iterator[str]:
    """The shop's URL by way of somebody who takes the offer of TLS out of the server's greeting."""
    links: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=_accept, args=(listener, secured.port, links))
        accepting.start()
        yield shop.replace(f":{secured.port}/", f":{listener.getsockname()[1]}/")
        listener.shutdown(socket.SHUT_RDWR)
        for thread in (accepting, *links):
            thread.join(PATIENCE)


def _accept(listener: socket.socket, upstream: int, links: list[threading.Thread]) -> None:
    with contextlib.suppress(OSError):  # the end of the tests
        while True:
            client, _ = listener.accept()
            links.append(threading.Thread(target=_strip, args=(client, upstream)))
            links[-1].start()


def _strip(client: socket.socket, upstream: int) -> None:
    with client, socket.create_connection(("127.0.0.1", upstream)) as server, contextlib.suppress(OSError):
        greeting = bytearray(server.recv(65536))
        # Header, protocol, the version up to a NUL, the session's number, 8 bytes of salt and a 0.
        flags = greeting.index(b"\0", 5) + 1 + 4 + 8 + 1
        offered = int.from_bytes(greeting[flags : flags + 2], "little")
        greeting[flags : flags + 2] = (offered & ~_CLIENT_SSL).to_bytes(2, "little")
        client.sendall(greeting)
        while True:
            for source in select.select([client, server], [], [])[0]:
                data = source.recv(65536)
                if not data:
                    return
                (server if source is client else client).sendall(data)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("options", ["ssl_mode=REQUIRED", "ssl_ca={}/own.pem", "ssl_verify_identity=true"])
def test_tls_that_is_required_cannot_be_taken_away(options: str, scheme: str, stripped: str, folder: Path) -> None:
    message = refusal_of(f"{scheme}://{stripped}?{options.replace('{}', str(folder))}")

    assert any(word in message.lower() for word in ("ssl is required", "tls is required"))


def test_tls_is_used_where_the_server_has_it(shop: str) -> None:
    assert cipher_of(f"mysql://{shop}")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_tls_that_is_preferred_is_gone_without(scheme: str, stripped: str) -> None:
    assert cipher_of(f"{scheme}://{stripped}?ssl_mode=PREFERRED") == ""


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_server_without_tls_is_refused_where_tls_is_required(scheme: str, mariadb_shop: str) -> None:
    _, _, address = mariadb_shop.partition("://")

    assert "required" in refusal_of(f"{scheme}://{address}?ssl_mode=REQUIRED")


# --- what only the server can know -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("collation=utf8mb4_nope", "utf8mb4_nope"),
        ("init_command=NONSENSE", "NONSENSE"),
        ("sql_mode=NONSENSE", "NONSENSE"),
    ],
)
def test_a_value_that_the_server_does_not_know_fails_the_connect(
    options: str, said: str, scheme: str, shop: str
) -> None:
    driver = driver_of(f"{scheme}://{shop}?{options}")

    with pytest.raises(Exception, match=said) as caught:
        driver.connect(PATIENCE)

    assert any(kind.__name__ == "DatabaseError" for kind in type(caught.value).__mro__)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_url_names_the_server_and_no_default_socket_does(
    scheme: str, secured: MariaDB, mariadb: MariaDB, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mariadb.admin() as admin:
        monkeypatch.setenv("MYSQL_UNIX_PORT", value(admin, "SELECT @@socket"))  # another server's

    with connected(f"{scheme}://{shop.replace('@127.0.0.1:', '@localhost:')}?ssl_disabled=true") as connection:
        assert value(connection, "SELECT @@port") == secured.port


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_empty_sql_mode_reaches_the_session(scheme: str, shop: str) -> None:
    with connected(f"{scheme}://{shop}?sql_mode=") as connection:
        assert value(connection, "SELECT @@sql_mode") == ""


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


def test_postgresql_is_verified_where_the_url_names_an_authority(postgresql: PostgreSQL, folder: Path) -> None:
    _, _, address = postgresql.create_database("tls_shop").partition("://")
    url = f"postgresql://{address}?sslrootcert={folder}/own.pem"

    # This server has no TLS: libpq would connect all the same, had sslrootcert not meant more than its default.
    with pytest.raises(Exception, match="SSL"):
        driver_of(url).connect(PATIENCE)
    with connected(f"postgresql://{address}") as connection:
        run(connection, "SELECT 1")
