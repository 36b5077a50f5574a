"""What a pool tells of itself: its numbers, and with `debug` how the program came to hold what it holds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from unit.conftest import Clock, FakePool, MakePool, borrower, waiting_task
from unit.fakes import FakeConnection, FakeDatabase, in_turn, raising
from wsgipool import ConnectFailed, Pool, PoolDeadlock, PoolTimeout, Stats, TooManyRequests


def test_a_new_pool_has_done_nothing(make_pool: MakePool) -> None:
    stats = make_pool(3).stats()

    assert (stats.name, stats.min_size, stats.max_size) == ("orders", 0, 3)
    assert (stats.size, stats.idle, stats.in_use, stats.connecting, stats.waiting) == (0, 0, 0, 0, 0)
    assert (stats.loans, stats.waits, stats.wait_seconds, stats.timeouts, stats.refused) == (0, 0, 0.0, 0, 0)
    assert (stats.opened, stats.connect_failures, stats.closed) == (0, 0, {})


def test_loans_and_what_was_opened_for_them_are_counted(make_pool: MakePool) -> None:
    pool = make_pool(2)
    for _ in range(5):
        with pool.connection():
            pass
    connection = pool.getconn()
    connection.alive = False
    pool.putconn(connection)
    pool.getconn()

    stats = pool.stats()

    assert (stats.loans, stats.opened, stats.closed) == (8, 2, {"broken": 1})
    assert (stats.size, stats.in_use, stats.idle) == (1, 1, 0)


def test_the_numbers_of_one_moment_agree_though_a_connection_comes_back_meanwhile(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(1)
    other = borrower(pool)

    def idle_then_given_back(self: FakePool) -> int:
        idle = len(self._idle)
        if not idle:
            other.give_back()
        return idle

    monkeypatch.setattr(Pool, "idle", property(idle_then_given_back))
    stats = pool.stats()

    assert stats.size == stats.idle + stats.in_use + stats.connecting == 1


def test_what_the_collector_gives_back_while_the_numbers_are_told_serves_who_waits(
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


def test_waits_and_how_long_they_were_are_counted(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(1)
    held = borrower(pool)
    waiter = waiting_task(pool)
    clock.advance(2.5)

    held.give_back()
    waiter.result()

    assert (pool.stats().waits, pool.stats().wait_seconds) == (1, 2.5)


def test_those_who_went_without_are_counted(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1, max_waiting=1)
    database.hooks["connect"] = in_turn(raising(OSError("refused")))
    with pytest.raises(ConnectFailed):
        pool.getconn()
    borrower(pool)
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


def test_loans_of_a_plain_callable_are_not_counted(database: FakeDatabase) -> None:
    pool = Pool(lambda: FakeConnection(database), name="orders", max_size=1)
    with pool.connection():
        pass

    assert pool.stats().loans is None
    assert pool.stats().opened == 1


# --- debug -----------------------------------------------------------------------------------------------------------


def a_handler(pool: Pool[FakeConnection]) -> None:
    pool.getconn()


def test_with_debug_a_deadlock_shows_how_the_thread_came_to_what_it_holds(database: FakeDatabase) -> None:
    pool = Pool(lambda: FakeConnection(database), name="orders", max_size=1, debug=True)
    a_handler(pool)

    with pytest.raises(PoolDeadlock) as caught:
        pool.getconn()

    assert "in test_with_debug_a_deadlock_shows" in str(caught.value)
    assert "in a_handler\n    pool.getconn()" in str(caught.value)


def test_with_debug_a_leak_shows_how_it_came_about(make_pool: MakePool, log: pytest.LogCaptureFixture) -> None:
    pool = make_pool(1, debug=True)
    a_handler(pool)

    pool.reclaim(threading.get_ident())

    assert "in test_with_debug_a_leak_shows" in log.text
    assert "in a_handler\n    pool.getconn()" in log.text


def test_without_debug_a_plain_callables_idle_one_is_lent_without_a_note_and_says_what_would(
    database: FakeDatabase,
) -> None:
    pool = Pool(lambda: FakeConnection(database), name="orders", max_size=1)
    with pool.connection():
        pass
    a_handler(pool)

    with pytest.raises(PoolDeadlock, match=r"borrowed at least 0\.0 s ago, where debug=True would tell"):
        pool.getconn()
