"""A pool that is made larger or smaller, or emptied, while it works."""

from __future__ import annotations

import pytest

from unit.conftest import MakePool, borrower, use, waiting_task
from unit.fakes import FakeDatabase, Gate, Task, eventually
from wsgipool import PoolTimeout

# --- resize ----------------------------------------------------------------------------------------------------------


def test_a_pool_made_larger_serves_those_who_wait(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    held = borrower(pool)
    waiter = waiting_task(pool)

    pool.resize(0, 2)

    assert waiter.result() is not held.connection
    assert (pool.size, database.sessions) == (2, 2)


def test_a_pool_made_smaller_closes_what_is_idle_at_once(make_pool: MakePool) -> None:
    pool = make_pool(4)
    connections = use(pool, 4)

    pool.resize(0, 1)

    assert sum(connection.closed for connection in connections) == 3
    assert (pool.size, pool.idle) == (1, 1)
    assert pool.stats().closed == {"surplus": 3}


def test_a_pool_made_smaller_closes_what_is_in_use_as_it_comes_back(make_pool: MakePool) -> None:
    pool = make_pool(2)
    first, second = pool.getconn(), pool.getconn()

    pool.resize(0, 1)
    assert (first.closed, second.closed, pool.size) == (False, False, 2)

    pool.putconn(first)
    pool.putconn(second)
    assert (first.closed, second.closed, pool.size) == (True, False, 1)
    assert pool.getconn(timeout=0) is second


def test_a_pool_made_smaller_lends_no_more_than_it_may(make_pool: MakePool) -> None:
    pool = make_pool(2)
    borrower(pool), borrower(pool)
    pool.resize(0, 1)

    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0)


def test_a_greater_min_size_is_filled_up(make_pool: MakePool) -> None:
    pool = make_pool(4)

    pool.resize(3)

    eventually(lambda: pool.idle == 3)
    assert (pool.min_size, pool.max_size) == (3, 4)


@pytest.mark.parametrize(("min_size", "max_size"), [(3, None), (0, 0), (-1, 2), (3, 2)])
def test_sizes_that_cannot_be_are_refused_and_change_nothing(
    make_pool: MakePool, min_size: int, max_size: int | None
) -> None:
    pool = make_pool(2)

    with pytest.raises(ValueError, match="_size = "):
        pool.resize(min_size, max_size)

    assert (pool.min_size, pool.max_size) == (0, 2)


# --- drain -----------------------------------------------------------------------------------------------------------


def test_drain_closes_idle_connections_now_and_those_in_use_at_their_return(make_pool: MakePool) -> None:
    pool = make_pool(2)
    idle, in_use = pool.getconn(), pool.getconn()
    pool.putconn(idle)

    pool.drain()

    assert (idle.closed, in_use.closed) == (True, False)
    pool.putconn(in_use)
    assert in_use.calls == ["close"]
    assert pool.stats().closed == {"surplus": 2}


def test_a_drained_pool_goes_on_with_new_connections(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(2)
    use(pool, 2)

    pool.drain()

    with pool.connection() as connection:
        assert connection is database.opened[2]
    assert pool.getconn() is connection, "a new connection is kept"


def test_a_drained_connection_is_not_lent_to_one_who_waits(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    held = borrower(pool)
    waiter = waiting_task(pool)

    pool.drain()
    held.give_back()

    assert waiter.result() is database.opened[1]
    assert database.most_sessions == 1


def test_a_connection_whose_connect_began_before_the_drain_is_closed_at_its_return(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(2)
    database.hooks["connect"] = gate = Gate()
    other = Task(lambda: pool.putconn(pool.getconn()))
    gate.wait_until_reached()

    pool.drain()
    gate.open()
    other.result()

    assert database.opened[0].closed
    assert pool.size == 0


def test_a_connection_that_was_opening_in_the_background_at_a_drain_is_closed_and_replaced(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    database.hooks["connect"] = gate = Gate()
    pool = make_pool(2, min_size=1)
    gate.wait_until_reached()

    pool.drain()
    gate.open()

    eventually(lambda: pool.idle == 1 and len(database.opened) == 2)
    assert database.opened[0].closed


def test_a_pool_made_smaller_twice_while_it_closes_what_is_too_many_keeps_what_it_may(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(6)
    use(pool, 6)
    database.hooks["close"] = gate = Gate()
    first = Task(lambda: pool.resize(0, 4))
    gate.wait_until_reached()

    second = Task(lambda: pool.resize(0, 4))
    eventually(lambda: pool.idle <= 4)
    gate.open()
    first.result()
    second.result()

    eventually(lambda: pool.size == pool.idle)
    assert pool.size == 4


def test_a_drained_pool_is_filled_up_to_min_size(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(3, min_size=2)
    eventually(lambda: pool.idle == 2)

    pool.drain()

    eventually(lambda: pool.idle == 2 and len(database.opened) == 4)
