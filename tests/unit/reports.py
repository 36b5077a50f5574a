"""Reports of a host for tests: a shop whose processes have four threads each, at a moment of the test's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from wsgipool.scoreboard.model import (
    Activity,
    BudgetUse,
    ClosedPools,
    Gauges,
    HostReport,
    PoolReport,
    ProcessReport,
    Sample,
    Totals,
)

NOW = 1_800_000_000.0
"""The moment of all reports."""
ADDRESS = "mysql://shop@db.example/orders"
BUDGET = "/run/wsgipool/budget-db"


def holder(path: str = "/orders", seconds: float = 1.0, **changes: Any) -> Activity:
    """Return a thread that has held or awaited a connection for some seconds."""
    place = changes.get("place", "/srv/shop/views.py:42 in orders")
    values = {"thread": 1, "place": place, "doing": f"waits for the database, at {place}"} | changes
    return Activity(since=NOW - seconds, path=path, **values)


def budget(limit: int | None = 15, taken: int = 15, held: int = 5, is_starved: bool = False) -> BudgetUse:
    return BudgetUse("db.example:3306", BUDGET, limit, taken, held, is_starved)


def pool(name: str = "orders", **changes: Any) -> PoolReport:
    """Return a pool that is at rest, with changes."""
    values: dict[str, Any] = {
        "address": ADDRESS,
        "min_size": 0,
        "max_size": 4,
        "idle": 2,
        "in_use": 0,
        "connecting": 0,
        "waiting": 0,
        "max_in_use": 2,
        "max_waiting": 0,
        "totals": Totals(checkouts=1000, opened=2, use_seconds=5.0, create_seconds=0.01),
        "holders": [],
        "waiters": [],
        "failure": "",
        "budget": None,
    }
    return PoolReport(name, **values | changes)


def full_pool(name: str = "orders", waiting: int = 3, **changes: Any) -> PoolReport:
    """Return a pool with all connections in use, most of them by one page, and with waiting threads."""
    values: dict[str, Any] = {
        "idle": 0,
        "in_use": 4,
        "waiting": waiting,
        "holders": [
            holder("/report", 30.0, place="/srv/shop/views.py:77 in report"),
            holder("/report", 9.0),
            holder("/report", 8.0),
            holder("/orders", 0.5),
        ],
        "waiters": [holder("/orders", 9.0 - turn, doing="") for turn in range(waiting)],
    }
    return pool(name, **values | changes)


def process(pid: int = 100, pools: Sequence[PoolReport] | None = None, **changes: Any) -> ProcessReport:
    """Return a daemon process of four threads, with changes."""
    values: dict[str, Any] = {
        "started": NOW - 600.0,
        "at": NOW,
        "mpm": "event",
        "process_group": "shop",
        "application_group": "",
        "generation": 0,
        "threads": 4,
        "max_processes": 2,
        "is_stopping": False,
        "settings": "/srv/shop/wsgipool.toml",
        "closed_pools": [],
        "caches": [],
    }
    return ProcessReport(pid, pools=[pool()] if pools is None else pools, **values | changes)


def sample(seconds_ago: float, **databases: Mapping[str, Any]) -> Sample:
    """Return a sample of databases, with the gauges that are not 0."""
    nothing = Gauges(0, 0, 0, 0, 0, 0, 0.0)
    return Sample(NOW - seconds_ago, {name: replace(nothing, **given) for name, given in databases.items()})


def host(*processes: ProcessReport, history: Sequence[Sample] = (), ended: Sequence[ClosedPools] = ()) -> HostReport:
    return HostReport("/run/wsgipool-www-data", NOW, processes, ended, len(ended), [], history)
