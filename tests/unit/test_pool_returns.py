"""`putconn`: what becomes of a connection that is given back, and who may give it back."""

from __future__ import annotations

import contextlib
from typing import Literal

import pytest

from unit.conftest import MakePool, all_idle, borrower, counts, giving_back, waiting_task
from unit.fakes import FakeConnection, FakeDatabase, Task, raising
from unit.interrupts import Interrupt
from wsgipool import Pool, WrongThread


def test_putconn_rolls_back(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()

    pool.putconn(connection)

    assert connection.calls == ["rollback"]
    assert counts(pool) == all_idle(1)


@pytest.mark.parametrize("error", [OSError("gone"), Interrupt()])
def test_a_connection_whose_reset_raises_is_closed_and_its_place_goes_to_the_next_waiter(
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


def test_what_one_thread_has_another_cannot_give_back(make_pool: MakePool) -> None:
    pool = make_pool(1)
    other = borrower(pool)

    with pytest.raises(WrongThread, match=rf"given back by thread \d+, but thread {other.thread_id} has borrowed it"):
        pool.putconn(other.connection)

    assert pool.in_use == 1
    other.give_back()
    assert counts(pool) == all_idle(1)


def test_what_a_thread_has_left_behind_at_its_end_another_may_give_back(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = Task(pool.getconn).result()

    pool.putconn(connection)

    assert counts(pool) == all_idle(1)


def test_a_connection_given_back_once_more_is_not_taken_from_its_next_borrower(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    pool.putconn(connection)
    next_one = borrower(pool)
    assert next_one.connection is connection

    with pytest.raises(WrongThread):
        pool.putconn(connection)

    assert (pool.in_use, pool.idle) == (1, 0)


def test_a_connection_given_back_twice_is_an_error(make_pool: MakePool) -> None:
    pool = make_pool(2)
    connection = pool.getconn()
    pool.putconn(connection)

    with pytest.raises(ValueError, match="not lent out by pool 'orders'"):
        pool.putconn(connection)

    assert counts(pool) == all_idle(1)


def test_a_connection_on_its_way_back_cannot_be_given_back(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(2)

    with giving_back(pool, database) as other, pytest.raises(ValueError, match="not lent out"):
        pool.putconn(other.connection)

    assert counts(pool) == all_idle(1)


def test_a_connection_of_another_pool_is_an_error(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(2)

    with pytest.raises(ValueError, match="not lent out"):
        pool.putconn(FakeConnection(database))

    assert counts(pool) == all_idle(0)


class Alike(FakeConnection):
    """Compared by where it is connected to, as some driver's may be."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Alike)

    def __hash__(self) -> int:
        return 0


class Unhashable(FakeConnection):
    def __eq__(self, other: object) -> bool:
        return self is other


@pytest.mark.parametrize("kind", [Alike, Unhashable])
@pytest.mark.parametrize("reset", ["rollback", None])
def test_connections_may_be_compared_as_they_like(
    kind: type[FakeConnection], reset: Literal["rollback"] | None, database: FakeDatabase
) -> None:
    pool = Pool(lambda: kind(database), name="orders", max_size=2, reset=reset)
    first, second = pool.getconn(), pool.getconn()
    assert first is not second

    pool.putconn(first)
    with pytest.raises(ValueError, match="is not lent out"):
        pool.putconn(first)
    with pytest.raises(ValueError, match="is not lent out"):
        pool.putconn(kind(database))

    assert pool.getconn() is first
    pool.putconn(second)
    pool.putconn(first)
    assert counts(pool) == all_idle(2)
    pool.close()
    assert pool.size == 0


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("error", [KeyError(), Interrupt()])
def test_what_is_given_back_on_the_way_of_an_interruption_is_not_lent_again(
    make_pool: MakePool, database: FakeDatabase, plain: bool, error: BaseException
) -> None:
    """It may be in the middle of an answer, as in a block that is interrupted."""
    pool = Pool(lambda: FakeConnection(database), name="orders", max_size=1, reset=None) if plain else make_pool(1)
    connection = pool.getconn()

    with contextlib.suppress(KeyError, Interrupt):
        try:
            raise error
        finally:
            pool.putconn(connection)

    assert connection.closed == isinstance(error, Interrupt)
    assert counts(pool) == all_idle(0 if connection.closed else 1)
