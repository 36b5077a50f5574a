"""Rounds: all contenders briefly, in random order, so that they are compared under the same conditions."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.progress import Progress

Samples = dict[str, list[float]]
"""The measurements of each contender, one number a round."""


@dataclass(frozen=True)
class Spread:
    """The median of some samples with their quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        if len(samples) < 2:
            return cls(samples[0], samples[0], samples[0])
        return cls(*statistics.quantiles(samples, n=4, method="inclusive"))


class Run:
    """One run of the benchmarks: the number of rounds, and the progress bar."""

    def __init__(self, progress: Progress, rounds: int | None, quick: bool) -> None:
        self._progress = progress
        self._rounds = rounds
        self._quick = quick

    def rounds(self, title: str, usual: int) -> Iterator[int]:
        """Count the rounds of one measurement: `usual` ones, a tenth with --quick, or the number of --rounds."""
        count = self._rounds or (max(3, usual // 10) if self._quick else usual)
        yield from self._progress.track(range(count), description=title)

    def each(self, title: str, names: Sequence[str]) -> Iterator[str]:
        """Iterate over the names with a progress bar."""
        yield from self._progress.track(names, description=title)

    def interleave(self, title: str, usual: int, contenders: Mapping[str, Callable[[], float]]) -> Samples:
        """Measure every contender once a round, in random order."""
        samples: Samples = {name: [] for name in contenders}
        for _ in self.rounds(title, usual):
            for name in shuffled(contenders):
                samples[name].append(contenders[name]())
        return samples


def shuffled(names: Mapping[str, object]) -> list[str]:
    return random.sample(list(names), len(names))


def ratios(samples: Samples, base: str) -> Samples:
    """Divide each number by that of the contender `base` in the same round."""
    return {
        name: [number / reference for number, reference in zip(numbers, samples[base], strict=True)]
        for name, numbers in samples.items()
    }
