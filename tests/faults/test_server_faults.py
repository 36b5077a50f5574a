"""Faults of servers and networks, made by a proxy: the pool answers in time, logs them once and recovers."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pymysql
import pytest

from faults.conftest import MakePool, new_shop
from faults.harness import (
    SOON,
    Clock,
    connect_plainly,
    error_number,
    password_of,
    pool_of,
    run,
    session_of,
    user_of,
    value,
)
from faults.proxy import Proxy
from httpd.harness import eventually, sessions
from unit.fakes import Task
from wsgipool import ConnectFailed, Pool, PoolError, PoolTimeout
from wsgipool.demo.mariadb import LocalServer, MariaDB

ACCESS_DENIED, TOO_MANY_CONNECTIONS, CANNOT_CONNECT, SERVER_LOST = 1045, 1040, 2003, 2013
CONNECTION_LOST = (2006, 2013)
BOOK = "SELECT stock FROM books WHERE id = 2"


@pytest.fixture
def quiet(shop: str, log: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """The package's log, which must not have the password in any test."""
    yield log
    assert password_of(shop) not in log.text


def errors_and_recoveries(log: pytest.LogCaptureFixture) -> list[str]:
    """Return the levels of the log records about the server's outages and returns."""
    return [
        record.levelname
        for record in log.records
        if record.name.startswith("wsgipool") and record.levelname in ("ERROR", "WARNING")
        if getattr(record, "pool_event", "") not in ("exhausted", "recovered")
    ]


def has_recovered(pool: Pool[Any]) -> bool:
    try:
        with pool.connection(timeout=SOON) as connection:
            return bool(value(connection, BOOK) == 20)
    except ConnectFailed:
        return False


# --- at connect ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["refused", "reset"])
def test_a_server_that_turns_connections_away_is_reported_at_once(
    make_pool: MakePool, proxy: Proxy, shop: str, quiet: pytest.LogCaptureFixture, fault: str
) -> None:
    if fault == "refused":
        proxy.refuse()
    else:
        proxy.greeting = "reset"
    pool = make_pool(proxy.through(shop), max_size=2)
    clock = Clock()

    with pytest.raises(ConnectFailed) as caught:
        pool.getconn()

    assert clock.seconds < SOON
    assert error_number(caught.value.__cause__) in (CANNOT_CONNECT, *CONNECTION_LOST)
    assert f"127.0.0.1:{proxy.port}/{user_of(shop)}" in str(caught.value)
    assert password_of(shop) not in str(caught.value) + repr(caught.value.__cause__)
    assert (pool.size, pool.in_use, pool.waiting) == (0, 0, 0)
    assert errors_and_recoveries(quiet) == ["ERROR"]


def test_a_silent_server_fails_the_connect_within_the_timeout(
    make_pool: MakePool, proxy: Proxy, shop: str, quiet: pytest.LogCaptureFixture
) -> None:
    proxy.greeting = "black hole"
    pool = make_pool(proxy.through(shop), max_size=2)
    clock = Clock()

    with pytest.raises((ConnectFailed, PoolTimeout)) as caught:
        pool.getconn(timeout=0.3)

    assert 0.2 < clock.seconds < SOON
    assert password_of(shop) not in str(caught.value)
    assert pool.size == 0
    eventually(lambda: proxy.open == 0, "the pool to let go of the socket")
    assert errors_and_recoveries(quiet) in ([], ["ERROR"])


def test_a_server_that_stops_in_the_login_fails_the_connect_within_the_timeout(
    make_pool: MakePool, proxy: Proxy, shop: str
) -> None:
    pool = make_pool(proxy.through(shop), max_size=2)
    proxy.delay = 0.2  # so the query takes some time
    clock = Clock()
    checkout = Task(lambda: pool.getconn(timeout=1))
    eventually(lambda: bool(proxy.to_client), "the server's greeting to pass")
    proxy.swallowing = True

    with pytest.raises((ConnectFailed, PoolTimeout)):
        checkout.result()

    assert clock.seconds < SOON
    assert pool.size == 0


