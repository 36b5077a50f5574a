"""A pool that needs leave to open each connection, from a budget that others share."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from unit.conftest import MakePool, waiting_task
from unit.fakes import FakeConnection, FakeDatabase, Task, eventually, raising
from wsgipool import ConnectFailed, Pool, PoolTimeout
from wsgipool.farewell import Farewell
from wsgipool.host.budget import Budget, Limit
from wsgipool.housekeeping import housekeeping


class FakePermit:
    def __init__(self, permits: FakePermits) -> None:
        self._permits = permits
        self.is_back = False
        self.is_used = False

    def release(self, farewell: Farewell | None = None) -> None:  # noqa: ARG002
        if not self.is_back:
            self.is_back = True
            self._permits.free += 1
            self._permits.events.append("release")

    def is_due(self) -> bool:
        return True

    def is_wanted(self) -> bool:
        return self._permits.to_give_up(1) > 0


class FakePermits:
    """A budget with so many permits, whose other users want what the test says."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.others_want = 0
        self.hungers = False
        self.events: list[str] = []
        self.turn_in = 0.0

    def describe(self) -> str:
        return "the budget is used up"

    def take(self, wanted: int) -> FakePermit | None:
        if not self.free:
            self.hungers = self.hungers or wanted > 0
            return None
        self.free -= 1
        self.events.append("take")
        return FakePermit(self)

    def until_turn(self) -> float:
        return self.turn_in

    def sated(self) -> None:
        self.hungers = False

    def others_hunger(self) -> bool:
        return self.others_want > 0

    def is_news(self) -> bool:
        return False

    def to_give_up(self, keep: int) -> int:
        return max(0, self.others_want - keep + 1)

    def tend(self, has_connections: bool) -> float | None:  # noqa: ARG002
        return 0.01


@pytest.fixture
def permits() -> FakePermits:
    return FakePermits(2)


@pytest.fixture
def pool(make_pool: MakePool, permits: FakePermits) -> Pool[FakeConnection]:
    return make_pool(8, permits=permits, max_connecting=8)


