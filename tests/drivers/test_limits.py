"""What database servers say of their limits, asked by each driver."""

from __future__ import annotations

import pytest

from wsgipool import config
from wsgipool.demo.mariadb import MariaDB
from wsgipool.demo.postgresql import PostgreSQL
from wsgipool.drivers.limits import ServerLimit, ask, has_limit


def settings(url: str) -> config.DatabaseSettings:
    return config.load({"databases": {"shop": {"url": url}}}).databases["shop"]


@pytest.mark.parametrize("driver", ["mysql", "mysql+mysqlclient"])
def test_mariadb_says_its_own_limit_and_the_accounts(driver: str, mariadb: MariaDB, mariadb_shop: str) -> None:
    known = settings(mariadb_shop.replace("mysql+mysqlclient", driver))
    user = known.url.user

    before = ask(known, timeout=10)
    with mariadb.admin() as connection, connection.cursor() as cursor:
        cursor.execute(f"ALTER USER {user} WITH MAX_USER_CONNECTIONS 12")
    after = ask(known, timeout=10)

    assert before == [ServerLimit("server", "max_connections", 200)]
    assert after == [*before, ServerLimit("user", "max_user_connections", 12)]


def test_postgresql_says_its_own_limit_the_roles_and_the_databases(postgresql: PostgreSQL) -> None:
    url = postgresql.create_database("limited")

    before = ask(settings(url), timeout=10)
    with postgresql.admin() as connection:
        connection.execute("ALTER ROLE limited CONNECTION LIMIT 12")
        connection.execute("ALTER DATABASE limited CONNECTION LIMIT 20")
    after = ask(settings(url), timeout=10)

    # PostgreSQL's defaults: 100, 3 of them for superusers.
    assert before == [ServerLimit("server", "max_connections less the reserved", 97)]
    assert after == [
        *before,
        ServerLimit("user", "CONNECTION LIMIT of the role", 12),
        ServerLimit("database", "CONNECTION LIMIT of the database", 20),
    ]


def test_a_file_has_no_limit() -> None:
    assert not has_limit(settings("sqlite:////srv/shop.db").url)
