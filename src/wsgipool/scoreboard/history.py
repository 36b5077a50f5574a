"""The last ten minutes of the host: a sample every ten seconds, written by whichever process comes first."""

from __future__ import annotations

import contextlib
import time
from dataclasses import fields
from pathlib import Path

from wsgipool import records
from wsgipool.errors import ConfigError
from wsgipool.scoreboard import combining
from wsgipool.scoreboard.model import Gauges, HostReport, Sample
from wsgipool.shared import published
from wsgipool.shared.published import Document

INTERVAL = 10.0
"""Seconds between two samples."""


def record(folder: Path) -> None:
    """Take a sample of the host if one is due. Then the numbers of ended processes are added up, too."""
    if published.seconds_since_record(folder) < INTERVAL:
        return

    def extend(document: Document) -> Document:
        samples = [*combining.samples(document), sample]
        now = time.time()
        return {"samples": records.plain([each for each in samples if now - combining.PERIOD <= each.at <= now])}

    with contextlib.suppress(OSError, ConfigError):
        combining.add_up(folder)
        sample = _sample(combining.report(folder)[0])
        published.record(folder, INTERVAL, extend)


def _sample(host: HostReport) -> Sample:
    databases: dict[str, Gauges] = {}
    for database in host.databases():
        gauges = database.gauges()
        known = databases.get(database.name)
        databases[database.name] = gauges if known is None else _sum(known, gauges)
    return Sample(host.at, databases)


def _sum(one: Gauges, other: Gauges) -> Gauges:
    return Gauges(*(getattr(one, each.name) + getattr(other, each.name) for each in fields(Gauges)))
