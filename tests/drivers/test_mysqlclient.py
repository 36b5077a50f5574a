"""The mysqlclient driver against a real MariaDB."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import MySQLdb
import MySQLdb.cursors
import pytest

from unit.fakes import PATIENCE, Task, eventually, run_python
from wsgipool import ConfigError, ConnectFailed, Pool, drivers
from wsgipool.config import DatabaseSettings, parse_url
from wsgipool.demo.mariadb import MariaDB
from wsgipool.drivers import mysqlclient
from wsgipool.drivers.mysqlclient import MySQLClientDriver, PooledConnection

Connect = Callable[..., PooledConnection]
MakePool = Callable[..., Pool[PooledConnection]]


def settings_of(url: str) -> DatabaseSettings:
    return DatabaseSettings("shop", parse_url(url), "wsgipool.toml: databases.shop")


def driver(url: str) -> MySQLClientDriver:
    return mysqlclient.driver(settings_of(url))


@pytest.fixture
def mysql(mariadb_shop: str) -> MySQLClientDriver:
    return driver(mariadb_shop)


@pytest.fixture
def connect(mariadb_shop: str) -> Iterator[Connect]:
    """Connects to the shop, by a URL with these options, and closes at the end."""
    connected: list[PooledConnection] = []

    def connect(options: str = "") -> PooledConnection:
        connected.append(driver(f"{mariadb_shop}?{options}").connect(PATIENCE))
        return connected[-1]

    yield connect
    for connection in connected:
        driver(mariadb_shop).close(connection)


@pytest.fixture
def make_pool(mysql: MySQLClientDriver) -> Iterator[MakePool]:
    """Makes pools for the shop, and closes them at the end."""
    pools: list[Pool[PooledConnection]] = []

    def make(**settings: Any) -> Pool[PooledConnection]:
        pools.append(Pool(mysql, name="shop", timeout=3 * PATIENCE, **settings))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def run(connection: PooledConnection, *statements: str) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def value(connection: PooledConnection, query: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


def clean(mysql: MySQLClientDriver, connection: PooledConnection, how: drivers.Reset = "rollback") -> None:
    if mysql.begin_reset(connection, how):
        mysql.finish_reset(connection, PATIENCE)


def admin_value(mariadb: MariaDB, query: str) -> Any:
    with mariadb.admin() as admin, admin.cursor() as cursor:
        cursor.execute(query)
        row = cursor.fetchone()
        return row and row[-1]


def kill(mariadb: MariaDB, session: int) -> None:
    """End a session as an administrator does, and wait until it is gone."""
    with mariadb.admin() as admin, admin.cursor() as cursor:
        cursor.execute(f"KILL {session}")
        eventually(lambda: not cursor.execute(f"SELECT 1 FROM information_schema.processlist WHERE id = {session}"))


# --- the URL ---------------------------------------------------------------------------------------------------------


def test_the_scheme_names_the_driver() -> None:
    assert isinstance(drivers.for_database(settings_of("mysql+mysqlclient://shop@db/orders")), MySQLClientDriver)


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("mysql+mysqlclient:///orders", "no host; write mysql+mysqlclient://user@host/database, or for a local"),
        ("mysql+mysqlclient://db/x?charst=utf8", "charst is not an option of mysql+mysqlclient://; did you mean char"),
        ("mysql+mysqlclient://db/x?colour=red", "colour is not an option of mysql+mysqlclient://; known are: auto"),
        ("mysql+mysqlclient://db/x?passwd=s3cret", "passwd is not an option"),
        ("mysql+mysqlclient://db/x?autocommit=maybe", "the option autocommit is true or false, not 'maybe'"),
        ("mysql+mysqlclient://db/x?read_timeout=0", "read_timeout is a number of seconds above 0, not '0'"),
        ("mysql+mysqlclient://db/x?ssl_mode=maybe", "ssl_mode is DISABLED, PREFERRED, REQUIRED, VERIFY_CA or VERIFY"),
    ],
)
def test_a_wrong_url_says_where_it_stands_and_what_would_do(url: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        driver(url)

    assert str(caught.value).startswith("wsgipool.toml: databases.shop.url: ")
    assert remedy in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_the_address_has_no_password() -> None:
    mysql = driver("mysql+mysqlclient://shop:s3cret@db:3307/orders?charset=utf8mb4")

    assert mysql.address == "mysql+mysqlclient://shop@db:3307/orders"
    assert "s3cret" not in repr(mysql)


def connect_arguments(options: str, timeout: float, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what MySQLdb would be called with."""
    given: dict[str, Any] = {}

    class Recorded(Exception):
        pass

    def record(**arguments: Any) -> None:
        given.update(arguments)
        raise Recorded

    monkeypatch.setattr(mysqlclient, "PooledConnection", record)
    with pytest.raises(Recorded):
        driver(f"mysql+mysqlclient://shop@db/orders?{options}").connect(timeout)
    return given


