"""The psycopg driver against a real PostgreSQL."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from unit.fakes import PATIENCE, Task, eventually, run_python
from wsgipool import ConfigError, ConnectFailed, Pool, drivers
from wsgipool.config import DatabaseSettings, parse_url
from wsgipool.demo.postgresql import PostgreSQL
from wsgipool.drivers import psycopg as psycopg_driver
from wsgipool.drivers.psycopg import PooledConnection, PsycopgDriver

Connect = Callable[..., PooledConnection]
MakePool = Callable[..., Pool[PooledConnection]]


def settings_of(url: str) -> DatabaseSettings:
    return DatabaseSettings("shop", parse_url(url), "wsgipool.toml: databases.shop")


def driver(url: str) -> PsycopgDriver:
    return psycopg_driver.driver(settings_of(url))


@pytest.fixture
def postgres(postgresql_shop: str) -> PsycopgDriver:
    return driver(postgresql_shop)


@pytest.fixture
def connect(postgresql_shop: str) -> Iterator[Connect]:
    """Connects to the shop, by a URL with these options, and closes at the end."""
    connected: list[PooledConnection] = []

    def connect(options: str = "") -> PooledConnection:
        connected.append(driver(f"{postgresql_shop}?{options}").connect(PATIENCE))
        return connected[-1]

    yield connect
    for connection in connected:
        driver(postgresql_shop).close(connection)


@pytest.fixture
def make_pool(postgres: PsycopgDriver) -> Iterator[MakePool]:
    """Makes pools for the shop, and closes them at the end."""
    pools: list[Pool[PooledConnection]] = []

    def make(**settings: Any) -> Pool[PooledConnection]:
        pools.append(Pool(postgres, name="shop", timeout=3 * PATIENCE, **settings))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def value(connection: psycopg.Connection[Any], query: str) -> Any:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def clean(postgres: PsycopgDriver, connection: PooledConnection, how: drivers.Reset = "rollback") -> None:
    if postgres.begin_reset(connection, how):
        postgres.finish_reset(connection, PATIENCE)


def session_of(connection: PooledConnection) -> int:
    return connection.info.backend_pid


def await_end(admin: psycopg.Connection, session: int) -> None:
    eventually(lambda: not admin.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (session,)).rowcount)


def kill(postgresql: PostgreSQL, session: int) -> None:
    """End a session as an administrator does, and wait until it is gone."""
    with postgresql.admin() as admin:
        admin.execute("SELECT pg_terminate_backend(%s)", (session,))
        await_end(admin, session)


# --- the URL ---------------------------------------------------------------------------------------------------------


def test_the_scheme_names_the_driver() -> None:
    assert isinstance(drivers.for_database(settings_of("postgresql://shop@db/orders")), PsycopgDriver)


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("postgresql:///orders", "no host; write postgresql://user@host/database, or for a local server postgresql:"),
        ("postgresql://db/x?sslmod=require", "sslmod is not an option of postgresql://; did you mean sslmode?"),
        ("postgresql://db/x?colour=red", "colour is not an option of postgresql://; known are: application_name, "),
        ("postgresql://db/x?password=s3cret", "password is not an option of postgresql://; did you mean sslpassword?"),
        ("postgresql://db/x?autocommit=maybe", "the option autocommit is true or false, not 'maybe'"),
        ("postgresql://db/x?connect_timeout=0", "connect_timeout is a number of seconds above 0, not '0'"),
        ("postgresql://db/x?prepare_threshold=-1", "prepare_threshold is a number from 0, or none, not '-1'"),
        ("postgresql://db/x?host=/run/postgresql", "the host stands before the '?' and after it; keep one"),
    ],
)
def test_a_wrong_url_says_where_it_stands_and_what_would_do(url: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        driver(url)

    assert str(caught.value).startswith("wsgipool.toml: databases.shop.url: ")
    assert remedy in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_the_address_has_no_password() -> None:
    postgres = driver("postgresql://shop:s3cret@db:5433/orders?sslmode=require")

    assert postgres.address == "postgresql://shop@db:5433/orders"
    assert "s3cret" not in repr(postgres)


# --- connecting ------------------------------------------------------------------------------------------------------


def test_a_connection_is_what_the_url_says(connect: Connect, postgresql_shop: str) -> None:
    name = postgresql_shop.rpartition("/")[2]

    connection = connect()

    assert isinstance(connection, psycopg.Connection)
    assert value(connection, "SELECT current_user") == value(connection, "SELECT current_database()") == name
    assert value(connection, "SELECT current_setting('application_name')") == "wsgipool:shop"
    assert not connection.autocommit


OPTIONS = "autocommit=on&prepare_threshold=none&application_name=till&options=-c%20work_mem%3D1MB"


@pytest.mark.parametrize("renewed", [False, True])
def test_the_options_reach_the_session_and_outlast_its_reset(
    renewed: bool, connect: Connect, postgresql_shop: str
) -> None:
    connection = connect(OPTIONS)

    if renewed:
        connection.execute("SET application_name = 'other'")
        connection.execute("SET work_mem = '2MB'")
        connection.autocommit, connection.prepare_threshold = False, 5
        clean(driver(f"{postgresql_shop}?{OPTIONS}"), connection, "session")

    assert value(connection, "SELECT current_setting('application_name')") == "till"
    assert value(connection, "SELECT current_setting('work_mem')") == "1MB"
    assert (connection.autocommit, connection.prepare_threshold) == (True, None)


def test_a_local_server_is_reached_by_its_socket(postgresql: PostgreSQL, postgresql_shop: str) -> None:
    by_socket = postgresql_shop.replace("127.0.0.1", "") + f"?host={postgresql.folder}"

    with driver(by_socket).connect(PATIENCE) as connection:
        assert value(connection, "SELECT inet_client_addr()") is None


def test_a_wrong_password_is_the_drivers_error_and_in_no_message(postgresql_shop: str) -> None:
    user = postgresql_shop.rpartition("/")[2]
    pool = Pool(driver(postgresql_shop.replace(f"{user}:", f"{user}:wr0ng")), name="shop", max_size=1)

    with pytest.raises(ConnectFailed, match="password authentication failed") as caught:
        pool.getconn()

    assert isinstance(caught.value.__cause__, psycopg.OperationalError)
    assert "wr0ng" not in f"{caught.value} {caught.value.__cause__}"


def test_a_server_that_accepts_and_says_nothing_fails_the_connect_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        postgres = driver(f"postgresql://shop@127.0.0.1:{silent.getsockname()[1]}/orders")
        started = time.monotonic()

        with pytest.raises(psycopg.OperationalError, match=r"no connection within 0\.2 s"):
            Task(lambda: postgres.connect(0.2)).result()

        assert 0.2 <= time.monotonic() - started < 5


def test_a_port_without_a_server_fails_the_connect_at_once() -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))

        with pytest.raises(psycopg.OperationalError, match="refused"):
            driver(f"postgresql://shop@127.0.0.1:{unheard.getsockname()[1]}/orders").connect(PATIENCE)


# --- the reset -------------------------------------------------------------------------------------------------------


def test_a_reset_ends_the_transaction_before_its_answer_is_read(postgres: PsycopgDriver, connect: Connect) -> None:
    returned, other = connect(), connect()
    returned.execute("UPDATE books SET stock = 0")

    assert postgres.begin_reset(returned, "rollback")

    other.execute("UPDATE books SET stock = stock + 1")  # would wait for the lock
    other.commit()
    postgres.finish_reset(returned, PATIENCE)
    assert value(returned, "SELECT stock FROM books WHERE id = 1") == 11


def test_a_reset_ends_a_transaction_that_has_failed(postgres: PsycopgDriver, connect: Connect) -> None:
    connection = connect()
    with pytest.raises(psycopg.errors.DivisionByZero):
        connection.execute("SELECT 1/0")

    clean(postgres, connection)

    assert value(connection, "SELECT 1") == 1


@pytest.mark.parametrize("options", ["", "autocommit=on"])
def test_outside_a_transaction_nothing_is_owed(options: str, postgres: PsycopgDriver, connect: Connect) -> None:
    connection = connect(options)
    connection.execute("UPDATE books SET stock = 7 WHERE id = 1")
    connection.commit()

    assert not postgres.begin_reset(connection, "rollback")

    assert value(connection, "SELECT stock FROM books WHERE id = 1") == 7


LEFTOVERS = {
    "setting": ("SET TIME ZONE 'Asia/Tokyo'", "SELECT current_setting('TimeZone') = 'Asia/Tokyo'"),
    "lock": ("SELECT pg_advisory_lock(1)", "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory'"),
    "temporary table": ("CREATE TEMPORARY TABLE basket (id INT)", "SELECT to_regclass('basket') IS NOT NULL"),
    "role": ("SET ROLE pg_read_all_settings", "SELECT current_user = 'pg_read_all_settings'"),
    "prepared statement": ("PREPARE one AS SELECT 1", "SELECT count(*) > 0 FROM pg_prepared_statements"),
    "listener": ("LISTEN orders", "SELECT count(*) > 0 FROM pg_listening_channels()"),
}


@pytest.mark.parametrize(("how", "left"), [("rollback", True), ("session", False)])
@pytest.mark.parametrize("leftover", LEFTOVERS)
def test_a_rollback_leaves_the_session_as_it_is_and_a_session_reset_nothing_of_it(
    leftover: str,
    how: drivers.Reset,
    left: bool,
    postgres: PsycopgDriver,
    connect: Connect,
    postgresql: PostgreSQL,
    postgresql_shop: str,
) -> None:
    with postgresql.admin() as admin:
        admin.execute(f"GRANT pg_read_all_settings TO {postgresql_shop.rpartition('/')[2]}")
    leave, is_left = LEFTOVERS[leftover]
    connection = connect()
    connection.execute(leave)
    connection.commit()

    clean(postgres, connection, how)

    assert value(connection, is_left) is left


def test_a_session_reset_in_a_transaction_ends_both(postgres: PsycopgDriver, connect: Connect) -> None:
    connection = connect()
    connection.execute("UPDATE books SET stock = 0")

    clean(postgres, connection, "session")

    assert value(connection, "SELECT stock FROM books WHERE id = 1") == 10


def test_a_session_reset_puts_psycopgs_own_settings_back(postgres: PsycopgDriver, connect: Connect) -> None:
    connection = connect()
    connection.autocommit = connection.read_only = connection.deferrable = True
    connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    connection.row_factory = dict_row

    clean(postgres, connection, "session")

    assert not connection.autocommit
    assert [connection.isolation_level, connection.read_only, connection.deferrable] == [None, None, None]
    assert connection.execute("SELECT 1 AS one").fetchone() == (1,)


@pytest.mark.parametrize("how", ["rollback", "session"])
def test_what_psycopg_has_prepared_does_not_outlive_a_reset(
    how: drivers.Reset, postgres: PsycopgDriver, connect: Connect
) -> None:
    connection = connect()

    for kind in ("INT", "TEXT"):
        connection.execute(f"CREATE TEMPORARY TABLE basket (item {kind})")
        for _ in range(8):  # prepared at the sixth
            connection.execute("SELECT * FROM basket")
        clean(postgres, connection, how)

    assert value(connection, "SELECT count(*) FROM books") == 2


def test_a_command_that_is_still_running_is_not_waited_for(postgres: PsycopgDriver, connect: Connect) -> None:
    connection = connect()
    rows = connection.cursor().stream("SELECT * FROM generate_series(1, 1000000)")
    next(rows)

    with pytest.raises(psycopg.OperationalError, match="not read to its end"):
        postgres.begin_reset(connection, "rollback")

    postgres.close(connection)
    with pytest.raises(psycopg.OperationalError):
        next(rows)


def test_a_pipeline_left_open_makes_a_connection_useless(postgres: PsycopgDriver, connect: Connect) -> None:
    connection = connect()
    left_open = connection.pipeline()
    left_open.__enter__()

    with pytest.raises(psycopg.OperationalError, match="a pipeline left open"):
        postgres.begin_reset(connection, "rollback")


@pytest.mark.parametrize("statement", [None, "SELECT 1"])
def test_a_transaction_block_left_open_makes_a_connection_useless(
    statement: str | None, postgres: PsycopgDriver, connect: Connect
) -> None:
    connection = connect()
    left_open = connection.transaction()
    left_open.__enter__()
    if statement is None:
        connection.pgconn.exec_(b"ROLLBACK")

    with pytest.raises(psycopg.ProgrammingError, match="forbidden within a Transaction"):
        clean(postgres, connection)


def test_an_answer_that_does_not_come_is_not_waited_for_longer_than_said(
    postgres: PsycopgDriver, connect: Connect
) -> None:
    connection = connect()
    connection.send(b"DO 'BEGIN PERFORM pg_sleep(0.5); END'")

    with pytest.raises(psycopg.OperationalError, match=r"did not answer within 0\.05 s"):
        postgres.finish_reset(connection, 0.05)


def test_an_answer_that_is_an_error_is_one(postgres: PsycopgDriver, connect: Connect) -> None:
    connection = connect()
    connection.send(b"DISCARD NOTHING")

    with pytest.raises(psycopg.OperationalError, match="syntax error"):
        postgres.finish_reset(connection, PATIENCE)


# --- alive or not ----------------------------------------------------------------------------------------------------


def test_a_connection_that_nobody_harmed_is_alive(postgres: PsycopgDriver, connect: Connect) -> None:
    connection = connect()

    assert postgres.is_alive(connection)
    postgres.ping(connection, PATIENCE)
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert postgres.is_alive(connection)


def test_a_notification_is_a_sign_of_life_and_reaches_its_handler(postgres: PsycopgDriver, connect: Connect) -> None:
    listening, other = connect("autocommit=on"), connect("autocommit=on")
    heard: list[str] = []
    listening.add_notify_handler(lambda notification: heard.append(notification.payload))
    listening.execute("LISTEN orders")
    other.execute("NOTIFY orders, 'one book'")
    assert psycopg_driver._ready(listening.fileno(), select.POLLIN, PATIENCE)

    assert postgres.is_alive(listening)

    assert heard == ["one book"]


def test_a_session_that_was_killed_is_seen_without_asking(
    postgres: PsycopgDriver, connect: Connect, postgresql: PostgreSQL
) -> None:
    connection = connect()
    kill(postgresql, session_of(connection))

    assert not postgres.is_alive(connection)
    with pytest.raises(psycopg.OperationalError):
        postgres.ping(connection, PATIENCE)


def test_the_reason_for_the_end_is_enough_even_before_the_end(postgres: PsycopgDriver) -> None:
    """The server sends why it ends a session, and closes the socket a moment later."""
    fatal = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        url = f"postgresql://shop@127.0.0.1:{port}/orders?sslmode=disable&gssencmode=disable"
        connecting = Task(lambda: driver(url).connect(PATIENCE))
        serving, _ = server.accept()
        with serving:
            serving.recv(1000)
            serving.sendall(b"R\0\0\0\x08\0\0\0\0" + b"Z\0\0\0\x05I")
            connection = connecting.result()
            serving.sendall(b"E" + (len(fatal) + 4).to_bytes(4, "big") + fatal)
            assert psycopg_driver._ready(connection.fileno(), select.POLLIN, PATIENCE)

            assert not postgres.is_alive(connection)

    postgres.close(connection)


def test_a_session_killed_while_its_answer_is_due_is_seen_with_the_answer(
    postgres: PsycopgDriver, connect: Connect, postgresql: PostgreSQL
) -> None:
    connection = connect()
    connection.execute("SELECT 1")
    postgres.begin_reset(connection, "rollback")
    kill(postgresql, session_of(connection))

    def check_out() -> None:
        postgres.finish_reset(connection, PATIENCE)
        postgres.ping(connection, PATIENCE)  # the ROLLBACK may have been answered before the end

    with pytest.raises(psycopg.OperationalError):
        check_out()


def test_a_connection_that_was_closed_is_dead(postgres: PsycopgDriver, connect: Connect) -> None:
    connection = connect()
    connection.close()

    assert not postgres.is_alive(connection)


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer_due", [False, True])
def test_close_says_goodbye(
    answer_due: bool, postgres: PsycopgDriver, connect: Connect, postgresql: PostgreSQL
) -> None:
    connection = connect()
    session = session_of(connection)
    if answer_due:
        connection.execute("SELECT 1")
        postgres.begin_reset(connection, "rollback")
    logged = postgresql.log.stat().st_size

    postgres.close(connection)

    def last_words() -> list[str]:
        lines = postgresql.log.read_bytes()[logged:].decode().splitlines()
        return [line.partition("LOG:  ")[2].partition(":")[0] for line in lines if f"[{session}]" in line]

    eventually(lambda: "disconnection" in last_words())
    assert last_words() == ["disconnection"]


def test_a_close_never_raises(postgres: PsycopgDriver, connect: Connect, postgresql: PostgreSQL) -> None:
    killed = connect()
    kill(postgresql, session_of(killed))

    for connection in (killed, killed, connect()):
        postgres.close(connection)

    assert connection.closed


FORKED = """
import os, sys
from wsgipool import Pool
from wsgipool.config import DatabaseSettings, parse_url
from wsgipool.drivers.psycopg import driver

