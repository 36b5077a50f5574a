"""The metrics of a host: their names, and their values in a report of the scoreboard.

The names are those of OpenTelemetry's semantic conventions for connection pools of database clients. Metrics that these
conventions do not have begin with `wsgipool.`. In Prometheus each has the name that an OpenTelemetry collector would
write, so one dashboard serves both ways.

No label has a value for each process: a host with 64 processes has as many series as one with two.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, get_args

from wsgipool.histogram import count_up_to
from wsgipool.locks.statistics import LockRow, LocksReport
from wsgipool.pool._slot import CloseReason
from wsgipool.scoreboard.model import Buckets, BudgetUse, CacheReport, DatabaseReport, HostReport, ProcessReport, Totals

T = TypeVar("T")

Kind = Literal["gauge", "counter", "histogram"]

BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
"""The buckets that the conventions advise, in seconds. All are among `histogram.BOUNDS`, so their counts are exact."""


@dataclass(frozen=True)
class Metric:
    """A metric, without its values."""

    name: str
    kind: Kind
    unit: str
    """In UCUM: "s", or in braces what is counted."""
    text: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Distribution:
    """The value of a histogram."""

    counts: Sequence[int]
    """How many times were at most as long as each of `BOUNDS`."""
    count: int
    seconds: float


Value = float | Distribution
Values = Mapping[tuple[str, ...], Value]
"""The values of a metric, by those of its labels."""


@dataclass(frozen=True)
class _Measure(Generic[T]):
    """A metric of a kind of object, and how its values are read from one."""

    metric: Metric
    read: Callable[[T], Values]
    """The values by the last labels of the metric: the first ones identify the object."""


def families(host: HostReport, locks: LocksReport) -> list[tuple[Metric, Values]]:
    """Return all metrics with their values on a host."""
    return [
        *_families(_OF_DATABASES, _databases(host)),
        *_families(_OF_BUDGETS, {(server,): uses for server, uses in _budgets(host).items()}),
        *_families(_OF_LOCKS, {(each.name, each.scope, each.database): each for each in locks.locks}),
        *_families(_OF_CACHES, {(each.name,): each for each in host.caches}),
        *_families(_OF_HOSTS, {(): host}),
    ]


def every_metric() -> list[Metric]:
    """Return all metrics, in the order of `families`."""
    return [each.metric for group in (_OF_DATABASES, _OF_BUDGETS, _OF_LOCKS, _OF_CACHES, _OF_HOSTS) for each in group]


def metrics_of_pools() -> list[Metric]:
    """Return the metrics that single processes have, too."""
    return [measure.metric for measure in _OF_DATABASES]


def values_in_process(metric: Metric, process: ProcessReport) -> Values:
    """Return the values of one of these metrics in one process."""
    measures = [measure for measure in _OF_DATABASES if measure.metric == metric]
    host = HostReport("", process.at, [process], [], 0, [], [])
    return _families(measures, _databases(host))[0][1]


def prometheus_name(metric: Metric) -> str:
    """Return the name of a metric in Prometheus, with the unit of times, without the suffix `_total` of counters."""
    return prometheus_label(metric.name) + ("_seconds" if metric.unit == "s" else "")


def prometheus_label(name: str) -> str:
    """Return the name of a label in Prometheus."""
    return name.replace(".", "_")


def _families(measures: Iterable[_Measure[T]], objects: Mapping[tuple[str, ...], T]) -> list[tuple[Metric, Values]]:
    return [
        (
            measure.metric,
            {(*labels, *more): value for labels, one in objects.items() for more, value in measure.read(one).items()},
        )
        for measure in measures
    ]


def _one(value: Value | None) -> Values:
    """Return the values of a metric that has at most one for each object."""
    return {} if value is None else {(): value}


# --- Databases -------------------------------------------------------------------------------------------------------


def _databases(host: HostReport) -> Mapping[tuple[str, ...], DatabaseReport]:
    return {(database.name, database.address): database for database in host.databases()}


def _gauge(name: str, unit: str, text: str, read: Callable[[DatabaseReport], int | None]) -> _Measure[DatabaseReport]:
    return _Measure(Metric(name, "gauge", unit, text, _POOL), lambda database: _one(read(database)))


def _counter(name: str, unit: str, text: str, read: Callable[[Totals], int]) -> _Measure[DatabaseReport]:
    return _Measure(Metric(name, "counter", unit, text, _POOL), lambda database: _one(read(database.totals)))


def _times(name: str, text: str, read: Callable[[Totals], Distribution]) -> _Measure[DatabaseReport]:
    return _Measure(Metric(name, "histogram", "s", text, _POOL), lambda database: _one(read(database.totals)))


def _distribution(buckets: Buckets, seconds: float, shortest: int = 0) -> Distribution:
    """Return the distribution of the times in buckets, and of a number of times below all bounds."""
    return Distribution(
        [shortest + count_up_to(buckets, bound) for bound in BOUNDS], shortest + sum(buckets.values()), seconds
    )


def _wait_time(totals: Totals) -> Distribution:
    return _distribution(totals.wait_time, totals.wait_seconds, totals.without_wait)


def _states(database: DatabaseReport) -> Values:
    return {("idle",): database.idle, ("used",): database.in_use, ("connecting",): database.connecting}


def _closed(database: DatabaseReport) -> Values:
    # All reasons: a counter that appears with its first event would hide that event from rate().
    return {(reason,): database.totals.closed.get(reason, 0) for reason in get_args(CloseReason)}


_POOL = ("db.client.connection.pool.name", "address")

_OF_DATABASES: Sequence[_Measure[DatabaseReport]] = (
    _Measure(
        Metric(
            "db.client.connection.count", "gauge", "{connection}",
            "Connections by state: idle, used or connecting.", (*_POOL, "db.client.connection.state"),
        ),
        _states,
    ),
    _gauge(
        "db.client.connection.max", "{connection}",
        "Maximum number of connections of all pools together.", lambda database: database.max_size,
    ),
    _gauge(
        "db.client.connection.pending_requests", "{request}",
        "Threads that wait for a connection.", lambda database: database.waiting,
    ),
    _counter(
        "db.client.connection.timeouts", "{timeout}",
        "Checkouts that raised PoolTimeout.", lambda totals: totals.timeouts,
    ),
    _times("db.client.connection.wait_time", "How long served checkouts waited.", _wait_time),
    _times(
        "db.client.connection.use_time", "How long connections were checked out.",
        lambda totals: _distribution(totals.use_time, totals.use_seconds),
    ),
    _times(
        "db.client.connection.create_time", "How long successful connects took.",
        lambda totals: _distribution(totals.create_time, totals.create_seconds),
    ),
    _counter("wsgipool.checkouts", "{checkout}", "Served checkouts.", lambda totals: totals.checkouts),
    _counter("wsgipool.waits", "{checkout}", "Served checkouts that had to wait.", lambda totals: totals.waits),
    _counter(
        "wsgipool.refused", "{checkout}", "Checkouts that raised TooManyRequests.", lambda totals: totals.refused
    ),
    _counter("wsgipool.connections.opened", "{connection}", "Opened connections.", lambda totals: totals.opened),
    _Measure(
        Metric(
            "wsgipool.connections.closed", "counter", "{connection}",
            "Closed connections by reason.", (*_POOL, "reason"),
        ),
        _closed,
    ),
    _counter("wsgipool.connects.failed", "{connect}", "Failed connects.", lambda totals: totals.connect_failures),
    _counter(
        "wsgipool.resets.failed", "{connection}",
        "Returned connections that could not be cleaned and were closed.", lambda totals: totals.reset_failures,
    ),
    _gauge("wsgipool.pools", "{pool}", "Pools of live processes.", lambda database: len(database.pools)),
    _gauge(
        "wsgipool.pools.failing", "{pool}",
        "Pools that can open no connection at the moment.",
        lambda database: sum(pool.failure != "" for _, pool in database.pools),
    ),
    _gauge(
        "wsgipool.pools.starved", "{pool}",
        "Pools that wait for a permit of the budget.",
        lambda database: sum(pool.budget is not None and pool.budget.is_starved for _, pool in database.pools),
    ),
    _gauge(
        "wsgipool.permits.held", "{permit}",
        "Permits of the budget that all pools together hold.",
        lambda database: database.budget.held if database.budget else None,
    ),
)  # fmt: skip


# --- Budgets ---------------------------------------------------------------------------------------------------------


def _budgets(host: HostReport) -> Mapping[str, Sequence[BudgetUse]]:
    """Return the latest state of each budget by server: sites that share no settings may have several for one."""
    latest: dict[tuple[str, str], BudgetUse] = {}
    for process in sorted(host.processes, key=lambda process: process.at):
        for pool in process.pools:
            if pool.budget is not None:
                latest[pool.budget.server, pool.budget.path] = pool.budget
    budgets: dict[str, list[BudgetUse]] = defaultdict(list)
    for (server, _), budget in latest.items():
        budgets[server].append(budget)
    return budgets


def _limit(budgets: Sequence[BudgetUse]) -> Values:
    limits = [budget.limit for budget in budgets if budget.limit is not None]
    return _one(sum(limits) if len(limits) == len(budgets) else None)


_OF_BUDGETS: Sequence[_Measure[Sequence[BudgetUse]]] = (
    _Measure(
        Metric(
            "wsgipool.budget.limit", "gauge", "{permit}",
            "Permits of this host for a server; missing until the server has been asked.", ("server",),
        ),
        _limit,
    ),
    _Measure(
        Metric(
            "wsgipool.budget.taken", "gauge", "{permit}", "Permits that all processes of this host hold.", ("server",)
        ),
        lambda budgets: _one(sum(budget.taken for budget in budgets)),
    ),
)  # fmt: skip


# --- Locks, caches and processes -------------------------------------------------------------------------------------


def _of_locks(name: str, unit: str, text: str, read: Callable[[LockRow], int]) -> _Measure[LockRow]:
    labels = ("lock", "scope", "database")
    return _Measure(Metric(f"wsgipool.locks.{name}", "counter", unit, text, labels), lambda lock: _one(read(lock)))


def _of_caches(
    name: str, unit: str, text: str, read: Callable[[CacheReport], int], kind: Kind = "counter"
) -> _Measure[CacheReport]:
    return _Measure(Metric(f"wsgipool.caches.{name}", kind, unit, text, ("cache",)), lambda cache: _one(read(cache)))


def _processes(host: HostReport) -> Values:
    return Counter((process.place, "stopping" if process.is_stopping else "running") for process in host.processes)


_OF_LOCKS: Sequence[_Measure[LockRow]] = (
    _of_locks("turns", "{turn}", "How often a lock was taken.", lambda lock: lock.turns),
    _of_locks("contended", "{turn}", "Turns that had to wait.", lambda lock: lock.contended),
    _of_locks("timeouts", "{attempt}", "Attempts that ended in LockTimeout.", lambda lock: lock.timeouts),
)

_OF_CACHES: Sequence[_Measure[CacheReport]] = (
    _of_caches("size", "{value}", "Values in the caches of all processes.", lambda cache: cache.size, "gauge"),
    _of_caches("maxsize", "{value}", "Maximum number of values.", lambda cache: cache.maxsize, "gauge"),
    _of_caches("hits", "{access}", "Accesses that found a value.", lambda cache: cache.hits),
    _of_caches("misses", "{access}", "Accesses that found no value.", lambda cache: cache.misses),
    _of_caches("waits", "{access}", "Misses that waited for another thread.", lambda cache: cache.waits),
    _of_caches("evictions", "{value}", "Values dropped to make room.", lambda cache: cache.evictions),
    _of_caches("expirations", "{value}", "Values dropped because of their age.", lambda cache: cache.expirations),
    _of_caches("invalidations", "{value}", "Values dropped by an invalidation.", lambda cache: cache.invalidations),
    _of_caches("errors", "{creation}", "Creations that raised an exception.", lambda cache: cache.errors),
)

_OF_HOSTS: Sequence[_Measure[HostReport]] = (
    _Measure(
        Metric(
            "wsgipool.processes", "gauge", "{process}",
            "Live processes by place and state; a process has a place for each interpreter.",
            ("place", "state"),
        ),
        _processes,
    ),
    _Measure(
        Metric(
            "wsgipool.processes.ended", "counter", "{process}",
            "Ended processes, whose events are still counted.", (),
        ),
        lambda host: _one(host.ended_processes),
    ),
)  # fmt: skip
