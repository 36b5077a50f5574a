"""The promises that mysqlclient and psycopg share, tested on a real MariaDB, MySQL and PostgreSQL."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from drivers.shops import (
    Connect,
    MakePool,
    MariaDBShop,
    MySQLShop,
    PostgreSQLShop,
    Shop,
    clean,
    driver_of,
    is_alive,
    run,
    shop_on,
    value,
)
from faults.proxy import Proxy
from unit.fakes import PATIENCE, Task, run_python
from wsgipool import ConfigError, ConnectFailed, Pool, drivers
from wsgipool.drivers.mysqlclient import MySQLClientDriver
from wsgipool.drivers.psycopg import PsycopgDriver

SHOPS: dict[str, type[Shop]] = {"mariadb": MariaDBShop, "mysql": MySQLShop, "postgresql": PostgreSQLShop}


@pytest.fixture(params=SHOPS)
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    kind = SHOPS[request.param]
    if kind is PostgreSQLShop:
        yield kind(request.getfixturevalue("postgresql"), request.getfixturevalue("postgresql_shop"))
        return
    server = request.getfixturevalue(f"{request.param}_server")
    with shop_on(server) as url:
        yield kind(server, url)


# --- the URL ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "expected"), [("mysql+mysqlclient", MySQLClientDriver), ("postgresql", PsycopgDriver)]
)
def test_the_scheme_names_the_driver(scheme: str, expected: type) -> None:
    assert isinstance(driver_of(f"{scheme}://shop@db/orders"), expected)


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("mysql+mysqlclient:///orders", "no host; write mysql+mysqlclient://user@host/database, or for a local"),
        ("mysql+mysqlclient://db/x?charst=utf8", "charst is not an option of mysql+mysqlclient://; did you mean char"),
        ("mysql+mysqlclient://db/x?colour=red", "colour is not an option of mysql+mysqlclient://; known are: auto"),
        ("mysql+mysqlclient://db/x?passwd=s3cret", "passwd is not an option"),
        ("mysql+mysqlclient://db/x?autocommit=maybe", "the option autocommit is true or false, not 'maybe'"),
        (
            "mysql+mysqlclient://db/x?read_timeout=0",
            "read_timeout is a number of seconds above 0 and up to 86400, not '0'",
        ),
        ("mysql+mysqlclient://db/x?ssl_mode=maybe", "ssl_mode is DISABLED, PREFERRED, REQUIRED, VERIFY_CA or VERIFY"),
        ("postgresql:///orders", "no host; write postgresql://user@host/database, or for a local server postgresql:"),
        ("postgresql://db/x?sslmod=require", "sslmod is not an option of postgresql://; did you mean sslmode?"),
        ("postgresql://db/x?colour=red", "colour is not an option of postgresql://; known are: application_name, "),
        ("postgresql://db/x?password=s3cret", "password is not an option of postgresql://; it stands before the"),
        ("postgresql://db/x?autocommit=maybe", "the option autocommit is true or false, not 'maybe'"),
        (
            "postgresql://db/x?connect_timeout=0",
            "connect_timeout is a number of seconds above 0 and up to 86400, not '0'",
        ),
        ("postgresql://db/x?prepare_threshold=-1", "prepare_threshold is a number from 0, or none, not '-1'"),
        ("postgresql://db/x?host=/run/postgresql", "the host stands before the '?' and after it; keep one"),
    ],
)
def test_the_error_for_a_wrong_url_has_its_place_and_the_remedy(url: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        driver_of(url)

    assert str(caught.value).startswith("wsgipool.toml: databases.shop.url: ")
    assert remedy in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("scheme", "options"), [("mysql+mysqlclient", "charset=utf8mb4"), ("postgresql", "sslmode=require")]
)
def test_the_address_has_no_password(scheme: str, options: str) -> None:
    driver = driver_of(f"{scheme}://shop:s3cret@db:3307/orders?{options}")

    assert driver.address == f"{scheme}://shop@db:3307/orders"
    assert "s3cret" not in repr(driver)


# --- connecting ------------------------------------------------------------------------------------------------------


def test_a_wrong_password_is_the_drivers_error_and_in_no_message(shop: Shop) -> None:
    with_wrong_password = shop.url.replace(f"{shop.user}:", f"{shop.user}:wr0ng")
    pool = Pool(driver_of(with_wrong_password), name="shop", max_size=1)

    with pytest.raises(ConnectFailed, match=r"1045|password authentication failed") as caught:
        pool.getconn()

    assert isinstance(caught.value.__cause__, shop.dbapi.OperationalError)
    assert "wr0ng" not in f"{caught.value} {caught.value.__cause__}"


def wrong_urls(shop: Shop) -> dict[str, str]:
    return {
        "password": shop.url.replace(f"{shop.user}:", f"{shop.user}:wr0ng"),
        "user": shop.url.replace(f"{shop.user}:", "nobody:"),
        "database": shop.url.removesuffix(shop.user) + "nowhere",
    }


@pytest.mark.parametrize("wrong", ["password", "user", "database"])
def test_bad_credentials_are_not_tried_again_and_again(wrong: str, shop: Shop) -> None:
    # Each try counts against a limit of the server, and fills its log.
    with Proxy(shop.server.port) as proxy:
        pool = Pool(driver_of(proxy.through(wrong_urls(shop)[wrong])), name="shop", max_size=1)

        for _ in range(50):
            with pytest.raises(ConnectFailed):
                pool.getconn()

        # PostgreSQL's default is a second try, without TLS.
        assert proxy.accepted <= 2
    assert pool._connector.pause_left() > 0.3


def driver_at(shop: Shop, port: int) -> drivers.Driver[Any]:
    """Return the driver for a port of this machine."""
    return driver_of(f"{shop.url.partition(':')[0]}://shop@127.0.0.1:{port}/orders")


def test_a_silent_server_fails_the_connect_in_time(shop: Shop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        driver = driver_at(shop, silent.getsockname()[1])
        started = time.monotonic()

        with pytest.raises(shop.dbapi.OperationalError, match=r"2013|no connection within 0\.5 s"):
            Task(lambda: driver.connect(0.5)).result()

        assert 0.5 <= time.monotonic() - started < 5


def test_a_port_without_a_server_fails_the_connect_at_once(shop: Shop) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))

        driver = driver_at(shop, unheard.getsockname()[1])

        with pytest.raises(shop.dbapi.OperationalError, match=r"2002|refused") as caught:
            driver.connect(PATIENCE)

    assert not driver.will_be_refused_again(caught.value)


# --- the reset -------------------------------------------------------------------------------------------------------


def test_a_reset_ends_the_transaction_before_its_answer_is_read(shop: Shop, connect: Connect) -> None:
    returned, other = connect(), connect()
    run(returned, "UPDATE books SET stock = 0")

    shop.driver.check_in(returned, "rollback")

    run(other, "UPDATE books SET stock = stock + 1")  # would wait for the lock
    other.commit()
    assert is_alive(shop.driver, returned)
    assert value(returned, "SELECT stock FROM books WHERE id = 1") == 11


@pytest.mark.parametrize(("how", "left"), [("rollback", True), ("session", False)])
@pytest.mark.parametrize(
    ("shop", "leftover"),
    [(server, leftover) for server, kind in SHOPS.items() for leftover in kind.leftovers],
    indirect=["shop"],
)
def test_a_rollback_keeps_the_sessions_state_and_a_session_reset_ends_it(
    leftover: str, how: drivers.Reset, left: bool, shop: Shop, connect: Connect
) -> None:
    leave, is_left = shop.leftovers[leftover]
    connection = connect()
    run(connection, leave)
    connection.commit()

    clean(shop.driver, connection, how)

    assert bool(value(connection, is_left)) is left


def test_a_session_reset_in_a_transaction_ends_both(shop: Shop, connect: Connect) -> None:
    connection = connect()
    run(connection, "UPDATE books SET stock = 0")

    clean(shop.driver, connection, "session")

    assert value(connection, "SELECT stock FROM books WHERE id = 1") == 10


def test_an_unread_result_is_not_waited_for(shop: Shop, connect: Connect) -> None:
    connection = connect()
    rows = shop.unread(connection)
    assert next(rows)[0] == 1

    with pytest.raises(shop.dbapi.Error, match=r"not read to its end|out of sync"):
        shop.driver.check_in(connection, "rollback")

    shop.driver.close(connection)
    with pytest.raises(shop.dbapi.Error):
        next(rows)


def test_a_missing_answer_is_waited_for_up_to_the_timeout(shop: Shop, connect: Connect) -> None:
    connection = connect()
    connection.send(shop.nap)

    with pytest.raises(shop.dbapi.OperationalError, match=r"did not answer within 0\.05 s"):
        connection.read_answer(0.05)


@pytest.mark.parametrize("pipeline", [True, False])
@pytest.mark.parametrize("reset", ["rollback", "session"])
def test_a_return_into_a_black_hole_does_not_hold_the_thread_for_ever(
    shop: Shop, reset: drivers.Reset, pipeline: bool
) -> None:
    with Proxy(shop.server.port) as proxy:
        driver = driver_of(f"{proxy.through(shop.url)}?connect_timeout=1")
        pool = Pool(driver, name="shop", max_size=1, reset=reset, pipeline=pipeline)

        def request() -> None:
            connection = pool.getconn()
            run(connection, "UPDATE books SET stock = 0")
            proxy.swallowing = True
            pool.putconn(connection)

        Task(request).result()

        assert pool.in_use == 0
        pool.close()


def test_with_autocommit_each_statement_stays(shop: Shop, connect: Connect) -> None:
    connection = connect("autocommit=true")
    run(connection, "UPDATE books SET stock = 7 WHERE id = 1")

    clean(shop.driver, connection)

    assert value(connection, "SELECT stock FROM books WHERE id = 1") == 7


# --- alive or not ----------------------------------------------------------------------------------------------------


def test_a_connection_that_nobody_harmed_is_alive(shop: Shop, connect: Connect) -> None:
    connection = connect()

    assert is_alive(shop.driver, connection)
    shop.driver.ping(connection, PATIENCE)
    assert is_alive(shop.driver, connection)
    clean(shop.driver, connection)
    assert is_alive(shop.driver, connection)


def test_a_killed_session_is_noticed_without_a_round_trip(shop: Shop, connect: Connect) -> None:
    connection = connect()
    shop.kill(shop.session_of(connection))

    assert not is_alive(shop.driver, connection)
    with pytest.raises(shop.dbapi.OperationalError):
        shop.driver.ping(connection, PATIENCE)
    with pytest.raises(shop.dbapi.OperationalError):
        clean(shop.driver, connection)


def test_a_session_killed_while_its_answer_is_due_is_replaced(shop: Shop, connect: Connect) -> None:
    connection = connect()
    run(connection, "SELECT 1")
    session = shop.session_of(connection)
    shop.driver.check_in(connection, "rollback")
    shop.kill(session)

    def check_out() -> None:
        is_alive(shop.driver, connection)
        shop.driver.ping(connection, PATIENCE)  # the ROLLBACK may have been answered before the end

    with pytest.raises(shop.dbapi.OperationalError):
        check_out()


def test_a_connection_that_was_closed_is_dead(shop: Shop, connect: Connect) -> None:
    connection = connect()
    connection.close()

    assert not is_alive(shop.driver, connection)


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer_due", [False, True])
def test_close_sends_com_quit(answer_due: bool, shop: Shop, connect: Connect) -> None:
    connection = connect()
    run(connection, "SELECT 1")  # PostgreSQL notices a missing session end only in a transaction
    with shop.sees_session_end(shop.session_of(connection)):
        if answer_due:
            shop.driver.check_in(connection, "rollback")

        shop.driver.close(connection)


def test_a_close_never_raises(shop: Shop, connect: Connect) -> None:
    killed = connect()
    shop.kill(shop.session_of(killed))

    for connection in (killed, killed, connect()):
        shop.driver.close(connection)

    assert not is_alive(shop.driver, connection)


FORKED = """
import os, sys
from drivers.shops import driver_of, run, value
from wsgipool import Pool

