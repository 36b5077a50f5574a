"""The limits of database servers, asked by each driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

import wsgipool
from drivers.shops import run
from servers.postgresql import PostgreSQL
from wsgipool import PoolTimeout, config, drivers, pools
from wsgipool.demo.mariadb import MariaDB
from wsgipool.drivers.limits import ServerLimit, ask, has_limit, sessions_allowed


def settings(url: str) -> config.DatabaseSettings:
    return config.load({"databases": {"shop": {"url": url}}}).databases["shop"]


@contextmanager
def connected(known: config.DatabaseSettings) -> Iterator[Any]:
    driver = drivers.for_database(known)
    connection = driver.connect(10)
    yield connection
    driver.close(connection)


@pytest.mark.parametrize("driver", ["mysql", "mysql+mysqlclient"])
def test_mariadb_reports_the_limits_of_server_and_account(driver: str, mariadb: MariaDB, mariadb_shop: str) -> None:
    known = settings(mariadb_shop.replace("mysql+mysqlclient", driver))
    user = known.url.user

    before = ask(known, timeout=10).limits
    with mariadb.admin() as connection, connection.cursor() as cursor:
        cursor.execute(f"ALTER USER {user} WITH MAX_USER_CONNECTIONS 12")
    after = ask(known, timeout=10).limits

    assert before == [ServerLimit("server", "max_connections", 200)]
    assert after == [*before, ServerLimit("user", "max_user_connections", 12)]


def test_postgresql_reports_the_limits_of_server_role_and_database(postgresql: PostgreSQL) -> None:
    url = postgresql.create_database("limited")

    before = ask(settings(url), timeout=10).limits
    with postgresql.admin() as connection:
        connection.execute("ALTER ROLE limited CONNECTION LIMIT 12")
        connection.execute("ALTER DATABASE limited CONNECTION LIMIT 20")
    after = ask(settings(url), timeout=10).limits

    # PostgreSQL's defaults: 100, 3 of them for superusers.
    assert before == [ServerLimit("server", "max_connections less the reserved", 97)]
    assert after == [
        *before,
        ServerLimit("user", "CONNECTION LIMIT of the role", 12),
        ServerLimit("database", "CONNECTION LIMIT of the database", 20),
    ]


@pytest.mark.parametrize("driver", ["mysql", "mysql+mysqlclient"])
def test_mariadbs_limits_for_all_and_the_account_are_read(driver: str, mariadb: MariaDB, mariadb_shop: str) -> None:
    known = settings(mariadb_shop.replace("mysql+mysqlclient", driver))

    with connected(known) as connection:
        assert sessions_allowed(known.url, connection) == (200, None)
    with mariadb.admin() as admin:
        run(admin, f"ALTER USER {known.url.user} WITH MAX_USER_CONNECTIONS 7")
    with connected(known) as connection:
        assert sessions_allowed(known.url, connection) == (200, 7)


@pytest.mark.parametrize(
    ("limits", "fewest"),
    [
        (["ROLE {} CONNECTION LIMIT 7"], 7),
        (["DATABASE {} CONNECTION LIMIT 7"], 7),
        (["ROLE {} CONNECTION LIMIT 7", "DATABASE {} CONNECTION LIMIT 9"], 7),
    ],
)
def test_postgresqls_limits_for_all_the_role_and_the_database_are_read(
    limits: list[str], fewest: int, postgresql: PostgreSQL, postgresql_shop: str
) -> None:
    known = settings(postgresql_shop)
    with connected(known) as connection:
        assert sessions_allowed(known.url, connection) == (97, None)
        with postgresql.admin() as admin:
            for limit in limits:
                run(admin, f"ALTER {limit.format(known.url.user)}")

        assert sessions_allowed(known.url, connection) == (97, fewest)

        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """A function that configures databases with an automatic budget, given their URLs by name."""
    monkeypatch.setattr(pools, "_current", None)

    def configure(**urls: str) -> None:
        wsgipool.configure(
            {
                "runtime_dir": str(tmp_path / "run"),
                "budget": {"connections": "auto", "reserve": 0},
                "databases": {name: {"url": url} for name, url in urls.items()},
            }
        )

    yield configure
    wsgipool.close()


def test_an_automatic_budget_keeps_to_the_limit_of_a_role(
    postgresql: PostgreSQL, postgresql_shop: str, configure: Callable[..., None]
) -> None:
    with postgresql.admin() as admin:
        run(admin, f"ALTER ROLE {settings(postgresql_shop).url.user} CONNECTION LIMIT 2")
    configure(shop=postgresql_shop)
    pool = wsgipool.pool("shop")
    held = [pool.getconn(), pool.getconn()]

    with pytest.raises(PoolTimeout, match=r"used up: 2 of 2 connections"):
        pool.getconn(timeout=0.5)

    assert pool.stats().connect_failures == 0
    for connection in held:
        pool.putconn(connection)


@pytest.mark.parametrize("first", ["shop", "report"])
def test_an_automatic_budget_keeps_to_the_limits_of_all_accounts_of_a_server(
    first: str, mariadb: MariaDB, mariadb_shop: str, configure: Callable[..., None]
) -> None:
    report = mariadb.create_database(f"{settings(mariadb_shop).url.user}_report")
    with mariadb.admin() as admin:
        run(admin, f"ALTER USER {settings(report).url.user} WITH MAX_USER_CONNECTIONS 2")
    configure(shop=mariadb_shop, report=report)
    for name in (first, "shop", "report"):
        with wsgipool.connection(name):
            pass
    wsgipool.pool("shop").drain()
    pool = wsgipool.pool("report")
    held = [pool.getconn(), pool.getconn()]

    with pytest.raises(PoolTimeout, match=r"used up: 2 of 2 connections"):
        pool.getconn(timeout=0.5)

    assert pool.stats().connect_failures == 0
    for connection in held:
        pool.putconn(connection)


def test_accounts_differ_if_the_server_may_limit_them_separately() -> None:
    """In PostgreSQL a database may have one, too."""
    mysql, postgresql = ("mysql://{}@db/{}", "postgresql://{}@db/{}")

    def is_one(url: str, *accounts: tuple[str, str]) -> bool:
        return len({drivers.account_of(settings(url.format(*each)).url) for each in accounts}) == 1

    assert is_one(mysql, ("shop", "orders"), ("shop", "archive"))
    assert not is_one(mysql, ("shop", "orders"), ("report", "orders"))
    assert not is_one(postgresql, ("shop", "orders"), ("shop", "archive"))
    assert not is_one(postgresql, ("shop", "orders"), ("report", "orders"))


def test_a_file_has_no_limit() -> None:
    assert not has_limit(settings("sqlite:////srv/shop.db").url)
