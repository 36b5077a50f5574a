"""A pool with a budget: each connection needs a permit."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from unit.conftest import MakePool, another_holder, waiting_task
from unit.fakes import FakeConnection, FakeDatabase, Task, eventually, raising
from wsgipool import ConnectFailed, Pool, PoolTimeout
from wsgipool._background import background
from wsgipool.budget.budget import Budget, BudgetLimit
from wsgipool.budget.permits import Permit
from wsgipool.drivers.session_end import SessionEnd


class FakePermit:
    def __init__(self, permits: FakePermits) -> None:
        self._permits = permits
        self.is_released = False
        self.is_used = False

    def release(self, session_end: SessionEnd | None = None) -> None:  # noqa: ARG002
        if not self.is_released:
            self.is_released = True
            self._permits.free += 1
            self._permits.events.append("release")

    def is_due(self) -> bool:
        return True


class FakePermits:
    """A budget with this number of free permits, and the demand of other pools that the test sets."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.others_want = 0
        self.is_starved = False
        self.events: list[str] = []
        self.turn_in = 0.0

    def describe(self) -> str:
        return "the budget is used up"

    def take(self, wanted: int) -> FakePermit | None:
        if not self.free:
            self.is_starved = self.is_starved or wanted > 0
            return None
        self.free -= 1
        self.is_starved = False
        self.events.append("take")
        return FakePermit(self)

    def until_turn(self) -> float:
        return self.turn_in

    def satisfied(self) -> None:
        self.is_starved = False

    def must_yield(self, permit: Permit, now: float) -> bool:  # noqa: ARG002
        return self.count_to_yield(1) > 0

    def count_to_yield(self, keep: int) -> int:
        return max(0, self.others_want - keep + 1)

    def maintain(self, has_connections: bool) -> float | None:  # noqa: ARG002
        return 0.01


@pytest.fixture
def permits() -> FakePermits:
    return FakePermits(2)


@pytest.fixture
def pool(make_pool: MakePool, permits: FakePermits) -> Pool[FakeConnection]:
    return make_pool(8, permits=permits, max_connecting=8)


def test_a_permit_is_taken_before_the_connect_and_released_after_the_close(
    pool: Pool[FakeConnection], database: FakeDatabase, permits: FakePermits
) -> None:
    for name in ("connect", "close"):
        database.hooks[name] = lambda name=name: permits.events.append(name)  # type: ignore[misc]

    with pool.connection():
        pass
    pool.close()

    assert permits.events == ["take", "connect", "close", "release"]


def test_a_pool_opens_no_more_than_its_permits(
    pool: Pool[FakeConnection], database: FakeDatabase, permits: FakePermits
) -> None:
    def use() -> None:
        with pool.connection() as connection:
            connection.execute()

    for task in [Task(use) for _ in range(20)]:
        task.result()

    assert database.most_sessions <= 2
    assert permits.free + pool.size == 2
    assert not permits.is_starved


def test_a_waiter_gets_a_permit_as_soon_as_there_is_one(pool: Pool[FakeConnection], permits: FakePermits) -> None:
    permits.free = 0
    waiters = [Task(lambda: another_holder(pool))]
    eventually(lambda: pool.waiting == 1)
    waiters.append(Task(lambda: another_holder(pool)))
    eventually(lambda: pool.waiting == 2)
    eventually(lambda: permits.is_starved)

    permits.free = 1

    first = waiters[0].result()
    assert pool.waiting == 1
    permits.free = 1
    second = waiters[1].result()
    assert not permits.is_starved
    assert first.connection is not second.connection


def test_a_pool_without_connections_whose_turn_is_far_away_does_not_poll(
    pool: Pool[FakeConnection], permits: FakePermits
) -> None:
    permits.free, permits.turn_in = 0, 0.15
    waiter = waiting_task(pool)
    permits.free = 1

    assert pool.maintain() == 0.15
    assert not waiter.done
    permits.turn_in = 0.0
    pool.maintain()

    assert waiter.result()


def test_a_waiter_without_a_permit_takes_a_returned_connection(
    pool: Pool[FakeConnection], permits: FakePermits
) -> None:
    permits.free = 1
    connection = pool.getconn()
    waiter = Task(pool.getconn)
    eventually(lambda: permits.is_starved)

    pool.putconn(connection)

    assert waiter.result() is connection