def test_a_permit_is_taken_before_the_connect_and_given_back_after_the_close(
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

    for borrower in [Task(use) for _ in range(20)]:
        borrower.result()

    assert database.most_sessions <= 2
    assert permits.free + pool.size == 2
    assert not permits.hungers


def test_who_waits_for_a_permit_gets_one_when_there_is_one(pool: Pool[FakeConnection], permits: FakePermits) -> None:
    permits.free = 0
    waiters = [Task(pool.getconn)]
    eventually(lambda: pool.waiting == 1)
    waiters.append(Task(pool.getconn))
    eventually(lambda: pool.waiting == 2)
    eventually(lambda: permits.hungers)

    permits.free = 1

    waiters[0].result()
    assert pool.waiting == 1
    permits.free = 1
    waiters[1].result()
    assert not permits.hungers


def test_a_pool_without_connections_whose_turn_is_far_away_does_not_look(
    pool: Pool[FakeConnection], permits: FakePermits
) -> None:
    permits.free, permits.turn_in = 0, 0.15
    waiter = waiting_task(pool)
    permits.free = 1

    assert pool.tend() == 0.15
    assert not waiter.done
    permits.turn_in = 0.0
    pool.tend()

    assert waiter.result()


def test_who_waits_for_a_permit_takes_what_is_given_back(pool: Pool[FakeConnection], permits: FakePermits) -> None:
    permits.free = 1
    connection = pool.getconn()
    waiter = Task(pool.getconn)
    eventually(lambda: permits.hungers)

    pool.putconn(connection)

    assert waiter.result() is connection


def test_in_vain_it_says_that_the_budget_is_used_up(pool: Pool[FakeConnection], permits: FakePermits) -> None:
    permits.free = 0

    with pytest.raises(PoolTimeout, match=r"within 0.05 s: .*; the budget is used up\. Hold connections for less"):
        pool.getconn(timeout=0.05)

    assert not permits.hungers


def test_a_failed_connect_gives_its_permit_back(
    pool: Pool[FakeConnection], database: FakeDatabase, permits: FakePermits
) -> None:
    database.hooks["connect"] = raising(OSError("refused"))

    with pytest.raises(ConnectFailed) as failure:
        pool.getconn()

    assert permits.free == 2
    assert failure.value is not None, "which keeps the frames, and what was in them"


def test_a_connect_that_is_interrupted_gives_its_permit_back(
    pool: Pool[FakeConnection], database: FakeDatabase, permits: FakePermits
) -> None:
    database.hooks["connect"] = raising(KeyboardInterrupt())

    with contextlib.suppress(KeyboardInterrupt):
        pool.getconn()

    assert permits.free == 2
    assert pool.size == 0


def test_a_connect_in_the_background_that_fails_gives_its_permit_back(
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


def test_a_dead_connection_that_another_one_replaces_gives_its_permit_back(
    pool: Pool[FakeConnection], permits: FakePermits
) -> None:
    first, second = pool.getconn(), pool.getconn()
    pool.putconn(first)
    pool.putconn(second)
    second.alive = False

    assert pool.getconn() is first
    assert permits.free == 1


def test_what_comes_back_is_closed_when_others_want_it(pool: Pool[FakeConnection], permits: FakePermits) -> None:
    with pool.connection() as connection:
        permits.others_want = 1

    assert connection.closed
    assert permits.free == 2
    assert pool.stats().closed == {"budget": 1}


def test_idle_connections_are_given_up_the_oldest_first(pool: Pool[FakeConnection], permits: FakePermits) -> None:
    closed: list[str] = []
    oldest, newest = pool.getconn(), pool.getconn()
    oldest.hooks["close"] = lambda: closed.append("oldest")
    newest.hooks["close"] = lambda: closed.append("newest")
    pool.putconn(oldest)
    pool.putconn(newest)

    permits.others_want = 1

    eventually(lambda: len(closed) == 2)
    assert closed == ["oldest", "newest"]


def test_a_process_that_ends_gives_back_what_is_idle_at_once_and_the_rest_as_it_comes(
    pool: Pool[FakeConnection], permits: FakePermits
) -> None:
    idle, lent = pool.getconn(), pool.getconn()
    pool.putconn(idle)

    pool.wind_down()

    assert permits.free == 1
    pool.putconn(lent)
    assert permits.free == 2


def test_a_process_that_ends_and_has_no_housekeeping_still_gets_its_turn(
    pool: Pool[FakeConnection], permits: FakePermits, monkeypatch: pytest.MonkeyPatch
) -> None:
    permits.free = 0
    monkeypatch.setattr(housekeeping, "watch", lambda _: None)
    monkeypatch.setattr(type(housekeeping), "is_running", False)
    waiter = Task(pool.getconn)
    eventually(lambda: permits.hungers)

    permits.free = 1

    waiter.result()


def test_min_size_is_no_hunger(make_pool: MakePool, permits: FakePermits) -> None:
    permits.free = 1
    pool = make_pool(4, min_size=3, permits=permits)

    eventually(lambda: pool.idle == 1)

    assert not permits.hungers
    permits.free = 2
    eventually(lambda: pool.idle == 3)


def test_a_plain_callable_has_permits_too(permits: FakePermits) -> None:
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
    """Two pools with a budget of two; to the budget they are as good as two processes."""
    limit = Limit(2)
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


def test_an_idle_pool_gives_up_to_a_hungry_one_within_half_a_second(
    pools: list[Pool[FakeConnection]], database: FakeDatabase
) -> None:
    waits: list[float] = []
    # A machine that is busy with something else may be late, but not each time.
    while not waits or (min(waits) > 0.5 and len(waits) < 5):
        idle, hungry = pools
        for connection in [idle.getconn(), idle.getconn()]:
            idle.putconn(connection)
        began = time.monotonic()

        borrowers = [Task(hungry.getconn), Task(hungry.getconn)]
        connections = [borrower.result() for borrower in borrowers]

        waits.append(time.monotonic() - began)
        assert idle.size == 0
        for connection in connections:
            hungry.putconn(connection)
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