def test_a_fraction_of_a_second_counts_as_a_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = connect_arguments("read_timeout=0.5&write_timeout=2.1&connect_timeout=5", 3.9, monkeypatch)

    assert [arguments[f"{name}_timeout"] for name in ("read", "write", "connect")] == [1, 3, 3]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {}),
        ("ssl_mode=required", {"ssl_mode": "REQUIRED"}),
        ("ssl_ca=/ca.pem", {"ssl": {"ca": "/ca.pem"}, "ssl_mode": "VERIFY_CA"}),
        ("ssl_ca=/ca.pem&ssl_mode=VERIFY_IDENTITY", {"ssl": {"ca": "/ca.pem"}, "ssl_mode": "VERIFY_IDENTITY"}),
        ("ssl_cert=/c.pem&ssl_key=/k.pem", {"ssl": {"cert": "/c.pem", "key": "/k.pem"}, "ssl_mode": "REQUIRED"}),
    ],
)
def test_files_for_tls_require_it(options: str, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = connect_arguments(options, 1, monkeypatch)

    assert {name: value for name, value in arguments.items() if "ssl" in name} == expected


# --- connecting ------------------------------------------------------------------------------------------------------


def test_a_connection_is_what_the_url_says(connect: Connect, mariadb_shop: str) -> None:
    name = mariadb_shop.rpartition("/")[2]

    connection = connect()

    assert isinstance(connection, MySQLdb.connections.Connection)
    assert value(connection, "SELECT current_user()") == f"{name}@%"
    assert value(connection, "SELECT database()") == name
    assert value(connection, "SELECT @@character_set_client") == "utf8mb4"
    assert value(connection, "SELECT @@autocommit") == 0


@pytest.mark.parametrize("renewed", [False, True])
def test_the_options_reach_the_session_and_outlast_its_reset(
    renewed: bool, connect: Connect, mariadb_shop: str
) -> None:
    options = "collation=utf8mb4_bin&sql_mode=ANSI_QUOTES&autocommit=on&init_command=SET%20@greeting%3D'hello'"
    connection = connect(options)

    if renewed:
        run(connection, "SET NAMES latin1", "SET sql_mode = ''", "SET autocommit = 0", "SET @greeting = 'bye'")
        connection.set_character_set("latin1")
        clean(driver(f"{mariadb_shop}?{options}"), connection, "session")

    assert value(connection, "SELECT @@collation_connection") == "utf8mb4_bin"
    assert value(connection, "SELECT @@sql_mode") == "ANSI_QUOTES"
    assert value(connection, "SELECT @@autocommit") == 1
    assert value(connection, "SELECT @greeting") == "hello"
    assert value(connection, "SELECT 'ж'") == "ж"


def test_a_wrong_password_is_the_drivers_error_and_in_no_message(mariadb_shop: str) -> None:
    user = mariadb_shop.rpartition("/")[2]
    with_wrong_password = mariadb_shop.replace(f"{user}:", f"{user}:wr0ng")
    pool = Pool(driver(with_wrong_password), name="shop", max_size=1)

    with pytest.raises(ConnectFailed) as caught:
        pool.getconn()

    assert isinstance(caught.value.__cause__, MySQLdb.OperationalError)
    assert caught.value.__cause__.args[0] == 1045
    assert "wr0ng" not in f"{caught.value} {caught.value.__cause__}"


def test_tls_that_is_required_and_not_to_be_had_is_an_error(mariadb_shop: str) -> None:
    with pytest.raises(MySQLdb.OperationalError, match=r"(?i)ssl|tls"):
        driver(f"{mariadb_shop}?ssl_mode=REQUIRED").connect(PATIENCE)


def test_a_server_that_accepts_and_says_nothing_fails_the_connect_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mysql = driver(f"mysql+mysqlclient://shop@127.0.0.1:{silent.getsockname()[1]}/orders")
        started = time.monotonic()

        with pytest.raises(MySQLdb.OperationalError):
            Task(lambda: mysql.connect(0.5)).result()

        assert time.monotonic() - started < 5


def test_a_port_without_a_server_fails_the_connect_at_once() -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))

        with pytest.raises(MySQLdb.OperationalError):
            driver(f"mysql+mysqlclient://shop@127.0.0.1:{unheard.getsockname()[1]}/orders").connect(PATIENCE)


