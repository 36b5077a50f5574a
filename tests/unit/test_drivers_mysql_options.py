"""The meaning of a MySQL URL, the same for both drivers: endpoint, encoding, timeouts."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from wsgipool import ConfigError, config
from wsgipool.drivers import DEFAULT_READ_TIMEOUT, for_database, mysql_options, server_of
from wsgipool.drivers.mysqlclient import MySQLClientDriver
from wsgipool.drivers.pymysql import PyMySQLDriver

SCHEMES = ["mysql", "mysql+mysqlclient"]


def settings_of(url: str, **more: object) -> config.DatabaseSettings:
    return config.load({"databases": {"shop": {"url": url.rstrip("?"), **more}}}).databases["shop"]


def arguments_of(url: str) -> dict[str, Any]:
    """Return the arguments for the driver's module."""
    driver = for_database(settings_of(url))
    assert isinstance(driver, PyMySQLDriver | MySQLClientDriver)
    return dict(driver._arguments if isinstance(driver, PyMySQLDriver) else driver._options)


def refusals_of(address: str) -> set[str]:
    """Return the error of both drivers."""
    messages = set()
    for scheme in SCHEMES:
        with pytest.raises(ConfigError) as caught:
            for_database(settings_of(f"{scheme}://{address}"))
        messages.add(str(caught.value).replace(f"{scheme}://", "mysql://"))
    return messages


# --- where to connect ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_localhost_is_a_host_like_any_other(scheme: str) -> None:
    arguments = arguments_of(f"{scheme}://shop@localhost:3307/orders")

    # mysqlclient's library takes 'localhost' for a socket, so it gets another spelling.
    assert (arguments["host"].lower(), arguments["port"]) == ("localhost", 3307)
    assert (arguments["host"] == "localhost") is (scheme == "mysql")
    assert "unix_socket" not in arguments


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_port_does_not_depend_on_the_environment(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYSQL_TCP_PORT", "3399")

    assert arguments_of(f"{scheme}://shop@db/orders")["port"] == 3306


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("host", ["", "localhost"])
def test_a_socket_goes_without_a_host_or_with_localhost(host: str, scheme: str) -> None:
    arguments = arguments_of(f"{scheme}://shop@{host}/orders?unix_socket=/run/none/mysqld.sock")

    assert arguments["unix_socket"] == "/run/none/mysqld.sock"
    assert not arguments.keys() & {"host", "port"}
    assert server_of(config.parse_url(f"{scheme}://{host}/?unix_socket=/run/none/x")) == "mysql:///run/none/x"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1/orders?unix_socket=/run/x.sock", "the host '127.0.0.1' and unix_socket='/run/x.sock'; keep one"),
        ("localhost:3307/orders?unix_socket=/run/x.sock", "the port 3307 and unix_socket='/run/x.sock'; keep one"),
        ("%2Frun%2Fx.sock/orders", "for a socket write ?unix_socket=/run/x.sock"),
        ("db,other/orders", "'db,other' is neither the name of a host nor an address"),
        ("/orders", "no host; write mysql://user@host/database, or for a local server"),
    ],
)
def test_an_ambiguous_endpoint_is_refused(address: str, said: str) -> None:
    (message,) = refusals_of(address)

    assert said in message


def test_a_host_outside_ascii_is_encoded_as_in_dns() -> None:
    assert arguments_of("mysql+mysqlclient://shop@b%C3%BCcher.example/orders")["host"] == "xn--bcher-kva.example"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_socket_may_come_later_but_a_file_is_none(scheme: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))

        for name in ("sock", "later"):
            assert arguments_of(f"{scheme}://shop@/orders?unix_socket={tmp_path}/{name}")
        with pytest.raises(ConfigError, match="is not a socket"):
            arguments_of(f"{scheme}://shop@/orders?unix_socket={tmp_path}/file")


