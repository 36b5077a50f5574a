"""The comparison of two runs of a suite of others."""

from __future__ import annotations

import pytest

from compat.suite import Outcome, Result, Results, faults


def _results(**outcomes: Outcome) -> Results:
    return {test: Result(outcome, "a traceback") for test, outcome in outcomes.items()}


@pytest.mark.parametrize("outcome", [Outcome.SKIPPED, Outcome.FAILED])
def test_a_test_that_passes_on_the_stock_backend_only_is_a_fault(outcome: Outcome) -> None:
    (fault,) = faults(_results(a=Outcome.PASSED), _results(a=outcome), {})
    assert fault.startswith(f"a: PASSED on the stock backend, {outcome.name} on ours")
    assert "a traceback" in fault


def test_a_test_that_is_missing_on_our_backend_is_a_fault() -> None:
    (fault,) = faults(_results(a=Outcome.PASSED, b=Outcome.PASSED), _results(b=Outcome.PASSED), {})
    assert fault.startswith("a: PASSED on the stock backend, MISSING on ours")


def test_a_failure_of_a_test_that_the_stock_run_does_not_have_is_a_fault() -> None:
    (fault,) = faults(_results(a=Outcome.PASSED), _results(a=Outcome.PASSED, tear_down=Outcome.FAILED), {})
    assert fault.startswith("tear_down: MISSING on the stock backend, FAILED on ours")


def test_a_test_that_fails_on_both_backends_or_passes_on_ours_only_is_no_fault() -> None:
    stock = _results(a=Outcome.FAILED, b=Outcome.FAILED, c=Outcome.SKIPPED)
    assert not [*faults(stock, _results(a=Outcome.FAILED, b=Outcome.PASSED, c=Outcome.PASSED), {})]


def test_an_expected_difference_is_no_fault_until_it_does_not_occur() -> None:
    stock, expected = _results(a=Outcome.PASSED), {"a": "the reason"}
    assert not [*faults(stock, _results(a=Outcome.FAILED), expected)]
    assert [*faults(stock, stock, expected)] == ["a: was expected to differ (the reason), and does not"]
