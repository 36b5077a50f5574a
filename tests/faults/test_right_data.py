"""The next holder gets its own answers, on a session and an object like new ones, with real servers."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Callable
from typing import Any

import pymysql
import pytest
from pymysql.constants import FIELD_TYPE
from pymysql.cursors import Cursor, DictCursor, SSCursor

from faults.conftest import MakePool
from faults.harness import run, session_of, value
from faults.proxy import Proxy
from httpd.harness import sessions
from unit.fakes import Task, eventually
from unit.interrupts import Alarm, debris_ignored
from wsgipool import ConfigError, ConnectFailed, Pool, PoolDeadlock, PoolError, WrongThread
from wsgipool.demo.mariadb import MariaDB

RESETS = pytest.mark.parametrize("reset", ["rollback", "session"])


@pytest.mark.parametrize("cursor", [Cursor, SSCursor, DictCursor])
@pytest.mark.parametrize("error", [pymysql.DataError("no such date"), pymysql.OperationalError(1213, ""), ValueError()])
def test_a_converter_that_raises_leaves_no_answer_for_others(
    make_pool: MakePool, shop: str, cursor: Any, error: Exception
) -> None:
    pool = make_pool(f"{shop}?sql_mode=ALLOW_INVALID_DATES")

    def convert(text: str) -> str:
        if text.startswith("0000"):
            raise error
        return text

    def ask(connection: Any, query: str) -> Any:
        with connection.cursor() as asking:
            asking.execute(query)
            return asking.fetchall()

    with contextlib.suppress(pymysql.Error), pool.connection() as connection:
        connection.cursorclass = cursor
        connection.decoders = {**connection.decoders, FIELD_TYPE.DATETIME: convert}
        with pytest.raises(type(error)):
            ask(connection, "SELECT CAST('0000-00-00 00:00:00' AS DATETIME) AS n")
        for number in (42, 43):
            assert list(ask(connection, f"SELECT {number} AS n")) in ([(number,)], [{"n": number}])

    with pool.connection() as connection:
        assert value(connection, "SELECT 'next'") == "next"


def test_a_statement_of_sixteen_megabytes_follows_a_rollback(make_pool: MakePool) -> None:
    pool = make_pool()
    with pool.connection() as connection:
        limit = value(connection, "SELECT @@max_allowed_packet")
    size = min(17_000_000, limit - 1000)

    for _ in range(3):
        with pool.connection(readonly=True) as connection:
            value(connection, "SELECT 1")
        with pool.connection() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT LENGTH(%s)", (b"x" * (size // 2 - 100),))
            assert cursor.fetchone() == (size // 2 - 100,)


@pytest.mark.parametrize("select", [lambda mine: run(mine, "USE mysql"), lambda mine: mine.select_db("mysql")])
def test_a_session_reset_ends_with_no_database_if_the_url_names_none(
    make_pool: MakePool, shop: str, mariadb: MariaDB, select: Callable[[Any], object]
) -> None:
    user = shop.rpartition("/")[2]
    with mariadb.admin() as admin, admin.cursor() as cursor:
        cursor.execute(f"GRANT SELECT ON mysql.* TO {user}")
    pool = make_pool(shop.removesuffix(user), reset="session")
    with pool.connection() as connection:
        first = session_of(connection)
    with pool.connection() as connection:
        assert session_of(connection) == first, "a session without a database is used again"
        select(connection)

    with pool.connection() as connection:
        assert value(connection, "SELECT DATABASE()") is None


@RESETS
def test_the_state_set_by_configure_holds_for_each_holder(make_pool: MakePool, reset: str) -> None:
    calls = []

    def configure(connection: Any) -> None:
        calls.append(session_of(connection))
        connection.cursorclass = DictCursor
        run(connection, "SET time_zone = '+05:00'")

    pool = make_pool(configure=configure, reset=reset)
    for _ in range(3):
        with pool.connection() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT @@time_zone AS zone")
            assert list(cursor.fetchall()) == [{"zone": "+05:00"}]
            connection.cursorclass = SSCursor

    assert len(set(calls)) == 1, "one session"


def test_an_empty_sql_mode_costs_no_session(make_pool: MakePool, shop: str) -> None:
    pool = make_pool(f"{shop}?sql_mode=", reset="session")
    numbers = set()
    for _ in range(3):
        with pool.connection() as connection:
            numbers.add(session_of(connection))
            assert value(connection, "SELECT @@sql_mode") == ""

    assert len(numbers) == 1


@RESETS
@pytest.mark.parametrize("switch", [lambda mine: mine.autocommit(True), lambda mine: run(mine, "SET autocommit=1")])
def test_autocommit_of_one_holder_does_not_reach_the_next(
    make_pool: MakePool, reset: str, switch: Callable[[Any], object]
) -> None:
    pool = make_pool(reset=reset)
    with pool.connection() as connection:
        first = session_of(connection)
        switch(connection)

    with pool.connection(readonly=True) as connection:
        run(connection, "UPDATE books SET stock = 0 WHERE id = 1")

    with pool.connection() as connection:
        assert value(connection, "SELECT stock FROM books WHERE id = 1") == 10
        assert session_of(connection) == first


@pytest.mark.parametrize("pipeline", [True, False])
@RESETS
def test_without_pipeline_a_proxy_sees_one_command_at_a_time(
    make_pool: MakePool, proxy: Proxy, shop: str, reset: str, pipeline: bool
) -> None:
    pool = make_pool(proxy.through(f"{shop}?sql_mode=ANSI&init_command=SET%20@a=1"), reset=reset, pipeline=pipeline)
    with pool.connection(readonly=True) as connection:
        value(connection, "SELECT 1")
        run(connection, "SET @b = 1")
    with pool.connection(readonly=True) as connection:
        assert value(connection, "SELECT @a") == 1

    assert proxy.impatient is pipeline


def test_a_transaction_under_autocommit_is_one(make_pool: MakePool, shop: str) -> None:
    pool = make_pool(f"{shop}?autocommit=true&init_command=SET%20innodb_lock_wait_timeout=1", max_size=2)
    tries = []

    def order(connection: Any) -> None:
        tries.append(1)
        run(connection, f"INSERT INTO books VALUES ({100 + len(tries)}, 1)")
        run(connection, "UPDATE books SET stock = stock - 1 WHERE id = 1")

    with pool.connection() as blocking:
        blocking.begin()
        run(blocking, "UPDATE books SET stock = 7 WHERE id = 1")
        waiting = Task(lambda: pool.transaction(order, retry=3))
        eventually(lambda: len(tries) == 2)
        blocking.rollback()
    waiting.result()

    with pool.connection() as connection:
        assert value(connection, "SELECT COUNT(*) FROM books WHERE id > 100") == 1
        assert value(connection, "SELECT stock FROM books WHERE id = 1") == 9
        assert connection.get_autocommit()


def test_a_longer_read_timeout_lets_a_long_statement_end(make_pool: MakePool, shop: str) -> None:
    pool = make_pool(f"{shop}?read_timeout=0.2")
    with pytest.raises(pymysql.OperationalError, match="timed out"), pool.connection() as connection:
        run(connection, "DO SLEEP(1)")

    with pool.connection(read_timeout=30) as connection:
        run(connection, "DO SLEEP(0.5)")
    pool.transaction(lambda connection: run(connection, "DO SLEEP(0.5)"), read_timeout=30)

    with pytest.raises(pymysql.OperationalError, match="timed out"), pool.connection() as connection:
        run(connection, "DO SLEEP(1)")


def test_a_driver_with_a_fixed_read_timeout_refuses_another_and_keeps_its_connection() -> None:
    pool: Pool[Any] = Pool(lambda: _Plain(), name="orders", max_size=1)

    with pytest.raises(ConfigError, match="read_timeout"), pool.connection(read_timeout=1):
        pass

    assert (pool.idle, pool.in_use) == (1, 0)
    pool.close()


class _Plain:
    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...


# --- warnings --------------------------------------------------------------------------------------------------------


def test_a_check_that_fails_is_warned_of_once(make_pool: MakePool, log: pytest.LogCaptureFixture) -> None:
    def check(_connection: Any) -> None:
        raise TypeError("check() is wrong")

    pool = make_pool(check=check)
    for _ in range(4):
        with pool.connection() as connection:
            value(connection, "SELECT 1")

    told = [record.levelno for record in log.records if "check() is wrong" in record.message]
    assert told == [logging.WARNING, *[logging.INFO] * 2]


def test_the_error_for_an_unread_result_of_call_names_nextset(
    make_pool: MakePool, log: pytest.LogCaptureFixture
) -> None:
    pool = make_pool()
    with pool.connection() as connection:
        run(connection, "CREATE PROCEDURE one() SELECT 1")

    with pool.connection(readonly=True) as connection:
        cursor = connection.cursor()
        cursor.execute("CALL one()")
        cursor.fetchall()

    assert "CALL" in log.text
    assert "nextset()" in log.text


@pytest.mark.parametrize("close", [lambda mine: mine.close(), lambda mine: mine.close() or mine.rollback()])
def test_the_error_after_close_in_a_block_names_putconn(make_pool: MakePool, close: Callable[[Any], object]) -> None:
    pool = make_pool()

    with (
        pytest.raises((ValueError, WrongThread), match=r"closed by close\(\).*putconn"),
        pool.connection() as connection,
    ):
        close(connection)

    with pool.connection() as connection:
        assert value(connection, "SELECT 1") == 1


def test_a_connection_closed_instead_of_returned_frees_its_slot_at_once(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.getconn().close()

    with pool.connection() as connection:
        assert value(connection, "SELECT 1") == 1


# --- signal handlers -------------------------------------------------------------------------------------------------


def test_a_signal_handler_gets_a_connection_or_an_error_at_once(make_pool: MakePool) -> None:
    """A hundred signal handlers a second ask while their thread checks out and returns connections."""
    pool = make_pool(max_size=2, max_idle=0.001, timeout=5)
    outcomes: list[object] = []

    def ask(*_: object) -> None:
        began = time.monotonic()
        try:
            with pool.connection(timeout=5, readonly=True) as connection:
                outcomes.append(value(connection, "SELECT 'handler'"))
        except PoolError as error:
            outcomes.append(PoolDeadlock if isinstance(error, PoolDeadlock) else error)
        assert time.monotonic() - began < 4
        strike_soon()

    def strike_soon() -> None:
        """Have one handler run, and none while it runs: on a busy machine they would not leave their thread a turn."""
        signal.setitimer(signal.ITIMER_REAL, 0.01)

    before = signal.signal(signal.SIGALRM, ask)
    strike_soon()
    try:
        for number in range(300):
            with pool.connection() as connection:
                assert value(connection, f"SELECT {number}") == number
            if number % 10 == 0:
                pool.drain()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert "handler" in outcomes
    assert set(outcomes) <= {"handler", PoolDeadlock}
    assert (pool.in_use, pool.waiting) == (0, 0)


def test_an_exception_of_a_signal_handler_leaks_no_slot(make_pool: MakePool, shop: str, mariadb: MariaDB) -> None:
    pool = make_pool(max_size=2, timeout=5)

    with pool.connection():
        pass  # start maintenance now: threading breaks if an exception comes while it starts a thread

    def raise_error(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, raise_error)
    raised = 0
    try:
        with debris_ignored(AttributeError, pymysql.Error):  # from half-made results and cursors
            for number in range(300):
                try:
                    try:
                        signal.setitimer(signal.ITIMER_REAL, 0.0001 * (number % 20 + 1))
                        with pool.connection() as connection:
                            assert value(connection, f"SELECT {number}") == number
                        if number % 5 == 0:
                            pool.drain()
                    finally:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                except (Alarm, PoolError, pymysql.Error):
                    raised += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert raised
    eventually(lambda: pool.in_use == 0)
    eventually(lambda: has_two_connections(pool))
    assert len(sessions(mariadb, shop.rpartition("/")[2])) <= 2


def has_two_connections(pool: Pool[Any]) -> bool:
    """Return whether two can be checked out: the pool pauses after a connect that an alarm has ended."""
    with contextlib.suppress(ConnectFailed), pool.connection() as one, pool.connection() as two:
        return bool(value(one, "SELECT 1") == value(two, "SELECT 1") == 1)
    return False
