"""The last ten minutes of one database, from the samples of the scoreboard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

from wsgipool.scoreboard.model import DatabaseReport, Gauges, HostReport

LENGTH = 600.0
"""Seconds of the history."""
_RATE_OVER = 5.0
"""Minimum seconds over which the current rate is taken, if there are samples so old."""
_MIN_INTERVAL = 2.0
"""Minimum seconds between two samples for a rate that means something."""


@dataclass(frozen=True)
class Point:
    """A value at a moment."""

    at: float
    value: float


@dataclass(frozen=True)
class History:
    """The samples of one database, the earliest first."""

    samples: Sequence[tuple[float, Gauges]]

    def values(self, of: Callable[[Gauges], int]) -> list[Point]:
        """Return a number of each sample."""
        return [Point(at, of(gauges)) for at, gauges in self.samples]

    def checkout_rates(self) -> list[Point]:
        """Return the checkouts a second between each two samples."""
        return [
            Point(later, max(0.0, (new.checkouts - old.checkouts) / (later - earlier)))
            for (earlier, old), (later, new) in pairwise(self.samples)
            if later - earlier >= _MIN_INTERVAL
        ]

    def checkouts_a_second(self) -> float | None:
        """Return the checkouts a second of the last seconds; None without two samples."""
        if len(self.samples) < 2:
            return None
        at, newest = self.samples[-1]
        before, older = next(
            ((earlier, gauges) for earlier, gauges in reversed(self.samples[:-1]) if at - earlier >= _RATE_OVER),
            self.samples[0],
        )
        return max(0.0, (newest.checkouts - older.checkouts) / (at - before)) if at > before else None

    def timeouts(self) -> int:
        """Return how many checkouts have timed out in the last ten minutes."""
        return max(0, self.samples[-1][1].timeouts - self.samples[0][1].timeouts) if self.samples else 0


def of_name(host: HostReport, databases: Iterable[DatabaseReport], name: str) -> History:
    """Return the history of those databases of the host that have a name, up to now."""
    samples = [
        (sample.at, sample.databases[name])
        for sample in host.history
        if name in sample.databases and host.at - LENGTH <= sample.at < host.at
    ]
    return History([*samples, (host.at, _now(databases, name))])


def _now(databases: Iterable[DatabaseReport], name: str) -> Gauges:
    """Return the gauges of a name as a sample has them: several databases of one name are added up."""
    found = [each.gauges() for each in databases if each.name == name]
    return Gauges(*(sum(getattr(gauges, each.name) for gauges in found) for each in fields(Gauges)))
