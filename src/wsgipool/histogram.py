"""Histograms of times, exact to 25 %: twelve buckets for each power of ten, from 1 µs to 1,000 s."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

_STEPS = (1.0, 1.25, 1.5, 1.8, 2.2, 2.7, 3.3, 4.0, 5.0, 6.0, 7.5, 9.0)
BOUNDS: tuple[float, ...] = (*(float(f"{step}e{power}") for power in range(-6, 3) for step in _STEPS), 1000.0)
"""The upper bounds of the buckets, in seconds. One more bucket follows, for longer times."""
BUCKETS = len(BOUNDS) + 1


class Histogram:
    """How many times fell into each bucket, and their sum. The caller prevents concurrent calls of `add`."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count a time; a negative one, of clocks that were read in another order, is 0."""
        seconds = max(0.0, seconds)
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    def as_mapping(self) -> dict[int, int]:
        """Return the count of each bucket that is not empty, by the bucket's index."""
        return {bucket: count for bucket, count in enumerate(self.counts) if count}


def percentile(counts: Mapping[int, int], share: float) -> float:
    """Return the seconds that this share of the times did not exceed: the upper bound of a bucket; 0 for no times.

    Times of the last bucket count as 1000 seconds.
    """
    rest = share * sum(counts.values())
    for bucket in sorted(counts):
        rest -= counts[bucket]
        if rest <= 0:
            return BOUNDS[min(bucket, len(BOUNDS) - 1)]
    return 0.0


def count_up_to(counts: Mapping[int, int], bound: float) -> int:
    """Return how many times were at most `bound` seconds, which is one of `BOUNDS`."""
    last = bisect_left(BOUNDS, bound)
    return sum(count for bucket, count in counts.items() if bucket <= last)
