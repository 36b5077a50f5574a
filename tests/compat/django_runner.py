"""A test runner for Django's suite that writes the outcome of each test to the file COMPAT_REPORT."""

from __future__ import annotations

import json
import os
import unittest
from pathlib import Path
from typing import Any

from django.test.runner import DiscoverRunner


class Recorder(unittest.TextTestResult):
    """The results of all processes: Django hands those of its workers on to this object."""

    outcomes: dict[str, tuple[str, str]]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.outcomes = {}

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().addSuccess(test)
        self.outcomes.setdefault(test.id(), ("PASSED", ""))

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        super().addSkip(test, reason)
        self.outcomes.setdefault(test.id(), ("SKIPPED", reason))

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addExpectedFailure(test, err)
        self.outcomes.setdefault(test.id(), ("SKIPPED", "an expected failure"))

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().addUnexpectedSuccess(test)
        self.outcomes[test.id()] = ("FAILED", "an unexpected success")

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addError(test, err)
        self.outcomes[test.id()] = ("FAILED", self.errors[-1][1])

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addFailure(test, err)
        self.outcomes[test.id()] = ("FAILED", self.failures[-1][1])

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.outcomes[test.id()] = ("FAILED", f"{subtest}\n{err[1]!r}")


class Runner(DiscoverRunner):  # type: ignore[misc]  # Django has no annotations
    """Django's runner with a `Recorder`."""

    def get_resultclass(self) -> type[unittest.TestResult]:
        return Recorder

    def suite_result(self, suite: unittest.TestSuite, result: Recorder, **options: Any) -> int:
        Path(os.environ["COMPAT_REPORT"]).write_text(json.dumps(result.outcomes))
        failures: int = super().suite_result(suite, result, **options)
        return failures
