from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from faults.harness import pool_of
from faults.proxy import Proxy
from httpd.harness import sessions
from unit.fakes import eventually
from wsgipool import Pool
from wsgipool.demo.mariadb import Server

MakePool = Callable[..., Pool[Any]]


_numbers = itertools.count(1)


def new_shop(mariadb: Server) -> str:
    """Return the URL of a new database with a table of two books; its user has the database's name."""
    name = f"faulty_shop{next(_numbers)}"
    url = mariadb.create_database(name)
    with mariadb.admin(name) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE books (id INT PRIMARY KEY, stock INT NOT NULL) ENGINE=InnoDB")
        cursor.execute("INSERT INTO books VALUES (1, 10), (2, 20)")
    return url


@pytest.fixture
def shop(mariadb: Server) -> Iterator[str]:
    """The URL of a new database; all its sessions end with the test."""
    url = new_shop(mariadb)
    yield url
    user = url.rpartition("/")[2]
    eventually(lambda: not sessions(mariadb, user))


@pytest.fixture
def make_pool(shop: str) -> Iterator[MakePool]:
    """A function that makes pools for the shop or another URL; all are closed at the end."""
    pools: list[Pool[Any]] = []

    def make(url: str = shop, **settings: Any) -> Pool[Any]:
        pools.append(pool_of(url, **settings))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture
def proxy(mariadb: Server) -> Iterator[Proxy]:
    """A proxy before the server that all tests share."""
    with Proxy(mariadb.port) as proxy:
        yield proxy


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The package's log, from level INFO."""
    caplog.set_level(logging.INFO, logger="wsgipool")
    return caplog
