"""The promises of the mysqlclient driver alone, tested on a real MariaDB."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import MySQLdb
import pytest

from drivers.shops import Connect, MakePool, MariaDBShop, clean, driver_of, run, value
from unit.fakes import PATIENCE, Task
from wsgipool import ConfigError, drivers
from wsgipool.demo.mariadb import MariaDB
from wsgipool.drivers import mysqlclient
from wsgipool.drivers.mysqlclient import MySQLClientDriver


@pytest.fixture
def shop(mariadb: MariaDB, mariadb_shop: str) -> MariaDBShop:
    return MariaDBShop(mariadb, mariadb_shop)


# --- the URL ---------------------------------------------------------------------------------------------------------


def connect_arguments(options: str, timeout: float, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return MySQLdb's arguments."""
    given: dict[str, Any] = {}

    class Recorded(Exception):
        pass

    def record(**arguments: Any) -> None:
        given.update(arguments)
        raise Recorded

    monkeypatch.setattr(mysqlclient, "PooledConnection", record)
    with pytest.raises(Recorded):
        driver_of(f"mysql+mysqlclient://shop@db/orders?{options}").connect(timeout)
    return given


def test_a_fraction_of_a_second_counts_as_a_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = connect_arguments("read_timeout=0.5&write_timeout=2.1&connect_timeout=5", 3.9, monkeypatch)

    assert [arguments[f"{name}_timeout"] for name in ("read", "write", "connect")] == [1, 3, 3]


@pytest.mark.parametrize("of_mariadb", [True, False])
@pytest.mark.parametrize(
    ("options", "mode", "restricted"),
    [
        ("", "PREFERRED", "wsgipool"),
        ("ssl_mode=REQUIRED", "REQUIRED", "wsgipool-tls-required"),
        ("ssl_disabled=true", "DISABLED", "wsgipool"),
        ("ssl_verify_identity=true", "VERIFY_IDENTITY", None),
        ("ssl_mode=VERIFY_CA", "VERIFY_CA", None),
    ],
)
def test_each_client_library_gets_the_mode_and_mariadbs_the_allowed_plugins(
    options: str, mode: str, restricted: str | None, of_mariadb: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mysqlclient, "IS_MARIADB_LIBRARY", of_mariadb)
    if of_mariadb and mode == "VERIFY_CA":
        with pytest.raises(ConfigError, match=r"ssl_mode=VERIFY_CA: MariaDB's client library"):
            connect_arguments(options, 1, monkeypatch)
        return

    arguments = connect_arguments(options, 1, monkeypatch)

    assert arguments["ssl_mode"] == mode
    assert arguments.get("read_default_group") == (restricted if of_mariadb else None)
    # Without an authority in the URL, the system's; not all libraries would use these.
    assert bool(arguments.get("ssl")) is mode.startswith("VERIFY")


# --- connecting ------------------------------------------------------------------------------------------------------


def test_a_connection_is_what_the_url_says(shop: MariaDBShop, connect: Connect) -> None:
    connection = connect()

    assert isinstance(connection, MySQLdb.connections.Connection)
    assert value(connection, "SELECT current_user()") == f"{shop.user}@%"
    assert value(connection, "SELECT database()") == shop.user
    assert value(connection, "SELECT @@character_set_client") == "utf8mb4"
    assert value(connection, "SELECT @@autocommit") == 0


@pytest.mark.parametrize("renewed", [False, True])
def test_the_options_reach_the_session_and_outlast_its_reset(
    renewed: bool, shop: MariaDBShop, connect: Connect
) -> None:
    options = "collation=utf8mb4_bin&sql_mode=ANSI_QUOTES&autocommit=on&init_command=SET%20@greeting%3D'hello'"
    connection = connect(options)

    if renewed:
        run(connection, "SET NAMES latin1", "SET sql_mode = ''", "SET autocommit = 0", "SET @greeting = 'bye'")
        connection.set_character_set("latin1")
        clean(driver_of(f"{shop.url}?{options}"), connection, "session")

    assert value(connection, "SELECT @@collation_connection") == "utf8mb4_bin"
    assert value(connection, "SELECT @@sql_mode") == "ANSI_QUOTES"
    assert value(connection, "SELECT @@autocommit") == 1
    assert value(connection, "SELECT @greeting") == "hello"
    assert value(connection, "SELECT 'ж'") == "ж"


def test_required_tls_that_the_server_lacks_is_an_error(shop: MariaDBShop) -> None:
    with pytest.raises(MySQLdb.OperationalError, match=r"(?i)ssl|tls"):
        driver_of(f"{shop.url}?ssl_mode=REQUIRED").connect(PATIENCE)


# --- the reset -------------------------------------------------------------------------------------------------------