def test_many_threads_before_a_silent_server_all_fail_within_the_timeout(
    make_pool: MakePool, proxy: Proxy, shop: str, quiet: pytest.LogCaptureFixture
) -> None:
    proxy.greeting = "black hole"
    pool = make_pool(proxy.through(shop), max_size=8, max_connecting=2)

    def check_out() -> float:
        clock = Clock()
        with pytest.raises(PoolError):
            pool.getconn(timeout=1)
        return clock.seconds

    tasks = [Task(check_out) for _ in range(12)]
    eventually(lambda: (pool.size, pool.waiting) == (2, 10), "two to connect, and ten to wait for them")

    assert max(task.result() for task in tasks) < SOON
    assert (pool.size, pool.in_use, pool.waiting) == (0, 0, 0)
    assert errors_and_recoveries(quiet) in ([], ["ERROR"])


def test_open_connections_serve_while_new_ones_cannot_be_opened(make_pool: MakePool, proxy: Proxy, shop: str) -> None:
    pool = make_pool(proxy.through(shop), max_size=4, max_connecting=1)
    with pool.connection() as connection:
        only = session_of(connection)
    proxy.greeting = "black hole"
    held = pool.getconn()

    def request() -> int:
        with pool.connection() as connection:
            return session_of(connection)

    tasks = [Task(request) for _ in range(5)]
    eventually(lambda: proxy.accepted == 2, "a connect to hang")
    eventually(lambda: pool.waiting == 5, "five threads to wait for it")
    clock = Clock()
    pool.putconn(held)

    assert {task.result() for task in tasks} == {only}
    assert clock.seconds < SOON
    proxy.cut()


def test_a_wrong_password_of_a_key_is_not_in_the_message(
    make_pool: MakePool, proxy: Proxy, shop: str, quiet: pytest.LogCaptureFixture
) -> None:
    url = proxy.through(shop).replace(password_of(shop), "not-the-password")
    pool = make_pool(url, max_size=4)
    messages = []

    for _ in range(20):
        with pytest.raises(ConnectFailed) as caught:
            pool.getconn()
        messages.append(str(caught.value))

    assert error_number(caught.value.__cause__) == ACCESS_DENIED
    assert all("Access denied" in message for message in messages)
    assert "not-the-password" not in "".join(messages) + quiet.text
    assert errors_and_recoveries(quiet) == ["ERROR"]
    assert pool.size == 0


def test_bad_credentials_are_not_tried_again_and_again(make_pool: MakePool, proxy: Proxy, shop: str) -> None:
    # Each try counts against the server's max_connect_errors and max_password_errors, and fills its log.
    url = proxy.through(shop).replace(password_of(shop), "not-the-password")
    pool = make_pool(url, max_size=4)

    for _ in range(200):
        with pytest.raises(ConnectFailed):
            pool.getconn()

    assert proxy.accepted < 20


# --- in a query ------------------------------------------------------------------------------------------------------


def test_a_query_into_a_black_hole_ends_after_the_read_timeout(make_pool: MakePool, proxy: Proxy, shop: str) -> None:
    pool = make_pool(f"{proxy.through(shop)}?read_timeout=0.3")
    connection = pool.getconn()
    first = session_of(connection)
    proxy.swallowing = True
    clock = Clock()

    with pytest.raises(pymysql.OperationalError) as caught:
        value(connection, BOOK)
    pool.putconn(connection)

    assert error_number(caught.value) == SERVER_LOST
    assert clock.seconds < SOON
    proxy.swallowing = False
    with pool.connection() as connection:
        assert session_of(connection) != first
        assert value(connection, BOOK) == 20
    assert pool.size == 1


@pytest.mark.parametrize("reset", ["rollback", "session"])
def test_a_due_answer_that_never_comes_costs_at_most_the_timeout(
    make_pool: MakePool, proxy: Proxy, shop: str, reset: str
) -> None:
    pool = make_pool(proxy.through(shop), reset=reset)
    connection = pool.getconn()
    run(connection, BOOK)
    proxy.swallowing = True
    pool.putconn(connection)
    connection.sent_at -= 10  # so it is overdue
    clock = Clock()

    with pytest.raises(PoolError):
        pool.getconn(timeout=0.5)

    assert clock.seconds < SOON
    assert (pool.in_use, pool.waiting) == (0, 0)
    proxy.swallowing = False
    eventually(lambda: has_recovered(pool), "the pool to recover")
    assert pool.size == 1


