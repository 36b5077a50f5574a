"""Servers that fall silent, refuse to clean a session, or send unexpected answers."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import MySQLdb
import MySQLdb.cursors
import psycopg
import pytest

from drivers.shops import Connect, MariaDBShop, PostgreSQLShop, Shop, driver_of, is_alive, run, value
from faults.proxy import Proxy
from unit.fakes import PATIENCE, Task, run_python
from wsgipool import ConfigError, drivers
from wsgipool.drivers import DEFAULT_READ_TIMEOUT

SHOPS: dict[str, type[Shop]] = {"mariadb": MariaDBShop, "postgresql": PostgreSQLShop}


@pytest.fixture(params=SHOPS)
def shop(request: pytest.FixtureRequest) -> Shop:
    server = request.param
    return SHOPS[server](request.getfixturevalue(server), request.getfixturevalue(f"{server}_shop"))


@pytest.fixture
def proxy(shop: Shop) -> Iterator[Proxy]:
    with Proxy(shop.server.port) as proxy:
        yield proxy


only_mariadb = pytest.mark.parametrize("shop", ["mariadb"], indirect=True)
only_postgresql = pytest.mark.parametrize("shop", ["postgresql"], indirect=True)


# --- silence ---------------------------------------------------------------------------------------------------------


def test_a_server_that_stops_in_a_statement_fails_it_in_time(shop: Shop, proxy: Proxy) -> None:
    driver = driver_of(f"{proxy.through(shop.url)}?read_timeout=1")
    connection = driver.connect(PATIENCE)
    proxy.swallowing = True

    with pytest.raises(shop.dbapi.OperationalError, match=r"Lost connection|the server was silent for 1 s"):
        Task(lambda: value(connection, "SELECT 1")).result()

    with pytest.raises(shop.dbapi.OperationalError):
        driver.check_in(connection, "rollback")
    driver.close(connection)


def test_a_server_that_stops_reading_a_statement_fails_it_in_time(shop: Shop) -> None:
    with Proxy(shop.server.port) as proxy:
        driver = driver_of(f"{proxy.through(shop.url)}?read_timeout=1")
        connection = driver.connect(PATIENCE)
        proxy.delay = 2 * PATIENCE  # for the first piece, so nothing more is read
        long = "x" * 16_000_000

        with pytest.raises(shop.dbapi.OperationalError):
            Task(lambda: value(connection, f"SELECT length('{long}')")).result()

        driver.close(connection)


def test_the_default_is_a_minute(shop: Shop, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    assert DEFAULT_READ_TIMEOUT == 60
    if isinstance(shop, PostgreSQLShop):
        assert connect().read_timeout == 60
        return
    given: dict[str, Any] = {}
    monkeypatch.setattr("wsgipool.drivers.mysqlclient.PooledConnection", lambda **options: given.update(options))
    with pytest.raises(AttributeError):
        shop.driver.connect(PATIENCE)
    assert [given["read_timeout"], given["write_timeout"]] == [60, 60]


@only_postgresql
def test_psycopgs_python_implementation_keeps_the_timeout_too(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSYCOPG_IMPL", "python")
    program = f"""
import psycopg
from drivers.shops import driver_of
connection = driver_of("{shop.url}?read_timeout=0.2").connect({PATIENCE})
try:
    connection.execute("SELECT pg_sleep(1)")
except psycopg.OperationalError as error:
    print(error)
