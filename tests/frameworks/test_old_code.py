"""Old code on a real server: `import wsgipool.pymysql as pymysql`, `import wsgipool.MySQLdb as MySQLdb`."""

from __future__ import annotations

import copy
import gc
import logging
import os
import pickle
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import MySQLdb
import MySQLdb.connections
import pymysql
import pymysql.connections
import pytest

import wsgipool
import wsgipool.MySQLdb
import wsgipool.pymysql
from drivers.shops import shop_on
from frameworks.old_code import arguments_of, kill, on_thread, request, rows, session, stats, value
from unit.fakes import Gate, Task, eventually, run_python
from wsgipool import ConfigError, ConnectFailed, PoolError
from wsgipool.demo.mariadb import Server

Connect = Callable[..., Any]


@pytest.fixture
def arguments(database_server: Server) -> Iterator[dict[str, Any]]:
    """The arguments of `connect()` for a new database with a table of books."""
    with shop_on(database_server) as url:
        yield arguments_of(url)
        gc.collect()  # connections of exceptions and cycles
        wsgipool.close()


@pytest.fixture(params=[wsgipool.pymysql, wsgipool.MySQLdb], ids=["pymysql", "MySQLdb"])
def module(request: pytest.FixtureRequest) -> Any:
    """A pooled module."""
    return request.param


@pytest.fixture
def name(arguments: dict[str, Any]) -> str:
    """The name of the pool: the database's."""
    database: str = arguments["database"]
    return database


@pytest.fixture
def connect(module: Any, arguments: dict[str, Any]) -> Connect:
    def connect(**more: Any) -> Any:
        return module.connect(**{**arguments, **more})

    return connect


def books(connection: Any) -> int:
    return int(value(connection, "SELECT COUNT(*) FROM books"))


# --- one pool for each set of arguments ------------------------------------------------------------------------------


def test_one_connection_after_the_other_uses_one_session(connect: Connect, name: str) -> None:
    sessions = set()
    for _ in range(5):
        with connect() as connection:
            sessions.add(session(connection))

    assert len(sessions) == 1
    assert (stats(name).opened, stats(name).checkouts, stats(name).in_use) == (1, 5, 0)


def test_other_arguments_have_a_pool_of_their_own(module: Any, connect: Connect, name: str) -> None:
    with connect() as plain, connect(cursorclass=module.cursors.DictCursor) as other:
        assert rows(plain, "SELECT 1 AS one") == ((1,),)
        assert [*rows(other, "SELECT 1 AS one")] == [{"one": 1}]

    assert (stats(name).opened, stats(f"{name}-2").opened) == (1, 1)


def test_equal_converters_share_a_pool_also_when_one_changes_later(module: Any, connect: Connect, name: str) -> None:
    def shouted(value: object, *_: object) -> str:
        return f"'{value}!'"

    class Word(str):
        __slots__ = ()

    for _ in range(2):
        converters = {**module.converters.conversions, Word: shouted}
        connect(conv=converters).close()
        converters[Word] = str

    assert stats(name).opened == 1


def test_settings_of_a_holder_do_not_reach_the_next(connect: Connect) -> None:
    with connect() as first:
        rows(first, "SET @discount = 1")
        first.autocommit(True)
        first.select_db("information_schema")
        number = session(first)

    with connect() as second:
        assert session(second) == number
        assert value(second, "SELECT @discount") is None
        assert value(second, "SELECT @@autocommit") == 0
        assert books(second) == 2


def test_a_wrong_argument_raises_the_modules_error(arguments: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="nonsense"):
        wsgipool.pymysql.connect(**arguments, nonsense=1)
    with pytest.raises(ConfigError, match="nonsense"):
        wsgipool.MySQLdb.connect(**arguments, nonsense=1)
    with pytest.raises(ValueError, match="port"):
        wsgipool.pymysql.connect(**{**arguments, "port": "3306"})
    with pytest.raises(TypeError, match="positional"):
        wsgipool.pymysql.connect(arguments["host"])


@pytest.mark.parametrize(("wrong", "code"), [({"password": "wrong"}, 1045), ({"database": "no_such"}, None)])
def test_a_refused_connect_raises_the_servers_error(
    connect: Connect, module: Any, wrong: dict[str, str], code: int | None
) -> None:
    with pytest.raises(module.OperationalError) as raised:
        connect(**wrong)

    assert raised.value.args[0] in ({code} if code else {1044, 1049})
    assert len(raised.value.args) == 2
    assert isinstance(raised.value, ConnectFailed)


