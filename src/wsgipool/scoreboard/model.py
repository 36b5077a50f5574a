"""What the scoreboard shows: the reports of single processes, and the report of the host.

All are frozen dataclasses of plain values, which `wsgipool.records` converts to JSON and back. Moments are seconds
since the epoch (`time.time()`), durations are seconds. Histograms map a bucket of `wsgipool.histogram` to its count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

Buckets = Mapping[int, int]


@dataclass(frozen=True)
class Totals:
    """The counts of one pool, or of several, since the start: numbers that never decrease."""

    checkouts: int = 0
    without_wait: int = 0
    """Checkouts that did not wait. Not quite `checkouts` minus `waits`: a wait is counted before its checkout."""
    waits: int = 0
    """Checkouts that had to wait and were served."""
    timeouts: int = 0
    """Checkouts that raised PoolTimeout."""
    refused: int = 0
    """Checkouts that raised TooManyRequests."""
    opened: int = 0
    connect_failures: int = 0
    reset_failures: int = 0
    """Returned connections that could not be cleaned and were closed."""
    wait_seconds: float = 0.0
    use_seconds: float = 0.0
    create_seconds: float = 0.0
    """Sums of the times in the three histograms."""
    closed: Mapping[str, int] = field(default_factory=dict)
    """Closed connections by reason; see `wsgipool.Stats.closed`."""
    wait_time: Buckets = field(default_factory=dict)
    """How long served checkouts waited; checkouts without a wait are not in it."""
    use_time: Buckets = field(default_factory=dict)
    """How long connections were checked out."""
    create_time: Buckets = field(default_factory=dict)
    """How long successful connects took."""

    def __add__(self, other: Totals) -> Totals:
        """Return the sums of both."""
        sums: dict[str, Any] = {
            each.name: _sum(getattr(self, each.name), getattr(other, each.name)) for each in fields(self)
        }
        return Totals(**sums)

    @property
    def leaked(self) -> int:
        """Connections that were not returned and had to be taken back."""
        return self.closed.get("leaked", 0)


@dataclass(frozen=True)
class Activity:
    """A thread that holds a connection, or waits for one."""

    thread: int
    """The thread's `threading.get_ident()`."""
    since: float
    place: str
    """File, line and function of the checkout: "/srv/shop/views.py:42 in orders"; "" if not known yet."""
    path: str
    """The path of the request's URL, without the query string; "" outside requests."""
    doing: str
    """What the thread does now, in words; "" if it has just begun."""


@dataclass(frozen=True)
class BudgetUse:
    """One pool's part in a budget, and the budget's state on this host."""

    server: str
    path: str
    """The file in which the permits are counted; it identifies the budget."""
    limit: int | None
    """Permits of this host; None until the server has been asked."""
    taken: int
    """Permits that all processes of the host hold."""
    held: int
    """Permits that this pool holds."""
    is_starved: bool
    """Whether this pool waits for a permit."""


@dataclass(frozen=True)
class PoolReport:
    """One pool of one process."""

    name: str
    address: str
    """The address of the database, without secrets."""
    min_size: int
    max_size: int
    idle: int
    in_use: int
    connecting: int
    waiting: int
    max_in_use: int
    """Largest number of connections in use at the same time since the pool was created."""
    max_waiting: int
    """Largest number of threads that waited at the same time."""
    totals: Totals
    holders: Sequence[Activity]
    """Those that have held a connection for longest, the longest first; at most `MAX_ACTIVITIES`."""
    waiters: Sequence[Activity]
    """Those that have waited for longest, in the order of their turns; at most `MAX_ACTIVITIES`."""
    failure: str
    """Why no connection can be opened, as far as known; "" if all is well."""
    budget: BudgetUse | None

    @property
    def size(self) -> int:
        """Connections that are open or being opened."""
        return self.idle + self.in_use + self.connecting


MAX_ACTIVITIES = 20
"""Maximum number of holders, and of waiters, that a pool reports."""


@dataclass(frozen=True)
class CacheReport:
    """One cache of one process, or all caches of one name."""

    name: str
    maxsize: int
    size: int
    hits: int
    misses: int
    waits: int
    evictions: int
    expirations: int
    invalidations: int
    errors: int

    def __add__(self, other: CacheReport) -> CacheReport:
        """Return the sums of both, under the name of this one."""
        own = {each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)[1:]}
        return CacheReport(self.name, **own)


@dataclass(frozen=True)
class ClosedPools:
    """The totals of pools that are closed, or whose processes have ended: all of one name and address."""

    name: str
    address: str
    totals: Totals