# --- the reset -------------------------------------------------------------------------------------------------------


def test_a_reset_ends_the_transaction_before_its_answer_is_read(mysql: MySQLClientDriver, connect: Connect) -> None:
    returned, other = connect(), connect()
    run(returned, "UPDATE books SET stock = 0")

    assert mysql.begin_reset(returned, "rollback")

    run(other, "UPDATE books SET stock = stock + 1")  # would wait for the lock
    other.commit()
    mysql.finish_reset(returned, PATIENCE)
    assert value(returned, "SELECT stock FROM books WHERE id = 1") == 11


def test_a_reset_ends_the_snapshot_of_a_select(mysql: MySQLClientDriver, connect: Connect) -> None:
    returned, other = connect(), connect("autocommit=on")
    assert value(returned, "SELECT stock FROM books WHERE id = 1") == 10
    run(other, "UPDATE books SET stock = 9 WHERE id = 1")

    clean(mysql, returned)

    assert value(returned, "SELECT stock FROM books WHERE id = 1") == 9


LEFTOVERS = {
    "user variable": ("SET @discount = 1", "SELECT @discount IS NOT NULL"),
    "setting": ("SET time_zone = '+03:00'", "SELECT @@time_zone = '+03:00'"),
    "isolation level": (
        "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SELECT @@tx_isolation = 'SERIALIZABLE'",
    ),
    "lock": ("DO GET_LOCK('till', 0)", "SELECT IS_USED_LOCK('till') = CONNECTION_ID()"),
    "database": ("USE information_schema", "SELECT database() = 'information_schema'"),
    "autocommit": ("SET autocommit = 1", "SELECT @@autocommit"),
    "character set": ("SET NAMES latin1", "SELECT @@character_set_client = 'latin1'"),
}


@pytest.mark.parametrize(("how", "left"), [("rollback", 1), ("session", 0)])
@pytest.mark.parametrize("leftover", LEFTOVERS)
def test_a_rollback_leaves_the_session_as_it_is_and_a_session_reset_nothing_of_it(
    leftover: str, how: drivers.Reset, left: int, mysql: MySQLClientDriver, connect: Connect
) -> None:
    leave, is_left = LEFTOVERS[leftover]
    connection = connect()
    run(connection, leave)

    clean(mysql, connection, how)

    assert int(value(connection, is_left) or 0) == left


def test_a_session_reset_drops_temporary_tables_and_unlocks(mysql: MySQLClientDriver, connect: Connect) -> None:
    returned, other = connect(), connect()
    run(returned, "CREATE TEMPORARY TABLE basket (id INT)", "LOCK TABLES books WRITE")

    clean(mysql, returned, "session")

    assert value(other, "SELECT count(*) FROM books") == 2
    with pytest.raises(MySQLdb.ProgrammingError, match="basket"):
        value(returned, "SELECT count(*) FROM basket")


