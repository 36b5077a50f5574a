"""The document of a host: what the status page answers to ?json, and what `wsgipool status --json` prints."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from wsgipool import records
from wsgipool.locks.statistics import LocksReport
from wsgipool.scoreboard.findings import findings
from wsgipool.scoreboard.model import DatabaseReport, HostReport


def document(host: HostReport, locks: LocksReport) -> dict[str, Any]:
    """Return plain values of JSON: the report, its findings, the sums of its databases, and its locks."""
    return {
        **records.plain(host),
        "databases": [_database(database) for database in host.databases()],
        "findings": records.plain(findings(host)),
        "locks": [{**asdict(lock), "share_contended": lock.share_contended} for lock in locks.locks],
    }


def _database(database: DatabaseReport) -> dict[str, Any]:
    """Return the numbers of a database. Its pools are in the reports of the processes."""
    return {
        "name": database.name,
        "address": database.address,
        "max_size": database.max_size,
        "idle": database.idle,
        "in_use": database.in_use,
        "connecting": database.connecting,
        "waiting": database.waiting,
        "budget": records.plain(database.budget),
        "totals": records.plain(database.totals),
    }
