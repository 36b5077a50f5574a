"""Numbers, times and places in words, for the status page."""

from __future__ import annotations

import time
from collections.abc import Mapping

from wsgipool.histogram import percentile
from wsgipool.locks.statistics import seconds
from wsgipool.scoreboard.model import ProcessReport

NOTHING = "\N{EN DASH}"
"""In place of a number that does not exist yet."""


def number(value: int) -> str:
    """Return a number with its thousands apart: "12,345"."""
    return f"{value:,}"


def rate(value: float | None) -> str:
    """Return a number that may have a fraction: "120", "3.4"."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 9.95 or value == int(value) else f"{value:.1f}"


def percentile_in_words(counts: Mapping[int, int], share: float) -> str:
    """Return a percentile of a histogram: "12 ms"."""
    return seconds(percentile(counts, share)) if counts else NOTHING


def clock(moment: float) -> str:
    """Return the local time of day: "14:03:20"."""
    return time.strftime("%H:%M:%S", time.localtime(moment))


def timestamp(moment: float) -> str:
    """Return a moment in UTC: "2026-12-01T14:03:20Z"."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def process(report: ProcessReport) -> str:
    """Return a process and where it runs: "4021, daemon shop"."""
    return f"{report.pid}, {report.place}"
