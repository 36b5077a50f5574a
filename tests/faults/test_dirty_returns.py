"""State that a holder leaves in a session, and what the next holder finds, on a real MariaDB.

`reset="rollback"` ends the transaction, and no more: variables, temporary tables and locks of the session stay.
`reset="session"` ends all of it. If cleaning would cost more than a new connection, or cannot be trusted, the
connection is replaced. The session's number shows whether it was.
"""

from __future__ import annotations

import gc
import sys
import threading
from typing import Any

import pymysql
import pytest
from pymysql.constants import COMMAND
from pymysql.cursors import SSCursor

from faults.conftest import MakePool
from faults.harness import SOON, Clock, connect_plainly, error_number, run, session_of, user_of, value
from faults.proxy import Proxy
from httpd.harness import eventually, sessions
from servers.sql import ISOLATION, numbers
from unit.fakes import HolderThread, Task
from wsgipool.demo.mariadb import MariaDB
from wsgipool.errors import WrongThread

ROLLBACK, SESSION = {"reset": "rollback"}, {"reset": "session"}
WAYS = [
    pytest.param({"reset": reset, "pipeline": pipeline}, id=f"{reset}-{'pipelined' if pipeline else 'waited for'}")
    for reset in ("rollback", "session")
    for pipeline in (True, False)
]
NO_SUCH_TABLE, WRONG_TABLE_LOCK, LOCK_WAIT_TIMEOUT, DEADLOCK = 1146, 1100, 1205, 1213


def admin_value(mariadb: MariaDB, query: str, *arguments: object) -> Any:
    with mariadb.admin() as admin:
        return value(admin, query, *arguments)


# --- transactions: every kind of cleaning ends them ------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_an_open_transaction_is_rolled_back(make_pool: MakePool, way: dict[str, Any]) -> None:
    pool = make_pool(**way)
    connection = pool.getconn()
    first = session_of(connection)
    run(connection, "UPDATE books SET stock = 0 WHERE id = 1")
    pool.putconn(connection)

    with pool.connection() as connection:
        assert value(connection, "SELECT stock FROM books WHERE id = 1") == 10
        assert session_of(connection) == first


@pytest.mark.parametrize("way", WAYS)
def test_the_locks_of_a_transaction_are_free_before_the_next_checkout(
    make_pool: MakePool, mariadb: MariaDB, shop: str, way: dict[str, Any]
) -> None:
    pool = make_pool(**way)
    connection = pool.getconn()
    run(connection, "UPDATE books SET stock = 0 WHERE id = 1")
    pool.putconn(connection)

    with mariadb.admin(user_of(shop)) as admin:
        run(admin, "SET innodb_lock_wait_timeout = 30")
        clock = Clock()
        run(admin, "UPDATE books SET stock = 11 WHERE id = 1")

    assert clock.seconds < SOON


@pytest.mark.parametrize("way", WAYS)
def test_a_block_that_raises_is_rolled_back_and_its_connection_is_used_again(
    make_pool: MakePool, way: dict[str, Any]
) -> None:
    pool = make_pool(**way)
    first = 0

    def failing_request() -> None:
        nonlocal first
        with pool.connection() as connection:
            first = session_of(connection)
            run(connection, "DELETE FROM books")
            raise KeyError("no such book")

    with pytest.raises(KeyError):
        failing_request()

    with pool.connection(readonly=True) as connection:
        assert value(connection, "SELECT COUNT(*) FROM books") == 2
        assert session_of(connection) == first


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("checkout", ["putconn", "readonly"])
def test_the_next_holder_does_not_read_from_an_open_snapshot(
    make_pool: MakePool, mariadb: MariaDB, shop: str, way: dict[str, Any], checkout: str
) -> None:
    pool = make_pool(**way)
    if checkout == "readonly":
        with pool.connection(readonly=True) as connection:
            first = session_of(connection)
            assert value(connection, f"SELECT {ISOLATION}") == "REPEATABLE-READ"
            assert value(connection, "SELECT stock FROM books WHERE id = 1") == 10
    else:
        connection = pool.getconn()
        first = session_of(connection)
        assert value(connection, "SELECT stock FROM books WHERE id = 1") == 10
        pool.putconn(connection)
    with mariadb.admin(user_of(shop)) as admin:
        run(admin, "UPDATE books SET stock = 9 WHERE id = 1")

    with pool.connection() as connection:
        assert value(connection, "SELECT stock FROM books WHERE id = 1") == 9
        assert session_of(connection) == first