def test_a_busy_pool_raises_an_error_with_a_code(connect: Connect, module: Any, name: str) -> None:
    connect().close()
    wsgipool.pool(name).resize(0, 1)
    with connect(), pytest.raises(module.OperationalError) as raised:
        connect()

    assert isinstance(raised.value, PoolError)
    assert raised.value.args[0] == 1040
    assert __file__ in raised.value.args[1]


def test_mysqlclients_positional_arguments(arguments: dict[str, Any], name: str) -> None:
    order = [arguments[key] for key in ("host", "user", "password", "database", "port")]
    with wsgipool.MySQLdb.connect(*order) as connection:
        assert books(connection) == 2
    with wsgipool.MySQLdb.connect(**arguments):
        assert stats(name).in_use == 1
    with pytest.raises(TypeError, match="host"):
        wsgipool.MySQLdb.connect(*order, host="db")


def test_old_names_of_arguments(module: Any, arguments: dict[str, Any], name: str) -> None:
    old = {**arguments, "db": arguments["database"], "passwd": arguments["password"]}
    del old["database"], old["password"]

    with module.connect(**old) as connection:
        assert books(connection) == 2
    with module.connect(**arguments):
        assert stats(name).in_use == 1


def test_a_deferred_connect_is_pymysqls_own(arguments: dict[str, Any]) -> None:
    connection = wsgipool.pymysql.connect(**arguments, defer_connect=True)
    connection.connect()

    assert type(connection) is pymysql.connections.Connection
    assert books(connection) == 2
    connection.close()


# --- close, and use afterwards ---------------------------------------------------------------------------------------


def test_close_rolls_back_and_gives_back(connect: Connect, name: str) -> None:
    connection = connect()
    rows(connection, "INSERT INTO books VALUES (3, 30)")
    connection.close()

    assert stats(name).idle == 1
    with connect() as other:
        assert books(other) == 2


def outcome(function: Callable[[], object]) -> tuple[type, object]:
    """Return what a call does, for a comparison."""
    try:
        function()
    except Exception as error:
        kind = next(kind for kind in type(error).__mro__ if not kind.__module__.startswith("wsgipool"))
        return kind, error.args
    return type(None), None


STOCK = {wsgipool.pymysql: pymysql, wsgipool.MySQLdb: MySQLdb}


def test_a_closed_connection_fails_as_the_modules_own(module: Any, arguments: dict[str, Any]) -> None:
    def outcomes(dbapi: Any) -> list[object]:
        connection = dbapi.connect(**arguments)
        stale = connection.cursor()
        stale.execute("SELECT 1")
        connection.close()
        uses: list[Callable[[], object]] = [
            *(connection.close, connection.commit, connection.rollback, connection.ping, connection.begin),
            *(stale.fetchall, lambda: stale.execute("SELECT 1"), lambda: connection.cursor().execute("SELECT 1")),
            *(lambda: connection.select_db("shop"), lambda: connection.autocommit(True), connection.__enter__),
            *(lambda: connection.kill(1), stale.close, connection.show_warnings),
        ]
        return [bool(connection.open), *map(outcome, uses), bool(connection.open)]

    assert outcomes(module) == outcomes(STOCK[module])


def test_a_block_that_fails_gives_back(connect: Connect, name: str) -> None:
    def fail() -> None:
        with connect() as connection:
            rows(connection, "INSERT INTO books VALUES (3, 30)")
            raise ZeroDivisionError

    assert outcome(fail)[0] is ZeroDivisionError

    assert (stats(name).idle, stats(name).in_use) == (1, 0)


def test_a_half_read_result_costs_the_connection_and_no_row(module: Any, connect: Connect, name: str) -> None:
    connection = connect()
    cursor = connection.cursor(module.cursors.SSCursor)
    cursor.execute("SELECT a.stock FROM books a, books b, books c")
    cursor.fetchone()
    connection.close()
    with connect() as other:
        assert books(other) == 2

    assert stats(name).closed == {"broken": 1}


@pytest.mark.mariadb_only("MySQL's default refuses local files")
@pytest.mark.parametrize("fast_reading", [True, False])
def test_a_missing_local_file_costs_no_connection(arguments: dict[str, Any], fast_reading: bool) -> None:
    more = {"local_infile": True, "fast_reading": fast_reading}
    with wsgipool.pymysql.connect(**arguments, **more) as connection:
        with pytest.raises(pymysql.OperationalError, match="open file"):
            rows(connection, "LOAD DATA LOCAL INFILE 'no_such_file' INTO TABLE books")
        assert books(connection) == 2