# --- text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("options", "charset", "collation"),
    [
        ("", "utf8mb4", None),
        ("charset=UTF8MB4", "utf8mb4", None),
        ("charset=utf8", "utf8", None),
        ("charset=utf8mb3", "utf8mb3", None),
        ("charset=latin1&collation=latin1_swedish_ci", "latin1", "latin1_swedish_ci"),
        ("charset=utf8&collation=utf8mb3_bin", "utf8", "utf8mb3_bin"),
        ("collation=utf8mb4_0900_ai_ci", "utf8mb4", "utf8mb4_0900_ai_ci"),
        ("collation=UTF8MB4_UCA1400_AI_CI", "utf8mb4", "utf8mb4_uca1400_ai_ci"),
        ("collation=uca1400_ai_ci", "utf8mb4", "uca1400_ai_ci"),
    ],
)
def test_a_character_set_has_its_collations(options: str, charset: str, collation: str | None, scheme: str) -> None:
    arguments = arguments_of(f"{scheme}://shop@db/orders?{options}")

    assert (arguments["charset"], arguments.get("collation")) == (charset, collation)


@pytest.mark.parametrize(
    "charset",
    ["utf-8", "UTF8-MB4", "utf8mb5", "binary", "utf16", "utf16le", "utf32", "ucs2", "swe7", "auto", "latin1;", "u'"],
)
def test_a_character_set_that_is_not_for_clients_is_refused(charset: str) -> None:
    (message,) = refusals_of(f"shop@db/orders?charset={charset}")

    assert "the option charset is a character set for clients, such as utf8mb4, not " in message


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ("collation=latin1_swedish_ci", "write charset=latin1, or another collation"),
        ("charset=latin1&collation=utf8mb4_bin", "write charset=utf8mb4, or another collation"),
        ("charset=utf8mb4&collation=utf8mb3_bin", "write charset=utf8mb3, or another collation"),
        ("collation=utf8mb4_bin'--", "the option collation is the name of a collation"),
        ("collation=utf8mb4_bin%20x", "the option collation is the name of a collation"),
    ],
)
def test_a_collation_of_another_character_set_is_refused(options: str, remedy: str) -> None:
    (message,) = refusals_of(f"shop@db/orders?{options}")

    assert remedy in message


# --- the rest --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_silent_server_is_not_waited_for_forever(scheme: str) -> None:
    for options, read, write in (
        ("", DEFAULT_READ_TIMEOUT, DEFAULT_READ_TIMEOUT),
        ("read_timeout=5", 5.0, 5.0),
        ("read_timeout=5&write_timeout=7", 5.0, 7.0),
        ("write_timeout=7", DEFAULT_READ_TIMEOUT, 7.0),
    ):
        arguments = arguments_of(f"{scheme}://shop@db/orders?{options}")

        assert (arguments["read_timeout"], arguments["write_timeout"]) == (read, write)


@pytest.mark.parametrize(
    "url", ["mysql://db/x", "mysql+mysqlclient://db/x", "postgresql://db/x", "sqlite:////tmp/x.db"]
)
def test_the_codes_of_the_settings_reach_each_driver(url: str) -> None:
    driver: Any = for_database(settings_of(url, close_on_errors=["HY000", "22012"]))

    assert driver.close_on_errors == {"HY000", "22012"}


@pytest.mark.parametrize("option", ["program_name=shop", "bind_address=127.0.0.1", "ssl_key_password=geheim"])
def test_an_option_that_mysqlclient_lacks_is_refused(option: str) -> None:
    with pytest.raises(ConfigError) as caught:
        for_database(settings_of(f"mysql+mysqlclient://shop@db/orders?{option}"))

    assert f"{option.partition('=')[0]} is not an option of mysql+mysqlclient://: mysqlclient " in str(caught.value)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("scheme", [*SCHEMES, "postgresql"])
@pytest.mark.parametrize("address", ["a%00b@db/x", "shop:s3%00cret@db/x", "shop@db/x%00y"])
def test_a_nul_that_would_end_the_text_is_refused(address: str, scheme: str) -> None:
    with pytest.raises(ConfigError, match="NUL") as caught:
        for_database(settings_of(f"{scheme}://{address}"))

    assert "s3" not in str(caught.value)


def test_the_password_is_in_no_repr() -> None:
    options = mysql_options.read(settings_of("mysql://shop:geheim@db/orders"))

    assert options.password == "geheim"
    assert "geheim" not in repr(options)