def session(connection):
    return value(connection, "SELECT SESSION")

pool = Pool(driver_of("URL"), name="shop", max_size=2)
idle, busy = pool.getconn(), pool.getconn()
before = session(idle), session(busy)
run(busy, "UPDATE books SET stock = 5 WHERE id = 1")
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
    sys.exit(0)  # a normal exit, with atexit and destructors
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert session(busy) == before[1]
busy.commit()
pool.putconn(busy)
with pool.connection() as one, pool.connection() as other:
    assert {session(one), session(other)} == set(before)
    print(value(one, "SELECT stock FROM books WHERE id = 1"))
pool.close()
"""


@pytest.mark.parametrize(
    ("shop", "psycopgs"), [("mariadb", ""), ("postgresql", ""), ("postgresql", "python")], indirect=["shop"]
)
def test_a_forks_child_leaves_the_parents_sessions_alone(
    psycopgs: str, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PSYCOPG_IMPL", psycopgs)

    assert run_python(FORKED.replace("URL", shop.url).replace("SESSION", shop.session)) == "5\n"


WITHOUT_DESCRIPTORS = """
import os, resource
from drivers.shops import driver_of, value
from wsgipool import Pool

pool = Pool(driver_of("URL"), name="shop", max_size=1)
with pool.connection() as connection:
    read, write = os.pipe()
    kept = []
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, most))
    try:
        while True:
            kept.append(os.dup(0))
    except OSError:
        pass
    child = os.fork()
    if child == 0:
        try:
            value(connection, "SELECT 1")
        except Exception as error:
            os.write(write, type(error).__name__.encode())
        else:
            os.write(write, b"it was answered")
        os._exit(0)
    os.waitpid(child, 0)
    for descriptor in kept:
        os.close(descriptor)
    print(os.read(read, 100).decode(), value(connection, "SELECT 42"))
