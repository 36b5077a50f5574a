"""How long a connection lives, how long one that nobody needs, and how many are kept for those who will."""

from __future__ import annotations

import pytest

from unit.conftest import Clock, MakePool, use
from unit.fakes import FakeConnection, FakeDatabase, eventually, raising
from wsgipool import Pool
from wsgipool.housekeeping import housekeeping


@pytest.fixture(autouse=True)
def _clock(clock: Clock) -> Clock:
    return clock


def test_a_connection_that_nobody_needed_is_closed(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(max_idle=600)
    (connection,) = use(pool)
    pool.tend()

    clock.advance(599)
    pool.tend()
    assert not connection.closed

    clock.advance(1)
    pool.tend()
    assert connection.closed
    assert pool.size == 0
    assert pool.stats().closed == {"idle": 1}


def test_a_connection_that_is_needed_is_kept_and_the_surplus_closed(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(3, max_idle=600)
    surplus = use(pool, 3)[:2]
    pool.tend()

    for _ in range(10):
        clock.advance(60)
        use(pool)
        pool.tend()

    assert [connection.closed for connection in surplus] == [True, True]
    assert (pool.size, pool.idle) == (1, 1)


def test_a_connection_in_use_does_not_count_as_idle(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(max_idle=600)
    connection = pool.getconn()
    pool.tend()
    clock.advance(601)
    pool.tend()
    pool.putconn(connection)

    clock.advance(599)
    pool.tend()

    assert not connection.closed


def test_a_connection_is_closed_at_the_end_of_its_life_however_busy_it_is(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(max_lifetime=3600)
    connection = pool.getconn()
    clock.advance(3601)
    pool.tend()
    assert not connection.closed

    pool.putconn(connection)

    assert connection.calls == ["close"], "nothing is owed by a connection that has no next borrower"
    assert pool.stats().closed == {"lifetime": 1}
    assert pool.getconn() is not connection


def test_an_idle_connection_is_closed_at_the_end_of_its_life(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(max_lifetime=3600, max_idle=1e9)
    (connection,) = use(pool)

    clock.advance(3601)
    pool.tend()

    assert connection.closed
    assert pool.size == 0


def test_connections_do_not_all_end_at_once(make_pool: MakePool) -> None:
    pool = make_pool(8, max_lifetime=3600)
    for _ in range(8):
        pool.getconn()

    ends = {slot.expires for slot in pool._slots.values()}

    assert 10 < max(ends) - min(ends) < 361


def test_a_round_comes_early_enough_for_the_shortest_age(make_pool: MakePool) -> None:
    pools = [make_pool(max_idle=100, max_lifetime=50), make_pool(max_idle=0.1), make_pool(max_idle=1e9)]
    for pool in pools:
        use(pool)

    assert [pool.tend() for pool in pools] == [5, 0.05, 30]


def test_an_empty_pool_needs_no_round(make_pool: MakePool) -> None:
    assert make_pool().tend() is None


def test_a_connection_that_is_opened_when_all_have_been_closed_grows_old_too(
    make_pool: MakePool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(max_idle=600)
    use(pool)
    pool.tend()
    clock.advance(600)
    assert pool.tend() is None, "no further round is needed"
    calls: list[str] = []
    monkeypatch.setattr(housekeeping, "call", lambda: calls.append("call"))

    use(pool)

    assert calls, "or nobody would see how old it grows"


# --- min_size --------------------------------------------------------------------------------------------------------


def test_min_size_connections_are_opened_before_anybody_asks(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(5, min_size=3)

    eventually(lambda: pool.idle == 3)

    assert (pool.size, database.sessions) == (3, 3)


def test_they_are_opened_even_where_nobody_may_wait(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(timeout=0, min_size=1)

    eventually(lambda: pool.idle == 1)

    assert database.timeouts == [30]


def test_no_more_than_max_connecting_of_them_at_once(make_pool: MakePool, database: FakeDatabase) -> None:
    seen: list[int] = []
    pool: Pool[FakeConnection]
    database.hooks["connect"] = lambda: seen.append(len(pool._connecting))
    pool = make_pool(5, min_size=5, max_connecting=2)

    eventually(lambda: pool.idle == 5)

    assert max(seen) <= 2


def test_min_size_connections_stay_however_idle_they_are(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(5, min_size=2, max_idle=600)
    eventually(lambda: pool.idle == 2)
    use(pool, 4)
    pool.tend()
    assert pool.idle == 4

    clock.advance(600)
    pool.tend()

    assert (pool.size, pool.idle) == (2, 2)


def test_a_connection_at_the_end_of_its_life_is_replaced(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(2, min_size=1, max_lifetime=3600)
    eventually(lambda: pool.idle == 1)
    (old,) = use(pool)

    clock.advance(3601)
    pool.tend()

    eventually(lambda: pool.idle == 1)
    assert use(pool) != [old]


def test_after_an_outage_a_pool_is_back_at_min_size(make_pool: MakePool, database: FakeDatabase, clock: Clock) -> None:
    database.hooks["connect"] = raising(OSError("refused"))
    pool = make_pool(3, min_size=2)
    eventually(lambda: pool.stats().connect_failures >= 2)
    assert pool.size == 0

    database.hooks.clear()
    clock.advance(2)
    pool.tend()

    eventually(lambda: pool.idle == 2)


@pytest.mark.parametrize("min_size", [-1, 3])
def test_a_min_size_that_cannot_be_is_refused(make_pool: MakePool, min_size: int) -> None:
    with pytest.raises(ValueError, match=f"min_size = {min_size}: it is from 0 to max_size, which is 2"):
        make_pool(2, min_size=min_size)