@pytest.mark.parametrize("way", [ROLLBACK, SESSION])
def test_with_autocommit_a_transaction_begun_by_hand_is_rolled_back(make_pool: MakePool, shop: str, way: Any) -> None:
    pool = make_pool(f"{shop}?autocommit=true", **way)
    connection = pool.getconn()
    first = session_of(connection)
    run(connection, "START TRANSACTION")
    run(connection, "UPDATE books SET stock = 0 WHERE id = 1")
    pool.putconn(connection)

    with pool.connection() as connection:
        assert value(connection, "SELECT stock FROM books WHERE id = 1") == 10
        assert session_of(connection) == first


@pytest.mark.parametrize("way", [ROLLBACK, SESSION])
def test_a_transaction_is_rolled_back_after_sql_turned_autocommit_off(make_pool: MakePool, shop: str, way: Any) -> None:
    pool = make_pool(f"{shop}?autocommit=true", **way)
    connection = pool.getconn()
    run(connection, "SET autocommit = 0")
    run(connection, "SELECT * FROM books")
    run(connection, "UPDATE books SET stock = 0 WHERE id = 1")
    pool.putconn(connection)

    with pool.connection() as connection:
        assert value(connection, "SELECT stock FROM books WHERE id = 1") == 10


def test_a_return_begins_no_transaction(make_pool: MakePool, shop: str) -> None:
    pool = make_pool(f"{shop}?autocommit=true", max_size=1, **ROLLBACK)
    connection = pool.getconn()
    run(connection, "SET completion_type = 1")
    run(connection, "START TRANSACTION")
    pool.putconn(connection)

    connection = pool.getconn()
    run(connection, "UPDATE books SET stock = 7")
    with make_pool().connection() as other:
        assert value(other, "SELECT MIN(stock) FROM books") == 7
    pool.putconn(connection)


def test_a_return_with_autocommit_sends_nothing(make_pool: MakePool, proxy: Proxy, shop: str) -> None:
    pool = make_pool(f"{proxy.through(shop)}?autocommit=true", reset="rollback")
    pool.putconn(pool.getconn())
    sent = len(proxy.to_server)

    for _ in range(3):
        pool.putconn(pool.getconn())

    assert len(proxy.to_server) == sent


def test_a_committed_block_sends_no_rollback(make_pool: MakePool, proxy: Proxy, shop: str) -> None:
    pool = make_pool(proxy.through(shop), reset="rollback")
    for _ in range(3):
        with pool.connection() as connection:
            run(connection, "UPDATE books SET stock = stock + 1")

    assert proxy.to_server.count(b"\x03COMMIT") == 3
    assert proxy.to_server.count(b"ROLLBACK") == 0


@pytest.mark.parametrize("way", [ROLLBACK, SESSION])
def test_a_lock_wait_timeout_leaves_a_transaction_open_and_the_return_ends_it(
    make_pool: MakePool, mariadb: MariaDB, shop: str, way: Any
) -> None:
    pool = make_pool(**way)
    with mariadb.admin(user_of(shop)) as other:
        other.begin()
        run(other, "UPDATE books SET stock = 0 WHERE id = 2")
        connection = pool.getconn()
        first = session_of(connection)
        run(connection, "SET innodb_lock_wait_timeout = 1")
        run(connection, "UPDATE books SET stock = 0 WHERE id = 1")
        with pytest.raises(pymysql.OperationalError) as caught:
            run(connection, "UPDATE books SET stock = 0 WHERE id = 2")
        pool.putconn(connection)
        other.rollback()

    assert error_number(caught.value) == LOCK_WAIT_TIMEOUT
    with pool.connection() as connection:
        assert value(connection, "SELECT GROUP_CONCAT(stock ORDER BY id) FROM books") == "10,20"
        assert session_of(connection) == first


