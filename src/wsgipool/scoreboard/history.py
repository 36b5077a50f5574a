"""The last ten minutes of the host: a sample every ten seconds, written by whichever process comes first."""

from __future__ import annotations

import contextlib
from dataclasses import fields
from pathlib import Path

from wsgipool import records
from wsgipool.errors import ConfigError
from wsgipool.scoreboard import combining
from wsgipool.scoreboard.model import Gauges, HostReport, Sample
from wsgipool.shared import published

INTERVAL = 10.0
"""Seconds between two samples."""


def record(folder: Path) -> None:
    """Take a sample of the host if one is due. Then the numbers of ended processes are added up, too."""
    with contextlib.suppress(OSError, ConfigError):
        # The claim keeps other processes from doing the same work.
        if published.seconds_since_record(folder) >= INTERVAL and published.claim_record(folder, INTERVAL):
            combining.add_up(folder)
            host, _ = combining.report(folder)
            samples = [*host.history, _sample(host)]
            earliest = host.at - combining.PERIOD
            kept = [sample for sample in samples if earliest <= sample.at <= host.at]
            published.record(folder, {"samples": records.plain(kept)})


def _sample(host: HostReport) -> Sample:
    databases: dict[str, Gauges] = {}
    for database in host.databases():
        if not database.pools:
            continue  # only ended processes had it
        gauges = database.gauges()
        known = databases.get(database.name)
        databases[database.name] = gauges if known is None else _sum(known, gauges)
    return Sample(host.at, databases)


def _sum(one: Gauges, other: Gauges) -> Gauges:
    return Gauges(*(getattr(one, each.name) + getattr(other, each.name) for each in fields(Gauges)))