def session(connection):
    return connection.execute("SELECT pg_backend_pid()").fetchone()[0]

pool = Pool(driver(DatabaseSettings("shop", parse_url("URL"), "")), name="shop", max_size=2)
idle, busy = pool.getconn(), pool.getconn()
before = session(idle), session(busy)
busy.execute("UPDATE books SET stock = 5 WHERE id = 1")
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
    print(one.execute("SELECT stock FROM books WHERE id = 1").fetchone()[0])
pool.close()
"""


@pytest.mark.parametrize("implementation", ["", "python"])
def test_a_forks_child_leaves_the_parents_sessions_alone(
    implementation: str, postgresql_shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PSYCOPG_IMPL", implementation)

    assert run_python(FORKED.replace("URL", postgresql_shop)) == "5\n"


# --- errors ----------------------------------------------------------------------------------------------------------


def test_a_deadlock_can_be_run_again(postgres: PsycopgDriver, connect: Connect) -> None:
    one, other = connect(), connect()
    one.execute("UPDATE books SET stock = 1 WHERE id = 1")
    other.execute("UPDATE books SET stock = 2 WHERE id = 2")
    waiting = Task(lambda: one.execute("UPDATE books SET stock = 1 WHERE id = 2"))
    errors: list[psycopg.Error] = []

    attempts = [lambda: other.execute("UPDATE books SET stock = 2 WHERE id = 1"), waiting.result]
    for attempt in attempts:
        try:
            attempt()
        except psycopg.Error as error:
            errors.append(error)
        other.rollback()

    assert [error.sqlstate for error in errors] == ["40P01"]
    assert postgres.can_run_again(errors[0])


def test_a_serialization_failure_can_be_run_again(postgres: PsycopgDriver, connect: Connect) -> None:
    one, other = connect(), connect("autocommit=on")
    one.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    one.execute("SELECT 1")
    other.execute("UPDATE books SET stock = 2 WHERE id = 1")

    with pytest.raises(psycopg.OperationalError) as caught:
        one.execute("UPDATE books SET stock = 1 WHERE id = 1")

    assert caught.value.sqlstate == "40001"
    assert postgres.can_run_again(caught.value)


def test_a_lock_that_took_too_long_can_be_waited_for_again(postgres: PsycopgDriver, connect: Connect) -> None:
    one, other = connect(), connect()
    one.execute("UPDATE books SET stock = 1 WHERE id = 1")

    with pytest.raises(psycopg.OperationalError) as caught:
        other.execute("SELECT * FROM books WHERE id = 1 FOR UPDATE NOWAIT")

    assert caught.value.sqlstate == "55P03"
    assert postgres.can_run_again(caught.value)


def test_other_errors_would_come_again(postgres: PsycopgDriver, connect: Connect) -> None:
    with pytest.raises(psycopg.IntegrityError) as caught:
        connect().execute("INSERT INTO books VALUES (1, 1)")

    assert not postgres.can_run_again(caught.value)
    assert not postgres.can_run_again(ValueError("40P01"))


# --- in a pool -------------------------------------------------------------------------------------------------------


def test_a_session_killed_while_idle_is_replaced_unseen(make_pool: MakePool, postgresql: PostgreSQL) -> None:
    pool = make_pool(max_size=1)
    with pool.connection() as connection:
        session = session_of(connection)
    kill(postgresql, session)

    with pool.connection() as connection:
        assert value(connection, "SELECT pg_backend_pid()") != session


def test_a_block_that_raises_leaves_nothing(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)

    with pytest.raises(psycopg.errors.UndefinedTable), pool.connection() as connection:
        connection.execute("UPDATE books SET stock = 0; SELECT nothing FROM nowhere")

    with pool.connection() as again:
        assert again is connection
        assert value(again, "SELECT stock FROM books WHERE id = 1") == 10


def test_a_connection_comes_back_from_each_borrower_with_a_clean_session(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1, reset="session")
    with pool.connection() as connection:
        connection.execute("SET work_mem = '1MB'")
        connection.execute("UPDATE books SET stock = 3 WHERE id = 1")

    with pool.connection() as again:
        assert again is connection
        assert value(again, "SELECT current_setting('work_mem')") != "1MB"
        assert value(again, "SELECT stock FROM books WHERE id = 1") == 3


def test_sixteen_threads_share_four_connections_and_no_two_have_one_at_once(make_pool: MakePool) -> None:
    pool = make_pool(max_size=4)
    users: dict[int, threading.Lock] = {}
    sessions: set[int] = set()

    def borrow_often() -> None:
        for number in range(20):
            with pool.connection(readonly=number % 2 == 0) as connection:
                alone = users.setdefault(session_of(connection), threading.Lock())
                assert alone.acquire(blocking=False), "two threads have one connection"
                sessions.add(value(connection, "SELECT pg_backend_pid()"))
                connection.execute("UPDATE books SET stock = stock + %s WHERE id = 1", (number % 2,))
                alone.release()

    for task in [Task(borrow_often) for _ in range(16)]:
        task.result()

    assert len(sessions) <= 4
    with pool.connection() as connection:
        assert value(connection, "SELECT stock FROM books WHERE id = 1") == 10 + 16 * 10


# --- for a budget ----------------------------------------------------------------------------------------------------


def test_the_server_says_how_many_sessions_it_allows(postgres: PsycopgDriver, connect: Connect) -> None:
    connection = connect()

    assert postgres.sessions_allowed(connection) == 100 - 3, "PostgreSQL's defaults: three are for administrators"
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_a_farewell_tells_when_the_server_has_ended_the_session(
    postgresql: PostgreSQL, postgres: PsycopgDriver, connect: Connect
) -> None:
    connection = connect()
    session = session_of(connection)

    farewell = postgres.close(connection)

    assert farewell.wait(PATIENCE)
    assert 0.0 < farewell.seconds < PATIENCE
    with postgresql.admin() as admin:
        await_end(admin, session)
