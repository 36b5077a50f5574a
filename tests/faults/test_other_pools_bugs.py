"""Bugs that other pools have or had, each with a test of this pool.

A promise about servers is tested on a real server; for others, fake connections make the moment exact. Some of these
bugs have their tests among those of the pool (tests/unit/test_pool_*.py):

DBUtils and SQLAlchemy, a returned connection goes to the first thread that asks:
    test_no_thread_overtakes_a_waiter, test_waiters_are_served_in_the_order_of_their_arrival
every Python pool, not fork-safe by itself, with fake connections:
    test_the_pool_of_a_forks_child_is_empty and those that follow it
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from faults.conftest import MakePool as MakeRealPool
from faults.harness import SOON, run, session_of, user_of, value
from faults.proxy import Proxy
from httpd.harness import sessions
from unit.fakes import (
    FakeConnection,
    FakeDatabase,
    Gate,
    HolderThread,
    Task,
    eventually,
    in_turn,
    raising,
    run_python,
    then,
)
from wsgipool import ConnectFailed, Pool, PoolDeadlock, PoolTimeout
from wsgipool.demo.mariadb import MariaDB

FakePool = Pool[FakeConnection]
MakeFakePool = Callable[..., FakePool]

LATER = 60.0
"""Seconds that a waiter would wait: a test fails before."""


class Interrupt(BaseException):
    """A stand-in for KeyboardInterrupt and mod_wsgi's RequestTimeout."""


@pytest.fixture
def database() -> Iterator[FakeDatabase]:
    """A fake database; at the test's end no connection has been used by two threads, or after its close."""
    database = FakeDatabase()
    yield database
    assert database.misuses == []


@pytest.fixture
def make_fake_pool(database: FakeDatabase) -> MakeFakePool:
    def make(max_size: int, **settings: Any) -> FakePool:
        return Pool(database, name="orders", max_size=max_size, **{"timeout": LATER, **settings})

    return make


def assert_whole(pool: FakePool, database: FakeDatabase) -> None:
    """Assert that no slot has leaked: max_size threads hold a connection at once."""
    assert (pool.in_use, pool.waiting, pool.size) == (0, 0, pool.idle)
    together = threading.Barrier(pool.max_size + 1, timeout=SOON)
    eventually(lambda: pool._connector.pause_left() <= 0)

    def hold() -> None:
        with pool.connection(timeout=SOON) as connection:
            connection.execute()
            together.wait()

    tasks = [Task(hold) for _ in range(pool.max_size)]
    together.wait()
    for task in tasks:
        task.result()
    assert (pool.in_use, pool.waiting, pool.size) == (0, 0, pool.max_size)
    assert database.sessions == pool.max_size


def waiting(pool: FakePool, work: Callable[[], Any]) -> Task[Any]:
    """Start a thread that does the work, and return it as soon as it waits for a connection."""
    already = pool.waiting
    task = Task(work)
    eventually(lambda: pool.waiting == already + 1)
    return task


# --- DBUtils, SQLAlchemy, connpool: newcomers overtake waiters -------------------------------------------------------


def test_dbutils_sqlalchemy_connpool_no_thread_starves_beside_busy_ones(
    make_fake_pool: MakeFakePool,
) -> None:
    # 32 threads on 8 connections there: some had 1,450 turns, others 1.
    pool = make_fake_pool(8)
    turns: Counter[int] = Counter()
    begin = threading.Barrier(32, timeout=SOON)

    def take_turns(number: int) -> None:
        begin.wait()
        while turns.total() < 32 * 30:
            with pool.connection():
                turns[number] += 1
                time.sleep(0.0005)

    tasks = [Task(lambda number=number: take_turns(number)) for number in range(32)]  # type: ignore[misc]
    for task in tasks:
        task.result()

    assert min(turns[number] for number in range(32)) >= 15
    assert max(turns.values()) <= 60


def test_dbutils_sqlalchemy_connpool_a_returning_thread_does_not_overtake_waiters(
    make_fake_pool: MakeFakePool,
) -> None:
    pool = make_fake_pool(1)
    order: list[str] = []
    connection = pool.getconn()

    def visit(name: str) -> None:
        with pool.connection():
            order.append(name)

    first, second = waiting(pool, lambda: visit("first")), waiting(pool, lambda: visit("second"))
    pool.putconn(connection)
    visit("the former holder")
    first.result()
    second.result()

    assert order == ["first", "second", "the former holder"]