"""

    assert "was silent for 0.2 s; a statement that takes longer needs a longer read_timeout" in run_python(program)


@only_postgresql
def test_a_block_with_a_longer_read_timeout_allows_a_long_statement(shop: Shop, connect: Connect) -> None:
    connection = connect("read_timeout=0.3")

    shop.driver.set_read_timeout(connection, PATIENCE)
    connection.execute("SELECT pg_sleep(0.6)")
    shop.driver.check_in(connection, "rollback")
    assert is_alive(shop.driver, connection)

    with pytest.raises(psycopg.OperationalError, match=r"silent for 0\.3 s"):
        connection.execute("SELECT pg_sleep(1)")


@only_mariadb
def test_mysqlclients_error_names_the_remedy_for_a_long_statement(shop: Shop, connect: Connect) -> None:
    with pytest.raises(ConfigError, match=r"add another database to the settings, whose url has \?read_timeout=600"):
        shop.driver.set_read_timeout(connect(), 600)


@only_postgresql
def test_the_read_timeout_ignores_waits_for_notifications_and_for_the_program(connect: Connect) -> None:
    connection = connect("read_timeout=0.2&autocommit=on")

    assert list(connection.notifies(timeout=0.6)) == []
    with connection.cursor().copy("COPY books FROM STDIN") as rows:
        time.sleep(0.5)
        rows.write_row((3, 1))

    assert value(connection, "SELECT count(*) FROM books") == 3


@only_postgresql
def test_ctrl_c_cancels_a_statement_and_keeps_the_connection(shop: Shop, connect: Connect) -> None:
    connection = connect()
    timer = threading.Timer(0.3, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a program in the background may ignore it
    timer.start()

    try:
        with pytest.raises(KeyboardInterrupt):
            connection.execute("SELECT pg_sleep(60)")
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    shop.driver.check_in(connection, "rollback")
    assert is_alive(shop.driver, connection)


# --- cleaning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [b"NONSENSE", b"SELECT 1", b"SELECT 1 UNION SELECT 2"])
def test_a_cleaning_without_an_ok_makes_a_connection_unusable(answer: bytes, shop: Shop, connect: Connect) -> None:
    connection = connect()
    connection.send(answer)

    with pytest.raises(shop.dbapi.Error):
        is_alive(shop.driver, connection)


def test_the_next_holder_waits_only_shortly_for_cleaning(shop: Shop, proxy: Proxy) -> None:
    driver = driver_of(proxy.through(shop.url))
    connection = driver.connect(PATIENCE)
    run(connection, "UPDATE books SET stock = 0")
    proxy.swallowing = True
    driver.check_in(connection, "rollback")
    started = time.monotonic()

    with pytest.raises(shop.dbapi.OperationalError, match="did not answer within"):
        is_alive(driver, connection)

    assert time.monotonic() - started < PATIENCE / 2
    driver.close(connection)


@pytest.mark.parametrize("arriving", [1, 4, 6])
def test_the_next_holder_waits_only_shortly_for_the_rest_of_an_answer(arriving: int, shop: Shop, proxy: Proxy) -> None:
    driver = driver_of(proxy.through(shop.url))
    connection = driver.connect(PATIENCE)
    run(connection, "UPDATE books SET stock = 0")
    proxy.answer_limit = arriving
    driver.check_in(connection, "rollback")

    with pytest.raises(shop.dbapi.OperationalError):
        Task(lambda: is_alive(driver, connection)).result()

    driver.close(connection)


@pytest.mark.parametrize("how", ["rollback", "session"])
def test_without_a_pipeline_the_return_waits_for_the_answer(how: drivers.Reset, shop: Shop, connect: Connect) -> None:
    connection = connect()
    run(connection, "UPDATE books SET stock = 0")

    shop.driver.check_in(connection, how, pipeline=False)

    assert not connection.answer_is_due
    assert is_alive(shop.driver, connection)


def test_a_former_holder_does_not_read_the_answer_to_the_cleaning(shop: Shop, connect: Connect) -> None:
    connection = connect()
    run(connection, "UPDATE books SET stock = 0")
    shop.driver.check_in(connection, "rollback")

    with pytest.raises(shop.dbapi.Error):
        value(connection, "SELECT 1")


# --- unexpected answers ----------------------------------------------------------------------------------------------


def test_a_second_answer_is_not_read_by_the_next_query(shop: Shop, proxy: Proxy) -> None:
    driver = driver_of(f"{proxy.through(shop.url)}?autocommit=on")
    connection = driver.connect(PATIENCE)
    proxy.answers_twice = True

    for number in range(10):
        try:
            assert value(connection, f"SELECT {number}") == number
        except shop.dbapi.Error:
            break
    else:
        pytest.fail("nothing was noticed")

    with pytest.raises(shop.dbapi.Error):
        driver.check_in(connection, "rollback")
    driver.close(connection)


def test_a_second_answer_makes_a_connection_unusable_at_checkout(shop: Shop, proxy: Proxy) -> None:
    driver = driver_of(f"{proxy.through(shop.url)}")
    connection = driver.connect(PATIENCE)
    run(connection, "SELECT 1")
    proxy.answers_twice = True
    driver.check_in(connection, "rollback")

    assert not is_alive(driver, connection)

    driver.close(connection)


@only_mariadb
def test_the_error_for_unread_rows_says_so(connect: Connect) -> None:
    connection = connect()
    cursor = connection.cursor(MySQLdb.cursors.SSCursor)
    cursor.execute("SELECT seq FROM seq_1_to_1000000")

    with pytest.raises(MySQLdb.ProgrammingError, match=r"out of sync.*after CALL read the rest by nextset\(\)"):
        connection.query("SELECT 1")