def test_the_error_of_a_waiter_names_the_used_up_budget(pool: Pool[FakeConnection], permits: FakePermits) -> None:
    permits.free = 0

    with pytest.raises(PoolTimeout, match=r"within 0.05 s: .*; the budget is used up\. Hold connections for less"):
        pool.getconn(timeout=0.05)

    assert not permits.is_starved


def test_a_failed_connect_releases_its_permit(
    pool: Pool[FakeConnection], database: FakeDatabase, permits: FakePermits
) -> None:
    database.hooks["connect"] = raising(OSError("refused"))

    with pytest.raises(ConnectFailed) as failure:
        pool.getconn()

    assert permits.free == 2
    assert failure.value is not None, "the exception keeps the frames and their objects alive"


def test_an_interrupted_connect_releases_its_permit(
    pool: Pool[FakeConnection], database: FakeDatabase, permits: FakePermits
) -> None:
    database.hooks["connect"] = raising(KeyboardInterrupt())

    with contextlib.suppress(KeyboardInterrupt):
        pool.getconn()

    assert permits.free == 2
    assert pool.size == 0


def test_a_failed_connect_in_the_background_releases_its_permit(
    pool: Pool[FakeConnection], database: FakeDatabase, permits: FakePermits
) -> None:
    connection = pool.getconn()
    database.hooks["connect"] = raising(OSError("refused"))
    waiter = Task(pool.getconn)
    eventually(lambda: pool.stats().connect_failures > 0)
    eventually(lambda: permits.free == 1)

    pool.putconn(connection)

    assert waiter.result() is connection


def test_a_dead_connection_is_replaced_within_the_same_permit(
    pool: Pool[FakeConnection], database: FakeDatabase, permits: FakePermits
) -> None:
    permits.free = 1
    with pool.connection() as connection:
        pass
    connection.alive = False

    with pool.connection() as other:
        assert other is not connection

    assert permits.free == 0
    assert permits.events == ["take"]
    assert database.most_sessions == 1


def test_a_dead_connection_replaced_by_an_idle_one_releases_its_permit(
    pool: Pool[FakeConnection], permits: FakePermits
) -> None:
    first, second = pool.getconn(), pool.getconn()
    pool.putconn(first)
    pool.putconn(second)
    second.alive = False

    assert pool.getconn() is first
    assert permits.free == 1


def test_a_returned_connection_is_closed_if_another_pool_needs_its_permit(
    pool: Pool[FakeConnection], permits: FakePermits
) -> None:
    with pool.connection() as connection:
        permits.others_want = 1

    assert connection.closed
    assert permits.free == 2
    assert pool.stats().closed == {"budget": 1}


def test_idle_connections_are_yielded_the_oldest_first(pool: Pool[FakeConnection], permits: FakePermits) -> None:
    closed: list[str] = []
    oldest, newest = pool.getconn(), pool.getconn()
    oldest.hooks["close"] = lambda: closed.append("oldest")
    newest.hooks["close"] = lambda: closed.append("newest")
    pool.putconn(oldest)
    pool.putconn(newest)

    permits.others_want = 1

    eventually(lambda: len(closed) == 2)
    assert closed == ["oldest", "newest"]


def test_an_ending_process_releases_idle_permits_at_once_and_others_at_their_return(
    pool: Pool[FakeConnection], permits: FakePermits
) -> None:
    idle, held = pool.getconn(), pool.getconn()
    pool.putconn(idle)

    pool.wind_down()

    assert permits.free == 1
    pool.putconn(held)
    assert permits.free == 2


def test_an_ending_process_without_maintenance_still_gets_its_turn(
    pool: Pool[FakeConnection], permits: FakePermits, monkeypatch: pytest.MonkeyPatch
) -> None:
    permits.free = 0
    monkeypatch.setattr(background, "register", lambda _: None)
    monkeypatch.setattr(type(background), "is_running", False)
    waiter = Task(pool.getconn)
    eventually(lambda: permits.is_starved)

    permits.free = 1

    waiter.result()


def test_a_pool_below_min_size_is_not_starved(make_pool: MakePool, permits: FakePermits) -> None:
    permits.free = 1
    pool = make_pool(4, min_size=3, permits=permits)

    eventually(lambda: pool.idle == 1)

    assert not permits.is_starved
    permits.free = 2
    eventually(lambda: pool.idle == 3)


