"""How many may wait at once, and how many may connect at once."""

from __future__ import annotations

import pytest

from unit.conftest import MakePool
from unit.fakes import PATIENCE, FakeDatabase, Gate, Task, eventually, in_turn, raising
from wsgipool import ConnectFailed, TooManyRequests


def test_one_more_than_max_waiting_is_refused_at_once(make_pool: MakePool) -> None:
    pool = make_pool(max_waiting=2)
    connection = pool.getconn()
    waiters = []
    for number in (1, 2):
        waiters.append(Task(pool.getconn))
        eventually(lambda number=number: pool.waiting == number)  # type: ignore[misc]

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


def test_who_may_not_connect_yet_takes_what_is_given_back(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(10, max_connecting=1)
    lent = pool.getconn()
    database.hooks["connect"] = gate = Gate()
    connecting = Task(pool.getconn)
    gate.wait_until_reached()
    waiter = Task(pool.getconn)
    eventually(lambda: pool.waiting == 1)

    pool.putconn(lent)

    assert waiter.result() is lent
    gate.open()
    connecting.result()
    assert database.most_sessions == 2


def test_a_pool_that_may_not_connect_is_refused(make_pool: MakePool) -> None:
    with pytest.raises(ValueError, match="max_connecting = 0"):
        make_pool(max_connecting=0)


def test_a_refused_password_is_not_sent_again_at_once(make_pool: MakePool, database: FakeDatabase) -> None:
    database.hooks["connect"] = raising(PermissionError("access denied"))
    pool = make_pool()
    with pytest.raises(ConnectFailed, match="access denied"):
        pool.getconn()

    with pytest.raises(ConnectFailed, match=r"access denied; it is tried again in [01]\.\d s"):
        pool.getconn()

    assert len(database.timeouts) == 1
    assert pool.size == 0


def test_a_database_that_is_down_is_tried_at_every_request(make_pool: MakePool, database: FakeDatabase) -> None:
    database.hooks["connect"] = in_turn(raising(OSError("connection refused")))
    pool = make_pool()
    with pytest.raises(ConnectFailed):
        pool.getconn()

    pool.getconn()

    assert pool.size == 1
