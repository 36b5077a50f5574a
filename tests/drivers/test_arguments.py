"""Drivers made from keyword arguments, on real servers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg.rows
import pymysql
import pytest
from psycopg.adapt import AdaptersMap
from psycopg.types.string import TextLoader
from pymysql.constants import CLIENT
from pymysql.cursors import DictCursor

from drivers.shops import run, shop_on
from unit.fakes import PATIENCE
from wsgipool.config import parse_url
from wsgipool.drivers import driver


@contextlib.contextmanager
def held(name: str, *args: Any, **arguments: Any) -> Iterator[Any]:
    """A connection that this thread holds."""
    made = driver(name, *args, **arguments)
    connection = made.connect(PATIENCE)
    try:
        made.remember(connection)
        assert made.check_out(connection, threading.get_ident(), PATIENCE)
        yield connection
        made.check_in(connection, "session")
        assert made.check_out(connection, threading.get_ident(), PATIENCE)
    finally:
        made.close(connection)


@pytest.fixture(scope="module")
def account(mariadb_server: Any) -> Iterator[dict[str, Any]]:
    with shop_on(mariadb_server) as address:
        url = parse_url(address)
        yield {"host": url.host, "port": url.port, "user": url.user, "password": url.password, "database": url.database}


@pytest.mark.parametrize("name", ["pymysql", "mysqlclient"])
def test_found_rows_counts_what_an_update_has_found(name: str, account: dict[str, Any]) -> None:
    with held(name, **account, client_flag=CLIENT.FOUND_ROWS) as connection, connection.cursor() as cursor:
        assert cursor.execute("UPDATE books SET stock = stock WHERE id = 1") == 1


@pytest.mark.parametrize("fast_reading", [True, False])
def test_a_local_file_is_sent_where_the_program_allows_it(
    fast_reading: bool, account: dict[str, Any], mariadb_server: Any, tmp_path: Path
) -> None:
    file = tmp_path / "books.csv"
    file.write_text("7,70\n8,80\n")
    load = f"LOAD DATA LOCAL INFILE '{file}' INTO TABLE books FIELDS TERMINATED BY ','"
    with mariadb_server.admin() as admin:
        run(admin, "SET GLOBAL local_infile = 1")

    with held("pymysql", **account, local_infile=True, fast_reading=fast_reading) as connection:
        run(connection, load)
        with connection.cursor() as cursor:
            assert cursor.execute("SELECT id FROM books WHERE id IN (7, 8)") == 2
    with held("pymysql", **account, fast_reading=fast_reading) as connection, pytest.raises(pymysql.Error):
        run(connection, load)


@pytest.mark.parametrize("fast_reading", [True, False])
def test_a_missing_local_file_leaves_no_answers_of_further_statements(
    fast_reading: bool, account: dict[str, Any], mariadb_server: Any
) -> None:
    load = "LOAD DATA LOCAL INFILE '/no/such/file' INTO TABLE books"
    with mariadb_server.admin() as admin:
        run(admin, "SET GLOBAL local_infile = 1")
    account = account | {"local_infile": True, "autocommit": True, "fast_reading": fast_reading}

    with held("pymysql", **account) as connection:
        with pytest.raises(pymysql.OperationalError, match="no/such/file"):
            run(connection, load)
        run(connection, "SELECT 1")
    several = driver("pymysql", **account, client_flag=CLIENT.MULTI_STATEMENTS)
    with contextlib.closing(several.connect(PATIENCE)) as connection:
        assert several.check_out(connection, threading.get_ident(), PATIENCE)
        with pytest.raises(pymysql.OperationalError, match="no/such/file"):
            run(connection, f"{load}; SELECT SLEEP(0.2)")
        with pytest.raises(pymysql.Error, match="answer"):
            several.check_in(connection, "rollback")


def test_a_connect_timeout_of_0_leaves_it_to_the_pool(account: dict[str, Any], postgresql_shop: str) -> None:
    with (
        held("mysqlclient", **account, connect_timeout=0, read_timeout=0),
        held("psycopg", postgresql_shop, connect_timeout=0),
    ):
        pass


def test_cursors_and_converters_are_the_programs(account: dict[str, Any]) -> None:
    with (
        held("pymysql", **account, cursorclass=DictCursor, conv={}) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT id FROM books WHERE id = 1")
        assert cursor.fetchone() == {"id": "1"}


def test_psycopg_takes_a_row_factory_autocommit_and_a_context(postgresql_shop: str) -> None:
    context = AdaptersMap(psycopg.adapters)
    context.register_loader("int4", TextLoader)
    arguments = {"autocommit": True, "row_factory": psycopg.rows.dict_row}

    with held("psycopg", postgresql_shop, context=Context(context), **arguments) as connection:
        assert connection.autocommit
        assert connection.execute("SELECT id FROM books WHERE id = 1").fetchone() == {"id": "1"}


class Context:
    """An AdaptContext of psycopg."""

    connection = None

    def __init__(self, adapters: AdaptersMap) -> None:
        self.adapters = adapters
