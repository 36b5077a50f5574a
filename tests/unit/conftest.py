"""The fixtures of the unit tests, and helpers whose threads hold, wait for or return fake connections."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from unit.fakes import PATIENCE, FakeConnection, FakeDatabase, Gate, HolderThread, Task, eventually, then
from wsgipool import Pool, drivers, pools
from wsgipool.httpd import process as httpd

T = TypeVar("T")


class Clock:
    """The time of the pools under test, which passes only by `advance`. Sleeps take real time."""

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
    """Make a pool of the fake database, whose timeout is longer than the patience of a test."""

    def make(max_size: int = 1, timeout: float = 3 * PATIENCE, **settings: Any) -> FakePool:
        return Pool(database, name="orders", max_size=max_size, timeout=timeout, **settings)

    return make


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in [module for name, module in sys.modules.items() if name.startswith("wsgipool.pool.")]:
        if hasattr(module, "monotonic"):
            monkeypatch.setattr(module, "monotonic", clock)
    return clock


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="wsgipool")
    return caplog


@pytest.fixture
def databases(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeDatabase]:
    """The fake databases by their configured names, each created with its driver."""
    made: dict[str, FakeDatabase] = {}
    monkeypatch.setattr(drivers, "for_database", lambda settings: made.setdefault(settings.name, FakeDatabase()))
    return made


@pytest.fixture
def _on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put `wsgipool` on PATH, so that messages name the command without its folder."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.fixture
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The state of a new process outside httpd; restored at the end."""
    monkeypatch.setattr(pools, "_current", None)
    monkeypatch.delenv(pools.CONFIG_VARIABLE, raising=False)
    monkeypatch.setattr(httpd, "this_process", lambda: None)
    monkeypatch.setattr(httpd, "define", lambda _: None)
    yield
    pools.close()


# --- threads that use a pool -----------------------------------------------------------------------------------------


def counts(pool: FakePool) -> dict[str, int]:
    return {"size": pool.size, "idle": pool.idle, "in_use": pool.in_use, "waiting": pool.waiting}


def all_idle(number: int) -> dict[str, int]:
    return {"size": number, "idle": number, "in_use": 0, "waiting": 0}


def use(pool: FakePool, number: int = 1) -> list[FakeConnection]:
    """Check connections out at the same time, return them to the pool; the last one is checked out next."""
    connections = [pool.getconn() for _ in range(number)]
    for connection in connections:
        pool.putconn(connection)
    return connections


def another_holder(pool: FakePool) -> HolderThread[FakeConnection]:
    """Return another thread that holds a connection."""
    return HolderThread(pool.getconn, pool.putconn)


def waiting_task(pool: FakePool, timeout: float | None = None) -> Task[FakeConnection]:
    """Return a thread that checks a connection out, once it waits in the queue."""
    return in_queue(pool, lambda: pool.getconn(timeout))


def in_queue(pool: FakePool, function: Callable[[], T]) -> Task[T]:
    """Return a thread that calls a function, once it waits in the queue."""
    task = Task(function)
    eventually(lambda: task.thread_id in [waiter.thread.ident for waiter in pool._state.waiting.copy()])
    return task


@contextlib.contextmanager
def connecting(
    pool: FakePool, database: FakeDatabase, outcome: Callable[[], object] = lambda: None
) -> Iterator[Task[FakeConnection]]:
    """Have a thread stand still in a connect; at the end of the block it goes on, with the outcome."""
    gate = Gate()
    database.hooks["connect"] = then(gate, outcome)
    task = Task(pool.getconn)
    gate.wait_until_reached()
    try:
        yield task
    finally:
        gate.open()


@contextlib.contextmanager
def returning(
    pool: FakePool, database: FakeDatabase, stopped_at: str = "rollback"
) -> Iterator[HolderThread[FakeConnection]]:
    """Have another thread stand still in the middle of a return, which ends with the block."""
    other = another_holder(pool)
    database.hooks[stopped_at] = gate = Gate()
    task = other.begin_return()
    gate.wait_until_reached()
    try:
        yield other
    finally:
        gate.open()
    task.result()
