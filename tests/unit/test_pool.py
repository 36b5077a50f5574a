"""The pool with fake connections and real threads."""

from __future__ import annotations

import contextlib
import gc
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from unit.conftest import Clock, MakePool
from unit.fakes import (
    PATIENCE,
    Borrower,
    FakeConnection,
    FakeDatabase,
    Gate,
    Task,
    eventually,
    in_turn,
    raising,
    run_python,
    then,
)
from unit.interrupts import Interrupt, interrupt
from wsgipool import ConnectFailed, Pool, PoolClosed, PoolDeadlock, PoolTimeout, WrongThread

FakePool = Pool[FakeConnection]


def counts(pool: FakePool) -> dict[str, int]:
    return {"size": pool.size, "idle": pool.idle, "in_use": pool.in_use, "waiting": pool.waiting}


def all_idle(number: int) -> dict[str, int]:
    return {"size": number, "idle": number, "in_use": 0, "waiting": 0}


def waiting_task(pool: FakePool, timeout: float | None = None) -> Task[FakeConnection]:
    """Return a thread that borrows and keeps a connection, once it waits in the queue."""
    already = pool.waiting
    task = Task(lambda: pool.getconn(timeout))
    eventually(lambda: pool.waiting == already + 1)
    return task


def borrower(pool: FakePool) -> Borrower[FakeConnection]:
    """Borrow on a thread that lives on."""
    return Borrower(pool.getconn, pool.putconn)


# --- how many --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_size", [0, -1])
def test_a_pool_without_room_for_a_connection_is_refused(make_pool: MakePool, max_size: int) -> None:
    with pytest.raises(ValueError, match=f"max_size = {max_size}"):
        make_pool(max_size)


