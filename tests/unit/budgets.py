"""Helpers for the tests of the budget: a clock, a process with a budget, and functions that take permits."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from unit.fakes import eventually
from wsgipool.budget.budget import Budget
from wsgipool.budget.file_permit import TURN
from wsgipool.budget.permits import Permit

SERVER = "mysql://db.example.com:3306"
A_TURN = TURN * 1000
"""Milliseconds."""
MakeBudget = Callable[[int], Budget]


class Clock:
    """Nanoseconds of a CLOCK_MONOTONIC that passes only by `pass_ms`."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def pass_ms(self, milliseconds: float) -> None:
        self.now += int(milliseconds * 1e6)

    @property
    def seconds(self) -> float:
        """The same time as time.monotonic() would return it."""
        return self.now / 1e9


class Process:
    """A Python process with a `budget`, which runs statements one after the other."""

    def __init__(self, folder: Path, connections: int) -> None:
        program = (
            f"import os, sys, subprocess, time; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
            "from pathlib import Path\n"
            "from wsgipool.budget.budget import Budget, BudgetLimit\n"
            f"budget = Budget(Path({str(folder)!r}), {SERVER!r}, BudgetLimit({connections}))\n"
            "permits = []\n"
            "for line in sys.stdin:\n"
            "    exec(line)\n"
            "    print('done', flush=True)\n"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, statement: str) -> list[str]:
        """Run a statement, and return its output as lines."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{statement}\n")
        self._process.stdin.flush()
        lines: list[str] = []
        while (line := self._process.stdout.readline().strip()) != "done":
            assert line, "the process has ended"
            lines.append(line)
        return lines

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def take_one(budget: Budget) -> Permit:
    permit = budget.take(1)
    assert permit is not None
    return permit


def take_all(budget: Budget, number: int) -> list[Permit]:
    """Wait until this number of permits has been taken, and return them."""
    permits: list[Permit] = []

    def has_all() -> bool:
        permit = budget.take(1)
        if permit is not None:
            permits.append(permit)
        return len(permits) == number

    eventually(has_all)
    return permits
