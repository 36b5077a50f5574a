"""`reclaim` at the end of a request: what its thread has left behind is taken back, and nothing else is touched."""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
from collections.abc import Iterable, Iterator

import pytest

from unit.conftest import FakePool, MakePool, all_idle, borrower, counts, giving_back, waiting_task
from unit.fakes import FakeConnection, FakeDatabase, Task, eventually, in_turn, raising
from unit.interrupts import Interrupt
from wsgipool import lost

# --- what a handler has kept -----------------------------------------------------------------------------------------


def test_reclaim_closes_what_the_thread_kept_and_says_where_it_was_borrowed(
    make_pool: MakePool, log: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(3)

    def forgetful_handler() -> tuple[int, FakeConnection]:
        connection = pool.getconn()
        return pool.reclaim(threading.get_ident()), connection

    number, connection = Task(forgetful_handler).result()

    assert number == 1
    assert connection.calls == ["close"]
    assert len(log.messages) == 1
    assert re.search(
        rf"connection of pool 'orders' was not given back .* at {re.escape(__file__)}:\d+ in forgetful_handler",
        log.messages[0],
    )


def test_reclaim_has_nothing_to_do_after_a_well_behaved_request(
    make_pool: MakePool, log: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(1)
    with pool.connection():
        pass

    assert pool.reclaim(threading.get_ident()) == 0
    assert counts(pool) == all_idle(1)
    assert log.messages == []


def test_reclaim_serves_the_waiting(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    pool.getconn()
    waiter = waiting_task(pool)

    pool.reclaim(threading.get_ident())

    assert waiter.result() is database.opened[1]
    assert database.most_sessions == 1


def test_a_reclaimed_connection_cannot_be_given_back(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    pool.reclaim(threading.get_ident())

    with pytest.raises(ValueError, match="taken back at the end of its request"):
        pool.putconn(connection)

    assert counts(pool) == all_idle(0)


# --- what others have ------------------------------------------------------------------------------------------------


def test_reclaim_leaves_other_threads_alone(make_pool: MakePool) -> None:
    pool = make_pool(3)
    other = borrower(pool)
    mine = [pool.getconn(), pool.getconn()]

    assert pool.reclaim(threading.get_ident()) == 2

    # Housekeeping may be the one that closes them.
    eventually(lambda: all(connection.closed for connection in mine))
    eventually(lambda: pool.size == 1)
    assert not other.connection.closed
    assert counts(pool) == {"size": 1, "idle": 0, "in_use": 1, "waiting": 0}


def test_reclaim_does_not_touch_what_another_thread_is_giving_back(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)

    with giving_back(pool, database) as other:
        assert pool.reclaim(other.thread_id) == 0

    assert counts(pool) == all_idle(1)


def test_reclaim_leaves_alone_a_connection_that_another_thread_carries_between_two_places(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(1)

    with giving_back(pool, database) as other:
        pool.reclaim(threading.get_ident())
        assert not other.connection.closed

    assert counts(pool) == all_idle(1)


# --- what an interruption has left -----------------------------------------------------------------------------------


@contextlib.contextmanager
def interrupted_in(pool: FakePool, method: str) -> Iterator[None]:
    """Interrupt the block where it calls this method of the pool, which then does nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, method, lambda *_, **__: raising(Interrupt())())
        with pytest.raises(Interrupt):
            yield


def test_reclaim_frees_the_place_of_a_connect_that_was_interrupted_twice(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(1)
    database.hooks["connect"] = in_turn(raising(OSError("refused")))
    with interrupted_in(pool, "_withdraw"):
        pool.getconn()

    pool.reclaim(threading.get_ident())

    assert counts(pool) == all_idle(0)


def test_reclaim_takes_a_waiter_that_was_interrupted_twice_out_of_the_queue(make_pool: MakePool) -> None:
    pool = make_pool(1)
    other = borrower(pool)
    with interrupted_in(pool, "_withdraw"):
        pool.getconn(timeout=0)

    pool.reclaim(threading.get_ident())
    other.give_back()

    assert counts(pool) == all_idle(1)


def test_reclaim_takes_back_a_connection_whose_return_was_interrupted_at_its_start(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    with interrupted_in(pool, "_take_back"):
        pool.putconn(connection)

    pool.reclaim(threading.get_ident())

    assert counts(pool) == all_idle(0)


def test_reclaim_finds_a_connection_that_an_interrupt_has_dropped_between_two_places(
    make_pool: MakePool,
) -> None:
    pool = make_pool(2)
    held, idle = pool.getconn(), pool.getconn()
    pool.putconn(idle)
    # What is left when the exception strikes just after the pop.
    pool._idle.pop()
    assert (pool.size, pool.in_use) == (2, 2)

    assert pool.reclaim(threading.get_ident() + 1) == 0

    assert idle.closed
    assert not held.closed
    assert (pool.size, pool.in_use) == (1, 1)


# --- what nobody reclaims: the pools of programs that know no requests -----------------------------------------------


def test_housekeeping_closes_what_is_lent_to_a_block_that_nobody_runs(
    make_pool: MakePool, database: FakeDatabase, log: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(2)
    other = borrower(pool)
    # What is left when the exception strikes on the way into the block, or out of it.
    pool.connection().__enter__()
    database.opened.clear()

    pool.tend()

    assert (pool.size, pool.in_use) == (1, 1)
    assert not other.connection.closed
    assert pool.stats().closed == {"leaked": 1}
    assert "its `with` block was interrupted; it was borrowed at" in log.messages[-1]
    other.give_back()


def test_housekeeping_leaves_alone_a_block_that_somebody_may_end_and_a_connection_that_somebody_may_use(
    make_pool: MakePool,
) -> None:
    pool = make_pool(3)
    block = pool.connection()
    block.__enter__()
    connection = pool.connection().__enter__()
    lent = pool.getconn()

    pool.tend()

    assert pool.in_use == 3
    block.__exit__(None, None, None)
    pool.putconn(lent)
    connection.execute()
    assert not connection.closed


def test_housekeeping_leaves_alone_what_is_given_back_and_lent_again_while_it_looks(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(1)
    other = borrower(pool)
    references, looks = lost._references, itertools.count()

    def give_back_meanwhile(slots: Iterable[object]) -> list[int]:
        found = references(slots)
        if next(looks) == 1:  # the first is of an object that is nobody's
            other.give_back()
        return found

    monkeypatch.setattr(lost, "_references", give_back_meanwhile)
    pool.tend()

    assert not other.connection.closed
    assert counts(pool) == all_idle(1)