def test_a_result_that_was_not_read_to_its_end_is_not_waited_for(mysql: MySQLClientDriver, connect: Connect) -> None:
    connection = connect()
    cursor = connection.cursor(MySQLdb.cursors.SSCursor)
    cursor.execute("SELECT seq, repeat('x', 1000) FROM seq_1_to_100000000")
    assert cursor.fetchone()[0] == 1

    with pytest.raises(MySQLdb.Error):
        mysql.begin_reset(connection, "rollback")

    mysql.close(connection)
    with pytest.raises(MySQLdb.Error):
        cursor.fetchone()


@pytest.mark.parametrize("how", ["rollback", "session"])
def test_a_second_result_that_nobody_asked_for_is_not_waited_for(
    how: drivers.Reset, mysql: MySQLClientDriver, connect: Connect
) -> None:
    connection = connect()
    cursor = connection.cursor()
    cursor.execute("SELECT 1; SELECT 2")

    with pytest.raises(MySQLdb.Error):
        mysql.begin_reset(connection, how)

    del cursor


def test_an_answer_that_does_not_come_is_not_waited_for_longer_than_said(
    mysql: MySQLClientDriver, connect: Connect
) -> None:
    connection = connect()
    connection.send(b"DO SLEEP(0.5)")

    with pytest.raises(MySQLdb.OperationalError, match=r"did not answer within 0\.05 s"):
        mysql.finish_reset(connection, 0.05)


def test_with_autocommit_each_statement_stays(mysql: MySQLClientDriver, connect: Connect) -> None:
    connection = connect("autocommit=true")
    run(connection, "UPDATE books SET stock = 7 WHERE id = 1")

    clean(mysql, connection)

    assert value(connection, "SELECT stock FROM books WHERE id = 1") == 7


# --- alive or not ----------------------------------------------------------------------------------------------------


def test_a_connection_that_nobody_harmed_is_alive(mysql: MySQLClientDriver, connect: Connect) -> None:
    connection = connect()

    assert mysql.is_alive(connection)
    mysql.ping(connection, PATIENCE)
    clean(mysql, connection)
    assert mysql.is_alive(connection)


def test_a_session_that_was_killed_is_seen_without_asking(
    mysql: MySQLClientDriver, connect: Connect, mariadb: MariaDB
) -> None:
    connection = connect()
    kill(mariadb, connection.thread_id())

    assert not mysql.is_alive(connection)
    with pytest.raises(MySQLdb.OperationalError):
        mysql.ping(connection, PATIENCE)
    with pytest.raises(MySQLdb.OperationalError):
        clean(mysql, connection)


def test_a_session_killed_while_its_answer_is_due_is_seen_with_the_answer(
    mysql: MySQLClientDriver, connect: Connect, mariadb: MariaDB
) -> None:
    connection = connect()
    mysql.begin_reset(connection, "rollback")
    kill(mariadb, connection.thread_id())

    def check_out() -> None:
        mysql.finish_reset(connection, PATIENCE)
        mysql.ping(connection, PATIENCE)  # the ROLLBACK may have been answered before the end

    with pytest.raises(MySQLdb.OperationalError):
        check_out()


def test_a_connection_that_was_closed_is_dead(mysql: MySQLClientDriver, connect: Connect) -> None:
    connection = connect()
    connection.close()

    assert not mysql.is_alive(connection)


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer_due", [False, True])
def test_close_says_goodbye(answer_due: bool, mysql: MySQLClientDriver, connect: Connect, mariadb: MariaDB) -> None:
    aborted = admin_value(mariadb, "SHOW GLOBAL STATUS LIKE 'Aborted_clients'")
    connection = connect()
    session = connection.thread_id()
    if answer_due:
        mysql.begin_reset(connection, "rollback")

    mysql.close(connection)

    eventually(lambda: not admin_value(mariadb, f"SELECT 1 FROM information_schema.processlist WHERE id = {session}"))
    assert admin_value(mariadb, "SHOW GLOBAL STATUS LIKE 'Aborted_clients'") == aborted


