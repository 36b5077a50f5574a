"""Reports of hosts, as the scoreboard gives them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from wsgipool.histogram import Histogram
from wsgipool.locks.statistics import LockRow, LocksReport
from wsgipool.scoreboard.model import BudgetUse, CacheReport, ClosedPools, HostReport, PoolReport, ProcessReport, Totals

ADDRESS = "mysql://shop@db.example.com/orders"
SERVER = "mysql://db.example.com:3306"

LOCKS = LocksReport([LockRow("stock", "host", "", 60, 20, 1, 0.001, 0.002, 0.003, 0.004, "")])
CACHE = CacheReport("prices", 100, 7, hits=50, misses=9, waits=2, evictions=1, expirations=3, invalidations=4, errors=5)


def buckets(*seconds: float) -> dict[int, int]:
    """Return the histogram of some times."""
    histogram = Histogram()
    for each in seconds:
        histogram.add(each)
    return histogram.as_mapping()


TOTALS = Totals(
    checkouts=10,
    without_wait=8,
    waits=2,
    timeouts=3,
    refused=4,
    opened=5,
    connect_failures=6,
    reset_failures=7,
    wait_seconds=0.26,
    use_seconds=1.0,
    create_seconds=0.02,
    closed={"idle": 2, "leaked": 1},
    wait_time=buckets(0.06, 0.2),
    use_time=buckets(*[0.1] * 10),
    create_time=buckets(*[0.004] * 5),
)
POOL = PoolReport(
    "orders", ADDRESS, 1, 8, 2, 3, 1, 4, 3, 4, TOTALS, [], [], "", BudgetUse(SERVER, "/run/budget", 15, 14, 6, False)
)
PROCESS = ProcessReport(100, 1.0, 2.0, "event", "shop", "", 0, 8, 2, False, "", [POOL], [], [CACHE])


def host(*processes: ProcessReport, **changes: Any) -> HostReport:
    """Return the report of a host."""
    return replace(HostReport("/run/wsgipool", 3.0, processes, [], 0, [], []), **changes)


def two_processes() -> HostReport:
    """Return the report of a host on which two processes run, and three have ended."""
    pool = replace(POOL, failure="no route to host", budget=BudgetUse(SERVER, "/run/budget", 15, 15, 8, True))
    later = replace(PROCESS, pid=101, at=2.5, is_stopping=True, pools=[pool])
    ended = ClosedPools("orders", ADDRESS, replace(TOTALS, checkouts=1000, without_wait=1000, waits=0, wait_time={}))
    return host(PROCESS, later, ended=[ended], ended_processes=3, caches=[CACHE])
