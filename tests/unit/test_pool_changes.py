"""A pool that is made larger or smaller, emptied, or closed while it works."""

from __future__ import annotations

import time

import pytest

from unit.conftest import MakePool
from unit.fakes import Borrower, FakeConnection, FakeDatabase, Gate, Task, eventually
from wsgipool import Pool, PoolClosed, PoolTimeout


def idle_connections(pool: Pool[FakeConnection], number: int) -> list[FakeConnection]:
    """Return so many connections, given back; the last of them is lent next."""
    connections = [pool.getconn() for _ in range(number)]
    for connection in connections:
        pool.putconn(connection)
    return connections


def borrower(pool: Pool[FakeConnection]) -> Borrower[FakeConnection]:
    return Borrower(pool.getconn, pool.putconn)


# --- resize ----------------------------------------------------------------------------------------------------------


def test_a_pool_made_larger_serves_those_who_wait(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    held = borrower(pool)
    waiter = Task(pool.getconn)
    eventually(lambda: pool.waiting == 1)

    pool.resize(0, 2)

    assert waiter.result() is not held.connection
    assert (pool.size, database.sessions) == (2, 2)


def test_a_pool_made_smaller_closes_what_is_idle_at_once(make_pool: MakePool) -> None:
    pool = make_pool(4)
    connections = idle_connections(pool, 4)

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
    idle_connections(pool, 2)

    pool.drain()

    with pool.connection() as connection:
        assert connection is database.opened[2]
    assert pool.getconn() is connection, "a new connection is kept"


def test_a_drained_connection_is_not_lent_to_one_who_waits(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    held = borrower(pool)
    waiter = Task(pool.getconn)
    eventually(lambda: pool.waiting == 1)

    pool.drain()
    held.give_back()

    assert waiter.result() is database.opened[1]
    assert database.most_sessions == 1


def test_a_drained_pool_is_filled_up_to_min_size(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(3, min_size=2)
    eventually(lambda: pool.idle == 2)

    pool.drain()

    eventually(lambda: pool.idle == 2 and len(database.opened) == 4)


# --- close -----------------------------------------------------------------------------------------------------------


def test_close_waits_for_what_is_in_use(make_pool: MakePool) -> None:
    pool = make_pool(2)
    other = borrower(pool)
    closing = Task(lambda: pool.close(timeout=3600))
    eventually(lambda: pool._closed)
    assert not closing.done

    other.give_back()

    assert closing.result() is True
    assert other.connection.closed


def test_close_waits_no_longer_than_it_was_told(make_pool: MakePool) -> None:
    pool = make_pool(1)
    other = borrower(pool)

    assert pool.close(timeout=0.01) is False

    other.give_back()
    assert pool.close() is True


def test_close_waits_for_a_connect_in_the_background(make_pool: MakePool, database: FakeDatabase) -> None:
    database.hooks["connect"] = gate = Gate()
    pool = make_pool(2, min_size=1)
    gate.wait_until_reached()
    closing = Task(lambda: pool.close(timeout=3600))
    eventually(lambda: pool._closed)

    gate.open()

    assert closing.result() is True
    assert database.sessions == 0


def test_close_under_load_ends_every_session_and_tells_everybody(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(4)

    def requests() -> bool:
        try:
            while True:
                with pool.connection() as connection, connection.used():
                    time.sleep(0)
        except PoolClosed:
            return True

    tasks = [Task(requests) for _ in range(16)]
    eventually(lambda: pool.size == 4 and pool.waiting > 0)

    assert pool.close(timeout=3600) is True

    assert all(task.result() for task in tasks)
    assert database.sessions == 0
    assert database.misuses == []
    assert (pool.size, pool.waiting) == (0, 0)


def test_a_closed_pool_opens_nothing_in_the_background(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(2, min_size=2)
    eventually(lambda: pool.idle == 2)

    pool.close()
    pool.tend()

    # Housekeeping may be at one of the closes still.
    eventually(lambda: (pool.size, database.sessions) == (0, 0))
    assert len(database.opened) == 2