@pytest.mark.parametrize("way", [ROLLBACK, SESSION])
def test_both_sides_of_a_deadlock_come_back_clean(make_pool: MakePool, way: Any) -> None:
    pool = make_pool(max_size=2, **way)
    both_hold_a_row = threading.Barrier(2, timeout=SOON)
    used: set[int] = set()

    def transfer(here: int, there: int) -> int:
        connection = pool.getconn()
        used.add(session_of(connection))
        try:
            run(connection, "UPDATE books SET stock = stock - 1 WHERE id = %s", here)
            both_hold_a_row.wait()
            run(connection, "UPDATE books SET stock = stock + 1 WHERE id = %s", there)
        except pymysql.OperationalError as error:
            return error_number(error)
        finally:
            pool.putconn(connection)
        return 0

    tasks = [Task(lambda: transfer(1, 2)), Task(lambda: transfer(2, 1))]

    assert sorted(task.result() for task in tasks) == [0, DEADLOCK]
    with pool.connection() as one, pool.connection() as two:
        for connection in (one, two):
            assert value(connection, "SELECT GROUP_CONCAT(stock ORDER BY id) FROM books") == "10,20"
        assert {session_of(one), session_of(two)} == used


# --- the session: "rollback" keeps it, "session" ends it -------------------------------------------------------------


def test_rollback_leaves_lock_tables(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1, **ROLLBACK)
    with pool.connection() as connection:
        run(connection, "CREATE TABLE authors (id INT PRIMARY KEY)")
        run(connection, "LOCK TABLES books READ")

    with pytest.raises(pymysql.OperationalError) as caught, pool.connection() as connection:
        run(connection, "SELECT * FROM authors")

    assert error_number(caught.value) == WRONG_TABLE_LOCK


@pytest.mark.parametrize("pipeline", [True, False])
def test_a_session_reset_unlocks_tables(make_pool: MakePool, mariadb: MariaDB, shop: str, pipeline: bool) -> None:
    pool = make_pool(pipeline=pipeline, **SESSION)
    with pool.connection() as connection:
        first = session_of(connection)
        run(connection, "LOCK TABLES books READ")

    with mariadb.admin(user_of(shop)) as admin:
        run(admin, "SET lock_wait_timeout = 30")
        assert run(admin, "UPDATE books SET stock = 0") == 2
    with pool.connection() as connection:
        assert run(connection, "UPDATE books SET stock = 1") == 2
        assert session_of(connection) == first


def test_rollback_leaves_named_locks(make_pool: MakePool, mariadb: MariaDB, shop: str) -> None:
    pool = make_pool(**ROLLBACK)
    lock = f"stocktaking of {user_of(shop)}"
    with pool.connection() as connection:
        first = session_of(connection)
        assert value(connection, "SELECT GET_LOCK(%s, 0)", lock) == 1

    with pool.connection() as connection:
        assert session_of(connection) == first
    assert admin_value(mariadb, "SELECT IS_USED_LOCK(%s)", lock) == first


@pytest.mark.parametrize("pipeline", [True, False])
def test_a_session_reset_frees_named_locks_before_the_next_checkout(
    make_pool: MakePool, mariadb: MariaDB, shop: str, pipeline: bool
) -> None:
    pool = make_pool(pipeline=pipeline, **SESSION)
    lock = f"stocktaking of {user_of(shop)}"
    with pool.connection() as connection:
        first = session_of(connection)
        assert value(connection, "SELECT GET_LOCK(%s, 0)", lock) == 1

    assert admin_value(mariadb, "SELECT GET_LOCK(%s, 30)", lock) == 1
    with pool.connection() as connection:
        assert session_of(connection) == first


def test_rollback_leaves_temporary_tables(make_pool: MakePool) -> None:
    pool = make_pool(**ROLLBACK)
    with pool.connection() as connection:
        run(connection, "CREATE TEMPORARY TABLE basket (id INT) SELECT 7 AS id")

    with pool.connection() as connection:
        assert value(connection, "SELECT id FROM basket") == 7


