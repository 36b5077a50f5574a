"""The fixtures of the unit tests, and what threads do to a pool of fake connections: borrow, wait, stand still."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from unit.fakes import PATIENCE, Borrower, FakeConnection, FakeDatabase, Gate, Task, eventually, then
from wsgipool import Pool, drivers, process
from wsgipool.httpd import process as httpd

T = TypeVar("T")


class Clock:
    """The time of the pools under test, which passes only when told. Who sleeps does so in real time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


FakePool = Pool[FakeConnection]
MakePool = Callable[..., FakePool]


@pytest.fixture
def database() -> FakeDatabase:
    return FakeDatabase()


@pytest.fixture
def make_pool(database: FakeDatabase) -> MakePool:
    """Makes a pool of the fake database, whose timeout does not come before the patience of a test is at its end."""

    def make(max_size: int = 1, timeout: float = 3 * PATIENCE, **settings: Any) -> FakePool:
        return Pool(database, name="orders", max_size=max_size, timeout=timeout, **settings)

    return make


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("lending", "ledger", "connector", "loan"):
        monkeypatch.setattr(sys.modules[f"wsgipool.{module}"], "monotonic", clock)
    return clock


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="wsgipool")
    return caplog


@pytest.fixture
def databases(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeDatabase]:
    """The fake databases behind the configured names, each there when its driver has been made."""
    made: dict[str, FakeDatabase] = {}
    monkeypatch.setattr(drivers, "for_database", lambda settings: made.setdefault(settings.name, FakeDatabase()))
    return made


@pytest.fixture
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The state of a process that has just started, outside httpd; put back as it was at the end."""
    monkeypatch.setattr(process, "_current", None)
    monkeypatch.delenv(process.CONFIG_VARIABLE, raising=False)
    monkeypatch.setattr(httpd, "this_process", lambda: None)
    monkeypatch.setattr(httpd, "define", lambda _: None)
    yield
    process.close()


# --- what threads do to a pool ---------------------------------------------------------------------------------------


def counts(pool: FakePool) -> dict[str, int]:
    return {"size": pool.size, "idle": pool.idle, "in_use": pool.in_use, "waiting": pool.waiting}


def all_idle(number: int) -> dict[str, int]:
    return {"size": number, "idle": number, "in_use": 0, "waiting": 0}


def use(pool: FakePool, number: int = 1) -> list[FakeConnection]:
    """Borrow so many connections at once, give them back, and return them; the last of them is lent next."""
    connections = [pool.getconn() for _ in range(number)]
    for connection in connections:
        pool.putconn(connection)
    return connections


def borrower(pool: FakePool) -> Borrower[FakeConnection]:
    """Borrow on a thread that lives on."""
    return Borrower(pool.getconn, pool.putconn)


def waiting_task(pool: FakePool, timeout: float | None = None) -> Task[FakeConnection]:
    """Return a thread that borrows and keeps a connection, once it waits in the queue."""
    return in_queue(pool, lambda: pool.getconn(timeout))


def in_queue(pool: FakePool, function: Callable[[], T]) -> Task[T]:
    """Return a thread that calls a function, once it waits in the queue."""
    task = Task(function)
    eventually(lambda: task.thread_id in [waiter.thread_id for waiter in pool._waiting.copy()])
    return task


@contextlib.contextmanager
def connecting(
    pool: FakePool, database: FakeDatabase, outcome: Callable[[], object] = lambda: None
) -> Iterator[Task[FakeConnection]]:
    """Have a thread stand still where it connects; at the end of the block it goes on, to the outcome."""
    gate = Gate()
    database.hooks["connect"] = then(gate, outcome)
    task = Task(pool.getconn)
    gate.wait_until_reached()
    try:
        yield task
    finally:
        gate.open()


@contextlib.contextmanager
def giving_back(
    pool: FakePool, database: FakeDatabase, stopped_at: str = "rollback"
) -> Iterator[Borrower[FakeConnection]]:
    """Have another thread stand still in the middle of giving back; by the end of the block it has done so."""
    other = borrower(pool)
    database.hooks[stopped_at] = gate = Gate()
    task = other.begin_to_give_back()
    gate.wait_until_reached()
    try:
        yield other
    finally:
        gate.open()
    task.result()