@pytest.mark.parametrize("reset", ["rollback", "session"])
def test_an_unanswered_reset_delays_no_holder(
    make_pool: MakePool, proxy: Proxy, shop: str, log: pytest.LogCaptureFixture, reset: str
) -> None:
    pool = make_pool(proxy.through(shop), reset=reset)
    connection = pool.getconn()
    first = session_of(connection)
    run(connection, BOOK)
    proxy.swallowing = True
    sent = len(proxy.to_server)
    pool.putconn(connection)
    eventually(lambda: len(proxy.to_server) > sent, "the reset to be swallowed")
    proxy.swallowing = False
    clock = Clock()

    with pool.connection() as connection:
        assert session_of(connection) != first
        assert value(connection, BOOK) == 20

    assert clock.seconds < SOON
    assert "WARNING" in [record.levelname for record in log.records if "did not clean the session" in record.message]


def test_no_command_is_sent_before_a_session_reset_is_known_to_be_done(
    make_pool: MakePool, mariadb: MariaDB, proxy: Proxy, shop: str
) -> None:
    pool = make_pool(proxy.through(shop), reset="session")
    with pool.connection() as connection:
        run(connection, "USE information_schema")
        with mariadb.admin() as admin, admin.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {user_of(shop)}")
        proxy.delay = 0.2

    with pytest.raises(ConnectFailed, match="Unknown database"), pool.connection() as connection:
        run(connection, "SELECT 'in the wrong database'")

    assert b"in the wrong database" not in proxy.to_server


@pytest.mark.parametrize("reset", ["rollback", "session"])
@pytest.mark.parametrize("pipeline", [True, False])
def test_a_return_into_a_black_hole_does_not_hold_the_thread_for_ever(
    make_pool: MakePool, proxy: Proxy, shop: str, pipeline: bool, reset: str
) -> None:
    pool = make_pool(f"{proxy.through(shop)}?read_timeout=0.3", pipeline=pipeline, reset=reset, timeout=1)
    connection = pool.getconn()
    run(connection, BOOK)
    proxy.swallowing = True
    clock = Clock()

    pool.putconn(connection)

    assert clock.seconds < SOON
    assert pool.in_use == 0


@pytest.mark.parametrize("reset", ["rollback", "session"])
def test_a_late_due_answer_is_waited_for(make_pool: MakePool, proxy: Proxy, shop: str, reset: str) -> None:
    pool = make_pool(proxy.through(shop), reset=reset)
    connection = pool.getconn()
    first = session_of(connection)
    run(connection, BOOK)
    proxy.delay = 0.1
    pool.putconn(connection)

    with pool.connection() as connection:
        assert session_of(connection) == first
        assert value(connection, BOOK) == 20


def test_over_a_slow_link_a_lookup_takes_one_round_trip(make_pool: MakePool, proxy: Proxy, shop: str) -> None:
    pool = make_pool(proxy.through(shop))
    with pool.connection(readonly=True) as connection:
        run(connection, BOOK)
        sock = connection._sock
    proxy.delay = 0.1
    waits = []

    for _ in range(3):
        eventually(lambda: select.select([sock], [], [], 0)[0], "the answer to the rollback to arrive")
        clock = Clock()
        with pool.connection(readonly=True) as connection:
            assert value(connection, BOOK) == 20
        waits.append(clock.seconds)

    # A round trip takes 0.2 s. A rollback that is waited for would make it two, a ping three.
    assert min(waits) < 0.35


def test_a_login_in_many_slow_steps_has_one_deadline(make_pool: MakePool, proxy: Proxy, shop: str) -> None:
    pool = make_pool(proxy.through(shop))
    proxy.delay = 0.4  # each step is fast enough, all together are too slow

    with pytest.raises(ConnectFailed):
        pool.getconn(timeout=1)


def test_over_a_slow_link_deadlines_are_kept(make_pool: MakePool, proxy: Proxy, shop: str) -> None:
    pool = make_pool(proxy.through(shop), max_size=2)
    proxy.delay = 0.4
    clock = Clock()

    with pytest.raises(PoolError):
        pool.getconn(timeout=0.2)

    assert clock.seconds < SOON
    proxy.delay = 0
    eventually(lambda: has_recovered(pool), "the pool to recover")


