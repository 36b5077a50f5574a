"""The holder of a connection: `close()`, `putconn` with its arguments, and `adopt`."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import threading

import pytest

from unit.conftest import FakePool, MakePool, all_idle, another_holder, counts, in_queue, use, waiting_task
from unit.fakes import PATIENCE, FakeConnection, FakeDatabase, Task, eventually, in_turn, raising
from unit.interrupts import Interrupt
from wsgipool import ConnectFailed, Pool, WrongThread
from wsgipool._background import background
from wsgipool.drivers import BaseDriver
from wsgipool.errors import ConfigError

NOT_CHECKED_OUT = "not checked out of pool 'orders'"

# --- close() ---------------------------------------------------------------------------------------------------------


def test_close_frees_the_place_at_once(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    waiter = waiting_task(pool)

    connection.close()

    assert connection.calls == ["close"]
    assert waiter.result() is database.opened[1]
    assert database.most_sessions == 1


def test_close_returns_the_connection_with_close_returns(make_pool: MakePool) -> None:
    pool = make_pool(1, close_returns=True)
    connection = pool.getconn()

    connection.close()

    assert connection.calls == ["rollback"]
    assert counts(pool) == all_idle(1)


def test_a_waiter_gets_the_connection_that_close_returns(make_pool: MakePool) -> None:
    pool = make_pool(1, close_returns=True)
    connection = pool.getconn()
    waiter = in_queue(pool, lambda: use(pool))

    connection.close()

    assert waiter.result() == [connection]
    assert connection.calls == ["rollback", "rollback"]


def test_close_rolls_back_if_the_pool_has_no_reset(make_pool: MakePool) -> None:
    pool = make_pool(1, close_returns=True, reset=None)
    connection = pool.getconn()

    connection.close()

    assert connection.calls == ["rollback"]


def test_close_resets_the_session_if_the_pool_does(make_pool: MakePool) -> None:
    pool = make_pool(1, close_returns=True, reset="session")
    connection = pool.getconn()

    connection.close()

    assert connection.calls == ["reset_session"]


def test_close_during_an_asynchronous_exception_closes_the_connection(make_pool: MakePool) -> None:
    """The connection may be in the middle of an answer, which the next holder would read."""
    pool = make_pool(1, close_returns=True)
    connection = pool.getconn()

    with pytest.raises(Interrupt), contextlib.closing(connection):
        raise Interrupt

    assert connection.calls == ["close"]
    assert counts(pool) == all_idle(0)


def test_a_connection_that_close_cannot_clean_is_closed(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1, close_returns=True)
    connection = pool.getconn()
    database.hooks["rollback"] = raising(OSError("gone"))

    connection.close()

    assert connection.closed
    assert counts(pool) == all_idle(0)


@pytest.mark.parametrize("close_returns", [True, False])
def test_a_second_close_does_nothing(make_pool: MakePool, close_returns: bool) -> None:
    pool = make_pool(1, close_returns=close_returns)
    connection = pool.getconn()
    connection.close()
    calls = connection.calls.copy()

    connection.close()

    assert connection.calls == calls
    assert counts(pool) == all_idle(len(calls) if close_returns else 0)


def test_putconn_after_close_is_refused_with_close_returns(make_pool: MakePool) -> None:
    pool = make_pool(1, close_returns=True)
    connection = pool.getconn()
    connection.close()

    with pytest.raises(ValueError, match=NOT_CHECKED_OUT):
        pool.putconn(connection)


def test_the_first_putconn_after_close_does_nothing(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    connection.close()

    pool.putconn(connection)

    with pytest.raises(ValueError, match=NOT_CHECKED_OUT):
        pool.putconn(connection)
    assert counts(pool) == all_idle(0)


def test_a_former_holder_cannot_close_or_return_the_next_holders_connection(make_pool: MakePool) -> None:
    pool = make_pool(1, close_returns=True)
    connection = pool.getconn()
    connection.close()
    next_one = another_holder(pool)
    assert next_one.connection is connection

    connection.close()
    with pytest.raises(WrongThread):
        pool.putconn(connection)

    assert pool.in_use == 1
    assert connection.calls == ["rollback"]
    next_one.give_back()
    assert counts(pool) == all_idle(1)


def test_a_former_holder_does_nothing_to_its_own_next_connection(make_pool: MakePool) -> None:
    pool = make_pool(2)
    first = pool.getconn()
    first.close()
    second = pool.getconn()

    first.close()
    pool.putconn(first)

    assert not second.closed
    pool.putconn(second)
    assert counts(pool) == all_idle(1)


def test_another_thread_than_the_holder_cannot_close(make_pool: MakePool) -> None:
    pool = make_pool(1)
    other = another_holder(pool)

    other.connection.close()

    assert other.connection.calls == []
    other.give_back()
    assert counts(pool) == all_idle(1)


def test_close_ends_the_session_if_the_pool_is_garbage(
    database: FakeDatabase, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "register", lambda _: None)  # its thread could keep the pool alive
    pool = make_pool(1, close_returns=True)
    connection = pool.getconn()
    del pool

    connection.close()

    assert connection.calls == ["close"]
    assert database.sessions == 0


def test_the_pool_itself_can_close_whatever_close_does(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(2, close_returns=True)
    use(pool, 2)

    assert pool.close()

    assert [connection.calls for connection in database.opened] == [["rollback", "close"]] * 2


@pytest.mark.parametrize("close_returns", [True, False])
def test_a_block_with_a_closed_connection_raises_at_its_end(make_pool: MakePool, close_returns: bool) -> None:
    pool = make_pool(1, close_returns=close_returns)

    with pytest.raises(ValueError, match=NOT_CHECKED_OUT), pool.connection() as connection:
        connection.close()

    assert connection.calls == ["rollback" if close_returns else "close"]
    assert counts(pool) == all_idle(1 if close_returns else 0)


@pytest.mark.parametrize("close_returns", [True, False])
def test_a_block_with_a_closed_connection_leaves_the_next_holder_alone(
    make_pool: MakePool, close_returns: bool
) -> None:
    pool = make_pool(1, close_returns=close_returns)
    block = pool.connection()
    block.__enter__().close()
    next_one = another_holder(pool)

    with pytest.raises(ValueError, match=NOT_CHECKED_OUT):
        block.__exit__(None, None, None)
    block.__exit__(KeyError, KeyError("no such book"), None)

    assert next_one.connection.calls == (["rollback"] if close_returns else [])
    assert pool.in_use == 1
    next_one.give_back()
    assert counts(pool) == all_idle(1)


def test_a_block_leaves_the_next_checkout_of_its_own_thread_alone(make_pool: MakePool) -> None:
    pool = make_pool(1, close_returns=True)
    block = pool.connection()
    connection = block.__enter__()
    connection.close()
    assert pool.getconn() is connection

    with pytest.raises(ValueError, match=NOT_CHECKED_OUT):
        block.__exit__(None, None, None)

    assert pool.in_use == 1
    pool.putconn(connection)
    assert counts(pool) == all_idle(1)


def test_close_returns_needs_a_driver_with_a_close_hook() -> None:
    pool = Pool(WithoutHook(), name="orders", max_size=1, close_returns=True)

    with pytest.raises(ConnectFailed, match=r"close_returns: .*use putconn\(\)") as caught:
        pool.getconn()

    assert isinstance(caught.value.__cause__, ConfigError)


class WithoutHook(BaseDriver[sqlite3.Connection]):
    address = "sqlite"

    def connect(self, timeout: float, pipeline: bool = True) -> sqlite3.Connection:  # noqa: ARG002
        return sqlite3.connect(":memory:")


# --- putconn ---------------------------------------------------------------------------------------------------------


def test_putconn_with_discard_closes(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()

    pool.putconn(connection, discard=True)

    assert connection.calls == ["close"]
    assert counts(pool) == all_idle(0)


def test_any_thread_may_discard(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    waiter = waiting_task(pool)

    Task(lambda: pool.putconn(connection, discard=True)).result()

    assert connection.calls == ["close"]
    assert waiter.result() is not connection


def test_a_holder_learns_that_its_connection_was_discarded(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    Task(lambda: pool.putconn(connection, discard=True)).result()

    with pytest.raises(ValueError, match=NOT_CHECKED_OUT):
        pool.putconn(connection)

    assert counts(pool) == all_idle(0)


def test_another_thread_that_does_not_discard_is_refused(make_pool: MakePool) -> None:
    pool = make_pool(1)
    other = another_holder(pool)

    with pytest.raises(WrongThread, match=f"but thread {other.thread_id} holds it"):
        pool.putconn(other.connection)

    other.give_back()
    assert counts(pool) == all_idle(1)


def test_any_thread_may_return_the_connection_of_an_ended_thread(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "register", lambda _: None)
    pool = make_pool(1)
    connection = Task(pool.getconn).result()

    pool.putconn(connection)

    assert connection.calls == ["rollback"]
    assert counts(pool) == all_idle(1)


def test_the_connection_of_a_block_is_not_discarded_under_it(make_pool: MakePool) -> None:
    pool = make_pool(1)

    with pool.connection() as connection, pytest.raises(ValueError, match="belongs to a `with` block"):
        pool.putconn(connection, discard=True)

    assert connection.calls == ["commit"]


def test_a_connection_returned_during_a_discard_stays_in_the_pool(make_pool: MakePool) -> None:
    pool = make_pool(1)
    other = another_holder(pool)
    pool.request_token = in_turn(other.give_back)

    with pytest.raises(ValueError, match=NOT_CHECKED_OUT):
        pool.putconn(other.connection, discard=True)

    assert other.connection.calls == ["rollback"]
    assert counts(pool) == all_idle(1)


def test_a_connection_discarded_during_its_return_is_closed(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    discard = in_turn(lambda: Task(lambda: pool.putconn(connection, discard=True)).result())
    exception = sys.exception

    def discard_first() -> BaseException | None:
        discard()
        return exception()

    # The last call in the holder's putconn before its decision.
    monkeypatch.setattr(sys, "exception", discard_first)

    with pytest.raises(ValueError, match=NOT_CHECKED_OUT):
        pool.putconn(connection)

    assert connection.calls == ["close"]
    assert counts(pool) == all_idle(0)


@pytest.mark.parametrize("pool_reset", ["rollback", "session"])
def test_putconn_without_reset_sends_nothing(make_pool: MakePool, pool_reset: str) -> None:
    pool = make_pool(1, reset=pool_reset)
    connection = pool.getconn()

    pool.putconn(connection, reset=None)

    assert connection.calls == []
    assert counts(pool) == all_idle(1)


def test_putconn_with_a_reset_of_the_session_resets_it(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()

    pool.putconn(connection, reset="session")

    assert connection.calls == ["reset_session"]


def test_putconn_by_default_resets_as_the_pool_does(make_pool: MakePool) -> None:
    pool = make_pool(1, reset="session")
    connection = pool.getconn()

    pool.putconn(connection)

    assert connection.calls == ["reset_session"]


# --- adopt -----------------------------------------------------------------------------------------------------------


def test_a_thread_that_adopts_a_connection_may_return_it(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()

    def adopt() -> None:
        pool.adopt(connection)
        pool.putconn(connection)

    Task(adopt).result()

    assert connection.calls == ["rollback"]
    assert counts(pool) == all_idle(1)


def test_two_threads_that_share_a_connection_adopt_it_in_turns(make_pool: MakePool) -> None:
    pool = make_pool()
    connection = pool.getconn()

    def use() -> None:
        pool.adopt(connection, share=True)
        with pytest.raises(WrongThread, match="holds it"):
            pool.putconn(connection)

    Task(use).result()
    assert pool.in_use == 1, "the end of the other thread returned the connection"
    pool.adopt(connection, share=True)
    pool.putconn(connection)

    assert pool.idle == 1


def test_the_former_holder_of_an_adopted_connection_is_refused(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    adopter = Adopter(pool, connection)

    with pytest.raises(WrongThread, match=f"but thread {adopter.thread_id} holds it"):
        pool.putconn(connection)
    connection.close()

    assert connection.calls == []
    adopter.give_back()
    assert counts(pool) == all_idle(1)


def test_the_end_of_the_former_holders_request_leaves_an_adopted_connection_alone(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    adopter = Adopter(pool, connection)

    assert pool.reclaim(threading.get_ident()) == 0

    assert pool.in_use == 1
    adopter.give_back()
    assert connection.calls == ["rollback"]


def test_an_adopted_connection_is_closed_at_the_end_of_its_new_holders_request(make_pool: MakePool) -> None:
    pool = make_pool(1)
    other = another_holder(pool)

    pool.adopt(other.connection)

    assert pool.reclaim(threading.get_ident()) == 1
    eventually(lambda: other.connection.closed)
    with pytest.raises(ValueError, match=NOT_CHECKED_OUT):
        other.give_back()


def test_an_adopted_connection_belongs_to_the_new_holders_request(make_pool: MakePool) -> None:
    pool = make_pool(1)
    tokens: dict[int, object] = {}
    pool.request_token = lambda: tokens.setdefault(threading.get_ident(), Token())
    connection = pool.getconn()

    adopter = Adopter(pool, connection)

    (slot,) = pool._state.held()
    assert slot.token is tokens[adopter.thread_id]
    adopter.give_back()


class Token:
    """The token of a request."""


def test_an_idle_connection_cannot_be_adopted(make_pool: MakePool) -> None:
    pool = make_pool(1)
    (connection,) = use(pool)

    with pytest.raises(ValueError, match=NOT_CHECKED_OUT):
        pool.adopt(connection)

    assert counts(pool) == all_idle(1)


class Adopter:
    """A thread that has adopted a connection, and holds it until `give_back`."""

    def __init__(self, pool: FakePool, connection: FakeConnection) -> None:
        adopted, self._may_return = threading.Event(), threading.Event()

        def adopt() -> None:
            pool.adopt(connection)
            adopted.set()
            assert self._may_return.wait(3 * PATIENCE), "give_back was not called"
            pool.putconn(connection)

        self._task = Task(adopt)
        assert adopted.wait(PATIENCE)
        self.thread_id = self._task.thread_id

    def give_back(self) -> None:
        self._may_return.set()
        self._task.result()
