"""Drivers made from keyword arguments, without a server."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from pymysql.constants import CLIENT
from pymysql.cursors import DictCursor

from unit.fakes import PATIENCE
from unit.test_drivers_pymysql import Recorded
from wsgipool import ConfigError
from wsgipool.config import DatabaseSettings, parse_url
from wsgipool.drivers import DEFAULT_READ_TIMEOUT, account_of, driver, for_database, server_of

ARGUMENTS = {"host": "DB.example", "port": 3307, "user": "shop", "password": "s3cret", "database": "orders"}
POSTGRESQL = "host=DB.example port=5433 user=shop password=s3cret dbname=orders"


def recorded(monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> dict[str, Any]:
    """Return PyMySQL's arguments."""

    def record(**arguments: object) -> None:
        raise Recorded(arguments)

    monkeypatch.setattr("wsgipool.drivers.pymysql.connection_class", lambda _: record)
    with pytest.raises(Recorded) as caught:
        driver("pymysql", **ARGUMENTS | arguments).connect(30.0)
    given: dict[str, Any] = caught.value.args[0]
    return given


def test_pymysql_gets_what_its_connect_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {
        "client_flag": CLIENT.FOUND_ROWS, "local_infile": True, "conv": {}, "cursorclass": DictCursor,
        "program_name": "shop", "init_command": "SET @a = 1",
    }  # fmt: skip

    given = recorded(monkeypatch, **own)

    assert given == {
        **ARGUMENTS, **own, "password": b"s3cret", "connect_timeout": 10.0, "read_timeout": DEFAULT_READ_TIMEOUT,
        "write_timeout": DEFAULT_READ_TIMEOUT, "defer_connect": True,
    }  # fmt: skip


def test_a_table_of_the_settings_takes_more_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    def record(**arguments: object) -> None:
        raise Recorded(arguments)

    monkeypatch.setattr("wsgipool.drivers.pymysql.connection_class", lambda _: record)
    table = DatabaseSettings("orders", parse_url("mysql://shop@db/orders?autocommit=false&charset=latin1"), "")
    with pytest.raises(Recorded) as caught:
        for_database(table, client_flag=CLIENT.FOUND_ROWS, autocommit=True).connect(30.0)

    given = caught.value.args[0]
    assert (given["client_flag"], given["autocommit"], given["charset"]) == (CLIENT.FOUND_ROWS, True, "latin1")


def test_given_timeouts_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    given = recorded(monkeypatch, connect_timeout=3, read_timeout=None)

    assert [given[f"{name}_timeout"] for name in ("connect", "read", "write")] == [3, None, None]


def test_a_password_is_sent_as_the_mysql_client_sends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert recorded(monkeypatch, password="grün")["password"] == "grün".encode()


@pytest.mark.parametrize("name", ["pymysql", "mysqlclient", "MySQLdb", "psycopg", "sqlite", "sqlite3"])
def test_an_unknown_argument_is_named(name: str, tmp_path: Path) -> None:
    arguments = [tmp_path / "shop.db"] if name.startswith("sqlite") else []

    with pytest.raises(ConfigError, match=r"timeot is not an argument of connect\(\)"):
        driver(name, *arguments, timeot=3)


def test_a_module_that_has_no_driver_is_named() -> None:
    with pytest.raises(ConfigError, match="no driver for pymysq; did you mean pymysql"):
        driver("pymysq")


def test_pymysql_takes_no_arguments_by_place() -> None:
    with pytest.raises(TypeError, match="positional"):
        driver("pymysql", "db")


def test_a_missing_certificate_is_an_error_of_the_settings() -> None:
    with pytest.raises(ConfigError, match=r"mysql://shop@DB\.example:3307/orders: the TLS files cannot be used"):
        driver("pymysql", **ARGUMENTS, ssl_ca="/no/ca.pem")


def test_mysqlclient_needs_a_user() -> None:
    with pytest.raises(ConfigError, match="no user; give user=NAME"):
        driver("mysqlclient", host="db")


@pytest.mark.parametrize("database", ["", ":memory:"])
def test_sqlite_needs_a_file(database: str) -> None:
    with pytest.raises(ConfigError, match="is no file"):
        driver("sqlite", database)


def test_a_wrong_conninfo_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        driver("psycopg", "host=db password=s3cret dbname")

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("made", "url"),
    [
        (lambda: driver("pymysql", **ARGUMENTS), "mysql://shop@DB.example:3307/orders"),
        (lambda: driver("pymysql", user="shop"), "mysql://shop@localhost:3306/"),
        (
            lambda: driver("pymysql", **{**ARGUMENTS, "host": None, "port": 0}, unix_socket="/run/m.sock"),
            "mysql://shop@/orders?unix_socket=/run/m.sock",
        ),
        (lambda: driver("mysqlclient", **ARGUMENTS), "mysql+mysqlclient://shop@DB.example:3307/orders"),
        (
            lambda: driver("mysqlclient", user="shop", unix_socket="/run/m.sock"),
            "mysql+mysqlclient://shop@/?unix_socket=/run/m.sock",
        ),
        (lambda: driver("psycopg", POSTGRESQL), "postgresql://shop@DB.example:5433/orders"),
        (lambda: driver("psycopg", POSTGRESQL, host="/run/postgresql"), "postgresql://shop@%2Frun%2Fpostgresql:5433/orders"),
    ],
)  # fmt: skip
def test_the_url_gives_the_names_of_the_server_and_the_account(made: Any, url: str) -> None:
    by_arguments, expected = made(), parse_url(url)

    assert (by_arguments.server, by_arguments.account) == (server_of(expected), account_of(expected))
    assert by_arguments.server is not None
    assert by_arguments.address == str(expected)
    assert "s3cret" not in f"{by_arguments!r} {by_arguments.address}"


def test_sqlite_opens_a_file_with_the_arguments_of_its_connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sqlite = driver("sqlite", "shop.db", isolation_level="IMMEDIATE", detect_types=sqlite3.PARSE_DECLTYPES)
    connection = sqlite.connect(PATIENCE)
    sqlite.remember(connection)

    assert sqlite.check_out(connection, threading.get_ident(), PATIENCE)
    assert connection.isolation_level == "IMMEDIATE"
    assert (sqlite.address, sqlite.server, sqlite.account) == (f"sqlite:///{tmp_path}/shop.db", None, "")
    sqlite.close(connection)
