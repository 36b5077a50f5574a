"""The `with` block of a connection: how it ends, whose the connection is, and blocks that nobody ends in time."""

from __future__ import annotations

import gc
import threading
from collections.abc import Generator

import pytest

from unit.conftest import FakePool, MakePool, all_idle, counts
from unit.fakes import FakeConnection, FakeDatabase, Task, raising
from unit.interrupts import Interrupt

# --- how it ends -----------------------------------------------------------------------------------------------------


def test_a_block_that_ends_is_committed_and_nothing_else_is_sent(make_pool: MakePool) -> None:
    pool = make_pool(1)

    with pool.connection() as connection:
        connection.execute()

    assert connection.calls == ["execute", "commit"]
    assert counts(pool) == all_idle(1)


def test_a_readonly_block_ends_in_a_rollback(make_pool: MakePool) -> None:
    pool = make_pool(1)

    with pool.connection(readonly=True) as connection:
        connection.execute()

    assert connection.calls == ["execute", "rollback"]
    assert counts(pool) == all_idle(1)


def test_a_block_that_raises_is_rolled_back(make_pool: MakePool) -> None:
    pool = make_pool(1)

    with pytest.raises(KeyError, match="no such book"), pool.connection() as connection:
        raise KeyError("no such book")

    assert connection.calls == ["rollback"]
    assert counts(pool) == all_idle(1)


def test_a_failing_commit_is_seen_by_the_caller(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    database.hooks["commit"] = raising(OSError("disk full"))

    with pytest.raises(OSError, match="disk full"), pool.connection() as connection:
        connection.execute()

    assert connection.calls == ["execute", "rollback"]
    assert counts(pool) == all_idle(1)


def test_a_reset_that_fails_does_not_hide_the_error_of_the_block(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    database.hooks["rollback"] = raising(OSError("gone"))

    with pytest.raises(KeyError, match="no such book"), pool.connection():
        raise KeyError("no such book")

    assert counts(pool) == all_idle(0)


def test_a_block_that_is_interrupted_has_its_connection_closed(make_pool: MakePool) -> None:
    pool = make_pool(1)

    with pytest.raises(Interrupt), pool.connection() as connection:
        raise Interrupt

    assert connection.calls == ["close"]
    assert counts(pool) == all_idle(0)


def test_a_block_that_is_interrupted_has_its_connection_closed_even_if_its_clean_up_fails(make_pool: MakePool) -> None:
    pool = make_pool(1)

    def work() -> None:
        try:
            raise Interrupt
        finally:
            raise AttributeError("the cursor's socket is gone")

    with pytest.raises(AttributeError), pool.connection() as connection:
        work()

    assert connection.calls == ["close"]
    assert counts(pool) == all_idle(0)


# --- whose it is -----------------------------------------------------------------------------------------------------


def test_what_a_block_has_nobody_else_gives_back(make_pool: MakePool) -> None:
    pool = make_pool(1)

    with pool.connection() as connection, pytest.raises(ValueError, match="belongs to a `with` block"):
        pool.putconn(connection)

    assert connection.calls == ["commit"]
    assert counts(pool) == all_idle(1)


def test_a_block_that_ends_late_does_not_take_the_connection_from_its_next_borrower(make_pool: MakePool) -> None:
    pool = make_pool(1)
    block = pool.connection()
    connection = block.__enter__()
    block.__exit__(None, None, None)
    assert pool.getconn() is connection

    with pytest.raises(ValueError, match="not lent out"):
        block.__exit__(None, None, None)

    assert (pool.in_use, pool.idle) == (1, 0)


# --- within a generator ----------------------------------------------------------------------------------------------


def rows(pool: FakePool) -> Generator[FakeConnection, None, None]:
    """Hold a connection as a streamed response does: until it is closed, or collected."""
    with pool.connection() as connection:
        while True:
            yield connection


def test_a_generator_that_is_closed_leaves_its_connection_for_the_next(make_pool: MakePool) -> None:
    pool = make_pool(1)
    generator = rows(pool)
    connection = next(generator)

    generator.close()

    assert connection.calls == ["rollback"]
    assert counts(pool) == all_idle(1)


def test_a_generator_that_outlives_its_request_ends_in_silence(make_pool: MakePool) -> None:
    pool = make_pool(1)
    generator = rows(pool)
    connection = next(generator)
    pool.reclaim(threading.get_ident())

    # Nobody is there to catch what a generator raises when it is collected: it would go to the error log.
    generator.close()

    assert connection.calls == ["close"]


def test_garbage_that_holds_a_connection_may_be_collected_at_any_moment(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(2)

    def leak() -> None:
        generator = rows(pool)
        next(generator)
        cycle: list[object] = [generator]
        cycle.append(cycle)

    may_connect_itself = pool._may_connect_itself

    def collect_and_answer() -> bool:
        # The collector runs wherever something is allocated: in the middle of a decision of the pool, too.
        gc.collect()
        return may_connect_itself()

    def borrow_and_return() -> None:
        leak()
        monkeypatch.setattr(pool, "_may_connect_itself", collect_and_answer)
        with pool.connection():
            pass

    gc.collect()
    gc.disable()
    try:
        Task(borrow_and_return).result()
    finally:
        gc.enable()

    assert counts(pool) == all_idle(pool.size)
