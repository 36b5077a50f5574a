"""The lifetime of connections, the closing of unused ones, and `min_size`."""

from __future__ import annotations

import pytest

from unit.conftest import Clock, MakePool, use
from unit.fakes import FakeConnection, FakeDatabase, eventually, raising
from wsgipool import Pool
from wsgipool._background import background


@pytest.fixture(autouse=True)
def _clock(clock: Clock) -> Clock:
    return clock


def test_an_unused_connection_is_closed(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(max_idle=600)
    (connection,) = use(pool)
    pool.maintain()

    clock.advance(599)
    pool.maintain()
    assert not connection.closed

    clock.advance(1)
    pool.maintain()
    assert connection.closed
    assert pool.size == 0
    assert pool.stats().closed == {"idle": 1}


def test_a_used_connection_is_kept_and_the_surplus_closed(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(3, max_idle=600)
    surplus = use(pool, 3)[:2]
    pool.maintain()

    for _ in range(10):
        clock.advance(60)
        use(pool)
        pool.maintain()

    assert [connection.closed for connection in surplus] == [True, True]
    assert (pool.size, pool.idle) == (1, 1)


def test_a_connection_in_use_does_not_count_as_idle(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(max_idle=600)
    connection = pool.getconn()
    pool.maintain()
    clock.advance(601)
    pool.maintain()
    pool.putconn(connection)

    clock.advance(599)
    pool.maintain()

    assert not connection.closed


def test_a_busy_connection_is_closed_at_the_end_of_its_lifetime(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(max_lifetime=3600)
    connection = pool.getconn()
    clock.advance(3601)
    pool.maintain()
    assert not connection.closed

    pool.putconn(connection)

    assert connection.calls == ["close"], "no cleaning is needed without a next holder"
    assert pool.stats().closed == {"lifetime": 1}
    assert pool.getconn() is not connection


def test_an_idle_connection_is_closed_at_the_end_of_its_lifetime(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(max_lifetime=3600, max_idle=1e9)
    (connection,) = use(pool)

    clock.advance(3601)
    pool.maintain()

    assert connection.closed
    assert pool.size == 0


def test_lifetimes_differ_so_that_not_all_connections_end_at_once(make_pool: MakePool) -> None:
    pool = make_pool(8, max_lifetime=3600)
    for _ in range(8):
        pool.getconn()

    ends = {slot.expires for slot in pool._state.slots}

    assert 10 < max(ends) - min(ends) < 361


def test_the_pause_between_rounds_suits_the_shortest_maximum_age(make_pool: MakePool) -> None:
    pools = [make_pool(max_idle=100, max_lifetime=50), make_pool(max_idle=0.1), make_pool(max_idle=1e9)]
    for pool in pools:
        use(pool)

    assert [pool.maintain() for pool in pools] == [5, 0.05, 30]


def test_an_empty_pool_needs_no_maintenance(make_pool: MakePool) -> None:
    assert make_pool().maintain() is None


def test_a_connection_opened_in_an_empty_pool_is_maintained(
    make_pool: MakePool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(max_idle=600)
    use(pool)
    pool.maintain()
    clock.advance(600)
    assert pool.maintain() is None, "no further round is due"
    calls: list[str] = []
    monkeypatch.setattr(background, "wake", lambda: calls.append("call"))

    use(pool)

    assert calls, "otherwise its age would not be checked"


# --- min_size --------------------------------------------------------------------------------------------------------


def test_min_size_connections_are_opened_before_the_first_checkout(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(5, min_size=3)

    eventually(lambda: pool.idle == 3)

    assert (pool.size, database.sessions) == (3, 3)


def test_min_size_connections_are_opened_with_a_timeout_of_zero(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(timeout=0, min_size=1)

    eventually(lambda: pool.idle == 1)

    assert database.timeouts == [30]


def test_no_more_than_max_connecting_min_size_connections_open_at_once(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    seen: list[int] = []
    pool: Pool[FakeConnection]
    database.hooks["connect"] = lambda: seen.append(pool.stats().connecting)
    pool = make_pool(5, min_size=5, max_connecting=2)

    eventually(lambda: pool.idle == 5)

    assert max(seen) <= 2


def test_min_size_connections_are_kept_although_unused(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(5, min_size=2, max_idle=600)
    eventually(lambda: pool.idle == 2)
    use(pool, 4)
    pool.maintain()
    assert pool.idle == 4

    clock.advance(600)
    pool.maintain()

    assert (pool.size, pool.idle) == (2, 2)


def test_a_connection_at_the_end_of_its_lifetime_is_replaced(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(2, min_size=1, max_lifetime=3600)
    eventually(lambda: pool.idle == 1)
    (old,) = use(pool)

    clock.advance(3601)
    pool.maintain()

    eventually(lambda: pool.idle == 1)
    assert use(pool) != [old]


def test_after_an_outage_a_pool_is_back_at_min_size(make_pool: MakePool, database: FakeDatabase, clock: Clock) -> None:
    database.hooks["connect"] = raising(OSError("refused"))
    pool = make_pool(3, min_size=2)
    eventually(lambda: pool.stats().connect_failures >= 2)
    assert pool.size == 0

    database.hooks.clear()
    clock.advance(2)
    pool.maintain()

    eventually(lambda: pool.idle == 2)


@pytest.mark.parametrize("min_size", [-1, 3])
def test_a_min_size_out_of_range_is_refused(make_pool: MakePool, min_size: int) -> None:
    with pytest.raises(ValueError, match=f"min_size must be from 0 to max_size, 2, is {min_size}"):
        make_pool(2, min_size=min_size)