def test_a_close_never_raises(mysql: MySQLClientDriver, connect: Connect, mariadb: MariaDB) -> None:
    killed = connect()
    kill(mariadb, killed.thread_id())

    for connection in (killed, killed, connect()):
        mysql.close(connection)

    assert not connection.open


FORKED = """
import os, sys
from wsgipool import Pool
from wsgipool.config import DatabaseSettings, parse_url
from wsgipool.drivers.mysqlclient import driver

def session(connection):
    with connection.cursor() as cursor:
        cursor.execute("SELECT CONNECTION_ID()")
        return cursor.fetchone()[0]

pool = Pool(driver(DatabaseSettings("shop", parse_url("URL"), "")), name="shop", max_size=2)
idle, busy = pool.getconn(), pool.getconn()
before = session(idle), session(busy)
with busy.cursor() as cursor:
    cursor.execute("UPDATE books SET stock = 5 WHERE id = 1")
pool.putconn(idle)
child = os.fork()
if child == 0:
    try:
        session(busy)
    except Exception:
        pass
    else:
        os._exit(1)
    with pool.connection() as own:
        if session(own) in before:
            os._exit(2)
    pool.close()
    sys.exit(0)  # as a process ends: with atexit, and the destructors of what is left
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert session(busy) == before[1]
busy.commit()
pool.putconn(busy)
with pool.connection() as one, pool.connection() as other:
    assert {session(one), session(other)} == set(before)
    with one.cursor() as cursor:
        cursor.execute("SELECT stock FROM books WHERE id = 1")
        print(cursor.fetchone()[0])
pool.close()
"""


def test_a_forks_child_leaves_the_parents_sessions_alone(mariadb_shop: str) -> None:
    assert run_python(FORKED.replace("URL", mariadb_shop)) == "5\n"


def test_a_file_that_got_the_number_of_a_lost_socket_is_left_alone(
    mysql: MySQLClientDriver, connect: Connect, mariadb: MariaDB, tmp_path: Path
) -> None:
    connection = connect()
    number = connection.fileno()
    kill(mariadb, connection.thread_id())
    with pytest.raises(MySQLdb.OperationalError):
        value(connection, "SELECT 1")  # the library closes its socket here
    assert connection.fileno() == number
    orders = os.open(tmp_path / "orders", os.O_CREAT | os.O_RDWR)
    os.dup2(orders, number)

    mysql.abandon(connection)

    assert os.path.sameopenfile(orders, number)
    for descriptor in {orders, number}:
        os.close(descriptor)


# --- errors ----------------------------------------------------------------------------------------------------------


def test_a_deadlock_can_be_run_again(mysql: MySQLClientDriver, connect: Connect) -> None:
    one, other = connect(), connect()
    run(one, "UPDATE books SET stock = 1 WHERE id = 1")
    run(other, "UPDATE books SET stock = 2 WHERE id = 2")
    waiting = Task(lambda: run(one, "UPDATE books SET stock = 1 WHERE id = 2"))
    errors: list[MySQLdb.Error] = []

    attempts = [lambda: run(other, "UPDATE books SET stock = 2 WHERE id = 1"), waiting.result]
    for attempt in attempts:
        try:
            attempt()
        except MySQLdb.Error as error:
            errors.append(error)
            other.rollback()

    assert [error.args[0] for error in errors] == [1213]
    assert mysql.can_run_again(errors[0])


