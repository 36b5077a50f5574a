from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from unit.fakes import PATIENCE, FakeConnection, FakeDatabase
from wsgipool import Pool, drivers, process
from wsgipool.httpd import process as httpd


class Clock:
    """The time of the pools under test, which passes only when told. Who sleeps does so in real time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


MakePool = Callable[..., Pool[FakeConnection]]


@pytest.fixture
def database() -> FakeDatabase:
    return FakeDatabase()


@pytest.fixture
def make_pool(database: FakeDatabase) -> MakePool:
    """Makes a pool of the fake database, whose timeout does not come before the patience of a test is at its end."""

    def make(max_size: int = 1, timeout: float = 3 * PATIENCE, **settings: Any) -> Pool[FakeConnection]:
        return Pool(database, name="orders", max_size=max_size, timeout=timeout, **settings)

    return make


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("pool", "lending", "ledger", "connector", "loan"):
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