def test_statements_after_an_error_go_on(module: Any, connect: Connect) -> None:
    with connect() as connection:
        rows(connection, "INSERT INTO books VALUES (3, 30)")
        with pytest.raises(module.IntegrityError):
            rows(connection, "INSERT INTO books VALUES (3, 30)")
        connection.commit()
        assert books(connection) == 3


# --- the end of an object --------------------------------------------------------------------------------------------


def test_a_cursor_keeps_its_connection(connect: Connect, name: str) -> None:
    cursor = connect().cursor()
    gc.collect()
    cursor.execute("SELECT 1")

    assert cursor.fetchall() == ((1,),)
    assert stats(name).in_use == 1
    del cursor
    assert (stats(name).in_use, stats(name).idle) == (0, 1)


def test_a_method_keeps_its_connection(connect: Connect, name: str) -> None:
    connect().commit()
    connect().ping()

    assert (stats(name).in_use, stats(name).opened) == (0, 1)


def in_a_cycle(connection: Any) -> None:
    cycle = [connection]
    cycle.append(cycle)


def test_a_collected_connection_is_given_back_on_its_thread(connect: Connect, name: str) -> None:
    gc.disable()
    try:
        in_a_cycle(connect())
        assert stats(name).in_use == 1
    finally:
        gc.enable()
    gc.collect()

    assert (stats(name).in_use, stats(name).idle) == (0, 1)


def test_a_connection_collected_on_another_thread_frees_its_place(connect: Connect, name: str) -> None:
    gc.disable()
    try:
        holds, ends = Gate(), threading.Event()

        def hold() -> None:
            in_a_cycle(connect())
            holds()
            ends.wait()

        holder = Task(hold)
        holds.wait_until_reached()
        holds.open()
        gc.collect()
        eventually(lambda: stats(name).size == 0)
    finally:
        gc.enable()
        ends.set()
    holder.result()
    assert stats(name).closed == {"broken": 1}


def test_collections_inside_the_pool_neither_block_nor_lose_a_place(connect: Connect, name: str) -> None:
    thresholds = gc.get_threshold()
    gc.set_threshold(7)  # the collector runs at almost any place, on any thread
    try:

        def use(number: int) -> None:
            for _ in range(60):
                in_a_cycle(connect())
                connection = connect()
                assert value(connection, f"SELECT {number}") == number
                connection.close()

        threads = [Task(lambda number=number: use(number)) for number in range(4)]  # type: ignore[misc]
        for thread in threads:
            thread.result()
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    eventually(lambda: stats(name).size == stats(name).idle)


# --- lost connections ------------------------------------------------------------------------------------------------


def test_a_lost_connection_fails_until_it_is_connected_again(
    connect: Connect, module: Any, database_server: Server
) -> None:
    connection = connect()
    rows(connection, "INSERT INTO books VALUES (3, 30)")
    kill(connection, database_server)

    for _ in range(3):  # no other session takes over in the middle of a transaction
        with pytest.raises((module.OperationalError, module.InterfaceError)):
            rows(connection, "INSERT INTO books VALUES (4, 40)")
    connection.ping(True)
    assert books(connection) == 2
    connection.close()


def test_ping_with_reconnect_begins_again_after_a_close(connect: Connect, name: str) -> None:
    connection = connect()
    connection.close()
    connection.ping(True)

    assert books(connection) == 2
    assert stats(name).opened == 1
    connection.close()


def test_the_next_request_has_another_connection_after_a_loss(connect: Connect, database_server: Server) -> None:
    connection = connect()
    assert request(lambda: books(connection)) == 2

    def lose() -> tuple[type, object]:
        kill(connection, database_server)
        return outcome(lambda: books(connection))

    assert request(lose)[0] is not type(None)
    assert request(lambda: books(connection)) == 2
    connection.close()


# --- a connection that threads share ---------------------------------------------------------------------------------


def test_each_thread_has_a_session_of_its_own(connect: Connect) -> None:
    shared = connect()
    theirs = on_thread(lambda: request(lambda: session(shared)))

    assert theirs != session(shared)
    shared.close()