# --- killed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", ["rollback", "session"])
def test_sessions_killed_while_idle_cost_no_request(
    make_pool: MakePool, mariadb: MariaDB, shop: str, quiet: pytest.LogCaptureFixture, reset: str
) -> None:
    pool = make_pool(max_size=3, reset=reset)
    with pool.connection() as one, pool.connection() as two, pool.connection() as three:
        killed = {session_of(connection) for connection in (one, two, three)}
    with mariadb.admin() as admin:
        for number in killed:
            admin.kill(number)
    eventually(lambda: not sessions(mariadb, user_of(shop)), "the sessions to end")

    with pool.connection() as one, pool.connection() as two, pool.connection() as three:
        for connection in (one, two, three):
            assert session_of(connection) not in killed
            assert value(connection, BOOK) == 20
    assert pool.size == 3
    assert errors_and_recoveries(quiet) == []


def test_a_session_ended_by_wait_timeout_costs_no_request(make_pool: MakePool, mariadb: MariaDB, shop: str) -> None:
    pool = make_pool(f"{shop}?init_command=SET%20wait_timeout=1")
    with pool.connection() as connection:
        first = session_of(connection)
    eventually(lambda: not sessions(mariadb, user_of(shop)), "the server to end the idle session")

    with pool.connection() as connection:
        assert session_of(connection) != first
        assert value(connection, BOOK) == 20


def test_a_session_reset_by_the_network_while_idle_costs_no_request(
    make_pool: MakePool, proxy: Proxy, shop: str
) -> None:
    pool = make_pool(proxy.through(shop), max_size=2)
    with pool.connection() as one, pool.connection() as two:
        first = {session_of(one), session_of(two)}
    proxy.cut()

    with pool.connection() as one, pool.connection() as two:
        assert not first & {session_of(one), session_of(two)}
        assert value(one, BOOK) + value(two, BOOK) == 40


def test_a_session_killed_in_a_query_fails_its_holder_only(
    make_pool: MakePool, mariadb: MariaDB, quiet: pytest.LogCaptureFixture
) -> None:
    pool = make_pool()
    sessions: list[int] = []

    def slow_report() -> None:
        with pool.connection() as connection:
            sessions.append(session_of(connection))
            run(connection, "SELECT SLEEP(60)")

    task = Task(slow_report)
    with mariadb.admin() as admin:
        eventually(
            lambda: (
                sessions
                and value(admin, "SELECT COUNT(*) FROM information_schema.processlist WHERE state = 'User sleep'")
            ),
            "the query to run",
        )
        waiter = Task(lambda: has_recovered(pool))
        eventually(lambda: pool.waiting == 1, "another thread to wait for the connection")
        admin.kill(sessions[0])

    with pytest.raises(pymysql.OperationalError) as caught:
        task.result()
    assert error_number(caught.value) in CONNECTION_LOST
    assert waiter.result()
    assert pool.size == 1
    assert errors_and_recoveries(quiet) == []


@pytest.mark.parametrize("reset", ["rollback", "session"])
def test_a_connection_cut_while_in_use_is_replaced(make_pool: MakePool, proxy: Proxy, shop: str, reset: str) -> None:
    pool = make_pool(proxy.through(shop), reset=reset)
    connection = pool.getconn()
    first = session_of(connection)
    proxy.cut()
    with pytest.raises(pymysql.OperationalError) as caught:
        value(connection, BOOK)
    pool.putconn(connection)

    assert error_number(caught.value) in CONNECTION_LOST
    with pool.connection() as connection:
        assert session_of(connection) != first
        assert value(connection, BOOK) == 20
    assert pool.size == 1


def test_a_commit_that_did_not_arrive_fails_its_holder(make_pool: MakePool, proxy: Proxy, shop: str) -> None:
    pool = make_pool(proxy.through(shop))

    def order() -> None:
        with pool.connection() as connection:
            run(connection, "UPDATE books SET stock = 0 WHERE id = 2")
            proxy.cut()

    with pytest.raises(pymysql.OperationalError) as caught:
        order()

    assert error_number(caught.value) in CONNECTION_LOST
    with pool.connection() as connection:
        assert value(connection, BOOK) == 20


def test_closing_a_pool_does_not_wait_for_a_black_hole(make_pool: MakePool, proxy: Proxy, shop: str) -> None:
    pool = make_pool(proxy.through(shop), max_size=2)
    with pool.connection(readonly=True) as one, pool.connection(readonly=True) as two:
        run(one, BOOK)
        run(two, BOOK)
        proxy.swallowing = True
    clock = Clock()

    pool.close()

    assert clock.seconds < SOON
    proxy.swallowing = False
    proxy.cut()