def test_a_pool_with_a_plain_callable_takes_permits(permits: FakePermits) -> None:
    database = FakeDatabase()
    pool: Pool[FakeConnection] = Pool(
        lambda: database.connect(0.0), name="orders", max_size=1, reset=None, permits=permits
    )
    with pool.connection():
        assert permits.free == 1
    permits.others_want = 1
    with pool.connection():
        pass

    assert permits.free == 2


# --- with the real budget --------------------------------------------------------------------------------------------


@pytest.fixture
def pools(tmp_path: Path, database: FakeDatabase) -> Iterator[list[Pool[FakeConnection]]]:
    """Two pools with a budget of two. To the budget they are like two processes."""
    limit = BudgetLimit(2)
    pools = [
        Pool(
            database,
            name=name,
            max_size=4,
            timeout=30,
            permits=Budget(tmp_path / "run", "mysql://db.example.com:3306", limit),
        )
        for name in ("orders", "archive")
    ]
    yield pools
    for pool in pools:
        pool.close()


def test_an_idle_pool_yields_to_a_starved_one_within_half_a_second(
    pools: list[Pool[FakeConnection]], database: FakeDatabase
) -> None:
    waits: list[float] = []
    # A busy machine may be late, but not each time.
    while not waits or (min(waits) > 0.5 and len(waits) < 5):
        idle, starved = pools
        for connection in [idle.getconn(), idle.getconn()]:
            idle.putconn(connection)
        began = time.monotonic()

        tasks = [Task(lambda: another_holder(starved)) for _ in range(2)]  # noqa: B023
        holders = [task.result() for task in tasks]

        waits.append(time.monotonic() - began)
        eventually(lambda: idle.size == 0)  # noqa: B023
        for holder in holders:
            holder.give_back()
        pools.reverse()
    assert min(waits) <= 0.5
    assert database.most_sessions == 2


def test_two_pools_with_too_much_work_take_turns(pools: list[Pool[FakeConnection]], database: FakeDatabase) -> None:
    served = {pool.name: 0 for pool in pools}
    is_over = threading.Event()

    def work(pool: Pool[FakeConnection]) -> None:
        while not is_over.wait(0.001):
            with pool.connection() as connection:
                connection.execute()
                is_over.wait(0.005)
            served[pool.name] += 1

    hog, latecomer = pools
    workers = [Task(lambda: work(hog)) for _ in range(3)]
    eventually(lambda: hog.size == 2)
    workers += [Task(lambda: work(latecomer)) for _ in range(3)]
    eventually(lambda: served[latecomer.name] > 50)
    is_over.set()
    for worker in workers:
        worker.result()

    assert database.most_sessions == 2
    assert not database.misuses


def test_two_busy_pools_with_the_same_number_open_no_new_connections(
    pools: list[Pool[FakeConnection]], database: FakeDatabase
) -> None:
    served = {pool.name: 0 for pool in pools}
    is_over = threading.Event()

    def work(pool: Pool[FakeConnection]) -> None:
        while not is_over.wait(0.001):
            with pool.connection() as connection:
                connection.execute()
                is_over.wait(0.002)
            served[pool.name] += 1

    def serve(number: int) -> None:
        before = dict(served)
        eventually(lambda: all(served[name] >= before[name] + number for name in served))

    workers = [Task(lambda pool=pool: work(pool)) for pool in pools * 3]  # type: ignore[misc]
    eventually(lambda: [pool.size for pool in pools] == [1, 1])
    serve(50)
    opened = [pool.stats().opened for pool in pools]
    serve(200)

    assert [pool.stats().opened for pool in pools] == opened
    is_over.set()
    for worker in workers:
        worker.result()
    assert database.most_sessions == 2


def test_a_pool_with_its_share_gets_permits_that_another_pool_no_longer_needs(
    pools: list[Pool[FakeConnection]],
) -> None:
    served = {pool.name: 0 for pool in pools}
    is_over = {pool.name: threading.Event() for pool in pools}

    def work(pool: Pool[FakeConnection]) -> None:
        while not is_over[pool.name].wait(0.001):
            with pool.connection():
                is_over[pool.name].wait(0.002)
            served[pool.name] += 1

    workers = [Task(lambda pool=pool: work(pool)) for pool in pools * 3]  # type: ignore[misc]
    eventually(lambda: [pool.size for pool in pools] == [1, 1])
    before = served["orders"]
    eventually(lambda: served["orders"] > before + 300)  # longer than the lease of a notice

    is_over["archive"].set()

    eventually(lambda: [pool.size for pool in pools] == [2, 0])
    is_over["orders"].set()
    for worker in workers:
        worker.result()
