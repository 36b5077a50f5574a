"""Connects: beside other checkouts, failed ones, and pauses during an outage."""

from __future__ import annotations

import itertools

import pytest

from unit.conftest import Clock, FakePool, MakePool, all_idle, connecting, counts, returning, waiting_task
from unit.fakes import FakeDatabase, in_turn, raising, then
from unit.interrupts import Interrupt
from wsgipool import ConnectFailed

# --- beside other checkouts ------------------------------------------------------------------------------------------


def test_other_threads_check_out_and_return_during_a_connect(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(2)
    connection = pool.getconn()

    with connecting(pool, database) as other:
        pool.putconn(connection)
        # The thread takes the first free connection, and the next thread gets the new one.
        assert other.result() is connection

    assert pool.getconn() is not connection


def test_other_threads_check_out_and_return_during_a_close(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(2)
    connection = pool.getconn()
    database.hooks["rollback"] = in_turn(raising(OSError("gone")))

    with returning(pool, database, stopped_at="close"):
        pool.putconn(connection)

        assert pool.getconn() is connection


def test_a_connect_gets_the_rest_of_the_timeout(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)

    pool.getconn(timeout=5)

    assert 0 < database.timeouts[0] <= 5


# --- failed connects -------------------------------------------------------------------------------------------------


def test_a_failed_connect_is_a_connect_failed_with_the_drivers_error(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(1)
    database.hooks["connect"] = raising(refused := OSError("refused\n  by the server"))

    with pytest.raises(ConnectFailed) as caught:
        pool.getconn()

    assert str(caught.value) == ("cannot connect pool 'orders' to fake://database: OSError: refused by the server")
    assert caught.value.__cause__ is refused
    assert counts(pool) == all_idle(0)


def test_a_failed_connect_passes_the_turn_on(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)

    with connecting(pool, database, in_turn(raising(OSError("refused")))) as failing:
        waiter = waiting_task(pool)

    with pytest.raises(ConnectFailed):
        failing.result()
    assert waiter.result() is database.opened[0]


def test_all_waiters_get_connect_failed_at_once_during_an_outage(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)

    with connecting(pool, database, raising(OSError("refused"))) as first:
        waiters = [waiting_task(pool) for _ in range(4)]

    for task in [first, *waiters]:
        with pytest.raises(ConnectFailed):
            task.result()
    assert counts(pool) == all_idle(0)


def test_an_interrupted_connect_frees_its_place(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    database.hooks["connect"] = in_turn(raising(Interrupt()))

    with pytest.raises(Interrupt):
        pool.getconn()

    assert pool.getconn() is database.opened[0]


# --- an outage -------------------------------------------------------------------------------------------------------


def fail_to_connect(pool: FakePool, database: FakeDatabase, clock: Clock, times: int) -> None:
    """Refuse this number of connects, one a second, and let the following ones succeed."""
    database.hooks["connect"] = in_turn(*[raising(OSError("refused"))] * times)
    for _ in range(times):
        with pytest.raises(ConnectFailed):
            pool.getconn()
        clock.advance(1)


def test_a_pool_fills_up_again_after_failed_connects(make_pool: MakePool, database: FakeDatabase, clock: Clock) -> None:
    pool = make_pool(2)
    fail_to_connect(pool, database, clock, 3)

    connections = [pool.getconn(), pool.getconn()]

    assert connections == database.opened


def test_an_outage_is_logged_once_at_its_begin_and_once_at_its_end(
    make_pool: MakePool, database: FakeDatabase, clock: Clock, log: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(2)
    fail_to_connect(pool, database, clock, 5)
    pool.getconn()
    pool.getconn()

    assert log.messages == [
        "cannot connect pool 'orders' to fake://database: OSError: refused",
        "pool 'orders' is connected to fake://database again",
    ]


def test_after_a_single_failed_connect_the_next_one_is_tried_at_once(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    database.hooks["connect"] = in_turn(raising(OSError("connection refused")))
    pool = make_pool()
    with pytest.raises(ConnectFailed):
        pool.getconn()

    pool.getconn()

    assert pool.size == 1


def test_a_refused_password_is_not_sent_again_at_once(make_pool: MakePool, database: FakeDatabase) -> None:
    database.hooks["connect"] = raising(PermissionError("access denied"))
    pool = make_pool()
    with pytest.raises(ConnectFailed, match="access denied"):
        pool.getconn()

    with pytest.raises(ConnectFailed, match=r"access denied; next attempt in [01]\.\d s"):
        pool.getconn()

    assert len(database.timeouts) == 1
    assert pool.size == 0


def test_connects_during_an_outage_become_rarer_down_to_one_a_second(
    make_pool: MakePool, database: FakeDatabase, clock: Clock
) -> None:
    database.hooks["connect"] = raising(OSError("connection refused"))
    pool = make_pool()
    connects: list[float] = []

    for _ in range(2000):
        before = len(database.timeouts)
        with pytest.raises(ConnectFailed):
            pool.getconn()
        if len(database.timeouts) > before:
            connects.append(clock.now)
        clock.advance(0.01)

    pauses = [later - earlier for earlier, later in itertools.pairwise(connects)]
    assert pauses[0] < 0.02
    assert 0.02 < pauses[1] < 0.07
    assert min(pauses[-10:]) >= 0.5
    assert max(pauses[-10:]) < 1.02
    assert len(set(pauses[-10:])) > 1, "otherwise all processes would connect at the same moment"


def test_a_connect_with_a_short_timeout_pauses_no_other_connect(
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
