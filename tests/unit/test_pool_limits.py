"""How many may wait at once, and how many may connect at once."""

from __future__ import annotations

import itertools
import time

import pytest

from unit.conftest import Clock, MakePool
from unit.fakes import PATIENCE, Borrower, FakeConnection, FakeDatabase, Gate, Task, eventually, in_turn, raising, then
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
    lent, kept = pool.getconn(), Borrower(pool.getconn, pool.putconn)
    waiter = Task(pool.getconn)
    eventually(lambda: pool.waiting == 1)
    database.hooks["rollback"] = raising(OSError("gone"))

    pool.putconn(lent)

    assert waiter.result() not in (lent, kept.connection)


def test_who_waits_has_a_connection_opened_when_anothers_connect_fails(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(3, max_connecting=1)
    dead, kept = pool.getconn(), Borrower(pool.getconn, pool.putconn)
    pool.putconn(dead)
    dead.alive = False
    gate = Gate()
    database.hooks["connect"] = in_turn(then(gate, raising(OSError("refused"))))
    unlucky = Task(pool.getconn)
    gate.wait_until_reached()
    waiter = Task(pool.getconn)
    eventually(lambda: pool.waiting == 1)

    gate.open()

    with pytest.raises(ConnectFailed):
        unlucky.result()
    assert waiter.result() not in (dead, kept.connection)


def test_a_burst_is_over_before_the_first_new_connection_is_there(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(50, max_connecting=2)
    idle = [pool.getconn() for _ in range(5)]
    for connection in idle:
        pool.putconn(connection)
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


def test_a_refused_password_is_not_sent_again_at_once(make_pool: MakePool, database: FakeDatabase) -> None:
    database.hooks["connect"] = raising(PermissionError("access denied"))
    pool = make_pool()
    with pytest.raises(ConnectFailed, match="access denied"):
        pool.getconn()

    with pytest.raises(ConnectFailed, match=r"access denied; it is tried again in [01]\.\d s"):
        pool.getconn()

    assert len(database.timeouts) == 1
    assert pool.size == 0


def test_one_failed_connect_is_a_mishap_and_the_next_is_tried_at_once(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    database.hooks["connect"] = in_turn(raising(OSError("connection refused")))
    pool = make_pool()
    with pytest.raises(ConnectFailed):
        pool.getconn()

    pool.getconn()

    assert pool.size == 1


def test_a_database_that_is_down_is_asked_less_and_less_often_but_once_a_second(
    make_pool: MakePool, database: FakeDatabase, clock: Clock
) -> None:
    database.hooks["connect"] = raising(OSError("connection refused"))
    pool = make_pool()
    asked: list[float] = []

    for _ in range(2000):
        before = len(database.timeouts)
        with pytest.raises(ConnectFailed):
            pool.getconn()
        if len(database.timeouts) > before:
            asked.append(clock.now)
        clock.advance(0.01)

    pauses = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert pauses[0] < 0.02
    assert 0.02 < pauses[1] < 0.07
    assert min(pauses[-10:]) >= 0.5
    assert max(pauses[-10:]) < 1.02
    assert len(set(pauses[-10:])) > 1, "or all processes would come at once"


def test_who_has_no_time_to_connect_stops_nobody_else_from_trying(
    make_pool: MakePool, database: FakeDatabase, clock: Clock
) -> None:
    late = then(lambda: clock.advance(0.02), raising(TimeoutError("timed out")))
    database.hooks["connect"] = in_turn(late, late, late)
    pool = make_pool()
    for _ in range(3):
        with pytest.raises(ConnectFailed, match="timed out"):
            pool.getconn(timeout=0.01)

    pool.getconn()

    assert pool.size == 1
