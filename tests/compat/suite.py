"""What a suite is, and what its two runs say: each test passes on wsgipool's backend if it passes on the stock one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple


class Outcome(IntEnum):
    """What a test did; a greater one is worse."""

    PASSED = 0
    SKIPPED = 1
    FAILED = 2
    MISSING = 3


class Result(NamedTuple):
    """The outcome of one test, with its traceback or reason."""

    outcome: Outcome
    detail: str = ""


Results = Mapping[str, Result]
"""The results by the ids of the tests. An id must be the same on both backends."""


class BrokenRun(Exception):
    """A run that says nothing about the backend: it crashed, or has no tests."""


@dataclass(frozen=True)
class Suite:
    """A suite of another project at a pinned version."""

    name: str
    run: Callable[[bool, Path], Results]
    """Run all tests, on wsgipool's backend if the first argument is true, with a new folder for servers and files."""
    expected: Mapping[str, str] = field(default_factory=dict)
    """The reasons why tests that pass on the stock backend do not pass on wsgipool's, by their ids."""
    long: bool = False
    """Whether `make compat` leaves it out; it runs if it is named, or with `all`."""


def faults(stock: Results, ours: Results, expected: Mapping[str, str]) -> Iterator[str]:
    """Compare two runs, and say what is wrong with ours."""
    worse = {
        test
        for test in stock.keys() | ours.keys()
        if _outcome(ours, test, Outcome.MISSING) > _outcome(stock, test, Outcome.PASSED)
    }
    for test in sorted(worse - expected.keys()):
        before, after = _outcome(stock, test, Outcome.MISSING), _outcome(ours, test, Outcome.MISSING)
        detail = ours[test].detail.strip() if test in ours else ""
        yield f"{test}: {before.name} on the stock backend, {after.name} on ours\n{_indented(detail)}"
    for test in sorted(expected.keys() - worse):
        yield f"{test}: was expected to differ ({expected[test]}), and does not"


def _outcome(results: Results, test: str, default: Outcome) -> Outcome:
    return results[test].outcome if test in results else default


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines()[-25:])