def test_closing_a_pool_does_not_wait_for_due_answers(make_pool: MakePool, proxy: Proxy, shop: str) -> None:
    pool = make_pool(proxy.through(shop), reset="session")
    with pool.connection() as connection:
        sock = connection._sock
        proxy.answer_limit = 11 + 11  # the OK packet of the COMMIT, and the first of those to the reset
    eventually(lambda: proxy.answer_limit == 0 and select.select([sock], [], [], 0)[0], "the first answer to arrive")
    closing = Task(pool.close)
    clock = Clock()

    eventually(lambda: closing.done or clock.seconds > SOON, "the pool to be closed")
    done_in_time = clock.seconds < SOON
    proxy.answer_limit = None
    proxy.cut()
    closing.result()

    assert done_in_time


# --- an outage and its end -------------------------------------------------------------------------------------------


def test_after_an_outage_the_threads_do_not_storm_the_server(
    make_pool: MakePool, proxy: Proxy, shop: str, quiet: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(proxy.through(shop), max_size=8, max_connecting=2)
    stop = threading.Event()
    longest = []

    def visitor(_: int) -> set[bool]:
        """Make requests until the test stops them, after the outage."""
        served = set()
        waits = [0.0]
        last_round = False
        while not last_round:
            last_round = stop.is_set()
            clock = Clock()
            try:
                with pool.connection(timeout=SOON) as connection:
                    value(connection, BOOK)
                served.add(True)
            except (ConnectFailed, pymysql.MySQLError):
                served.add(False)
                time.sleep(0.005)
            waits.append(clock.seconds)
        longest.append(max(waits))
        return served

    with ThreadPoolExecutor(16) as threads:
        visits = [threads.submit(visitor, number) for number in range(16)]
        try:
            eventually(lambda: pool.size >= 2 and pool.idle + pool.in_use >= 2, "the site to be busy")
            proxy.refuse()
            proxy.cut()
            eventually(lambda: "ERROR" in errors_and_recoveries(quiet), "the outage to be noticed")
            during = Clock()
            eventually(lambda: during.seconds > 0.3, "many requests to fail")
            proxy.delay = 0.02  # a slow login, as on a server that has just started
            proxy.listen()
            eventually(lambda: "WARNING" in errors_and_recoveries(quiet), "the recovery to be noticed")
            eventually(lambda: pool.idle + pool.in_use >= 2, "the site to be busy again")
        finally:
            proxy.delay = 0
            stop.set()
        served = [visit.result(timeout=60) for visit in visits]

    assert all(True in each for each in served)
    assert proxy.max_logins_at_once <= 2
    assert max(longest) < 2 * SOON
    assert pool.size <= 8
    # Two threads may notice the beginning and the end of the outage at different times.
    assert errors_and_recoveries(quiet).count("ERROR") <= 2
    assert errors_and_recoveries(quiet).count("WARNING") <= 2


@pytest.mark.parametrize("fault", ["refused", "reset"])
def test_an_outage_is_one_line_at_its_beginning_and_one_at_its_end(
    make_pool: MakePool, proxy: Proxy, shop: str, quiet: pytest.LogCaptureFixture, fault: str
) -> None:
    pool = make_pool(proxy.through(shop))
    with pool.connection() as connection:
        value(connection, BOOK)

    if fault == "refused":
        proxy.refuse()
    else:
        proxy.greeting = "reset"
    proxy.cut()
    for _ in range(30):
        with pytest.raises(ConnectFailed):
            pool.getconn()
    if fault == "refused":
        proxy.listen()
    proxy.greeting = "pass"
    eventually(lambda: has_recovered(pool), "the pool to recover")
    for _ in range(10):
        assert has_recovered(pool)

    assert errors_and_recoveries(quiet) == ["ERROR", "WARNING"]


def test_waiters_fail_at_once_when_the_server_goes_away(
    make_pool: MakePool, proxy: Proxy, shop: str, quiet: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(proxy.through(shop), max_size=1, timeout=60)
    held = pool.getconn()
    tasks = [Task(pool.getconn) for _ in range(10)]
    eventually(lambda: pool.waiting == 10, "ten threads to wait")
    clock = Clock()

    proxy.refuse()
    proxy.cut()
    pool.putconn(held)
    for task in tasks:
        with pytest.raises(ConnectFailed):
            task.result()

    assert clock.seconds < SOON
    assert errors_and_recoveries(quiet) == ["ERROR"]
    assert (pool.size, pool.waiting) == (0, 0)


# --- a server of the test's own --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_mariadb(server_kind: type[LocalServer], servers_folder: Path) -> Iterator[LocalServer]:
    """A server with a small limit of connections, which tests fill, stop and start."""
    folder = servers_folder / f"small-{server_kind.kind}"
    folder.mkdir()
    with server_kind(folder, {"max_connections": 10}) as server:  # MariaDB's minimum
        server.start()
        yield server


@pytest.fixture
def small_shop(small_mariadb: LocalServer) -> Iterator[tuple[str, Pool[Any]]]:
    url = new_shop(small_mariadb)
    pool = pool_of(url, max_size=3, timeout=SOON)
    yield url, pool
    pool.close()
    eventually(lambda: not sessions(small_mariadb, user_of(url)), "the sessions to end")


@contextlib.contextmanager
def all_connections_taken(url: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(pymysql.OperationalError):
            while True:
                stack.enter_context(connect_plainly(url))
        yield


def test_a_full_server_is_reported_and_used_again_when_it_has_room(
    small_mariadb: LocalServer, small_shop: tuple[str, Pool[Any]], log: pytest.LogCaptureFixture
) -> None:
    url, pool = small_shop
    with all_connections_taken(url):
        for _ in range(5):
            with pytest.raises(ConnectFailed, match="Too many connections") as caught:
                pool.getconn()
    eventually(lambda: not sessions(small_mariadb, user_of(url)), "the other sessions to end")
    eventually(lambda: has_recovered(pool), "the pool to recover")

    assert error_number(caught.value.__cause__) == TOO_MANY_CONNECTIONS
    assert errors_and_recoveries(log) == ["ERROR", "WARNING"]
    assert password_of(url) not in log.text + str(caught.value)


def test_open_connections_serve_while_the_server_is_full(
    small_shop: tuple[str, Pool[Any]],
) -> None:
    url, pool = small_shop
    with pool.connection() as connection:
        first = session_of(connection)
    with all_connections_taken(url), pool.connection() as connection:
        assert session_of(connection) == first
        with pytest.raises(ConnectFailed):
            pool.getconn()
        assert value(connection, BOOK) == 20


def test_a_request_at_a_full_server_waits_for_a_connection_of_the_pool(small_shop: tuple[str, Pool[Any]]) -> None:
    url, pool = small_shop

    def use() -> int:
        with pool.connection() as connection:
            return session_of(connection)

    held = pool.getconn()
    with all_connections_taken(url):
        waiter = Task(use)
        eventually(lambda: pool.stats().connect_failures > 2, "its own connects to be refused")
        assert pool.waiting == 1
        pool.putconn(held)

        assert waiter.result() == session_of(held)


def test_a_restarted_server_costs_no_later_request(
    small_mariadb: LocalServer, small_shop: tuple[str, Pool[Any]], log: pytest.LogCaptureFixture
) -> None:
    _, pool = small_shop
    with pool.connection() as one, pool.connection() as two:
        assert session_of(one) != session_of(two)

    small_mariadb.stop()
    small_mariadb.start()

    with pool.connection() as one, pool.connection() as two:
        assert value(one, BOOK) + value(two, BOOK) == 40
    assert pool.size == 2
    assert errors_and_recoveries(log) == []


def test_requests_fail_while_a_server_is_down_and_succeed_after_it(
    small_mariadb: LocalServer, small_shop: tuple[str, Pool[Any]], log: pytest.LogCaptureFixture
) -> None:
    url, pool = small_shop
    in_use = pool.getconn()
    run(in_use, BOOK)

    small_mariadb.stop()
    try:
        with pytest.raises(pymysql.OperationalError):
            run(in_use, BOOK)
        pool.putconn(in_use)
        clock = Clock()
        for _ in range(10):
            with pytest.raises(ConnectFailed):
                pool.getconn()
        assert clock.seconds < SOON
    finally:
        small_mariadb.start()

    eventually(lambda: has_recovered(pool), "the pool to recover")
    assert errors_and_recoveries(log) == ["ERROR", "WARNING"]
    assert password_of(url) not in log.text
