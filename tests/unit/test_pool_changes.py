"""`resize` and `drain` of a pool that is in use."""

from __future__ import annotations

import pytest

from unit.conftest import MakePool, another_holder, use, waiting_task
from unit.fakes import FakeDatabase, Gate, Task, eventually
from wsgipool import PoolTimeout

# --- resize ----------------------------------------------------------------------------------------------------------


def test_a_pool_made_larger_serves_its_waiters(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    held = another_holder(pool)
    waiter = Task(lambda: another_holder(pool))
    eventually(lambda: pool.waiting == 1)

    pool.resize(0, 2)

    assert waiter.result().connection is not held.connection
    assert (pool.size, database.sessions) == (2, 2)


def test_a_pool_made_smaller_closes_idle_connections_at_once(make_pool: MakePool) -> None:
    pool = make_pool(4)
    connections = use(pool, 4)

    pool.resize(0, 1)

    assert sum(connection.closed for connection in connections) == 3
    assert (pool.size, pool.idle) == (1, 1)
    assert pool.stats().closed == {"surplus": 3}


def test_a_pool_made_smaller_closes_surplus_connections_at_their_return(make_pool: MakePool) -> None:
    pool = make_pool(2)
    first, second = pool.getconn(), pool.getconn()

    pool.resize(0, 1)
    assert (first.closed, second.closed, pool.size) == (False, False, 2)

    pool.putconn(first)
    pool.putconn(second)
    assert (first.closed, second.closed, pool.size) == (True, False, 1)
    assert pool.getconn(timeout=0) is second


def test_a_pool_made_smaller_checks_out_no_surplus_connection(make_pool: MakePool) -> None:
    pool = make_pool(2)
    another_holder(pool), another_holder(pool)
    pool.resize(0, 1)

    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0)


def test_a_greater_min_size_is_filled_up(make_pool: MakePool) -> None:
    pool = make_pool(4)

    pool.resize(3)

    eventually(lambda: pool.idle == 3)
    assert (pool.min_size, pool.max_size) == (3, 4)


@pytest.mark.parametrize(("min_size", "max_size"), [(3, None), (0, 0), (-1, 2), (3, 2)])
def test_sizes_out_of_range_are_refused_and_change_nothing(
    make_pool: MakePool, min_size: int, max_size: int | None
) -> None:
    pool = make_pool(2)

    with pytest.raises(ValueError, match="_size must be"):
        pool.resize(min_size, max_size)

    assert (pool.min_size, pool.max_size) == (0, 2)


# --- drain -----------------------------------------------------------------------------------------------------------


def test_drain_closes_idle_connections_now_and_others_at_their_return(make_pool: MakePool) -> None:
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


def test_a_drained_connection_is_not_given_to_a_waiter(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    held = another_holder(pool)
    waiter = waiting_task(pool)

    pool.drain()
    held.give_back()

    assert waiter.result() is database.opened[1]
    assert database.most_sessions == 1


def test_drain_closes_a_connecting_connection_at_its_return(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(2)
    database.hooks["connect"] = gate = Gate()
    other = Task(lambda: pool.putconn(pool.getconn()))
    gate.wait_until_reached()

    pool.drain()
    gate.open()
    other.result()

    assert database.opened[0].closed
    assert pool.size == 0


def test_drain_replaces_a_connection_that_the_background_is_opening(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    database.hooks["connect"] = gate = Gate()
    pool = make_pool(2, min_size=1)
    gate.wait_until_reached()

    pool.drain()
    gate.open()

    eventually(lambda: pool.idle == 1 and len(database.opened) == 2)
    assert database.opened[0].closed


def test_a_pool_made_smaller_twice_keeps_max_size_connections(make_pool: MakePool, database: FakeDatabase) -> None:
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
