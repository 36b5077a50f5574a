"""Reads the reports of all processes of the host, and adds those of ended processes up."""

from __future__ import annotations

from pathlib import Path

from wsgipool.locks.statistics import LocksReport
from wsgipool.scoreboard.model import HostReport


def host(folder: Path) -> tuple[HostReport, LocksReport]:
    """Return the report of the processes that share a folder, and the report of their locks.

    Publishes the numbers of this process first, if it shares the folder. Raises ConfigError if the folder cannot be
    read.
    """
    raise NotImplementedError
