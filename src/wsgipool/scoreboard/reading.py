"""Reads what all processes of the host do: for the pages, the metrics and the command line."""

from __future__ import annotations

from pathlib import Path

from wsgipool.errors import ConfigError
from wsgipool.locks.statistics import LocksReport
from wsgipool.scoreboard import combining, publishing
from wsgipool.scoreboard.model import HostReport
from wsgipool.scoreboard.publishing import publish_in
from wsgipool.shared import published


def host(folder: Path) -> tuple[HostReport, LocksReport]:
    """Return the report of the processes that share a folder, and the report of their locks.

    This process, if it shares the folder, publishes first, so the numbers never run backwards. The others publish once
    a second; from now on for some seconds four times a second. Raises ConfigError if the folder cannot be used.
    """
    try:
        publish_in(folder)
        with publishing.lock:
            published.announce_reader(folder)
            return combining.report(folder)
    except OSError as error:
        if error.errno is None:
            raise  # from a signal handler
        raise ConfigError(f"{folder}, the folder of the scoreboard, cannot be used: {error.strerror}") from None
