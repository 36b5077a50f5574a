"""The statistics of a pool, and the stacks of checkouts with `debug`."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from unit.conftest import Clock, MakePool, another_holder, waiting_task
from unit.fakes import FakeConnection, FakeDatabase, Task, in_turn, raising
from wsgipool import ConnectFailed, Pool, PoolDeadlock, PoolTimeout, Stats, TooManyRequests


def test_a_new_pool_has_done_nothing(make_pool: MakePool) -> None:
    stats = make_pool(3).stats()

    assert (stats.name, stats.min_size, stats.max_size) == ("orders", 0, 3)
    assert (stats.size, stats.idle, stats.in_use, stats.connecting, stats.waiting) == (0, 0, 0, 0, 0)
    assert (stats.checkouts, stats.waits, stats.wait_seconds, stats.timeouts, stats.refused) == (0, 0, 0.0, 0, 0)
    assert (stats.opened, stats.connect_failures, stats.closed) == (0, 0, {})


def test_checkouts_and_opened_connections_are_counted(make_pool: MakePool) -> None:
    pool = make_pool(2)
    for _ in range(5):
        with pool.connection():
            pass
    connection = pool.getconn()
    connection.alive = False
    pool.putconn(connection)
    pool.getconn()

    stats = pool.stats()

    assert (stats.checkouts, stats.opened, stats.closed) == (7, 2, {"broken": 1})
    assert (stats.size, stats.in_use, stats.idle) == (1, 1, 0)


def test_the_numbers_of_one_moment_agree_while_connections_come_and_go(make_pool: MakePool) -> None:
    pool = make_pool(3)
    is_over = threading.Event()

    def work() -> None:
        while not is_over.is_set():
            with pool.connection():
                pass

    workers = [Task(work) for _ in range(4)]
    moments = [pool.stats() for _ in range(1000)]
    is_over.set()
    for worker in workers:
        worker.result()

    assert all(stats.size == stats.idle + stats.in_use + stats.connecting <= 3 for stats in moments)


def test_observed_checkouts_never_decrease_while_threads_wait(make_pool: MakePool) -> None:
    pool = make_pool(2)
    is_over = threading.Event()

    def work() -> None:
        while not is_over.is_set():
            with pool.connection():
                is_over.wait(0.0001)

    workers = [Task(work) for _ in range(4)]
    moments = [pool.observe() for _ in range(3000)]
    is_over.set()
    for worker in workers:
        worker.result()
    last = pool.observe()

    for numbers in ([each.checkouts for each in moments], [each.without_wait for each in moments]):
        assert numbers == sorted(numbers)
    assert last.checkouts == last.without_wait + last.waits


def test_a_connection_that_the_collector_returns_during_stats_serves_a_waiter(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(1)

    def forgotten() -> Iterator[None]:
        with pool.connection():
            yield

    generators = [forgotten()]
    next(generators[0])
    waiter = waiting_task(pool)

    def collect_meanwhile(**numbers: Any) -> Stats:
        generators.clear()
        return Stats(**numbers)

    monkeypatch.setattr(sys.modules[Pool.__module__], "Stats", collect_meanwhile)
    pool.stats()

    waiter.result()


def test_waits_and_their_seconds_are_counted(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(1)
    held = another_holder(pool)
    waiter = waiting_task(pool)
    clock.advance(2.5)

    held.give_back()
    waiter.result()

    assert (pool.stats().waits, pool.stats().wait_seconds) == (1, 2.5)


def test_failed_checkouts_are_counted(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1, max_waiting=1)
    database.hooks["connect"] = in_turn(raising(OSError("refused")))
    with pytest.raises(ConnectFailed):
        pool.getconn()
    another_holder(pool)
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0)
    waiting_task(pool)
    with pytest.raises(TooManyRequests):
        pool.getconn()

    stats = pool.stats()

    assert (stats.connect_failures, stats.timeouts, stats.refused, stats.waiting) == (1, 1, 1, 1)


def test_a_leak_is_counted(make_pool: MakePool) -> None:
    pool = make_pool(1)

    pool.getconn()

    pool.reclaim(threading.get_ident())

    assert pool.stats().closed == {"leaked": 1}


def test_checkouts_of_a_callables_connections_are_counted_too(database: FakeDatabase) -> None:
    pool = Pool(lambda: FakeConnection(database), name="orders", max_size=1)
    with pool.connection():
        pass

    assert pool.stats().checkouts == 1
    assert pool.stats().opened == 1


# --- debug -----------------------------------------------------------------------------------------------------------


def a_handler(pool: Pool[FakeConnection]) -> None:
    pool.getconn()


def test_with_debug_a_deadlock_shows_the_stacks_of_the_checkouts(database: FakeDatabase) -> None:
    pool = Pool(lambda: FakeConnection(database), name="orders", max_size=1, debug=True)
    a_handler(pool)

    with pytest.raises(PoolDeadlock) as caught:
        pool.getconn()

    assert "in test_with_debug_a_deadlock_shows" in str(caught.value)
    assert "in a_handler\n    pool.getconn()" in str(caught.value)


def test_with_debug_a_leak_shows_the_stack_of_its_checkout(make_pool: MakePool, log: pytest.LogCaptureFixture) -> None:
    pool = make_pool(1, debug=True)
    a_handler(pool)

    pool.reclaim(threading.get_ident())

    assert "in test_with_debug_a_leak_shows" in log.text
    assert "in a_handler\n    pool.getconn()" in log.text