@pytest.mark.parametrize("pipeline", [True, False])
def test_a_session_reset_drops_temporary_tables(make_pool: MakePool, pipeline: bool) -> None:
    pool = make_pool(pipeline=pipeline, **SESSION)
    with pool.connection() as connection:
        first = session_of(connection)
        run(connection, "CREATE TEMPORARY TABLE basket (id INT) SELECT 7 AS id")

    with pool.connection() as connection:
        assert session_of(connection) == first
        with pytest.raises(pymysql.ProgrammingError) as caught:
            run(connection, "SELECT id FROM basket")

    assert error_number(caught.value) == NO_SUCH_TABLE


def test_rollback_leaves_the_database_that_was_changed_to(make_pool: MakePool) -> None:
    pool = make_pool(**ROLLBACK)
    with pool.connection() as connection:
        run(connection, "USE information_schema")

    with pool.connection() as connection:
        assert value(connection, "SELECT DATABASE()") == "information_schema"


@pytest.mark.parametrize("pipeline", [True, False])
@pytest.mark.parametrize("how", ["USE", "select_db"])
def test_a_session_reset_selects_the_urls_database(make_pool: MakePool, shop: str, how: str, pipeline: bool) -> None:
    pool = make_pool(pipeline=pipeline, **SESSION)
    with pool.connection() as connection:
        first = session_of(connection)
        if how == "USE":
            run(connection, "USE information_schema")
        else:
            connection.select_db("information_schema")

    with pool.connection() as connection:
        assert value(connection, "SELECT DATABASE()") == user_of(shop)
        assert session_of(connection) == first


SETTINGS = {
    "@@autocommit": 1,
    "@@sql_mode": "ANSI_QUOTES",
    ISOLATION: "READ-COMMITTED",
    "@@time_zone": "+05:00",
    "@basket": 7,
}


def change_all_settings(connection: Any) -> None:
    run(connection, "SET autocommit = 1")
    run(connection, "SET sql_mode = 'ANSI_QUOTES'")
    run(connection, "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    run(connection, "SET time_zone = '+05:00'")
    run(connection, "SET @basket = 7")


def all_settings(connection: Any) -> dict[str, Any]:
    return {name: value(connection, f"SELECT {name}") for name in SETTINGS}


def test_rollback_leaves_settings_and_variables(make_pool: MakePool) -> None:
    pool = make_pool(**ROLLBACK)
    with pool.connection() as connection:
        change_all_settings(connection)

    with pool.connection() as connection:
        # Autocommit is the connection's: without a transaction there would be nothing to roll back.
        assert all_settings(connection) == SETTINGS | {"@@autocommit": 0}


@pytest.mark.parametrize("pipeline", [True, False])
def test_a_session_reset_restores_settings_and_variables(make_pool: MakePool, pipeline: bool) -> None:
    pool = make_pool(pipeline=pipeline, **SESSION)
    with pool.connection() as connection:
        first, fresh = session_of(connection), all_settings(connection)
        change_all_settings(connection)
        assert all_settings(connection) == SETTINGS

    with pool.connection() as connection:
        assert all_settings(connection) == fresh
        assert session_of(connection) == first


@pytest.mark.parametrize("pipeline", [True, False])
@pytest.mark.parametrize("autocommit", ["true", "false"])
def test_a_session_reset_restores_the_settings_of_the_url(
    make_pool: MakePool, shop: str, autocommit: str, pipeline: bool
) -> None:
    options = (
        f"autocommit={autocommit}&sql_mode=PIPES_AS_CONCAT&init_command=SET%20@greeting='hello',time_zone='-03:00'"
    )
    pool = make_pool(f"{shop}?{options}&charset=latin1", pipeline=pipeline, **SESSION)
    look = "SELECT CONCAT_WS(' ', @@autocommit + 0, @@sql_mode, @greeting, @@time_zone, @@character_set_client)"
    with pool.connection() as connection:
        first, fresh = session_of(connection), value(connection, look)
        change_all_settings(connection)
        run(connection, f"SET autocommit = {int(autocommit == 'false')}")
        run(connection, "SET @greeting = 'another'")
        run(connection, "SET NAMES utf8mb4")

    with pool.connection() as connection:
        assert value(connection, look) == fresh
        assert session_of(connection) == first
    assert fresh == f"{int(autocommit == 'true')} PIPES_AS_CONCAT hello -03:00 latin1"


@pytest.mark.parametrize("pipeline", [True, False])
def test_a_session_reset_undoes_what_was_set_by_pymysqls_own_methods(make_pool: MakePool, pipeline: bool) -> None:
    pool = make_pool(pipeline=pipeline, **SESSION)
    with pool.connection() as connection:
        first = session_of(connection)
        connection.autocommit(True)
        connection.set_character_set("latin1")

    with pool.connection() as connection:
        assert connection.get_autocommit() is False
        assert value(connection, "SELECT @@autocommit") == 0
        assert value(connection, "SELECT 'čaj'") == "čaj"
        assert session_of(connection) == first


def test_without_reset_even_the_transaction_stays_open(make_pool: MakePool) -> None:
    pool = make_pool(reset=None)
    connection = pool.getconn()
    run(connection, "UPDATE books SET stock = 0 WHERE id = 1")
    pool.putconn(connection)

    with pool.connection(readonly=True) as connection:
        assert value(connection, "SELECT stock FROM books WHERE id = 1") == 0


# --- connections that are replaced -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_the_next_holder_does_not_get_an_unread_result(
    make_pool: MakePool, mariadb: MariaDB, shop: str, way: dict[str, Any]
) -> None:
    pool = make_pool(**way)
    connection = pool.getconn()
    first = session_of(connection)
    cursor = connection.cursor(SSCursor)
    cursor.execute(f"SELECT seq FROM {numbers(100_000_000)}")  # 1 GB; one row is read
    assert cursor.fetchone() == (1,)
    clock = Clock()
    pool.putconn(connection)

    with pool.connection() as connection:
        assert value(connection, "SELECT stock FROM books WHERE id = 2") == 20
        assert session_of(connection) != first
    assert clock.seconds < SOON
    assert pool.size == 1
    eventually(lambda: first not in sessions(mariadb, user_of(shop)), "the server to end the unread session")


