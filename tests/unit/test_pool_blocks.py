"""The `with` block of a connection: its end, its ownership, and blocks of generators."""

from __future__ import annotations

import gc
import threading
from collections.abc import Generator

import pytest

from unit.conftest import FakePool, MakePool, all_idle, counts
from unit.fakes import FakeConnection, FakeDatabase, Task, raising
from unit.interrupts import Interrupt

# --- the end of a block ----------------------------------------------------------------------------------------------


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


def test_a_block_that_raises_an_asynchronous_exception_closes_its_connection(make_pool: MakePool) -> None:
    pool = make_pool(1)

    with pytest.raises(Interrupt), pool.connection() as connection:
        raise Interrupt

    assert connection.calls == ["close"]
    assert counts(pool) == all_idle(0)


def test_an_asynchronous_exception_hidden_by_a_clean_up_closes_the_connection(make_pool: MakePool) -> None:
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


# --- ownership -------------------------------------------------------------------------------------------------------


def test_only_its_block_may_return_a_connection(make_pool: MakePool) -> None:
    pool = make_pool(1)

    with pool.connection() as connection, pytest.raises(ValueError, match="belongs to a `with` block"):
        pool.putconn(connection)

    assert connection.calls == ["commit"]
    assert counts(pool) == all_idle(1)


def test_a_block_that_ends_late_does_not_return_the_next_holders_connection(make_pool: MakePool) -> None:
    pool = make_pool(1)
    block = pool.connection()
    connection = block.__enter__()
    block.__exit__(None, None, None)
    assert pool.getconn() is connection

    with pytest.raises(ValueError, match="not checked out"):
        block.__exit__(None, None, None)

    assert (pool.in_use, pool.idle) == (1, 0)


# --- within a generator ----------------------------------------------------------------------------------------------


def rows(pool: FakePool) -> Generator[FakeConnection, None, None]:
    """Hold a connection like a streamed response: until the generator is closed or collected."""
    with pool.connection() as connection:
        while True:
            yield connection


def test_a_closed_generator_returns_its_connection(make_pool: MakePool) -> None:
    pool = make_pool(1)
    generator = rows(pool)
    connection = next(generator)

    generator.close()

    assert connection.calls == ["rollback"]
    assert counts(pool) == all_idle(1)


def test_a_generator_that_outlives_its_request_raises_nothing_at_its_end(make_pool: MakePool) -> None:
    pool = make_pool(1)
    generator = rows(pool)
    connection = next(generator)
    pool.reclaim(threading.get_ident())

    # An exception from a collected generator could not be caught, and would go to the error log.
    generator.close()

    assert connection.calls == ["close"]


def test_garbage_with_a_connection_may_be_collected_at_any_moment(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(2)

    def leak() -> None:
        generator = rows(pool)
        next(generator)
        cycle: list[object] = [generator]
        cycle.append(cycle)

    needs_new_connection = pool._state._needs_new_connection

    def collect_and_answer() -> bool:
        # The collector runs at any allocation, also in the middle of a decision of the pool.
        gc.collect()
        return needs_new_connection()

    def check_out_and_return() -> None:
        leak()
        monkeypatch.setattr(pool._state, "_needs_new_connection", collect_and_answer)
        with pool.connection():
            pass

    gc.collect()
    gc.disable()
    try:
        Task(check_out_and_return).result()
    finally:
        gc.enable()

    assert counts(pool) == all_idle(pool.size)
