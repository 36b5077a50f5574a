"""TLS on real servers: each URL trusts the right server, and required TLS cannot be removed by an attacker."""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drivers.shops import driver_of, run, value
from servers.postgresql import PostgreSQL
from unit.certificates import Authority
from unit.fakes import PATIENCE
from wsgipool import ConfigError
from wsgipool.config import parse_url
from wsgipool.demo.mariadb import MariaDB
from wsgipool.drivers import Driver, driver

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
        "innodb_fast_shutdown": 2,  # its data is temporary
    }
    with MariaDB(own, settings) as server:
        server.start()
        yield server


@pytest.fixture(scope="module")
def shop(secured: MariaDB) -> str:
    """The URL of a database on this server, without the scheme."""
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
    """Return the DB-API module's error of a failed connect."""
    driver = driver_of(url.rstrip("?"))
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of two modules
        driver.connect(PATIENCE)
    assert type(caught.value).__name__ == "OperationalError"
    return str(caught.value)


# --- trust -----------------------------------------------------------------------------------------------------------


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
def test_a_trusted_server_is_reached_by_tls(options: str, scheme: str, shop: str, folder: Path) -> None:
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
def test_verify_ca_makes_pymysql_ignore_the_name(option: str, shop: str, folder: Path) -> None:
    elsewhere = shop.replace("@127.0.0.1:", "@localhost:")

    assert cipher_of(f"mysql://{elsewhere}?ssl_ca={folder}/own.pem&{option}")
    assert "certificate" in refusal_of(f"mysql://{elsewhere}?ssl_ca={folder}/other.pem&{option}")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_tls_is_used_if_the_url_disables_it(scheme: str, shop: str) -> None:
    assert cipher_of(f"{scheme}://{shop}?ssl_mode=DISABLED") == ""


# --- a server without TLS, or an attacker that pretends it -----------------------------------------------------------


@pytest.fixture(scope="module")
def stripped(secured: MariaDB, shop: str) -> Iterator[str]:
    """The shop's URL through an attacker that removes the offer of TLS from the server's greeting."""
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


def test_tls_is_used_if_the_server_has_it(shop: str) -> None:
    assert cipher_of(f"mysql://{shop}")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_preferred_tls_allows_a_connection_without_tls(scheme: str, stripped: str) -> None:
    assert cipher_of(f"{scheme}://{stripped}?ssl_mode=PREFERRED") == ""


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_server_without_tls_is_refused_if_tls_is_required(scheme: str, mariadb_shop: str) -> None:
    _, _, address = mariadb_shop.partition("://")

    assert "required" in refusal_of(f"{scheme}://{address}?ssl_mode=REQUIRED")


# --- values that only the server can check ---------------------------------------------------------------------------


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


def test_an_authority_in_the_url_verifies_postgresql(postgresql: PostgreSQL, folder: Path) -> None:
    _, _, address = postgresql.create_database("tls_shop").partition("://")
    url = f"postgresql://{address}?sslrootcert={folder}/own.pem"

    # This server has no TLS. libpq's default with sslrootcert would connect without TLS.
    with pytest.raises(Exception, match="SSL"):
        driver_of(url).connect(PATIENCE)
    with connected(f"postgresql://{address}") as connection:
        run(connection, "SELECT 1")


# --- certificates that are renewed -----------------------------------------------------------------------------------


DRIVERS = ["mysql", "mysql+mysqlclient", "pymysql by arguments"]


@pytest.fixture(params=DRIVERS)
def trusting_a_file(
    request: pytest.FixtureRequest, shop: str, folder: Path, tmp_path: Path
) -> tuple[Driver[Any], Path]:
    """A driver and the file with its trusted authority, which is not yet the server's."""
    trusted = tmp_path / "trusted.pem"
    shutil.copy(folder / "other.pem", trusted)
    if request.param in SCHEMES:
        return driver_of(f"{request.param}://{shop}?ssl_ca={trusted}"), trusted
    url = parse_url(f"mysql://{shop}")
    arguments = {"host": url.host, "port": url.port, "user": url.user, "password": url.password}
    return driver("pymysql", **arguments, ssl_ca=str(trusted), ssl_verify_cert=True, ssl_verify_identity=True), trusted


def test_a_renewed_authority_is_trusted_after_a_reload(trusting_a_file: tuple[Driver[Any], Path], folder: Path) -> None:
    driver, trusted = trusting_a_file
    with pytest.raises(Exception, match=r"(?i)certificate|tls"):
        driver.connect(PATIENCE)
    shutil.copy(folder / "own.pem", trusted)

    driver.reload()

    driver.close(driver.connect(PATIENCE))


@pytest.mark.parametrize("trusting_a_file", ["mysql", "pymysql by arguments"], indirect=True)
def test_a_reload_of_unusable_files_keeps_the_earlier_ones(
    trusting_a_file: tuple[Driver[Any], Path], folder: Path
) -> None:
    driver, trusted = trusting_a_file
    shutil.copy(folder / "own.pem", trusted)
    driver.reload()
    trusted.write_text("half a file")

    with pytest.raises(ConfigError, match="the TLS files cannot be used"):
        driver.reload()

    driver.close(driver.connect(PATIENCE))