def test_a_reset_begins_no_transaction(driver: MySQLClientDriver, connect: Connect) -> None:
    returned, other = connect("autocommit=on"), connect()
    run(returned, "SET completion_type = 1", "START TRANSACTION")
    clean(driver, returned)

    run(returned, "UPDATE books SET stock = 7")

    assert value(other, "SELECT MIN(stock) FROM books") == 7


def test_a_reset_ends_the_snapshot_of_a_select(driver: MySQLClientDriver, connect: Connect) -> None:
    returned, other = connect(), connect("autocommit=on")
    assert value(returned, "SELECT stock FROM books WHERE id = 1") == 10
    run(other, "UPDATE books SET stock = 9 WHERE id = 1")

    clean(driver, returned)

    assert value(returned, "SELECT stock FROM books WHERE id = 1") == 9


def test_a_session_reset_drops_temporary_tables_and_unlocks(driver: MySQLClientDriver, connect: Connect) -> None:
    returned, other = connect(), connect()
    run(returned, "CREATE TEMPORARY TABLE basket (id INT)", "LOCK TABLES books WRITE")

    clean(driver, returned, "session")

    assert value(other, "SELECT count(*) FROM books") == 2
    with pytest.raises(MySQLdb.ProgrammingError, match="basket"):
        value(returned, "SELECT count(*) FROM basket")


@pytest.mark.parametrize("how", ["rollback", "session"])
def test_an_unexpected_second_result_is_not_waited_for(
    how: drivers.Reset, driver: MySQLClientDriver, connect: Connect
) -> None:
    connection = connect()
    cursor = connection.cursor()
    cursor.execute("SELECT 1; SELECT 2")

    with pytest.raises(MySQLdb.Error):
        driver.check_in(connection, how)

    del cursor


def test_a_slow_second_result_is_not_waited_for(driver: MySQLClientDriver, shop: MariaDBShop, connect: Connect) -> None:
    connection = connect()
    session = shop.session_of(connection)
    connection.query("SELECT 1; DO SLEEP(60)")
    connection.store_result()

    with pytest.raises(MySQLdb.Error, match="not read to its end"):
        Task(lambda: driver.check_in(connection, "rollback")).result()

    shop.kill(session)


# --- the end ---------------------------------------------------------------------------------------------------------


def test_another_file_with_the_number_of_a_closed_socket_is_left_alone(
    shop: MariaDBShop, connect: Connect, tmp_path: Path
) -> None:
    connection = connect()
    number = connection.fileno()
    shop.kill(shop.session_of(connection))
    with pytest.raises(MySQLdb.OperationalError):
        value(connection, "SELECT 1")  # the library closes its socket here
    assert connection.fileno() == number
    orders = os.open(tmp_path / "orders", os.O_CREAT | os.O_RDWR)
    os.dup2(orders, number)

    shop.driver.after_fork(connection)

    assert os.path.sameopenfile(orders, number)
    for descriptor in {orders, number}:
        os.close(descriptor)


# --- results that were left unread -----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_closed", [True, False])
@pytest.mark.parametrize("readonly", [True, False])
def test_an_unread_status_of_a_call_costs_no_session(
    readonly: bool, is_closed: bool, make_pool: MakePool, connect: Connect
) -> None:
    run(connect(), "CREATE PROCEDURE list_books() SELECT * FROM books")
    pool = make_pool(max_size=1)
    sessions = set()

    for _ in range(3):
        with pool.connection(readonly=readonly) as connection:
            cursor = connection.cursor()
            cursor.execute("CALL list_books()")
            assert len(cursor.fetchall()) == 2
            if is_closed:
                cursor.close()
            sessions.add(connection.thread_id())

    assert len(sessions) == 1


@pytest.mark.parametrize("statement", ["SELECT 1; SELECT 2", "SELECT 1; DO 0; SELECT 2"])
def test_the_error_for_unread_rows_names_the_remedy(
    statement: str, driver: MySQLClientDriver, connect: Connect
) -> None:
    connection = connect()
    cursor = connection.cursor()
    cursor.execute(statement)

    remedy = r"a result was not read to its end; after CALL read the rest by nextset\(\), or close the cursor"
    with pytest.raises(MySQLdb.OperationalError, match=remedy):
        driver.check_in(connection, "rollback")


def test_no_file_of_this_machine_is_given_to_a_server(mariadb: MariaDB, connect: Connect, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("1\t2\n")
    with mariadb.admin() as admin:
        run(admin, "SET GLOBAL local_infile = ON")
    connection = connect()

    with pytest.raises(MySQLdb.Error):
        run(connection, f"LOAD DATA LOCAL INFILE '{secret}' INTO TABLE books")