def test_an_unread_cursor_outlives_its_connection_without_a_warning(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: said.append(unraisable.exc_value))
    pool = make_pool()
    connection = pool.getconn()
    cursor = connection.cursor(SSCursor)
    cursor.execute(f"SELECT seq FROM {numbers(100_000)}")
    pool.putconn(connection)

    del cursor, connection
    gc.collect()

    assert said == []


@pytest.mark.parametrize("way", WAYS)
def test_the_next_holder_does_not_get_further_results_of_a_procedure(make_pool: MakePool, way: dict[str, Any]) -> None:
    pool = make_pool(**way)
    with pool.connection() as connection:
        run(connection, "CREATE PROCEDURE two_results() BEGIN SELECT 1; SELECT 2; END")
    connection = pool.getconn()
    assert value(connection, "CALL two_results()") == 1
    pool.putconn(connection)

    for _ in range(2):
        with pool.connection() as connection:
            assert value(connection, "SELECT stock FROM books WHERE id = 2") == 20
    assert pool.size == 1


@pytest.mark.parametrize("way", WAYS)
def test_a_connection_closed_by_its_holder_is_replaced(
    make_pool: MakePool, mariadb: MariaDB, shop: str, way: dict[str, Any]
) -> None:
    pool = make_pool(**way)
    connection = pool.getconn()
    first = session_of(connection)
    connection.close()
    pool.putconn(connection)

    with pool.connection() as connection:
        second = session_of(connection)
        assert value(connection, "SELECT stock FROM books WHERE id = 2") == 20
    assert second != first
    assert pool.size == 1
    eventually(lambda: sessions(mariadb, user_of(shop)) == {second}, "the server to end the session")


@pytest.mark.parametrize("way", WAYS)
def test_a_connection_whose_server_went_away_is_replaced(
    make_pool: MakePool, mariadb: MariaDB, way: dict[str, Any]
) -> None:
    pool = make_pool(**way)
    connection = pool.getconn()
    first = session_of(connection)
    with mariadb.admin() as admin:
        admin.kill(first)
    with pytest.raises(pymysql.OperationalError):
        run(connection, "SELECT 1")
    pool.putconn(connection)

    with pool.connection() as connection:
        assert session_of(connection) != first
    assert pool.size == 1