# --- DBUtils: connects, pings and closes inside its lock -------------------------------------------------------------


@pytest.mark.parametrize("slow", ["check_out", "rollback", "close"])
def test_dbutils_a_close_does_not_wait_behind_anothers_io(
    make_fake_pool: MakeFakePool, database: FakeDatabase, slow: str
) -> None:
    pool = make_fake_pool(3)
    mine = pool.getconn()
    gate = Gate()

    def be_slow() -> None:
        others = pool.getconn()
        if slow in ("check_out", "close"):
            pool.putconn(others)
            others.alive = slow == "check_out"
        database.hooks[slow] = gate
        if slow == "rollback":
            pool.putconn(others)
        else:
            pool.getconn()

    task = Task(be_slow)
    gate.wait_until_reached()
    database.hooks.clear()

    pool.putconn(mine)
    assert pool.getconn(timeout=0) is mine
    pool.putconn(mine)

    assert not task.done
    gate.open()
    task.result()


def test_dbutils_a_close_does_not_wait_behind_anothers_connect(
    make_fake_pool: MakeFakePool, database: FakeDatabase
) -> None:
    pool = make_fake_pool(2)
    mine = pool.getconn()
    database.hooks["connect"] = gate = Gate()
    task = Task(pool.getconn)
    gate.wait_until_reached()

    pool.putconn(mine)

    assert task.result() is mine
    gate.open()


# --- DBUtils; Go #10886: a waiter whose own connect fails does not wake the next one ---------------------------------


@pytest.mark.parametrize("error", [OSError("refused"), Interrupt()], ids=["refused", "interrupted"])
def test_dbutils_go_10886_a_waiter_whose_connect_fails_wakes_the_next(
    make_fake_pool: MakeFakePool, database: FakeDatabase, error: BaseException
) -> None:
    pool = make_fake_pool(1)
    gate = Gate()
    database.hooks["connect"] = in_turn(then(gate, raising(error)))
    unlucky = Task(pool.getconn)
    gate.wait_until_reached()
    next_one = waiting(pool, lambda: HolderThread(pool.getconn, pool.putconn))
    last_one = waiting(pool, lambda: HolderThread(pool.getconn, pool.putconn))

    gate.open()

    with pytest.raises((ConnectFailed, Interrupt)):
        unlucky.result()
    next_one.result().give_back()
    last_one.result().give_back()
    assert_whole(pool, database)


def test_dbutils_go_10886_a_waiter_that_gives_up_while_connecting_wakes_the_next(
    make_fake_pool: MakeFakePool, database: FakeDatabase
) -> None:
    pool = make_fake_pool(2, max_connecting=1)
    gate = Gate()
    database.hooks["connect"] = in_turn(then(gate, raising(TimeoutError("no answer"))))
    gives_up = Task(lambda: pool.getconn(timeout=0.01))
    gate.wait_until_reached()
    next_one = waiting(pool, lambda: HolderThread(pool.getconn, pool.putconn))

    gate.open()

    with pytest.raises((ConnectFailed, PoolTimeout)):
        gives_up.result()
    next_one.result().give_back()
    assert_whole(pool, database)


# --- psycopg_pool 3.3.3: a waiter hit by KeyboardInterrupt still accepts a connection, which leaks -----------------


