"""Waiting for a connection: the order, the timeout, and threads that would wait for themselves."""

from __future__ import annotations

import re
import signal
import threading
import time
from functools import partial

import pytest

from unit.conftest import MakePool, all_idle, another_holder, counts, in_queue, returning, waiting_task
from unit.fakes import PATIENCE, FakeConnection, FakeDatabase, HolderThread, Task, eventually
from unit.interrupts import Interrupt, interrupt
from wsgipool import PoolDeadlock, PoolTimeout

# --- the order -------------------------------------------------------------------------------------------------------


def test_waiters_are_served_in_the_order_of_their_arrival(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    order: list[int] = []

    def request(number: int) -> None:
        with pool.connection():
            order.append(number)

    tasks = [in_queue(pool, partial(request, number)) for number in range(5)]
    pool.putconn(connection)
    for task in tasks:
        task.result()

    assert order == [0, 1, 2, 3, 4]


def test_no_thread_overtakes_a_waiter(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    waiter = waiting_task(pool)

    pool.putconn(connection)

    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0)
    assert waiter.result() is connection


def test_a_checkout_by_code_on_top_of_the_lock_holder_is_refused(make_pool: MakePool) -> None:
    """A signal handler or a destructor cannot wait for the thread that it interrupts."""
    pool = make_pool(1)
    other = another_holder(pool)

    with pool._state.lock, pytest.raises(PoolDeadlock, match="while its thread was checking one out or in"):
        pool.getconn(timeout=0)

    other.give_back()


def test_a_waiter_that_gives_up_passes_its_turn_on(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    impatient = Task(lambda: pool.getconn(timeout=0.2))
    eventually(lambda: pool.waiting == 1 or impatient.done)
    patient = Task(pool.getconn)
    with pytest.raises(PoolTimeout):
        impatient.result()
    eventually(lambda: pool.waiting == 1)

    pool.putconn(connection)

    assert patient.result() is connection


def test_a_waiter_served_at_the_moment_of_its_timeout_gets_the_connection(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    waiter = Task(lambda: pool.getconn(timeout=0.1))
    eventually(lambda: pool.waiting == 1 or waiter.done)

    with pool._state.lock:
        # Its timeout passes while it cannot get the lock.
        time.sleep(0.3)
        pool.putconn(connection)

    assert waiter.result() is connection


def test_a_waiter_with_an_asynchronous_exception_leaks_nothing(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    hit, next_one = waiting_task(pool), waiting_task(pool)

    # A thread that waits for a lock gets the exception when it wakes, just after it was served.
    interrupt(hit.thread_id)
    pool.putconn(connection)

    with pytest.raises(Interrupt):
        hit.result()
    assert next_one.result() is connection


def test_a_waiter_interrupted_by_a_signal_handler_leaks_nothing(make_pool: MakePool) -> None:
    pool = make_pool(1)
    other = another_holder(pool)

    was_called: list[bool] = []

    def handler(*_: object) -> None:
        if not was_called:
            was_called.append(True)
            raise Interrupt

    def send_signal() -> None:
        eventually(lambda: pool.waiting == 1)
        # Repeatedly: CPython does not notice a signal that comes just before it begins to wait.
        while pool.waiting:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            time.sleep(0.01)

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        sender = Task(send_signal)
        with pytest.raises(Interrupt):
            pool.getconn()
        sender.result()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    other.give_back()

    assert counts(pool) == all_idle(1)


# --- the timeout -----------------------------------------------------------------------------------------------------


def test_a_waiter_that_is_not_served_gets_pool_timeout(make_pool: MakePool) -> None:
    pool = make_pool(1)
    another_holder(pool)
    started = time.monotonic()

    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.05)

    assert 0.05 <= time.monotonic() - started < 5
    assert counts(pool) == {"size": 1, "idle": 0, "in_use": 1, "waiting": 0}


def test_the_timeout_of_the_pool_is_the_default(make_pool: MakePool) -> None:
    pool = make_pool(1, timeout=0.05)
    another_holder(pool)

    with pytest.raises(PoolTimeout, match=re.escape("within 0.05 s")):
        pool.getconn()


def test_a_timeout_has_no_upper_bound(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    waiter = waiting_task(pool, timeout=float("inf"))

    pool.putconn(connection)

    assert waiter.result() is connection


def test_pool_timeout_names_the_counts_and_the_longest_holder(make_pool: MakePool) -> None:
    pool = make_pool(2)

    def a_slow_report() -> FakeConnection:
        return pool.getconn()

    HolderThread(a_slow_report, pool.putconn)
    another_holder(pool)

    with pytest.raises(PoolTimeout) as caught:
        pool.getconn(timeout=0)

    message = str(caught.value)
    assert "pool 'orders'" in message
    assert "2 in use, 0 connecting, 0 idle of max_size 2" in message
    assert re.search(rf"checked out at {re.escape(__file__)}:\d+ in a_slow_report, 0\.\d s ago", message)


def test_timeout_zero_takes_an_idle_connection(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    pool.putconn(connection)

    assert pool.getconn(timeout=0) is connection


def test_timeout_zero_does_not_open_a_connection(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)

    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0)

    assert database.timeouts == []
    assert counts(pool) == all_idle(0)


# --- deadlocks -------------------------------------------------------------------------------------------------------


def test_a_thread_that_holds_all_connections_gets_pool_deadlock_at_once(make_pool: MakePool) -> None:
    pool = make_pool(2)

    def outer() -> None:
        pool.getconn()
        pool.getconn()

    outer()

    with pytest.raises(
        PoolDeadlock, match=r"all 2 connections of pool 'orders' are held by this thread .* in outer, .* in outer"
    ):
        pool.getconn(timeout=PATIENCE)
    assert counts(pool) == {"size": 2, "idle": 0, "in_use": 2, "waiting": 0}


def test_a_nested_checkout_waits_if_another_thread_can_return_a_connection(make_pool: MakePool) -> None:
    pool = make_pool(2)
    other = another_holder(pool)

    def nested() -> FakeConnection:
        with pool.connection(), pool.connection() as inner:
            return inner

    task = Task(nested)
    eventually(lambda: (pool.in_use, pool.waiting) == (2, 1))
    other.give_back()

    assert task.result() is other.connection


def test_a_connection_that_is_being_returned_is_waited_for(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(2)

    with returning(pool, database) as other:
        waiter = Task(lambda: [pool.getconn(), pool.getconn()])
        eventually(lambda: (pool.in_use, pool.waiting) == (2, 1))

    assert waiter.result()[1] is other.connection
