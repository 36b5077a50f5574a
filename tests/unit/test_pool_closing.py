"""The end of a pool: `close` ends all connections, `wind_down` lets an ending process finish its requests."""

from __future__ import annotations

import time

import pytest

from unit.conftest import FakePool, MakePool, all_idle, another_holder, counts, waiting_task
from unit.fakes import FakeDatabase, Gate, Task, eventually, raising, then
from unit.interrupts import Interrupt
from wsgipool import PoolClosed

# --- close -----------------------------------------------------------------------------------------------------------


def test_close_rejects_the_waiters_at_once(make_pool: MakePool) -> None:
    pool = make_pool(1)
    pool.getconn()
    waiters = [waiting_task(pool), waiting_task(pool)]

    pool.close()

    for waiter in waiters:
        with pytest.raises(PoolClosed, match="was closed while this request waited"):
            waiter.result()


def test_close_closes_idle_connections_now_and_others_at_their_return(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(2)
    idle, in_use = pool.getconn(), pool.getconn()
    pool.putconn(idle)

    pool.close()

    assert (idle.closed, in_use.closed) == (True, False)
    pool.putconn(in_use)
    assert in_use.closed
    assert database.sessions == 0
    assert counts(pool) == all_idle(0)


def test_a_checkout_from_a_closed_pool_raises(make_pool: MakePool) -> None:
    pool = make_pool(1)
    pool.close()

    with pytest.raises(PoolClosed, match="pool 'orders' is closed"):
        pool.getconn()


def test_a_connection_that_opens_while_the_pool_closes_is_closed_at_its_return(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(1)

    database.hooks["connect"] = gate = Gate()
    other = Task(lambda: another_holder(pool))
    gate.wait_until_reached()
    pool.close()
    gate.open()

    other.result().give_back()

    assert database.sessions == 0


def begin_to_close(pool: FakePool) -> Task[bool]:
    """Return a thread that closes the pool, once the pool refuses checkouts."""
    task = Task(lambda: pool.close(timeout=3600))
    eventually(lambda: pool._state.is_closed)
    return task


def test_close_waits_for_connections_in_use(make_pool: MakePool) -> None:
    pool = make_pool(2)
    other = another_holder(pool)
    closing = begin_to_close(pool)
    assert not closing.done

    other.give_back()

    assert closing.result() is True
    assert other.connection.closed


def test_close_waits_no_longer_than_its_timeout(make_pool: MakePool) -> None:
    pool = make_pool(1)
    other = another_holder(pool)

    assert pool.close(timeout=0.01) is False

    other.give_back()
    assert pool.close() is True


def test_close_waits_for_a_connect_in_the_background(make_pool: MakePool, database: FakeDatabase) -> None:
    database.hooks["connect"] = gate = Gate()
    pool = make_pool(2, min_size=1)
    gate.wait_until_reached()
    closing = begin_to_close(pool)

    gate.open()

    assert closing.result() is True
    assert database.sessions == 0


def test_close_under_load_ends_every_session_and_rejects_every_waiter(
    make_pool: MakePool, database: FakeDatabase
) -> None:
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
    pool.maintain()

    # The background may still be closing a connection.
    eventually(lambda: (pool.size, database.sessions) == (0, 0))
    assert len(database.opened) == 2


# --- wind_down -------------------------------------------------------------------------------------------------------


def test_wind_down_closes_idle_and_returned_connections_and_goes_on_serving(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(2)
    idle, in_use = pool.getconn(), pool.getconn()
    pool.putconn(idle)

    pool.wind_down()
    with pool.connection() as late:
        late.execute()
    pool.putconn(in_use)

    assert late.calls == ["execute", "commit", "close"]
    assert database.sessions == 0
    assert counts(pool) == all_idle(0)


def test_wind_down_takes_no_lock(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    pool.putconn(connection)

    def signal_in_the_middle_of_a_decision() -> None:
        with pool._state.lock:
            pool.wind_down()

    Task(signal_in_the_middle_of_a_decision).result()

    assert connection.closed


def test_a_checkout_interrupted_while_the_pool_winds_down_leaves_nothing_open(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(1)
    pool.putconn(pool.getconn())
    database.hooks["check_out"] = then(pool.wind_down, raising(Interrupt()))

    with pytest.raises(Interrupt):
        pool.getconn()

    assert database.sessions == 0


def test_a_connection_being_returned_while_the_pool_winds_down_is_closed(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    database.hooks["rollback"] = pool.wind_down

    pool.putconn(connection)

    assert connection.closed
    assert pool.size == 0
