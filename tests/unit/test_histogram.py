"""Histograms of times."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from wsgipool.histogram import BOUNDS, Histogram, count_up_to, percentile


def test_neighbouring_bounds_differ_by_a_quarter_at_most() -> None:
    assert all(1 < above / below <= 1.25 + 1e-9 for below, above in itertools.pairwise(BOUNDS))
    assert (BOUNDS[0], BOUNDS[-1]) == (1e-6, 1000.0)


def test_a_percentile_is_at_most_a_quarter_too_large() -> None:
    times = [10 ** random.uniform(-6, 3) for _ in range(1000)]
    histogram = Histogram()
    for seconds in times:
        histogram.add(seconds)

    for share in (0.01, 0.5, 0.99, 1.0):
        true = sorted(times)[math.ceil(share * len(times)) - 1]
        assert true <= percentile(histogram.as_mapping(), share) <= true * 1.26
    assert histogram.seconds == pytest.approx(sum(times))


def test_times_outside_the_buckets_are_counted() -> None:
    histogram = Histogram()
    for seconds in (-1.0, 0.0, 1e9):
        histogram.add(seconds)

    assert sum(histogram.counts) == 3
    assert histogram.seconds == 1e9  # the sum never decreases
    assert percentile(histogram.as_mapping(), 0.5) == 1e-6
    assert percentile(histogram.as_mapping(), 1.0) == 1000.0


def test_no_times_have_the_percentile_0() -> None:
    assert percentile({}, 0.99) == 0.0


@pytest.mark.parametrize("bound", [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0])
def test_the_count_up_to_a_bound_is_exact(bound: float) -> None:
    histogram = Histogram()
    for seconds in (bound * 0.99, bound, bound * 1.01):
        histogram.add(seconds)

    assert bound in BOUNDS
    assert count_up_to(histogram.as_mapping(), bound) == 2