def test_a_new_pool_has_opened_nothing(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(4)

    assert counts(pool) == all_idle(0)
    assert database.opened == []


def test_serial_use_on_many_threads_opens_one_connection(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(4)

    def request() -> None:
        with pool.connection() as connection:
            connection.execute()

    for _ in range(10):
        Task(request).result()

    assert len(database.opened) == 1
    assert counts(pool) == all_idle(1)


def test_threads_at_the_same_time_have_a_connection_each(make_pool: MakePool) -> None:
    pool = make_pool(4)
    together = threading.Barrier(4, timeout=PATIENCE)

    def request() -> int:
        with pool.connection() as connection:
            together.wait()
            return id(connection)

    tasks = [Task(request) for _ in range(4)]

    assert len({task.result() for task in tasks}) == 4


def test_one_more_than_max_size_waits(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(3)
    for _ in range(3):
        borrower(pool)

    waiting_task(pool)

    assert counts(pool) == {"size": 3, "idle": 0, "in_use": 3, "waiting": 1}
    assert len(database.opened) == 3


def test_a_connection_that_opens_counts(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    database.hooks["connect"] = gate = Gate()
    first = Task(pool.getconn)
    gate.wait_until_reached()

    waiting_task(pool)

    assert counts(pool) == {"size": 1, "idle": 0, "in_use": 0, "waiting": 1}
    gate.open()
    first.result()


def test_a_place_is_free_only_when_its_connection_has_been_closed(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    other = borrower(pool)
    database.hooks = {"rollback": raising(OSError("gone")), "close": (gate := Gate())}
    giving_back = other.begin_to_give_back()
    gate.wait_until_reached()

    newcomer = waiting_task(pool)
    gate.open()
    giving_back.result()
    newcomer.result()

    assert database.most_sessions == 1


def test_the_connection_returned_last_is_lent_first(make_pool: MakePool) -> None:
    pool = make_pool(3)
    connections = [pool.getconn() for _ in range(3)]
    for connection in connections:
        pool.putconn(connection)

    assert [pool.getconn() for _ in range(3)] == connections[::-1]


def test_any_callable_that_returns_a_dbapi_connection_will_do(database: FakeDatabase) -> None:
    pool = Pool(lambda: FakeConnection(database), name="orders", max_size=1)

    with pool.connection() as connection:
        connection.execute()
    with pool.connection(readonly=True) as again:
        again.execute()
    pool.close()

    assert again is connection
    assert connection.calls == ["execute", "commit", "execute", "rollback", "close"]


def test_repr_has_the_name_and_the_counts(make_pool: MakePool) -> None:
    pool = make_pool(2)
    pool.getconn()

    assert repr(pool) == "<Pool 'orders': 1 in use, 0 connecting, 0 idle of max_size 2, 0 waiting>"


# --- waiting ---------------------------------------------------------------------------------------------------------


def test_waiters_are_served_in_the_order_of_their_coming(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    order: list[int] = []

    def request(number: int) -> None:
        with pool.connection():
            order.append(number)

    tasks: list[Task[None]] = []
    for number in range(5):
        tasks.append(Task(lambda number=number: request(number)))  # type: ignore[misc]
        eventually(lambda number=number: pool.waiting == number + 1)  # type: ignore[misc]
    pool.putconn(connection)
    for task in tasks:
        task.result()

    assert order == [0, 1, 2, 3, 4]


def test_nobody_overtakes_a_waiter(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    waiter = waiting_task(pool)

    pool.putconn(connection)

    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0)
    assert waiter.result() is connection


def test_nobody_overtakes_a_waiter_whose_connection_lies_ready_for_a_moment(make_pool: MakePool) -> None:
    pool = make_pool(1)
    other = borrower(pool)
    waiter = waiting_task(pool)

    with pool._lock:
        # It is among the idle ones, and who gives it back has not been able to hand it on yet.
        giving_back = other.begin_to_give_back()
        eventually(lambda: pool.idle == 1)
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0)

    assert waiter.result() is other.connection
    giving_back.result()


def test_a_connection_is_closed_when_its_borrower_is_interrupted_in_the_middle_of_checking_it(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    pool.putconn(connection)
    database.hooks["is_alive"] = raising(Interrupt())

    with pytest.raises(Interrupt):
        pool.getconn()

    assert connection.closed
    assert counts(pool) == all_idle(0)


def test_a_borrower_that_waits_in_vain_gets_pool_timeout(make_pool: MakePool) -> None:
    pool = make_pool(1)
    borrower(pool)
    started = time.monotonic()

    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.05)

    assert 0.05 <= time.monotonic() - started < 5
    assert counts(pool) == {"size": 1, "idle": 0, "in_use": 1, "waiting": 0}


def test_the_timeout_of_the_pool_is_the_default(make_pool: MakePool) -> None:
    pool = make_pool(1, timeout=0.05)
    borrower(pool)

    with pytest.raises(PoolTimeout, match=re.escape("within 0.05 s")):
        pool.getconn()


def test_a_timeout_has_no_upper_bound(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    waiter = waiting_task(pool, timeout=float("inf"))

    pool.putconn(connection)

    assert waiter.result() is connection


def test_pool_timeout_names_the_counts_and_who_holds_longest(make_pool: MakePool) -> None:
    pool = make_pool(2)

    def a_slow_report() -> None:
        pool.getconn()

    Task(a_slow_report).result()
    borrower(pool)

    with pytest.raises(PoolTimeout) as caught:
        pool.getconn(timeout=0)

    message = str(caught.value)
    assert "pool 'orders'" in message
    assert "2 in use, 0 connecting, 0 idle of max_size 2" in message
    assert re.search(rf"borrowed at {re.escape(__file__)}:\d+ in a_slow_report, 0\.\d s ago", message)


def test_timeout_zero_takes_an_idle_connection(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    pool.putconn(connection)

    assert pool.getconn(timeout=0) is connection


def test_timeout_zero_does_not_open_a_connection(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)

    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0)

    assert database.timeouts == []
    assert counts(pool) == all_idle(0)


def test_a_waiter_that_gives_up_passes_its_turn_on(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    impatient = Task(lambda: pool.getconn(timeout=0.2))
    eventually(lambda: pool.waiting == 1 or impatient.done)
    patient = Task(pool.getconn)
    with pytest.raises(PoolTimeout):
        impatient.result()
    eventually(lambda: pool.waiting == 1)

    pool.putconn(connection)

    assert patient.result() is connection


def test_a_waiter_that_is_served_in_the_moment_it_gives_up_has_its_connection(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    waiter = Task(lambda: pool.getconn(timeout=0.1))
    eventually(lambda: pool.waiting == 1 or waiter.done)

    with pool._lock:
        # Its time runs out while it cannot say so.
        time.sleep(0.3)
        pool.putconn(connection)
        pool._decide()

    assert waiter.result() is connection


def test_a_waiter_hit_by_an_asynchronous_exception_loses_nothing(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    hit, next_one = waiting_task(pool), waiting_task(pool)

    # A thread that waits for a lock learns of it when it wakes: just when the connection has become its own.
    interrupt(hit.thread_id)
    pool.putconn(connection)

    with pytest.raises(Interrupt):
        hit.result()
    assert next_one.result() is connection


def test_a_waiter_hit_by_a_signal_loses_nothing(make_pool: MakePool) -> None:
    pool = make_pool(1)
    other = borrower(pool)

    def handler(*_: object) -> None:
        raise Interrupt

    def send_signal() -> None:
        eventually(lambda: pool.waiting == 1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        sender = Task(send_signal)
        with pytest.raises(Interrupt):
            pool.getconn()
        sender.result()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    other.give_back()

    assert counts(pool) == all_idle(1)


# --- connecting ------------------------------------------------------------------------------------------------------


def test_others_borrow_and_return_while_one_connects(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(2)
    connection = pool.getconn()
    pool.putconn(connection)
    database.hooks["connect"] = gate = Gate()
    first = pool.getconn()
    connecting = Task(pool.getconn)
    gate.wait_until_reached()

    pool.putconn(first)

    # What comes first is good enough, and what has been opened in vain serves the next.
    assert connecting.result() is connection
    gate.open()
    assert pool.getconn() is not connection


def test_others_borrow_and_return_while_one_closes(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(2)
    broken, connection = borrower(pool), pool.getconn()
    database.hooks = {"rollback": in_turn(raising(OSError("gone"))), "close": (gate := Gate())}
    closing = broken.begin_to_give_back()
    gate.wait_until_reached()

    pool.putconn(connection)

    assert pool.getconn() is connection
    gate.open()
    closing.result()


def test_connecting_gets_what_is_left_of_the_timeout(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)

    pool.getconn(timeout=5)

    assert 0 < database.timeouts[0] <= 5


def test_a_failed_connect_is_a_connect_failed_with_the_drivers_error(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(1)
    database.hooks["connect"] = raising(refused := OSError("refused\n  by the server"))

    with pytest.raises(ConnectFailed) as caught:
        pool.getconn()

    assert str(caught.value) == ("cannot connect pool 'orders' to fake://database: OSError: refused by the server")
    assert caught.value.__cause__ is refused
    assert counts(pool) == all_idle(0)


def test_a_failed_connect_passes_the_turn_on(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    gate = Gate()
    database.hooks["connect"] = in_turn(then(gate, raising(OSError("refused"))))
    failing = Task(pool.getconn)
    gate.wait_until_reached()
    waiter = waiting_task(pool)

    gate.open()

    with pytest.raises(ConnectFailed):
        failing.result()
    assert waiter.result() is database.opened[0]


def test_all_waiters_learn_at_once_that_the_database_is_away(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    gate = Gate()
    database.hooks["connect"] = then(gate, raising(OSError("refused")))
    first = Task(pool.getconn)
    gate.wait_until_reached()
    tasks = [first, *(waiting_task(pool) for _ in range(4))]

    gate.open()

    for task in tasks:
        with pytest.raises(ConnectFailed):
            task.result()
    assert counts(pool) == all_idle(0)


def test_a_pool_fills_up_again_after_failed_connects(make_pool: MakePool, database: FakeDatabase, clock: Clock) -> None:
    pool = make_pool(2)
    database.hooks["connect"] = in_turn(*[raising(OSError("refused"))] * 3)
    for _ in range(3):
        with pytest.raises(ConnectFailed):
            pool.getconn()
        clock.advance(1)

    connections = [pool.getconn(), pool.getconn()]

    assert connections == database.opened


def test_a_connect_that_is_interrupted_leaves_its_place(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    database.hooks["connect"] = in_turn(raising(Interrupt()))

    with pytest.raises(Interrupt):
        pool.getconn()

    assert pool.getconn() is database.opened[0]


def test_an_outage_is_a_line_in_the_log_when_it_begins_and_one_when_it_ends(
    make_pool: MakePool, database: FakeDatabase, clock: Clock, log: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(2)
    database.hooks["connect"] = in_turn(*[raising(OSError("refused"))] * 5)
    for _ in range(5):
        with pytest.raises(ConnectFailed):
            pool.getconn()
        clock.advance(1)
    pool.getconn()
    pool.getconn()

    assert log.messages == [
        "cannot connect pool 'orders' to fake://database: OSError: refused",
        "pool 'orders' is connected to fake://database again",
    ]


def test_a_connection_that_died_while_idle_is_replaced_by_a_new_one(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(1)
    dead = pool.getconn()
    pool.putconn(dead)
    dead.alive = False

    connection = pool.getconn()

    assert connection is database.opened[1]
    assert dead.closed
    assert database.most_sessions == 1


def test_a_connection_that_died_while_idle_is_replaced_by_another_idle_one(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(3)
    connections = [pool.getconn() for _ in range(3)]
    for connection in connections:
        pool.putconn(connection)
    for connection in connections[1:]:
        connection.alive = False

    assert pool.getconn() is connections[0]
    assert [connection.closed for connection in connections] == [False, True, True]
    assert len(database.opened) == 3


def test_a_dead_connection_whose_replacement_fails_leaves_its_place(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(1)
    dead = pool.getconn()
    pool.putconn(dead)
    dead.alive = False
    database.hooks["connect"] = in_turn(raising(OSError("refused")))

    with pytest.raises(ConnectFailed):
        pool.getconn()

    assert pool.getconn() is database.opened[1]


def test_a_connection_whose_check_fails_is_not_lent_again(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    unsound = pool.getconn()
    pool.putconn(unsound)

    def check() -> None:
        if not unsound.closed:
            raise ValueError("file descriptor cannot be a negative integer (-1)")

    database.hooks["is_alive"] = check

    assert pool.getconn() is not unsound
    assert unsound.closed


# --- giving back -----------------------------------------------------------------------------------------------------


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


def test_a_generator_that_is_closed_leaves_its_connection_for_the_next(make_pool: MakePool) -> None:
    pool = make_pool(1)

    def rows() -> Iterator[FakeConnection]:
        with pool.connection() as connection:
            while True:
                yield connection

    generator: Any = rows()
    connection = next(generator)
    generator.close()

    assert connection.calls == ["rollback"]
    assert counts(pool) == all_idle(1)


def test_putconn_rolls_back(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()

    pool.putconn(connection)

    assert connection.calls == ["rollback"]
    assert counts(pool) == all_idle(1)


def test_what_one_thread_has_another_cannot_give_back(make_pool: MakePool) -> None:
    pool = make_pool(1)
    other = borrower(pool)

    with pytest.raises(WrongThread, match=rf"given back by thread \d+, but thread {other.thread_id} has borrowed it"):
        pool.putconn(other.connection)

    assert pool.in_use == 1
    other.give_back()
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


def test_what_a_thread_has_left_behind_at_its_end_another_may_give_back(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = Task(pool.getconn).result()

    pool.putconn(connection)

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


def test_a_reset_that_fails_does_not_hide_the_error_of_the_block(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    database.hooks["rollback"] = raising(OSError("gone"))

    with pytest.raises(KeyError, match="no such book"), pool.connection():
        raise KeyError("no such book")

    assert counts(pool) == all_idle(0)


def test_a_connection_given_back_twice_is_an_error(make_pool: MakePool) -> None:
    pool = make_pool(2)
    connection = pool.getconn()
    pool.putconn(connection)

    with pytest.raises(ValueError, match="not lent out by pool 'orders'"):
        pool.putconn(connection)

    assert counts(pool) == all_idle(1)


def test_a_connection_on_its_way_back_cannot_be_given_back(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(2)
    other = borrower(pool)
    database.hooks["rollback"] = gate = Gate()
    first = other.begin_to_give_back()
    gate.wait_until_reached()

    with pytest.raises(ValueError, match="not lent out"):
        pool.putconn(other.connection)

    gate.open()
    first.result()
    assert counts(pool) == all_idle(1)


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


def test_a_connection_of_another_pool_is_an_error(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(2)

    with pytest.raises(ValueError, match="not lent out"):
        pool.putconn(FakeConnection(database))

    assert counts(pool) == all_idle(0)


def test_garbage_that_holds_a_connection_may_be_collected_at_any_moment(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(2)

    def rows() -> Iterator[Any]:
        with pool.connection():
            while True:
                yield

    def leak() -> None:
        generator = rows()
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


# --- a borrow within a borrow ----------------------------------------------------------------------------------------


def test_a_thread_that_holds_all_connections_learns_at_once_that_it_waits_for_itself(make_pool: MakePool) -> None:
    pool = make_pool(2)

    def outer() -> None:
        pool.getconn()
        pool.getconn()

    outer()

    with pytest.raises(
        PoolDeadlock, match=r"all 2 connections of pool 'orders' are held by this thread .* in outer, .* in outer"
    ):
        pool.getconn(timeout=PATIENCE)
    assert counts(pool) == {"size": 2, "idle": 0, "in_use": 2, "waiting": 0}


def test_a_nested_borrow_waits_where_another_thread_can_give_back(make_pool: MakePool) -> None:
    pool = make_pool(2)
    other = borrower(pool)

    def nested() -> FakeConnection:
        with pool.connection(), pool.connection() as inner:
            return inner

    task = Task(nested)
    eventually(lambda: (pool.in_use, pool.waiting) == (2, 1))
    other.give_back()

    assert task.result() is other.connection


def test_a_connection_on_its_way_back_is_worth_waiting_for(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    other = borrower(pool)
    database.hooks["rollback"] = gate = Gate()
    giving_back = other.begin_to_give_back()
    gate.wait_until_reached()

    def open_when_waited_for() -> None:
        eventually(lambda: pool.waiting == 1)
        gate.open()

    opener = Task(open_when_waited_for)
    try:
        assert pool.getconn() is other.connection
    finally:
        gate.open()
        giving_back.result()
    opener.result()


# --- the end of a pool -----------------------------------------------------------------------------------------------


def test_close_tells_the_waiters_at_once(make_pool: MakePool) -> None:
    pool = make_pool(1)
    pool.getconn()
    waiters = [waiting_task(pool), waiting_task(pool)]

    pool.close()

    for waiter in waiters:
        with pytest.raises(PoolClosed, match="was closed while this request waited"):
            waiter.result()


def test_close_ends_idle_connections_now_and_those_in_use_at_their_return(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(2)
    idle, in_use = pool.getconn(), pool.getconn()
    pool.putconn(idle)

    pool.close()

    assert (idle.closed, in_use.closed) == (True, False)
    pool.putconn(in_use)
    assert in_use.closed
    assert database.sessions == 0
    assert counts(pool) == all_idle(0)


def test_a_closed_pool_lends_nothing(make_pool: MakePool) -> None:
    pool = make_pool(1)
    pool.close()

    with pytest.raises(PoolClosed, match="pool 'orders' is closed"):
        pool.getconn()


def test_a_connection_that_opens_while_the_pool_closes_is_closed_at_its_return(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(1)
    database.hooks["connect"] = gate = Gate()
    connecting = Task(pool.getconn)
    gate.wait_until_reached()

    pool.close()
    gate.open()
    pool.putconn(connecting.result())

    assert database.sessions == 0


def test_wind_down_closes_what_is_idle_and_what_comes_back_and_goes_on_lending(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(2)
    idle, in_use = pool.getconn(), pool.getconn()
    pool.putconn(idle)

    pool.wind_down()
    with pool.connection() as late:
        late.execute()
    pool.putconn(in_use)

    assert late.calls == ["execute", "commit", "close"]
    assert database.sessions == 0
    assert counts(pool) == all_idle(0)


def test_wind_down_takes_no_lock(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    pool.putconn(connection)

    def signal_in_the_middle_of_a_decision() -> None:
        with pool._lock:
            pool.wind_down()

    Task(signal_in_the_middle_of_a_decision).result()

    assert connection.closed


def test_a_borrow_that_is_interrupted_while_the_pool_winds_down_leaves_nothing_open(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(1)
    pool.putconn(pool.getconn())
    database.hooks["is_alive"] = then(pool.wind_down, raising(Interrupt()))

    with pytest.raises(Interrupt):
        pool.getconn()

    assert database.sessions == 0


def test_a_connection_on_its_way_back_while_the_pool_winds_down_is_closed(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    database.hooks["rollback"] = pool.wind_down

    pool.putconn(connection)

    assert connection.closed
    assert pool.size == 0


# --- the end of a request --------------------------------------------------------------------------------------------


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


def test_reclaim_does_not_touch_what_another_thread_is_giving_back(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    other = borrower(pool)
    database.hooks["rollback"] = gate = Gate()
    giving_back = other.begin_to_give_back()
    gate.wait_until_reached()

    assert pool.reclaim(other.thread_id) == 0

    gate.open()
    giving_back.result()
    assert counts(pool) == all_idle(1)


def test_reclaim_frees_the_place_of_a_connect_that_was_interrupted_twice(
    make_pool: MakePool, database: FakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(1)
    database.hooks["connect"] = in_turn(raising(OSError("refused")))
    with monkeypatch.context() as interrupted:
        interrupted.setattr(pool, "_withdraw", lambda _: raising(Interrupt())())
        with pytest.raises(Interrupt):
            pool.getconn()

    pool.reclaim(threading.get_ident())

    assert counts(pool) == all_idle(0)


def test_reclaim_takes_a_waiter_that_was_interrupted_twice_out_of_the_queue(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(1)
    other = borrower(pool)
    with monkeypatch.context() as interrupted:
        interrupted.setattr(pool, "_withdraw", lambda _: raising(Interrupt())())
        with pytest.raises(Interrupt):
            pool.getconn(timeout=0)

    pool.reclaim(threading.get_ident())
    other.give_back()

    assert counts(pool) == all_idle(1)


def test_reclaim_takes_back_a_connection_whose_return_was_interrupted_at_its_start(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    with monkeypatch.context() as interrupted:
        interrupted.setattr(pool, "_take_back", lambda *_: raising(Interrupt())())
        with pytest.raises(Interrupt):
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


def test_reclaim_leaves_alone_a_connection_that_another_thread_carries_between_two_places(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(1)
    other = borrower(pool)
    database.hooks["rollback"] = gate = Gate()
    giving_back = other.begin_to_give_back()
    gate.wait_until_reached()

    pool.reclaim(threading.get_ident())

    assert not other.connection.closed
    gate.open()
    giving_back.result()
    assert counts(pool) == all_idle(1)


def test_a_reclaimed_connection_cannot_be_given_back(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    pool.reclaim(threading.get_ident())

    with pytest.raises(ValueError, match="taken back at the end of its request"):
        pool.putconn(connection)

    assert counts(pool) == all_idle(0)


def test_a_generator_that_outlives_its_request_ends_in_silence(make_pool: MakePool) -> None:
    pool = make_pool(1)

    def rows() -> Iterator[FakeConnection]:
        with pool.connection() as connection:
            while True:
                yield connection

    generator: Any = rows()
    connection = next(generator)
    pool.reclaim(threading.get_ident())

    # Nobody is there to catch what a generator raises when it is collected: it would go to the error log.
    generator.close()

    assert connection.calls == ["close"]


# --- fork ------------------------------------------------------------------------------------------------------------

FORK = """
import os
import warnings
from unit.fakes import FakeDatabase, Gate, Task, eventually
from wsgipool import Pool

warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # that is the test

database = FakeDatabase()
pool = Pool(database, name="orders", max_size=2, timeout=5)
held, idle = pool.getconn(), pool.getconn()
pool.putconn(idle)
{before}
child = os.fork()
if child == 0:
    {child}
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
{parent}
"""


def fork(child: str, parent: str = "", before: str = "") -> str:
    return run_python(FORK.format(child=child, parent=parent, before=before))


def test_the_pool_of_a_forks_child_is_empty() -> None:
    assert fork("print(repr(pool), flush=True)") == (
        "<Pool 'orders': 0 in use, 0 connecting, 0 idle of max_size 2, 0 waiting>\n"
    )


def test_a_forks_child_abandons_what_it_inherited_and_closes_none_of_it() -> None:
    child = "print(set(database.abandoned) == {held, idle}, held.closed or idle.closed, flush=True)"

    assert fork(child) == "True False\n"


def test_a_forks_child_opens_connections_of_its_own() -> None:
    child = "print(pool.getconn() in (held, idle), pool.getconn() in (held, idle), flush=True)"

    assert fork(child) == "False False\n"


def test_the_parent_of_a_fork_keeps_its_connections() -> None:
    parent = "pool.putconn(held); print(repr(pool), pool.getconn() is held, database.abandoned)"

    assert fork("pass", parent) == (
        "<Pool 'orders': 0 in use, 0 connecting, 2 idle of max_size 2, 0 waiting> True []\n"
    )


def test_a_fork_while_another_thread_decides_leaves_the_child_a_free_lock() -> None:
    before = "Task(pool._lock.acquire).result()"

    assert fork("print(pool.getconn().calls, flush=True)", before=before) == "[]\n"


def test_a_fork_while_a_connection_opens_in_the_background_leaves_both_sides_a_working_pool() -> None:
    before = "database.hooks['connect'] = gate = Gate(); pool.resize(3, 3); gate.wait_until_reached()"
    child = "database.hooks.clear(); print(pool.size, pool.getconn().calls, pool.size, flush=True)"
    parent = "gate.open(); eventually(lambda: pool.idle == 2); print(repr(pool))"

    assert fork(child, parent, before) == (
        "0 [] 1\n<Pool 'orders': 1 in use, 0 connecting, 2 idle of max_size 3, 0 waiting>\n"
    )


# --- all at once -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_many_threads_with_all_kinds_of_trouble_leave_the_pool_whole(
    make_pool: MakePool, database: FakeDatabase, seed: int
) -> None:
    pool = make_pool(5)
    trouble = random.Random(seed)
    database.hooks["connect"] = lambda: trouble.random() < 0.1 and raising(OSError("refused"))()
    database.hooks["rollback"] = lambda: trouble.random() < 0.05 and raising(OSError("gone"))()

    def request(numbers: random.Random) -> None:
        what = numbers.random()
        with pool.connection(readonly=what < 0.3, timeout=0.001 if what > 0.9 else None) as connection:
            with connection.used():
                time.sleep(0 if what < 0.8 else 0.0005)
            if 0.3 < what < 0.35:
                connection.alive = False
            elif 0.35 < what < 0.45:
                raise KeyError("no such book")
            elif 0.45 < what < 0.5:
                raise Interrupt

    def requests(number: int) -> int:
        numbers = random.Random(100 * seed + number)
        for _ in range(40):
            with contextlib.suppress(KeyError, Interrupt, ConnectFailed, PoolTimeout):
                request(numbers)
            if numbers.random() < 0.02:
                with contextlib.suppress(ConnectFailed):
                    pool.getconn()
                pool.reclaim(threading.get_ident())
        return number

    tasks = [Task(lambda number=number: requests(number)) for number in range(32)]  # type: ignore[misc]
    for task in tasks:
        task.result()

    eventually(lambda: pool.idle == pool.size)  # what was being opened for somebody who did not wait so long
    assert database.misuses == []
    assert database.most_sessions <= 5
    assert counts(pool) == all_idle(pool.size)
    assert database.sessions == pool.size
