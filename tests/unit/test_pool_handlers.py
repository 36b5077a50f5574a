"""Failing signal handlers, which do not catch the error of their own `getconn`.

The checkout that such a handler interrupts leaks no slot and no turn in the queue.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from unit.conftest import FakePool, MakePool, all_idle, another_holder, counts, in_queue, use
from unit.fakes import PATIENCE, FakeDatabase, Task, eventually, in_turn
from wsgipool import ConnectFailed, PoolDeadlock, PoolTimeout
from wsgipool.pool._state import PoolState


@contextlib.contextmanager
def handling(handler: Callable[[], object]) -> Iterator[None]:
    """Call a function on this thread for each SIGALRM."""
    before = signal.signal(signal.SIGALRM, lambda *_: handler())
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


def call_handler() -> None:
    """Call the handler at this place."""
    signal.raise_signal(signal.SIGALRM)


def interrupt_the_waiter(pool: FakePool, number: int) -> Task[None]:
    """Call the handler on the main thread as soon as `number` threads wait, until one of them stops waiting."""

    def send() -> None:
        eventually(lambda: pool.waiting == number)
        # Repeatedly: CPython does not notice a signal that comes just before it begins to wait.
        while pool.waiting == number:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
            time.sleep(0.01)

    return Task(send)


def test_a_failing_handler_removes_its_waiter_from_the_queue(make_pool: MakePool) -> None:
    pool = make_pool(1)
    other = another_holder(pool)

    with handling(in_turn(pool.getconn)):
        sender = interrupt_the_waiter(pool, 1)
        with pytest.raises(PoolDeadlock, match="while its thread was waiting for one"):
            pool.getconn()
        sender.result()

    assert counts(pool) == {"size": 1, "idle": 0, "in_use": 1, "waiting": 0}
    other.give_back()
    assert counts(pool) == all_idle(1)


def test_a_failing_handler_passes_the_turn_of_its_waiter_on(make_pool: MakePool) -> None:
    pool = make_pool(1)
    other = another_holder(pool)
    behind: list[Task[Any]] = []

    def handler() -> None:
        behind.append(in_queue(pool, lambda: use(pool)))
        other.give_back()
        pool.getconn(timeout=0)

    with handling(in_turn(handler)):
        sender = interrupt_the_waiter(pool, 1)
        with pytest.raises(PoolTimeout):
            pool.getconn()
        sender.result()

    assert behind[0].result() == [other.connection]


def test_a_failing_handler_during_a_connect_frees_its_place(
    make_pool: MakePool, database: FakeDatabase, log: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(1)
    database.hooks["connect"] = in_turn(call_handler)

    with handling(pool.getconn), pytest.raises(PoolDeadlock, match="while its thread was waiting for one"):
        pool.getconn()

    assert counts(pool) == all_idle(0)
    assert pool.getconn() in database.opened
    assert "cannot connect" not in log.text, "the error does not concern the database"


def test_a_failing_handler_during_a_check_frees_the_place_of_the_connection(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(1)
    (checked,) = use(pool)
    database.hooks["check_out"] = in_turn(call_handler)

    with handling(lambda: pool.getconn(timeout=0)):
        connection = pool.getconn()

    assert checked.closed, "part of its answer may have been read"
    pool.putconn(connection)
    assert counts(pool) == all_idle(1)


@pytest.mark.parametrize("error", [PoolDeadlock, PoolTimeout, ConnectFailed])
@pytest.mark.parametrize("method", ["take_idle", "serve", "add_connection"])
def test_a_failing_handler_does_not_leak_a_slot_that_was_just_taken(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, method: str, error: type[Exception]
) -> None:
    """No frame refers to the slot between the decision and the assignment to a variable."""
    pool = make_pool(1)
    if method == "take_idle":
        use(pool)
    decide = getattr(PoolState, method)
    interrupt = in_turn(call_handler)

    def decide_and_interrupt(*arguments: Any) -> object:
        decided = decide(*arguments)
        if threading.current_thread() is threading.main_thread():
            interrupt()
        return decided

    def handler() -> None:
        raise error

    monkeypatch.setattr(PoolState, method, decide_and_interrupt)
    with handling(handler), pytest.raises(error):
        pool.getconn()

    eventually(lambda: pool.size == pool.idle)
    assert pool.getconn(timeout=PATIENCE)


def test_a_handler_that_catches_its_pool_error_leaves_the_checkout_alone(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(1)
    database.hooks["connect"] = in_turn(call_handler)

    def handler() -> None:
        with contextlib.suppress(PoolDeadlock):
            pool.getconn()

    with handling(handler):
        connection = pool.getconn()

    pool.putconn(connection)
    assert database.opened == [connection]
    assert counts(pool) == all_idle(1)