def test_a_lock_that_took_too_long_can_be_waited_for_again(mysql: MySQLClientDriver, connect: Connect) -> None:
    one, other = connect(), connect("init_command=SET%20innodb_lock_wait_timeout%3D0")
    run(one, "UPDATE books SET stock = 1 WHERE id = 1")

    with pytest.raises(MySQLdb.OperationalError) as caught:
        run(other, "UPDATE books SET stock = 2 WHERE id = 1")

    assert caught.value.args[0] == 1205
    assert mysql.can_run_again(caught.value)


def test_other_errors_would_come_again(mysql: MySQLClientDriver, connect: Connect) -> None:
    connection = connect()

    with pytest.raises(MySQLdb.IntegrityError) as caught:
        run(connection, "INSERT INTO books VALUES (1, 1)")

    assert not mysql.can_run_again(caught.value)
    assert not mysql.can_run_again(ValueError(1213))


# --- in a pool -------------------------------------------------------------------------------------------------------


def test_a_session_killed_while_idle_is_replaced_unseen(make_pool: MakePool, mariadb: MariaDB) -> None:
    pool = make_pool(max_size=1)
    with pool.connection() as connection:
        session = connection.thread_id()
    kill(mariadb, session)

    with pool.connection() as connection:
        assert value(connection, "SELECT CONNECTION_ID()") != session


def test_a_block_that_raises_leaves_nothing(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)

    with pytest.raises(MySQLdb.ProgrammingError), pool.connection() as connection:
        run(connection, "UPDATE books SET stock = 0", "SELECT nothing FROM nowhere")

    with pool.connection() as again:
        assert again is connection
        assert value(again, "SELECT stock FROM books WHERE id = 1") == 10


def test_a_connection_comes_back_from_each_borrower_with_a_clean_session(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1, reset="session")
    with pool.connection() as connection:
        run(connection, "SET @discount = 1", "UPDATE books SET stock = 3 WHERE id = 1")

    with pool.connection() as again:
        assert again is connection
        assert value(again, "SELECT @discount") is None
        assert value(again, "SELECT stock FROM books WHERE id = 1") == 3


def test_sixteen_threads_share_four_connections_and_no_two_have_one_at_once(make_pool: MakePool) -> None:
    pool = make_pool(max_size=4)
    users: dict[int, threading.Lock] = {}
    sessions: set[int] = set()

    def borrow_often() -> None:
        for number in range(20):
            with pool.connection(readonly=number % 2 == 0) as connection:
                alone = users.setdefault(connection.thread_id(), threading.Lock())
                assert alone.acquire(blocking=False), "two threads have one connection"
                sessions.add(value(connection, "SELECT CONNECTION_ID()"))
                run(connection, f"UPDATE books SET stock = stock + {number % 2} WHERE id = 1")
                alone.release()

    for task in [Task(borrow_often) for _ in range(16)]:
        task.result()

    assert len(sessions) <= 4
    with pool.connection() as connection:
        assert value(connection, "SELECT stock FROM books WHERE id = 1") == 10 + 16 * 10


# --- for a budget ----------------------------------------------------------------------------------------------------


def test_the_server_says_how_many_sessions_it_allows(mysql: MySQLClientDriver, connect: Connect) -> None:
    assert mysql.sessions_allowed(connect()) == 200


def test_an_account_may_be_allowed_fewer(
    mariadb: MariaDB, mariadb_shop: str, mysql: MySQLClientDriver, connect: Connect
) -> None:
    with mariadb.admin() as admin, admin.cursor() as cursor:
        cursor.execute(f"ALTER USER {parse_url(mariadb_shop).user} WITH MAX_USER_CONNECTIONS 7")

    assert mysql.sessions_allowed(connect()) == 7


def test_a_farewell_tells_when_the_server_has_ended_the_session(
    mariadb: MariaDB, mysql: MySQLClientDriver, connect: Connect
) -> None:
    connection = connect()

    farewell = mysql.close(connection)

    assert farewell.wait(PATIENCE)
    assert 0.0 < farewell.seconds < PATIENCE
    eventually(lambda: int(admin_value(mariadb, "SHOW STATUS LIKE 'Threads_connected'")) == 1)