@pytest.mark.parametrize("way", WAYS)
def test_a_connection_whose_cleaning_the_server_refused_is_replaced(
    make_pool: MakePool, mariadb: MariaDB, way: dict[str, Any]
) -> None:
    pool = make_pool(**way)
    connection = pool.getconn()
    first = session_of(connection)
    run(connection, "UPDATE books SET stock = 0 WHERE id = 1")
    with mariadb.admin() as admin:
        admin.kill(first)
    pool.putconn(connection)

    with pool.connection() as connection:
        assert session_of(connection) != first
        assert value(connection, "SELECT stock FROM books WHERE id = 1") == 10
    assert pool.size == 1


@pytest.mark.parametrize("way", WAYS)
def test_a_block_interrupted_in_a_result_has_its_connection_replaced(make_pool: MakePool, way: dict[str, Any]) -> None:
    class RequestTimeout(BaseException):
        pass

    pool = make_pool(**way)
    first = 0

    def interrupted_request() -> None:
        nonlocal first
        with pool.connection() as connection:
            first = session_of(connection)
            connection._execute_command(COMMAND.COM_QUERY, "SELECT 'a secret'")  # its answer is never read
            raise RequestTimeout

    with pytest.raises(RequestTimeout):
        interrupted_request()

    with pool.connection() as connection:
        assert session_of(connection) != first
        assert value(connection, "SELECT stock FROM books WHERE id = 2") == 20
    assert pool.size == 1


# --- wrong returns ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_double_return_is_refused_and_checks_the_connection_out_once(
    make_pool: MakePool, way: dict[str, Any]
) -> None:
    pool = make_pool(max_size=2, **way)
    connection = pool.getconn()
    first = session_of(connection)
    pool.putconn(connection)

    with pytest.raises(ValueError, match="not checked out"):
        pool.putconn(connection)

    assert (pool.size, pool.idle) == (1, 1)
    with pool.connection() as one, pool.connection() as two:
        assert session_of(one) == first
        assert session_of(two) != first


def test_a_late_second_return_does_not_take_the_connection_from_its_next_holder(make_pool: MakePool) -> None:
    pool = make_pool(max_size=2, **ROLLBACK)
    connection = pool.getconn()
    pool.putconn(connection)
    next_holder = HolderThread(pool.getconn, pool.putconn)
    assert next_holder.connection is connection

    with pytest.raises(WrongThread):
        pool.putconn(connection)

    with pool.connection() as another:
        assert another is not connection
    next_holder.give_back()


@pytest.mark.parametrize("origin", ["no pool", "another pool"])
def test_a_foreign_connection_is_refused_and_not_changed(make_pool: MakePool, shop: str, origin: str) -> None:
    pool, other = make_pool(**SESSION), make_pool(**SESSION)
    foreign = connect_plainly(shop) if origin == "no pool" else other.getconn()
    run(foreign, "UPDATE books SET stock = 0 WHERE id = 1")
    run(foreign, "SET @basket = 7")

    with pytest.raises(ValueError, match="not checked out"):
        pool.putconn(foreign)

    assert (pool.size, pool.idle) == (0, 0)
    assert value(foreign, "SELECT @basket + stock FROM books WHERE id = 1") == 7
    foreign.rollback()
    if origin == "no pool":
        foreign.close()
    else:
        other.putconn(foreign)


def test_all_that_is_dirty_at_once_comes_back_clean(make_pool: MakePool, shop: str) -> None:
    pool = make_pool(**SESSION)
    with pool.connection() as connection:
        first, fresh = session_of(connection), all_settings(connection)
        change_all_settings(connection)
        run(connection, "CREATE TEMPORARY TABLE basket (id INT)")
        value(connection, "SELECT GET_LOCK(%s, 0)", f"till of {user_of(shop)}")
        run(connection, "USE information_schema")
        run(connection, f"LOCK TABLES {user_of(shop)}.books WRITE")
    connection = pool.getconn()
    run(connection, "SET autocommit = 0")
    run(connection, "DELETE FROM books")
    pool.putconn(connection)

    with pool.connection() as connection:
        assert all_settings(connection) == fresh
        assert value(connection, "SELECT COUNT(*) FROM books") == 2
        assert value(connection, "SELECT IS_USED_LOCK(%s)", f"till of {user_of(shop)}") is None
        assert session_of(connection) == first
