"""Fixtures: budgets in one folder, and processes that share it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unit.budgets import SERVER, Clock, MakeBudget, Process
from wsgipool.budget.budget import Budget, BudgetLimit


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def make_budget(folder: Path) -> MakeBudget:
    """Make one pool's part in the budget. Each has its own file description, like a process."""
    return lambda connections: Budget(folder, SERVER, BudgetLimit(connections))


@pytest.fixture
def clock() -> Clock:
    return Clock(time.monotonic_ns())


@pytest.fixture
def make_timed(folder: Path, clock: Clock) -> MakeBudget:
    """Make a budget as `make_budget` does, with the clock of the test."""
    return lambda connections: Budget(folder, SERVER, BudgetLimit(connections), clock=clock)


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[[int], Process]]:
    started: list[Process] = []

    def start(connections: int) -> Process:
        started.append(Process(folder, connections))
        return started[-1]

    yield start
    for process in started:
        process.kill()