def test_psycopg_pool_a_waiter_hit_by_keyboard_interrupt_accepts_no_connection(
    make_fake_pool: MakeFakePool, database: FakeDatabase
) -> None:
    pool = make_fake_pool(1)
    holder = HolderThread(pool.getconn, pool.putconn)
    interrupted = threading.Event()

    def handler(*_: object) -> None:
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    def press_ctrl_c() -> None:
        eventually(lambda: pool.waiting == 1)
        # Repeated, because CPython does not notice an exception that comes just before a wait.
        while not interrupted.wait(0.01):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    previous = signal.signal(signal.SIGINT, handler)
    try:
        pressing = Task(press_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            pool.getconn()
        pressing.result()
    finally:
        signal.signal(signal.SIGINT, previous)
    next_one = waiting(pool, pool.getconn)

    holder.give_back()

    assert next_one.result() is holder.connection
    pool.putconn(holder.connection)
    assert_whole(pool, database)


# --- psycopg_pool #370 #438: never refills after a failed grow -------------------------------------------------------


@pytest.mark.parametrize("failures", [1, 2, 5])
def test_psycopg_pool_370_438_refills_after_a_failed_grow(
    make_fake_pool: MakeFakePool, database: FakeDatabase, failures: int
) -> None:
    pool = make_fake_pool(4)
    first = pool.getconn()
    database.hooks["connect"] = in_turn(*[raising(OSError("no route to host"))] * failures)
    for _ in range(failures):
        with pytest.raises(ConnectFailed):
            pool.getconn()
    assert (pool.size, pool.in_use) == (1, 1)

    pool.putconn(first)

    assert_whole(pool, database)


# --- connpool: a BaseException in validate or reset loses a slot for good --------------------------------------------


def test_connpool_an_interrupted_validation_loses_no_slot(make_fake_pool: MakeFakePool, database: FakeDatabase) -> None:
    pool = make_fake_pool(2)
    pool.putconn(pool.getconn())
    database.hooks["check_out"] = in_turn(raising(Interrupt()))

    with pytest.raises(Interrupt):
        pool.getconn()

    assert_whole(pool, database)


@pytest.mark.parametrize("block", ["putconn", "readonly", "raising"])
def test_connpool_an_interrupted_reset_loses_no_slot(
    make_fake_pool: MakeFakePool, database: FakeDatabase, block: str
) -> None:
    pool = make_fake_pool(2)
    database.hooks["rollback"] = in_turn(raising(Interrupt()))

    def use() -> None:
        if block == "putconn":
            pool.putconn(pool.getconn())
            return
        with pool.connection(readonly=True):
            if block == "raising":
                raise KeyError("no such book")

    with pytest.raises(Interrupt):
        use()

    assert database.opened[0].closed
    assert_whole(pool, database)


def test_connpool_an_interrupted_reset_hands_the_slot_to_the_waiter(
    make_fake_pool: MakeFakePool, database: FakeDatabase
) -> None:
    pool = make_fake_pool(1)
    connection = pool.getconn()
    waiter = waiting(pool, lambda: HolderThread(pool.getconn, pool.putconn))
    database.hooks["rollback"] = in_turn(raising(Interrupt()))

    with pytest.raises(Interrupt):
        pool.putconn(connection)

    waiter.result().give_back()
    assert_whole(pool, database)


def test_connpool_an_interrupted_close_loses_no_slot(make_fake_pool: MakeFakePool, database: FakeDatabase) -> None:
    pool = make_fake_pool(2)
    connection = pool.getconn()
    connection.alive = False
    pool.putconn(connection)
    database.hooks["close"] = in_turn(raising(Interrupt()))

    with pytest.raises(Interrupt):
        pool.getconn()

    assert_whole(pool, database)


# --- SQLAlchemy #2772 #8974: the count is wrong after a failed reconnect; BaseException leaks ----------------------


@pytest.mark.parametrize("error", [OSError("refused"), Interrupt()], ids=["refused", "interrupted"])
def test_sqlalchemy_2772_8974_a_reconnect_that_fails_keeps_the_count(
    make_fake_pool: MakeFakePool, database: FakeDatabase, error: BaseException
) -> None:
    pool = make_fake_pool(2)
    one, two = pool.getconn(), pool.getconn()
    for connection in (one, two):
        connection.alive = False
        pool.putconn(connection)
    database.hooks["connect"] = in_turn(raising(error), raising(error))

    for _ in range(2):
        with pytest.raises((ConnectFailed, Interrupt)):
            pool.getconn()

    assert database.sessions == pool.size
    assert_whole(pool, database)


def test_sqlalchemy_2772_8974_a_base_exception_in_a_block_leaks_nothing(
    make_fake_pool: MakeFakePool, database: FakeDatabase
) -> None:
    pool = make_fake_pool(2)

    def interrupted_request() -> None:
        with pool.connection() as connection:
            connection.execute()
            raise Interrupt

    for _ in range(5):
        with pytest.raises(Interrupt):
            interrupted_request()

    assert all(connection.closed for connection in database.opened)
    assert database.sessions == 0
    assert_whole(pool, database)


# --- mysql-connector: puts a broken connection back when the reset raises --------------------------------------------


def test_mysql_connector_a_connection_whose_reset_raises_is_closed(
    make_fake_pool: MakeFakePool, database: FakeDatabase
) -> None:
    pool = make_fake_pool(1)
    connection = pool.getconn()
    waiter = waiting(pool, pool.getconn)
    database.hooks["rollback"] = in_turn(raising(OSError("broken pipe")))

    pool.putconn(connection)

    assert connection.closed
    assert waiter.result() is not connection
    assert database.most_sessions == 1


@pytest.mark.parametrize("reset", ["rollback", "session"])
@pytest.mark.parametrize("pipeline", [True, False])
def test_mysql_connector_a_connection_whose_reset_has_no_answer_is_closed(
    make_pool: MakeRealPool, proxy: Proxy, shop: str, reset: str, pipeline: bool
) -> None:
    pool = make_pool(proxy.through(shop), reset=reset, pipeline=pipeline)
    connection = pool.getconn()
    first = session_of(connection)
    run(connection, "UPDATE books SET stock = 0 WHERE id = 2")
    proxy.cut()
    pool.putconn(connection)

    with pool.connection() as connection:
        assert session_of(connection) != first
        assert value(connection, "SELECT stock FROM books WHERE id = 2") == 20
    assert pool.size == 1


# --- mod_dbd: no acquire timeout; a stale connection costs a failed request; no reset on release ---------------------


def test_mod_dbd_an_acquire_has_a_timeout(make_pool: MakeRealPool) -> None:
    pool = make_pool(timeout=0.1)

    with pool.connection(), pytest.raises(PoolTimeout, match=r"within 0\.1 s: 1 in use"):
        Task(pool.getconn).result()


def test_mod_dbd_a_stale_connection_costs_no_request(make_pool: MakeRealPool, mariadb: MariaDB, shop: str) -> None:
    pool = make_pool()
    with pool.connection() as connection:
        stale = session_of(connection)
    with mariadb.admin() as admin:
        admin.kill(stale)
    eventually(lambda: not sessions(mariadb, user_of(shop)))

    with pool.connection() as connection:
        assert value(connection, "SELECT stock FROM books WHERE id = 2") == 20


def test_mod_dbd_a_release_resets_the_connection(make_pool: MakeRealPool) -> None:
    pool = make_pool()
    connection = pool.getconn()
    run(connection, "DELETE FROM books")
    pool.putconn(connection)

    with pool.connection() as connection:
        assert value(connection, "SELECT COUNT(*) FROM books") == 2


# --- HikariCP #1256: a pool at zero never refills --------------------------------------------------------------------


def test_hikaricp_1256_a_pool_at_zero_refills(make_fake_pool: MakeFakePool, database: FakeDatabase) -> None:
    pool = make_fake_pool(3)
    connections = [pool.getconn() for _ in range(3)]
    for connection in connections:
        connection.alive = False
        pool.putconn(connection)
    database.hooks["connect"] = raising(OSError("refused"))
    for _ in range(4):
        with pytest.raises(ConnectFailed):
            pool.getconn()
    assert pool.size == 0

    database.hooks.clear()

    assert_whole(pool, database)


def test_hikaricp_1256_waiters_are_served_after_the_pool_fell_to_zero(
    make_fake_pool: MakeFakePool, database: FakeDatabase
) -> None:
    pool = make_fake_pool(2)
    one, two = pool.getconn(), pool.getconn()
    tasks = [waiting(pool, lambda: pool.putconn(pool.getconn())) for _ in range(4)]
    database.hooks["rollback"] = in_turn(raising(OSError("closed")), raising(OSError("closed")))

    pool.putconn(one)
    pool.putconn(two)

    for task in tasks:
        task.result()
    assert (one.closed, two.closed) == (True, True)
    assert_whole(pool, database)


# --- Go #16873: a nested acquire on one thread deadlocks the pool ----------------------------------------------------


def test_go_16873_nested_acquire_on_one_thread_is_refused_at_once(make_fake_pool: MakeFakePool) -> None:
    pool = make_fake_pool(1)

    def nested() -> None:
        with pool.connection(), pool.connection():
            pass

    with pytest.raises(PoolDeadlock, match="in nested"):
        Task(nested).result()

    assert (pool.in_use, pool.idle) == (0, 1)


def test_go_16873_nested_acquires_of_all_threads_at_once_do_not_deadlock_the_pool(
    make_fake_pool: MakeFakePool, database: FakeDatabase
) -> None:
    # Each holds one and asks for another, so the last would wait forever.
    pool = make_fake_pool(4)
    all_hold_one = threading.Barrier(4, timeout=SOON)

    def nested() -> str:
        with pool.connection():
            all_hold_one.wait()
            try:
                with pool.connection():
                    return "had two"
            except PoolDeadlock:
                return "was refused"

    tasks = [Task(nested) for _ in range(4)]
    outcomes = Counter(task.result() for task in tasks)

    assert outcomes["was refused"] >= 1
    assert outcomes.total() == 4
    assert_whole(pool, database)


# --- every Python pool: not fork-safe by itself; no budget across processes ------------------------------------------


def test_every_python_pool_a_fork_shares_no_connection(make_pool: MakeRealPool, mariadb: MariaDB, shop: str) -> None:
    # If two processes share a connection, each reads the other's rows: 722 wrong answers of 4,000.
    pool = make_pool(max_size=2)
    with pool.connection(readonly=True) as connection:
        mine = session_of(connection)
        run(connection, "SELECT * FROM books")
    read, write = os.pipe()

    def right_answers() -> int:
        right = 0
        for _ in range(100):
            with pool.connection() as connection:
                number = session_of(connection)
                right += value(connection, "SELECT CONNECTION_ID()") == number != 0
        return right

    child = os.fork()
    if child == 0:
        try:
            with pool.connection() as connection:
                theirs = session_of(connection)
            os.write(write, f"{theirs} {right_answers()}".encode())
            pool.close()
        finally:
            os._exit(0)
    right = right_answers()
    os.close(write)
    with os.fdopen(read) as answer:
        theirs, right_of_child = map(int, answer.read().split())
    os.waitpid(child, 0)

    assert (right, right_of_child) == (100, 100)
    assert theirs != mine
    eventually(lambda: sessions(mariadb, user_of(shop)) == {mine})
    with pool.connection() as connection:
        assert session_of(connection) == mine


def test_every_python_pool_the_childs_exit_does_not_end_the_parents_sessions(make_pool: MakeRealPool) -> None:
    pool = make_pool(max_size=2)
    held = pool.getconn()
    with pool.connection() as connection:
        idle = session_of(connection)

    child = os.fork()
    if child == 0:
        try:
            pool.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)

    assert value(held, "SELECT CONNECTION_ID()") == session_of(held)
    with pool.connection() as connection:
        assert value(connection, "SELECT CONNECTION_ID()") == idle
    pool.putconn(held)


