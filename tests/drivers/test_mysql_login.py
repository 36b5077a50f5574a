"""The login to MySQL by caching_sha2_password while the server's cache does not have the account."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import MySQLdb
import pymysql
import pytest

from drivers.shops import driver_of, new_name
from faults.proxy import Proxy
from servers.mysql import MySQL
from unit.fakes import PATIENCE, run_python
from wsgipool import ConfigError
from wsgipool.demo.mariadb import Server

pytestmark = pytest.mark.compat  # it takes a MySQL

WITHOUT_CRYPTOGRAPHY = """
import sys
sys.modules["cryptography"] = None  # the import fails as if it were not installed

from faults.harness import pool_of, value
from wsgipool import ConnectFailed

try:
    with pool_of("URL").connection() as connection:
        print(value(connection, "SELECT 'logged in'"))
except ConnectFailed as error:
    print(error)
"""


@pytest.fixture(scope="module")
def mysql_with_tls(servers_folder: Path) -> Iterator[MySQL]:
    folder = servers_folder / "mysql-with-tls"
    folder.mkdir()
    with MySQL(folder, {"tls_version": "TLSv1.3"}) as server:
        server.start()
        yield server


def url_of_new_account(server: Server, driver: str = "mysql") -> str:
    """Return the URL of an account that has never logged in, so the server's cache does not have it."""
    name = new_name()
    with server.admin() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE USER {name} IDENTIFIED BY %s", (server.password,))
    return f"{driver}://{name}:{server.password}@{server.host}:{server.port}/"


def login_without_cryptography(url: str) -> str:
    return run_python(WITHOUT_CRYPTOGRAPHY.replace("URL", url)).strip()


def test_a_first_login_without_tls_and_cryptography_says_what_is_missing(mysql_server: Server) -> None:
    url = url_of_new_account(mysql_server)

    outcome = login_without_cryptography(url)

    assert "cannot connect pool 'shop' to mysql://" in outcome
    assert "cryptography" in outcome
    assert mysql_server.password not in outcome


def test_an_account_in_the_servers_cache_needs_no_cryptography(mysql_server: Server) -> None:
    url = url_of_new_account(mysql_server)
    with mysql_server.connect(url.partition("://")[2].partition(":")[0], mysql_server.password):
        pass

    assert login_without_cryptography(url) == "logged in"


def test_a_first_login_with_tls_needs_no_cryptography(mysql_with_tls: Server) -> None:
    assert login_without_cryptography(url_of_new_account(mysql_with_tls)) == "logged in"


def test_a_first_login_by_mysqlclient_needs_no_cryptography(mysql_server: Server) -> None:
    url = url_of_new_account(mysql_server, "mysql+mysqlclient")

    assert login_without_cryptography(url) == "logged in"


@pytest.mark.parametrize(
    ("driver", "options"),
    [
        *itertools.product(
            ["mysql", "mysql+mysqlclient"],
            ["", "?ssl_mode=DISABLED", "?ssl_mode=PREFERRED", "?ssl_mode=REQUIRED", "?ssl_mode=VERIFY_IDENTITY"],
        )
    ],
)
def test_no_password_is_sent_in_clear_text_to_a_server_without_tls(
    driver: str, options: str, mysql_server: Server
) -> None:
    with Proxy(mysql_server.port) as proxy:
        with contextlib.suppress(ConfigError, pymysql.Error, MySQLdb.Error):
            shop = driver_of(proxy.through(url_of_new_account(mysql_server, driver)) + options)
            shop.close(shop.connect(PATIENCE))

        assert mysql_server.password.encode() not in proxy.to_server