@dataclass(frozen=True)
class ProcessReport:
    """One interpreter of one process."""

    pid: int
    started: float
    """When the interpreter loaded wsgipool."""
    at: float
    """When the report was written."""
    mpm: str
    """"prefork", "worker" or "event"; "" outside httpd."""
    process_group: str
    """The daemon process group; "" when embedded in an Apache child, and outside httpd."""
    application_group: str
    """The sub-interpreter; "" for the main one."""
    generation: int | None
    """The number of httpd's restarts before this process began; None outside httpd."""
    threads: int
    """Requests that the process can serve at once."""
    max_processes: int
    """Processes of this kind that httpd may run at once."""
    is_stopping: bool
    """Whether the process ends when its requests are done."""
    settings: str
    """The file of the settings; "" if there is none."""
    pools: Sequence[PoolReport]
    closed_pools: Sequence[ClosedPools]
    """Pools that this process had before, under other settings."""
    caches: Sequence[CacheReport]

    def totals(self) -> list[tuple[tuple[str, str], Totals]]:
        """Return name, address and totals of the pools that this process has and had."""
        present = [((pool.name, pool.address), pool.totals) for pool in self.pools]
        return [*present, *(((pool.name, pool.address), pool.totals) for pool in self.closed_pools)]

    @property
    def place(self) -> str:
        """Where the interpreter runs, in a few words."""
        where = f"daemon {self.process_group}" if self.process_group else self.mpm or "outside httpd"
        return f"{where}, {self.application_group}" if self.application_group else where


@dataclass(frozen=True)
class Gauges:
    """The connections of one database on the host, at one moment, and two counters."""

    idle: int
    in_use: int
    connecting: int
    waiting: int
    checkouts: int
    timeouts: int
    wait_seconds: float


@dataclass(frozen=True)
class Sample:
    """The databases of the host at one moment, by name. Several databases of one name are added up."""

    at: float
    databases: Mapping[str, Gauges]


@dataclass(frozen=True)
class DatabaseReport:
    """One database over all processes of the host: the pools of one name and address."""

    name: str
    address: str
    pools: Sequence[tuple[ProcessReport, PoolReport]]
    """Of live processes, the pool with the most connections in use first."""
    totals: Totals
    """Those of live and of ended processes."""

    @property
    def max_size(self) -> int:
        """Maximum number of connections of all pools together."""
        return self._sum("max_size")

    @property
    def idle(self) -> int:
        """Idle connections of all pools."""
        return self._sum("idle")

    @property
    def in_use(self) -> int:
        """Connections in use of all pools."""
        return self._sum("in_use")

    @property
    def connecting(self) -> int:
        """Connections that are being opened."""
        return self._sum("connecting")

    @property
    def waiting(self) -> int:
        """Threads that wait, in all processes."""
        return self._sum("waiting")

    @property
    def budget(self) -> BudgetUse | None:
        """The budget of this database as the latest report has it, with the permits of all its pools as `held`."""
        reports = [(process.at, pool.budget) for process, pool in self.pools if pool.budget is not None]
        if not reports:
            return None
        latest = max(reports, key=lambda report: report[0])[1]
        held = sum(budget.held for _, budget in reports)
        is_starved = any(budget.is_starved for _, budget in reports)
        return BudgetUse(latest.server, latest.path, latest.limit, latest.taken, held, is_starved)

    def gauges(self) -> Gauges:
        """Return the numbers of a sample."""
        totals = self.totals
        return Gauges(
            self.idle,
            self.in_use,
            self.connecting,
            self.waiting,
            totals.checkouts,
            totals.timeouts,
            totals.wait_seconds,
        )

    def _sum(self, name: str) -> int:
        return sum(getattr(pool, name) for _, pool in self.pools)


@dataclass(frozen=True)
class HostReport:
    """The host, as far as its processes share one folder."""

    folder: str
    at: float
    processes: Sequence[ProcessReport]
    """The live ones, by pid and application group."""
    ended: Sequence[ClosedPools]
    ended_processes: int
    """How many processes have ended and are counted in `ended`."""
    caches: Sequence[CacheReport]
    """The caches of live and of ended processes, by name; `maxsize` and `size` of the live ones only."""
    history: Sequence[Sample]
    """The last ten minutes, the earliest first. There is no sample of times without any connection."""

    def databases(self) -> list[DatabaseReport]:
        """Return the databases by name."""
        pools: dict[tuple[str, str], list[tuple[ProcessReport, PoolReport]]] = {}
        totals = {(each.name, each.address): each.totals for each in self.ended}
        for process in self.processes:
            for pool in process.pools:
                pools.setdefault((pool.name, pool.address), []).append((process, pool))
            for key, each in process.totals():
                totals[key] = totals.get(key, Totals()) + each
        return [
            DatabaseReport(
                *key,
                sorted(pools.get(key, []), key=lambda each: (-each[1].waiting, -each[1].in_use, each[0].pid)),
                totals[key],
            )
            for key in sorted(totals)
        ]


def added(caches: Iterable[CacheReport]) -> list[CacheReport]:
    """Return the sums of the caches of each name, by name."""
    by_name: dict[str, CacheReport] = {}
    for cache in caches:
        by_name[cache.name] = by_name[cache.name] + cache if cache.name in by_name else cache
    return [by_name[name] for name in sorted(by_name)]


def _sum(one: Any, other: Any) -> Any:
    return dict(Counter(one) + Counter(other)) if isinstance(one, Mapping) else one + other
