"""Who waits for a connection: in what order they are served, how long they wait, and who would wait for itself."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from unit.conftest import Clock, FakePool, MakePool, all_idle, borrower, counts, giving_back, in_queue, waiting_task
from unit.fakes import PATIENCE, Borrower, FakeConnection, FakeDatabase, Task, eventually
from unit.interrupts import Interrupt, interrupt
from wsgipool import Pool, PoolDeadlock, PoolTimeout, TooManyRequests

# --- the order -------------------------------------------------------------------------------------------------------


def test_waiters_are_served_in_the_order_of_their_coming(make_pool: MakePool) -> None:
    pool = make_pool(1)
    connection = pool.getconn()
    order: list[int] = []

    def request(number: int) -> None:
        with pool.connection():
            order.append(number)

    tasks = [in_queue(pool, partial(request, number)) for number in range(5)]
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
        with pytest.raises(PoolDeadlock):  # it is this thread that holds up the hand-over
            pool.getconn(timeout=0)

    assert waiter.result() is other.connection
    giving_back.result()


QueueOfOne = Callable[[float], tuple[FakePool, Callable[[], None]]]
QUICK, SLOW = 0.00005, 0.001
"""Seconds from turn to turn: as long as the switch of threads, and as something done with the connection."""


@pytest.fixture
def queue_of_one(make_pool: MakePool, clock: Clock) -> QueueOfOne:
    """Makes a pool for whose only connection one waits, after many who have held it for `turn` seconds each.

    With it comes what ends the queue: who has the connection and who waits for it give it back.
    """

    def make(turn: float) -> tuple[FakePool, Callable[[], None]]:
        pool = make_pool(1)

        def request() -> None:
            with pool.connection():
                clock.advance(turn)

        for _ in range(100):
            with pool.connection():
                waiters = [in_queue(pool, request) for _ in range(3)]
                clock.advance(turn)
            for waiter in waiters:
                waiter.result()
        holder = borrower(pool)
        waiter = in_queue(pool, request)

        def end() -> None:
            holder.give_back()
            waiter.result()

        return pool, end

    return make


def test_who_comes_to_a_queue_of_quick_turns_lets_it_end_and_is_served_then(
    queue_of_one: QueueOfOne, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, end = queue_of_one(QUICK)
    before = pool.stats()
    slept: list[float] = []

    def the_queue_ends(seconds: float) -> None:
        slept.append(seconds)
        assert pool.waiting == 1
        end()

    monkeypatch.setattr(sys.modules["wsgipool.lending"], "sleep", the_queue_ends)
    pool.getconn()

    assert slept == [pytest.approx(QUICK)]
    assert pool.stats().waits == before.waits + 2
    assert pool.stats().wait_seconds == pytest.approx(before.wait_seconds + QUICK)


def test_who_comes_to_a_queue_of_slow_turns_takes_its_place_at_once(
    queue_of_one: QueueOfOne, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, end = queue_of_one(SLOW)
    monkeypatch.setattr(sys.modules["wsgipool.lending"], "sleep", pytest.fail)

    last = waiting_task(pool)

    assert pool.waiting == 2
    end()
    last.result()


@pytest.mark.parametrize(("timeout", "max_waiting", "error"), [(0, 0, PoolTimeout), (None, 1, TooManyRequests)])
def test_who_cannot_wait_at_a_queue_of_quick_turns_learns_so_at_once(
    timeout: float | None,
    max_waiting: int,
    error: type[Exception],
    queue_of_one: QueueOfOne,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool, end = queue_of_one(QUICK)
    pool.max_waiting = max_waiting
    monkeypatch.setattr(sys.modules["wsgipool.lending"], "sleep", pytest.fail)

    with pytest.raises(error):
        pool.getconn(timeout)

    end()


def _by_putconn(pool: FakePool) -> bool:
    connection, request = pool.getconn(), Request(pool)
    pool.putconn(connection)
    return request.was_served_at_once()


def _by_a_block(pool: FakePool) -> bool:
    with pool.connection():
        request = Request(pool)
    return request.was_served_at_once()


class Request:
    """Another thread that waits for a connection."""

    def __init__(self, pool: FakePool) -> None:
        self._pool = pool
        self._is_served = False
        self._task = in_queue(pool, self._run)

    def was_served_at_once(self) -> bool:
        is_served = self._is_served
        self._task.result()
        return is_served

    def _run(self) -> None:
        with self._pool.connection():
            self._is_served = True


@pytest.mark.parametrize("is_plain", [True, False])
@pytest.mark.parametrize("gives_back", [_by_putconn, _by_a_block])
def test_who_gives_back_lets_the_one_that_has_waited_run(
    gives_back: Callable[[FakePool], bool], is_plain: bool, database: FakeDatabase
) -> None:
    pool = Pool(partial(database.connect, PATIENCE) if is_plain else database, name="orders", max_size=1, reset=None)

    with switch_interval(PATIENCE):
        # That it runs is up to the machine, which may be slow to wake it; else it never does.
        assert any(gives_back(pool) for _ in range(1000))


@contextmanager
def switch_interval(seconds: float) -> Iterator[None]:
    """Have no thread take the GIL within so many seconds from one that does not let go of it by itself."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


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

    struck: list[bool] = []

    def handler(*_: object) -> None:
        if not struck:
            struck.append(True)
            raise Interrupt

    def send_signal() -> None:
        eventually(lambda: pool.waiting == 1)
        # Again and again: CPython does not notice one that comes just before it begins to wait.
        while pool.waiting:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            time.sleep(0.01)

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


# --- how long --------------------------------------------------------------------------------------------------------


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


def test_of_a_plain_callables_quick_loans_pool_timeout_says_since_when_at_least(
    database: FakeDatabase, clock: Clock
) -> None:
    pool = Pool(lambda: FakeConnection(database), name="orders", max_size=1)
    pool.tend = lambda: None  # type: ignore[method-assign]  # housekeeping, too, looks what has been lent
    Borrower(pool.getconn, pool.putconn).give_back()  # opened for its first loan, which is noted
    clock.advance(100)
    held = Borrower(pool.getconn, pool.putconn)  # lent as it is
    clock.advance(30)
    assert_times_out(pool, held="at least 0.0 s ago, where debug=True would tell")
    clock.advance(30)
    assert_times_out(pool, held="at least 30.0 s ago, where debug=True would tell")

    patient = waiting_task(pool)
    held.give_back()
    patient.result()
    clock.advance(5)

    assert_times_out(pool, held=r"at .*:\d+ in .*, 5\.0 s ago")


def assert_times_out(pool: Pool[FakeConnection], *, held: str) -> None:
    with pytest.raises(PoolTimeout, match=rf"; held: by thread \d+, borrowed {held}"):
        pool.getconn(timeout=0)


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


# --- for itself ------------------------------------------------------------------------------------------------------


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
    pool = make_pool(2)

    with giving_back(pool, database) as other:
        waiter = Task(lambda: [pool.getconn(), pool.getconn()])
        eventually(lambda: (pool.in_use, pool.waiting) == (2, 1))

    assert waiter.result()[1] is other.connection