SHARED_BUDGET = """
from pathlib import Path
from faults.harness import pool_of, value
from unit.fakes import Task
from wsgipool.budget.budget import Budget, BudgetLimit

pool = pool_of({url!r}, max_size=4, permits=Budget(Path({folder!r}), "mysql://db:3306", BudgetLimit(2)))

def visit():
    with pool.connection() as connection:
        return value(connection, "SELECT 1")

tasks = [Task(lambda: sum(visit() for _ in range(25))) for _ in range(4)]
print(sum(task.result() for task in tasks))
pool.close()
"""


def test_every_python_pool_a_budget_holds_across_processes(mariadb: MariaDB, shop: str, tmp_path: Path) -> None:
    # Two pools of four each, where the server refuses the third connection.
    with mariadb.admin() as admin:
        run(admin, f"ALTER USER {user_of(shop)} WITH MAX_USER_CONNECTIONS 2")
    program = SHARED_BUDGET.format(url=shop, folder=str(tmp_path))

    processes = [Task(lambda: run_python(program)) for _ in range(2)]

    assert [process.result() for process in processes] == ["100\n"] * 2


def test_every_python_pool_the_holder_gets_a_broken_connections_error_unchanged(
    make_pool: MakeRealPool, proxy: Proxy, shop: str
) -> None:
    pool = make_pool(proxy.through(shop))

    def request() -> None:
        with pool.connection() as connection:
            proxy.cut()
            run(connection, "SELECT 1")

    with pytest.raises(pymysql.OperationalError):
        request()
