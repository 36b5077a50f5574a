from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from drivers.shops import Connect, MakePool, Shop, driver_of, new_name, shop_on
from servers.postgresql import PostgreSQL
from unit.fakes import PATIENCE, eventually
from wsgipool import Pool
from wsgipool.demo.mariadb import Server
from wsgipool.drivers import Driver


@pytest.fixture
def mariadb_shop(database_server: Server) -> Iterator[str]:
    """The URL of a shop on `database_server`, so on MariaDB and on MySQL."""
    with shop_on(database_server) as url:
        yield url


@pytest.fixture
def postgresql_shop(postgresql: PostgreSQL) -> Iterator[str]:
    """The URL of a new PostgreSQL database with a table of books; all its sessions end with the test."""
    name = new_name()
    url = postgresql.create_database(name)
    with postgresql.admin(name) as connection:
        connection.execute("CREATE TABLE books (id INT PRIMARY KEY, stock INT NOT NULL)")
        connection.execute("INSERT INTO books VALUES (1, 10), (2, 20)")
        connection.execute("GRANT ALL ON books TO PUBLIC")
    yield url
    with postgresql.admin() as connection:
        eventually(
            lambda: not connection.execute("SELECT 1 FROM pg_stat_activity WHERE usename = %s", (name,)).rowcount
        )


@pytest.fixture
def driver(shop: Shop) -> Driver[Any]:
    return shop.driver


@pytest.fixture
def connect(shop: Shop) -> Iterator[Connect]:
    """A function that connects to the shop by a URL with these options; connections are closed at the end."""
    connected: list[Any] = []

    def connect(options: str = "") -> Any:
        connected.append(driver_of(f"{shop.url}?{options}").connect(PATIENCE))
        return connected[-1]

    yield connect
    for connection in connected:
        shop.driver.close(connection)


@pytest.fixture
def make_pool(shop: Shop) -> Iterator[MakePool]:
    """A function that makes pools for the module's shop; all are closed at the end."""
    pools: list[Pool[Any]] = []

    def make(**settings: Any) -> Pool[Any]:
        pools.append(Pool(shop.driver, name="shop", timeout=3 * PATIENCE, **settings))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
