"""`max_waiting` and `max_connecting`."""

from __future__ import annotations

import time

import pytest

from unit.conftest import MakePool, another_holder, connecting, use, waiting_task
from unit.fakes import PATIENCE, FakeConnection, FakeDatabase, Gate, Task, eventually, in_turn, raising
from wsgipool import ConnectFailed, TooManyRequests


def test_a_thread_beyond_max_waiting_is_refused_at_once(make_pool: MakePool) -> None:
    pool = make_pool(max_waiting=2)
    connection = pool.getconn()
    waiters = [waiting_task(pool), waiting_task(pool)]

    refused = Task(lambda: pool.getconn(timeout=3 * PATIENCE))

    with pytest.raises(TooManyRequests, match="2 requests already wait for pool 'orders'"):
        refused.result()
    assert pool.waiting == 2

    for waiter in waiters:
        pool.putconn(connection)
        assert waiter.result() is connection


def test_without_max_waiting_any_number_may_wait(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.getconn()

    for _ in range(20):
        Task(pool.getconn)

    eventually(lambda: pool.waiting == 20)


@pytest.mark.parametrize("max_connecting", [1, 2, 3])
def test_no_more_than_max_connecting_connect_at_once(
    max_connecting: int, make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(10, max_connecting=max_connecting)
    database.hooks["connect"] = gate = Gate()

    tasks = [Task(pool.getconn) for _ in range(6)]
    eventually(lambda: pool.waiting == 6 - max_connecting)
    assert database.sessions == max_connecting

    gate.open()
    assert len({id(task.result()) for task in tasks}) == 6


def test_a_waiter_for_a_new_connection_takes_a_returned_one(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(10, max_connecting=1)
    held = pool.getconn()
    database.hooks["connect"] = gate = Gate()
    waiters = [Task(pool.getconn), Task(pool.getconn)]
    gate.wait_until_reached()
    eventually(lambda: pool.waiting == 2)

    pool.putconn(held)

    eventually(lambda: any(waiter.done for waiter in waiters))
    assert pool.waiting == 1
    gate.open()
    assert {waiter.result() for waiter in waiters} == {held, database.opened[1]}
    assert database.most_sessions == 2


def test_a_waiter_gets_a_new_connection_if_one_is_returned_broken(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(2)
    broken, kept = pool.getconn(), another_holder(pool)
    waiter = waiting_task(pool)
    database.hooks["rollback"] = raising(OSError("gone"))

    pool.putconn(broken)

    assert waiter.result() not in (broken, kept.connection)


def test_a_waiter_gets_a_new_connection_if_anothers_connect_fails(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(3, max_connecting=1)
    dead, kept = pool.getconn(), another_holder(pool)
    pool.putconn(dead)
    dead.alive = False

    with connecting(pool, database, in_turn(raising(OSError("refused")))) as unlucky:
        waiter = waiting_task(pool)

    with pytest.raises(ConnectFailed):
        unlucky.result()
    assert waiter.result() not in (dead, kept.connection)


def test_idle_connections_serve_a_burst_while_new_ones_open(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(50, max_connecting=2)
    idle = use(pool, 5)
    database.hooks["connect"] = gate = Gate()

    def request() -> FakeConnection:
        with pool.connection() as connection:
            time.sleep(0.002)
            return connection

    requests = [Task(request) for _ in range(50)]
    served = {request.result() for request in requests}

    assert served <= set(idle)
    assert database.sessions <= 5 + 2
    gate.open()


def test_max_connecting_must_be_at_least_one(make_pool: MakePool) -> None:
    with pytest.raises(ValueError, match="max_connecting must be at least 1, is 0"):
        make_pool(max_connecting=0)
