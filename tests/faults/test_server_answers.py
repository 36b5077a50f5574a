"""The pool's reaction to a server's error codes: permanent refusals, and temporary conflicts."""

from __future__ import annotations

from typing import Any

import MySQLdb
import pymysql
import pytest

from faults.conftest import MakePool
from faults.harness import connect_plainly, password_of, run, user_of, value
from faults.proxy import Proxy
from unit.fakes import eventually
from wsgipool import ConnectFailed, PoolError
from wsgipool.demo.mariadb import MariaDB


@pytest.mark.parametrize("change", ["ACCOUNT LOCK", "REQUIRE SUBJECT '/CN=somebody'"])
@pytest.mark.parametrize("scheme", ["mysql", "mysql+mysqlclient"])
def test_a_refused_account_is_not_tried_again_at_once(
    scheme: str, change: str, make_pool: MakePool, proxy: Proxy, shop: str, mariadb: MariaDB
) -> None:
    with mariadb.admin() as connection:
        run(connection, f"ALTER USER {user_of(shop)} {change}")
    pool = make_pool(proxy.through(shop).replace("mysql:", f"{scheme}:"), max_size=4)

    for _ in range(20):
        with pytest.raises(ConnectFailed):
            pool.getconn()

    assert proxy.accepted <= 2


@pytest.mark.parametrize("scheme", ["mysql", "mysql+mysqlclient"])
def test_an_account_with_an_expired_password_is_served_after_its_change(
    scheme: str, make_pool: MakePool, shop: str, mariadb: MariaDB
) -> None:
    # MariaDB allows the login and answers each statement with 1820. MySQL answers the login with it.
    pool = make_pool(shop.replace("mysql:", f"{scheme}:"))

    def is_served() -> bool:
        try:
            with pool.connection() as connection:
                return bool(value(connection, "SELECT 1"))
        except (PoolError, pymysql.Error, MySQLdb.Error):
            return False

    with mariadb.admin() as connection:
        run(connection, f"ALTER USER {user_of(shop)} PASSWORD EXPIRE")
        expired = is_served()
        run(connection, f"ALTER USER {user_of(shop)} IDENTIFIED BY '{password_of(shop)}'")

    with connect_plainly(shop):
        """mysqlclient cannot do the first login to MySQL without TLS."""

    assert not expired
    eventually(is_served)


@pytest.mark.parametrize("scheme", ["mysql", "mysql+mysqlclient"])
def test_a_transaction_with_nowait_can_be_run_again(scheme: str, make_pool: MakePool, shop: str) -> None:
    pool = make_pool(shop.replace("mysql:", f"{scheme}:"), timeout=5)
    other = connect_plainly(shop)
    run(other, "SELECT stock FROM books WHERE id = 1 FOR UPDATE")
    tries: list[Any] = []

    def take_stock(connection: Any) -> int:
        tries.append(connection)
        if len(tries) == 2:
            run(other, "ROLLBACK")
        stock: int = value(connection, "SELECT stock FROM books WHERE id = 1 FOR UPDATE NOWAIT")
        return stock

    assert pool.transaction(take_stock, retry=2) == 10
    assert len(tries) == 2
    with other:
        """Make a pool that is closed at the end."""


@pytest.mark.parametrize("scheme", ["mysql", "mysql+mysqlclient"])
def test_the_programs_read_only_transaction_costs_no_connection(scheme: str, make_pool: MakePool, shop: str) -> None:
    pool = make_pool(shop.replace("mysql:", f"{scheme}:"))
    connection = pool.getconn()

    run(connection, "START TRANSACTION READ ONLY")
    with pytest.raises((pymysql.Error, MySQLdb.Error), match="READ ONLY transaction"):
        run(connection, "UPDATE books SET stock = 0")
    pool.putconn(connection)

    with pool.connection() as again:
        assert again is connection