def test_requests_of_all_threads_share_a_global_connection(
    connect: Connect, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="wsgipool")
    shared = request(connect)

    def serve(number: int) -> None:
        cursor = shared.cursor()
        for _ in range(random.randint(1, 3)):
            cursor.execute(f"SELECT {number}, stock FROM books WHERE id = 1 FOR UPDATE")
            ((found, stock),) = cursor.fetchall()
            assert found == number
            cursor.execute("UPDATE books SET stock = %s WHERE id = 1", (stock + 1,))
            shared.commit()

    def work(first: int) -> None:
        for number in range(first, first + 25):
            request(lambda number=number: serve(number))  # type: ignore[misc]

    threads = [Task(lambda first=first: work(first)) for first in range(0, 200, 25)]  # type: ignore[misc]
    for thread in threads:
        thread.result()

    assert stats(name).in_use == 0
    assert stats(name).opened <= len(threads)
    assert caplog.messages == []
    shared.close()


def test_the_end_of_a_request_gives_back_and_rolls_back(connect: Connect, name: str) -> None:
    shared = connect()

    def add() -> int:
        rows(shared, "INSERT INTO books VALUES (3, 30)")
        rows(shared, "SELECT 1")
        return books(shared)

    assert request(add) == 3
    assert (stats(name).in_use, stats(name).idle) == (0, 1)
    assert request(lambda: books(shared)) == 2
    shared.close()


def test_changes_by_methods_and_attributes_last(module: Any, connect: Connect) -> None:
    shared = connect()
    shared.autocommit(True)
    shared.select_db("information_schema")
    shared.cursorclass = module.cursors.DictCursor
    query = "SELECT @@autocommit AS mode, DATABASE() AS place"
    expected = [{"mode": 1, "place": "information_schema"}]

    assert [[*request(lambda: rows(shared, query))], [*on_thread(lambda: request(lambda: rows(shared, query)))]] == [
        expected,
        expected,
    ]
    assert [*rows(shared, query)] == expected
    shared.close()


def test_changes_by_mysqlclient_last_in_the_order_of_their_last_calls(
    arguments: dict[str, Any], database_server: Server
) -> None:
    with database_server.admin() as admin, admin.cursor() as cursor:
        cursor.execute("CREATE USER clerk IDENTIFIED BY 'secret'")
        cursor.execute(f"GRANT ALL ON `{arguments['database']}`.* TO clerk")
    try:
        shared = wsgipool.MySQLdb.connect(**arguments)
        shared.autocommit(True)
        shared.change_user("clerk", "secret", arguments["database"])
        shared.set_server_option(0)  # MYSQL_OPTION_MULTI_STATEMENTS_ON
        shared.autocommit(True)  # change_user() has ended it

        query = "SELECT CURRENT_USER(), @@autocommit"
        for _ in range(2):
            assert request(lambda: rows(shared, query)) == (("clerk@%", 1),)
        shared.close()
        with wsgipool.MySQLdb.connect(**arguments) as other:
            assert value(other, "SELECT CURRENT_USER()") != "clerk@%"
    finally:
        with database_server.admin() as admin, admin.cursor() as cursor:
            cursor.execute("DROP USER clerk")


def test_a_deleted_attribute_does_not_last(arguments: dict[str, Any]) -> None:
    shared = wsgipool.pymysql.connect(**arguments)

    def set_and_delete() -> None:
        with mock.patch.object(shared, "commit", side_effect=ZeroDivisionError), pytest.raises(ZeroDivisionError):
            shared.commit()
        shared.note = "mine"
        del shared.note

    request(set_and_delete)
    assert not request(lambda: hasattr(shared, "note"))
    request(shared.commit)
    shared.close()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_copy_is_refused_and_ends_no_transaction(connect: Connect, copied: Callable[[Any], Any]) -> None:
    with connect() as connection:
        rows(connection, "INSERT INTO books VALUES (3, 30)")
        with pytest.raises(TypeError, match="cannot copy or pickle a connection"):
            copied(connection)
        gc.collect()
        assert books(connection) == 3


def test_a_close_by_one_thread_closes_for_all(connect: Connect, module: Any, name: str) -> None:
    shared = connect()
    used, closed = threading.Event(), threading.Event()

    def use() -> tuple[type, object]:
        books(shared)
        used.set()
        closed.wait()
        return outcome(lambda: books(shared))

    thread = Task(use)
    used.wait()
    shared.close()
    closed.set()

    assert thread.result()[0] in (module.InterfaceError, module.OperationalError)
    assert stats(name).in_use == 0


