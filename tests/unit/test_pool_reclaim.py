"""`reclaim` at the end of a request: takes back the connections of its thread, and no others."""

from __future__ import annotations

import contextlib
import re
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from time import monotonic

import pytest

from unit.conftest import MakePool, all_idle, another_holder, counts, returning, waiting_task
from unit.fakes import PATIENCE, FakeConnection, FakeDatabase, Gate, HolderThread, Task, eventually, in_turn, raising
from unit.interrupts import Interrupt
from unit.slots import legal_moves
from wsgipool._background import background
from wsgipool.pool import _orphans
from wsgipool.pool._sessions import Sessions
from wsgipool.pool._slot import Slot
from wsgipool.pool._state import PoolState

# --- leaks of a request ----------------------------------------------------------------------------------------------


def test_reclaim_closes_leaked_connections_and_logs_the_place_of_their_checkout(
    make_pool: MakePool, log: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(3)

    def forgetful_handler() -> tuple[int, FakeConnection]:
        connection = pool.getconn()
        return pool.reclaim(threading.get_ident()), connection

    number, connection = Task(forgetful_handler).result()

    assert number == 1
    # Maintenance may close it, too.
    eventually(lambda: connection.calls == ["close"])
    assert len(log.messages) == 1
    assert re.search(
        rf"connection of pool 'orders' was not returned .* at {re.escape(__file__)}:\d+ in forgetful_handler",
        log.messages[0],
    )


def test_reclaim_does_nothing_after_a_request_without_leaks(make_pool: MakePool, log: pytest.LogCaptureFixture) -> None:
    pool = make_pool(1)
    with pool.connection():
        pass

    assert pool.reclaim(threading.get_ident()) == 0
    assert counts(pool) == all_idle(1)
    assert log.messages == []


def test_reclaim_serves_the_waiters(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    pool.getconn()
    waiter = waiting_task(pool)

    pool.reclaim(threading.get_ident())

    assert waiter.result() is database.opened[1]
    assert database.most_sessions == 1


def test_a_reclaimed_connection_cannot_be_returned(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    pool.reclaim(threading.get_ident())

    with pytest.raises(ValueError, match="taken back at the end of its request"):
        pool.putconn(connection)

    assert counts(pool) == all_idle(0)


# --- other threads ---------------------------------------------------------------------------------------------------


def test_reclaim_leaves_other_threads_alone(make_pool: MakePool) -> None:
    pool = make_pool(3)
    other = another_holder(pool)
    mine = [pool.getconn(), pool.getconn()]

    assert pool.reclaim(threading.get_ident()) == 2

    # Maintenance may close them, too.
    eventually(lambda: all(connection.closed for connection in mine))
    eventually(lambda: pool.size == 1)
    assert not other.connection.closed
    assert counts(pool) == {"size": 1, "idle": 0, "in_use": 1, "waiting": 0}


def test_reclaim_leaves_a_connection_alone_that_another_thread_is_returning(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(1)

    with returning(pool, database) as other:
        assert pool.reclaim(other.thread_id) == 0

    assert counts(pool) == all_idle(1)


def test_reclaim_of_another_thread_leaves_a_returning_connection_alone(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(1)

    with returning(pool, database) as other:
        pool.reclaim(threading.get_ident())
        assert not other.connection.closed

    assert counts(pool) == all_idle(1)


# --- after asynchronous exceptions -----------------------------------------------------------------------------------


@contextlib.contextmanager
def interrupted_twice(*methods: tuple[type, str]) -> Iterator[None]:
    """Interrupt the block at calls of these methods, and again at the clean-up."""
    with pytest.MonkeyPatch.context() as patch:
        for kind, name in (*methods, (Sessions, "recover")):
            patch.setattr(kind, name, lambda *_, **__: raising(Interrupt())())
        with pytest.raises(Interrupt):
            yield


def test_reclaim_frees_the_place_of_a_connect_that_was_interrupted_twice(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(1)
    database.hooks["connect"] = in_turn(raising(OSError("refused")))
    with interrupted_twice((Sessions, "recover_slot")):
        pool.getconn()

    pool.reclaim(threading.get_ident())

    assert counts(pool) == all_idle(0)


def test_reclaim_closes_a_connection_whose_return_was_interrupted_twice(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    with interrupted_twice((PoolState, "check_in")):
        pool.putconn(connection)

    pool.reclaim(threading.get_ident())

    assert connection.closed
    assert counts(pool) == all_idle(0)


def test_a_waiter_that_was_interrupted_twice_does_not_block_the_queue(make_pool: MakePool) -> None:
    pool = make_pool(1)
    other = another_holder(pool)
    with interrupted_twice((PoolState, "withdraw")):
        pool.getconn(timeout=0)

    pool.reclaim(threading.get_ident())
    other.give_back()

    assert counts(pool) == all_idle(1)


# --- threads that have ended -----------------------------------------------------------------------------------------


def test_the_connections_of_an_ended_thread_are_taken_back(make_pool: MakePool, log: pytest.LogCaptureFixture) -> None:
    pool = make_pool(2)
    held = [Task(pool.getconn).result() for _ in range(2)]

    pool.maintain()

    eventually(lambda: all(connection.closed for connection in held))
    eventually(lambda: counts(pool) == all_idle(0))
    eventually(lambda: "before its thread ended, and has been closed; it was checked out at" in log.text)


def test_a_waiter_gets_the_connections_of_ended_threads(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "register", lambda _: None)
    pool = make_pool(2)
    for _ in range(2):
        Task(pool.getconn).result()

    assert pool.getconn(timeout=PATIENCE)


def test_a_thread_outside_python_keeps_its_connections(make_pool: MakePool) -> None:
    """A thread of httpd runs no Python function between two requests."""
    pool = make_pool(1)
    other = another_holder(pool)
    Task(lambda: None).result()

    pool.maintain()

    assert not other.connection.closed
    other.give_back()
    assert counts(pool) == all_idle(1)


# --- programs without requests ---------------------------------------------------------------------------------------


def test_maintenance_closes_the_connection_of_an_orphaned_block(
    make_pool: MakePool, database: FakeDatabase, log: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(2)
    other = another_holder(pool)
    # As after an asynchronous exception at the start or the end of the block.
    pool.connection().__enter__()
    database.opened.clear()

    pool.maintain()

    eventually(lambda: (pool.size, pool.in_use) == (1, 1))
    assert not other.connection.closed
    assert pool.stats().closed == {"leaked": 1}
    eventually(lambda: "nothing refers to it any more; it was checked out at" in log.text)
    other.give_back()


def test_maintenance_leaves_connections_in_use_alone(make_pool: MakePool) -> None:
    pool = make_pool(3)
    block = pool.connection()
    block.__enter__()
    connection = pool.connection().__enter__()
    held = pool.getconn()

    pool.maintain()

    assert pool.in_use == 3
    block.__exit__(None, None, None)
    pool.putconn(held)
    connection.execute()
    assert not connection.closed


def test_maintenance_leaves_a_connection_alone_whose_return_begins_meanwhile(
    make_pool: MakePool, database: FakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its slot had no references a moment before: a thread that holds a connection does not refer to the slot."""
    pool = make_pool(1)
    holder = another_holder(pool)
    database.hooks["rollback"] = gate = Gate()

    def begin_return() -> None:
        holder.begin_return()
        gate.wait_until_reached()

    beside_counting(monkeypatch, after=begin_return)
    pool.maintain()
    gate.open()
    holder.give_back()

    assert holder.connection.calls == ["rollback"]
    assert counts(pool) == all_idle(1)


def test_maintenance_leaves_a_connection_alone_whose_checkout_ends_meanwhile(
    make_pool: MakePool, database: FakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(1)
    pool.putconn(pool.getconn())
    database.hooks["check_out"] = gate = Gate()
    checkout = Task(pool.getconn)
    gate.wait_until_reached()

    def end_checkout() -> None:
        gate.open()
        checkout.result()

    beside_counting(monkeypatch, before=end_checkout)
    pool.maintain()

    assert checkout.result().calls == ["rollback"]
    assert counts(pool) == {"size": 1, "idle": 0, "in_use": 1, "waiting": 0}


def beside_counting(
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[], object] = lambda: None,
    after: Callable[[], object] = lambda: None,
) -> None:
    """Have maintenance call these functions once, right before and after it counts the references of the slots."""
    count = _orphans._references

    def counting(records: Sequence[object]) -> list[int]:
        if not records or not isinstance(records[0], Slot):
            return count(records)
        monkeypatch.setattr(_orphans, "_references", count)
        before()
        counted = count(records)
        after()
        return counted

    monkeypatch.setattr(_orphans, "_references", counting)


def test_maintenance_leaves_a_connection_alone_that_another_thread_returns(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    """A generator may be closed on another thread than the one that entered its block, and that one may end."""
    pool = make_pool(1)

    def rows() -> Generator[FakeConnection, None, None]:
        with pool.connection() as connection:
            yield connection

    generator = rows()
    beginner = HolderThread(lambda: next(generator), lambda _: None)
    database.hooks["rollback"] = gate = Gate()
    closing = Task(generator.close)
    gate.wait_until_reached()
    beginner.give_back()

    pool.maintain()
    gate.open()
    closing.result()

    assert beginner.connection.calls == ["rollback"]
    assert counts(pool) == all_idle(1)


def test_maintenance_at_any_moment_takes_no_connection_from_a_thread(
    make_pool: MakePool, database: FakeDatabase, monkeypatch: pytest.MonkeyPatch, effort: int
) -> None:
    """Threads are switched all the time, so that maintenance comes in the middle of each step."""
    pool = make_pool(2)
    interval = sys.getswitchinterval()

    def checkouts() -> None:
        for number in range(effort * 1500):
            connection = pool.getconn()
            connection.execute()
            pool.putconn(connection)
            with pool.connection(readonly=number % 2 == 0) as connection:
                connection.execute()

    with legal_moves(monkeypatch):
        sys.setswitchinterval(1e-5)
        try:
            tasks = [Task(checkouts) for _ in range(3)]
            deadline = monotonic() + 6 * PATIENCE * effort
            while not all(task.done for task in tasks):
                assert monotonic() < deadline, "the threads do not end"
                pool.maintain()
        finally:
            sys.setswitchinterval(interval)
    for task in tasks:
        task.result()

    assert database.misuses == []
    assert pool.stats().closed == {}
    assert len(database.opened) == pool.idle == pool.size
