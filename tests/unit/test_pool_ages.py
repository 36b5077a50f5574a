"""How long a connection lives, and how long one that nobody needs."""

from __future__ import annotations

from unit.conftest import MakePool
from unit.fakes import FakeConnection
from wsgipool import Pool


def make_older(pool: Pool[FakeConnection], connection: FakeConnection, seconds: float) -> None:
    """Let time pass for one connection."""
    slot = pool._slots[id(connection)]
    slot.idle_since -= seconds
    slot.expires -= seconds


def test_a_connection_that_nobody_needed_is_closed_when_another_comes_back(make_pool: MakePool) -> None:
    pool = make_pool(2, max_idle=600)
    surplus, busy = pool.getconn(), pool.getconn()
    pool.putconn(surplus)
    make_older(pool, surplus, 601)

    pool.putconn(busy)

    assert surplus.closed
    assert not busy.closed
    assert (pool.size, pool.idle) == (1, 1)


def test_a_connection_that_was_idle_for_less_is_kept(make_pool: MakePool) -> None:
    pool = make_pool(2, max_idle=600)
    first, second = pool.getconn(), pool.getconn()
    pool.putconn(first)
    make_older(pool, first, 500)

    pool.putconn(second)

    assert not first.closed
    assert (pool.size, pool.idle) == (2, 2)


def test_a_connection_is_closed_at_the_end_of_its_life_however_busy_it_is(make_pool: MakePool) -> None:
    pool = make_pool(max_lifetime=3600)
    connection = pool.getconn()
    make_older(pool, connection, 3601)

    pool.putconn(connection)

    assert connection.closed
    assert connection.calls == ["close"], "nothing is owed by a connection that has no next borrower"
    assert pool.size == 0
    assert pool.getconn() is not connection


def test_connections_do_not_all_end_at_once(make_pool: MakePool) -> None:
    pool = make_pool(8, max_lifetime=3600)
    for _ in range(8):
        pool.getconn()

    ends = {slot.expires for slot in pool._slots.values()}

    assert 10 < max(ends) - min(ends) < 361