def test_a_cursor_that_outlives_its_request_needs_no_connection_to_end(
    module: Any, connect: Connect, name: str
) -> None:
    shared = connect()

    def query() -> Any:
        cursor = shared.cursor(module.cursors.SSCursor)
        cursor.execute("SELECT 1")
        cursor.fetchall()
        return cursor

    cursor = request(query)
    cursor.close()
    assert stats(name).in_use == 0
    shared.close()


def test_rows_after_the_end_of_their_request_are_an_error(module: Any, connect: Connect) -> None:
    shared = connect()

    def begin() -> Any:
        cursor = shared.cursor(module.cursors.SSCursor)
        cursor.execute("SELECT a.stock FROM books a, books b, books c")
        cursor.fetchone()
        return cursor

    cursor = request(begin)
    for fetch in (cursor.fetchone, cursor.fetchall, lambda: next(iter(cursor))):
        with pytest.raises((module.OperationalError, module.InterfaceError)):
            request(fetch)
    assert request(lambda: books(shared)) == 2
    shared.close()


# --- forks -----------------------------------------------------------------------------------------------------------


def test_the_child_of_a_fork_has_a_session_of_its_own(connect: Connect) -> None:
    connection = connect()
    ours = session(connection)
    rows(connection, "INSERT INTO books VALUES (3, 30)")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, f"{session(connection)} {books(connection)}".encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    theirs = os.read(reader, 100).split()
    os.close(reader)
    os.close(writer)

    assert int(theirs[0]) != ours
    assert theirs[1] == b"2"
    assert books(connection) == 3
    connection.close()


# --- what else the module has ----------------------------------------------------------------------------------------


def test_a_connection_is_one_of_the_modules(connect: Connect, module: Any) -> None:
    with connect() as connection:
        assert isinstance(connection, STOCK[module].connections.Connection)
        assert isinstance(connection, module.Connection)
        assert connection.OperationalError is module.OperationalError


def test_methods_and_attributes_are_those_of_the_session(connect: Connect) -> None:
    with connect() as connection:
        assert connection.thread_id() == session(connection)
        assert "." in connection.get_server_info()
        assert connection.escape("a'b", connection.encoders) in ("'a\\'b'", b"'a\\'b'")
        connection.begin()
        rows(connection, "CREATE TEMPORARY TABLE notes (id INT PRIMARY KEY AUTO_INCREMENT)")
        connection.query("INSERT INTO notes VALUES ()")
        assert connection.insert_id() == 1
        assert connection.affected_rows() == 1
        connection.query("SELECT 1/0")
        if hasattr(connection, "store_result"):
            connection.store_result()
        assert "Division by 0" in str(connection.show_warnings())


def test_killing_a_session_by_another_connection(connect: Connect, module: Any) -> None:
    with connect() as one, connect() as other:
        one.kill(other.thread_id())
        with pytest.raises((module.OperationalError, module.InterfaceError)):
            eventually(lambda: bool(rows(other, "SELECT 1")) and False)


PROGRAM = """
import sys
import wsgipool.{name} as module
import wsgipool.{name}.cursors
from wsgipool.{name}.constants import CLIENT, FIELD_TYPE
from wsgipool.{name}.converters import conversions
import wsgipool.{name}.constants.ER as numbers
import {name}
assert module.cursors.DictCursor is {name}.cursors.DictCursor
assert module.IntegrityError is {name}.IntegrityError
assert (module.paramstyle, module.version_info) == ({name}.paramstyle, {name}.version_info)
assert all(hasattr(module, public) for public in {name}.__all__)
assert module.connect is not {name}.connect
"""


@pytest.mark.parametrize("name", ["pymysql", "MySQLdb"])
def test_the_names_and_submodules_are_those_of_the_module(name: str) -> None:
    run_python(PROGRAM.format(name=name))


def test_mysqldb_can_be_ours_by_pymysql() -> None:
    run_python("""
import wsgipool.pymysql
wsgipool.pymysql.install_as_MySQLdb()
import MySQLdb
import MySQLdb.cursors
from MySQLdb.constants import CLIENT
import pymysql
assert MySQLdb.connect is wsgipool.pymysql.connect
assert MySQLdb.cursors.DictCursor is pymysql.cursors.DictCursor
""")