pool.close()
"""


def test_a_forks_child_without_a_free_descriptor_sends_nothing_either(shop: Shop) -> None:
    said = run_python(WITHOUT_DESCRIPTORS.replace("URL", shop.url))

    assert said in ("WrongThread 42\n", "OperationalError 42\n")


# --- errors ----------------------------------------------------------------------------------------------------------


def test_a_deadlock_can_be_run_again(shop: Shop, connect: Connect) -> None:
    one, other = connect(), connect()
    run(one, "UPDATE books SET stock = 1 WHERE id = 1")
    run(other, "UPDATE books SET stock = 2 WHERE id = 2")
    waiting = Task(lambda: run(one, "UPDATE books SET stock = 1 WHERE id = 2"))
    errors: list[Exception] = []

    attempts = [lambda: run(other, "UPDATE books SET stock = 2 WHERE id = 1"), waiting.result]
    for attempt in attempts:
        try:
            attempt()
        except shop.dbapi.Error as error:
            errors.append(error)
        other.rollback()

    assert [shop.code(error) for error in errors] == [shop.deadlock]
    assert shop.driver.can_run_again(errors[0])


def test_a_lock_wait_that_timed_out_can_be_run_again(shop: Shop, connect: Connect) -> None:
    one, other = connect(), connect()
    run(one, "UPDATE books SET stock = 1 WHERE id = 1")

    with pytest.raises(shop.dbapi.OperationalError) as caught:
        run(other, "SELECT * FROM books WHERE id = 1 FOR UPDATE NOWAIT")

    assert shop.code(caught.value) == shop.lock_timeout
    assert shop.driver.can_run_again(caught.value)


def test_other_errors_cannot_be_run_again(shop: Shop, connect: Connect) -> None:
    with pytest.raises(shop.dbapi.IntegrityError) as caught:
        run(connect(), "INSERT INTO books VALUES (1, 1)")

    assert not shop.driver.can_run_again(caught.value)
    assert not shop.driver.can_run_again(ValueError(shop.deadlock))


# --- in a pool -------------------------------------------------------------------------------------------------------


def test_a_session_killed_while_idle_is_replaced_unnoticed(shop: Shop, make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    with pool.connection() as connection:
        session = shop.session_of(connection)
    shop.kill(session)

    with pool.connection() as connection:
        assert value(connection, f"SELECT {shop.session}") != session


def test_a_block_that_raises_leaves_no_change(shop: Shop, make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)

    with pytest.raises(shop.dbapi.ProgrammingError, match="nowhere"), pool.connection() as connection:
        run(connection, "UPDATE books SET stock = 0", "SELECT nothing FROM nowhere")

    with pool.connection() as again:
        assert again is connection
        assert value(again, "SELECT stock FROM books WHERE id = 1") == 10


def test_every_holder_gets_a_clean_session(shop: Shop, make_pool: MakePool) -> None:
    leave, is_left = shop.leftovers["setting"]
    pool = make_pool(max_size=1, reset="session")
    with pool.connection() as connection:
        run(connection, leave, "UPDATE books SET stock = 3 WHERE id = 1")

    with pool.connection() as again:
        assert again is connection
        assert not value(again, is_left)
        assert value(again, "SELECT stock FROM books WHERE id = 1") == 3


def test_sixteen_threads_share_four_connections_never_one_at_the_same_time(shop: Shop, make_pool: MakePool) -> None:
    pool = make_pool(max_size=4)
    users: dict[int, threading.Lock] = {}
    sessions: set[int] = set()

    def check_out_often() -> None:
        for number in range(20):
            with pool.connection(readonly=number % 2 == 0) as connection:
                alone = users.setdefault(shop.session_of(connection), threading.Lock())
                assert alone.acquire(blocking=False), "two threads have one connection"
                sessions.add(value(connection, f"SELECT {shop.session}"))
                run(connection, f"UPDATE books SET stock = stock + {number % 2} WHERE id = 1")
                alone.release()

    for task in [Task(check_out_often) for _ in range(16)]:
        task.result()

    assert len(sessions) <= 4
    with pool.connection() as connection:
        assert value(connection, "SELECT stock FROM books WHERE id = 1") == 10 + 16 * 10


# --- for a budget ----------------------------------------------------------------------------------------------------


def test_the_session_end_observes_the_servers_close(shop: Shop, connect: Connect) -> None:
    connection = connect()
    session = shop.session_of(connection)

    session_end = shop.driver.close(connection)

    assert session_end.wait(PATIENCE)
    assert 0.0 < session_end.seconds < PATIENCE
    shop.await_end(session)


# --- a transaction on a connection in autocommit ---------------------------------------------------------------------


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_begin_makes_statements_in_autocommit_one_transaction(end: str, shop: Shop, connect: Connect) -> None:
    connection = connect("autocommit=on")

    for stock in (7, 8):  # again, as after a deadlock
        shop.driver.begin(connection)
        run(connection, f"UPDATE books SET stock = {stock} WHERE id = 1")
        run(connection, f"UPDATE books SET stock = {stock} WHERE id = 2")
        getattr(connection, end)()

    shop.driver.check_in(connection, "rollback")
    assert is_alive(shop.driver, connection)
    run(connection, "UPDATE books SET stock = 9 WHERE id = 1")
    connection.rollback()
    assert value(connection, "SELECT stock FROM books WHERE id = 1") == 9
    assert value(connection, "SELECT stock FROM books WHERE id = 2") == (8 if end == "commit" else 20)


def test_begin_does_nothing_without_autocommit(shop: Shop, connect: Connect) -> None:
    connection, other = connect(), connect("autocommit=on")
    shop.driver.begin(connection)
    run(other, "UPDATE books SET stock = 9 WHERE id = 1")

    assert value(connection, "SELECT stock FROM books WHERE id = 1") == 9


# --- messages --------------------------------------------------------------------------------------------------------


def test_the_error_after_a_close_by_hand_names_the_remedy(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    pool = make_pool(max_size=1)

    def close_in_block(readonly: bool) -> None:
        with pool.connection(readonly=readonly) as connection:
            connection.close()

    with pytest.raises(ValueError, match="Do not close it: leave the `with` block, or return it once by putconn"):
        close_in_block(readonly=False)
    caplog.clear()
    close_in_block(readonly=True)

    assert caplog.text == ""


def test_a_connection_that_the_pool_has_closed_says_so(shop: Shop, connect: Connect) -> None:
    connection = connect()
    shop.driver.close(connection)

    with pytest.raises(
        shop.dbapi.OperationalError, match="the pool has closed the connection; use none after its return"
    ):
        connection.commit()
