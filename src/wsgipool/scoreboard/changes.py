"""What happened in the last minutes: the differences between the numbers of now and those of a sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wsgipool.scoreboard.model import DatabaseReport, HostReport, Totals


@dataclass(frozen=True)
class Change:
    """What happened to the databases of one name within some seconds."""

    seconds: float
    checkouts: int
    timeouts: int
    wait_seconds: float

    @property
    def checkouts_per_second(self) -> float:
        """Mean rate of the checkouts."""
        return self.checkouts / self.seconds


def changes(host: HostReport, databases: Iterable[DatabaseReport], seconds: float) -> Mapping[str, Change]:
    """Return what happened to the host's databases since the first sample that is at most `seconds` old, by name.

    A database without such a sample is left out.
    """
    totals: dict[str, Totals] = {}
    for database in databases:
        totals[database.name] = totals.get(database.name, Totals()) + database.totals
    found: dict[str, Change] = {}
    for sample in host.history:
        if host.at - seconds <= sample.at < host.at:
            for name in (sample.databases.keys() & totals.keys()) - found.keys():
                now, before = totals[name], sample.databases[name]
                # Only files that somebody removed can make it negative.
                found[name] = Change(
                    host.at - sample.at,
                    max(0, now.checkouts - before.checkouts),
                    max(0, now.timeouts - before.timeouts),
                    max(0.0, now.wait_seconds - before.wait_seconds),
                )
    return found
