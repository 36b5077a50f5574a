"""`putconn`: the cleaning of returned connections, wrong threads, and second returns."""

from __future__ import annotations

import contextlib
from typing import Literal

import pytest

from unit.conftest import MakePool, all_idle, another_holder, counts, returning, waiting_task
from unit.fakes import FakeConnection, FakeDatabase, Task, raising
from unit.interrupts import Interrupt
from wsgipool import Pool, WrongThread
from wsgipool._background import background


def test_putconn_rolls_back(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()

    pool.putconn(connection)

    assert connection.calls == ["rollback"]
    assert counts(pool) == all_idle(1)


@pytest.mark.parametrize("error", [OSError("gone"), Interrupt()])
def test_a_failed_reset_closes_the_connection_and_serves_the_next_waiter(
    make_pool: MakePool, database: FakeDatabase, error: BaseException
) -> None:
    pool = make_pool(1)
    broken = pool.getconn()
    waiter = waiting_task(pool)
    database.hooks["rollback"] = raising(error)

    with pytest.raises(Interrupt) if isinstance(error, Interrupt) else contextlib.nullcontext():
        pool.putconn(broken)

    assert waiter.result() is database.opened[1]
    assert broken.closed


def test_a_thread_cannot_return_the_connection_of_another(make_pool: MakePool) -> None:
    pool = make_pool(1)
    other = another_holder(pool)

    with pytest.raises(WrongThread, match=rf"returned by thread \d+, but thread {other.thread_id} holds it"):
        pool.putconn(other.connection)

    assert pool.in_use == 1
    other.give_back()
    assert counts(pool) == all_idle(1)


def test_another_thread_may_return_the_connection_of_an_ended_thread(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "register", lambda _: None)
    pool = make_pool(1)
    connection = Task(pool.getconn).result()

    pool.putconn(connection)

    assert counts(pool) == all_idle(1)


def test_a_second_return_does_not_take_the_connection_from_its_next_holder(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    pool.putconn(connection)
    next_one = another_holder(pool)
    assert next_one.connection is connection

    with pytest.raises(WrongThread):
        pool.putconn(connection)

    assert (pool.in_use, pool.idle) == (1, 0)


def test_returning_a_connection_twice_is_an_error(make_pool: MakePool) -> None:
    pool = make_pool(2)
    connection = pool.getconn()
    pool.putconn(connection)

    with pytest.raises(ValueError, match="not checked out of pool 'orders'"):
        pool.putconn(connection)

    assert counts(pool) == all_idle(1)


def test_a_connection_that_is_being_returned_cannot_be_returned(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(2)

    with returning(pool, database) as other, pytest.raises(ValueError, match="not checked out"):
        pool.putconn(other.connection)

    assert counts(pool) == all_idle(1)


def test_a_connection_of_another_pool_is_an_error(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(2)

    with pytest.raises(ValueError, match="not checked out"):
        pool.putconn(FakeConnection(database))

    assert counts(pool) == all_idle(0)


class Alike(FakeConnection):
    """A connection that is compared by its address, like those of some drivers."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Alike)

    def __hash__(self) -> int:
        return 0


class Unhashable(FakeConnection):
    def __eq__(self, other: object) -> bool:
        return self is other


@pytest.mark.parametrize("kind", [Alike, Unhashable])
@pytest.mark.parametrize("reset", ["rollback", None])
def test_connections_may_have_any_comparison(
    kind: type[FakeConnection], reset: Literal["rollback"] | None, database: FakeDatabase
) -> None:
    pool = Pool(lambda: kind(database), name="orders", max_size=2, reset=reset)
    first, second = pool.getconn(), pool.getconn()
    assert first is not second

    pool.putconn(first)
    with pytest.raises(ValueError, match="is not checked out"):
        pool.putconn(first)
    with pytest.raises(ValueError, match="is not checked out"):
        pool.putconn(kind(database))

    assert pool.getconn() is first
    pool.putconn(second)
    pool.putconn(first)
    assert counts(pool) == all_idle(2)
    pool.close()
    assert pool.size == 0


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("error", [KeyError(), Interrupt()])
def test_a_connection_returned_during_an_asynchronous_exception_is_closed(
    make_pool: MakePool, database: FakeDatabase, plain: bool, error: BaseException
) -> None:
    """The connection may be in the middle of an answer, as in an interrupted block."""
    pool = Pool(lambda: FakeConnection(database), name="orders", max_size=1, reset=None) if plain else make_pool(1)
    connection = pool.getconn()

    with contextlib.suppress(KeyError, Interrupt):
        try:
            raise error
        finally:
            pool.putconn(connection)

    assert connection.closed == isinstance(error, Interrupt)
    assert counts(pool) == all_idle(0 if connection.closed else 1)
