"""How many may wait at once, and how many may connect at once."""

from __future__ import annotations

import time

import pytest

from unit.conftest import MakePool, borrower, connecting, use, waiting_task
from unit.fakes import PATIENCE, FakeConnection, FakeDatabase, Gate, Task, eventually, in_turn, raising
from wsgipool import ConnectFailed, TooManyRequests


def test_one_more_than_max_waiting_is_refused_at_once(make_pool: MakePool) -> None:
    pool = make_pool(max_waiting=2)
    connection = pool.getconn()
    waiters = [waiting_task(pool), waiting_task(pool)]

    refused = Task(lambda: pool.getconn(timeout=3 * PATIENCE))

    with pytest.raises(TooManyRequests, match="2 requests wait for pool 'orders' already"):
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

    borrowers = [Task(pool.getconn) for _ in range(6)]
    eventually(lambda: pool.waiting == 6 - max_connecting)
    assert database.sessions == max_connecting

    gate.open()
    assert len({id(borrower.result()) for borrower in borrowers}) == 6


def test_who_waits_for_a_new_connection_takes_what_is_given_back(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(10, max_connecting=1)
    lent = pool.getconn()
    database.hooks["connect"] = gate = Gate()
    waiters = [Task(pool.getconn), Task(pool.getconn)]
    gate.wait_until_reached()
    eventually(lambda: pool.waiting == 2)

    pool.putconn(lent)

    eventually(lambda: any(waiter.done for waiter in waiters))
    assert pool.waiting == 1
    gate.open()
    assert {waiter.result() for waiter in waiters} == {lent, database.opened[1]}
    assert database.most_sessions == 2


def test_who_waits_has_a_connection_opened_when_one_comes_back_broken(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(2)
    lent, kept = pool.getconn(), borrower(pool)
    waiter = waiting_task(pool)
    database.hooks["rollback"] = raising(OSError("gone"))

    pool.putconn(lent)

    assert waiter.result() not in (lent, kept.connection)


def test_who_waits_has_a_connection_opened_when_anothers_connect_fails(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(3, max_connecting=1)
    dead, kept = pool.getconn(), borrower(pool)
    pool.putconn(dead)
    dead.alive = False

    with connecting(pool, database, in_turn(raising(OSError("refused")))) as unlucky:
        waiter = waiting_task(pool)

    with pytest.raises(ConnectFailed):
        unlucky.result()
    assert waiter.result() not in (dead, kept.connection)


def test_a_burst_is_over_before_the_first_new_connection_is_there(make_pool: MakePool, database: FakeDatabase) -> None:
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


def test_a_pool_that_may_not_connect_is_refused(make_pool: MakePool) -> None:
    with pytest.raises(ValueError, match="max_connecting = 0"):
        make_pool(max_connecting=0)
