"""What locks were asked for, in numbers, and what would make them better.

Times are kept in histograms of powers of two nanoseconds, so a time here is right to a factor of two: it was at most so
long, and more than half of that. Percentiles of waits are of all turns, those that did not wait among them; those of
holds are of the turns that were timed, one of `plan.TIMED`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from wsgipool.locks.plan import BUCKETS, SCOPES, Plan, Resource
from wsgipool.wording import rounded

COLUMNS = ("lock", "turns", "contended", "wait p50", "p99", "hold p50", "p99", "advice")

ENOUGH = 100
"""Turns before anything is advised."""
OFTEN = 0.1
"""The share of turns that had to wait from which it is worth a change."""
LONG = 0.001
"""Seconds of the median hold from which it is the hold that makes others wait; below, they wait for a processor."""
TOGETHER = 0.99
"""The share of both locks' turns in which they were taken by the same call, from which they are one."""

LockKey = tuple[str, str, str]
"""A lock's scope, database and name."""
Histogram = Counter[int]
Takes = tuple[int, Histogram]
"""How often some locks were taken at once, and how long they were held then."""


@dataclass(frozen=True)
class LockCounts:
    """What is counted for a lock; the rest is counted for what is taken at once."""

    key: LockKey
    contended: int
    timeouts: int
    waits: Histogram


@dataclass(frozen=True)
class TakeCounts:
    """How often, and how long, some locks were taken at once."""

    keys: tuple[LockKey, ...]
    turns: int
    holds: Histogram
    """Of the turns that were timed."""


@dataclass(frozen=True)
class Counts:
    """The counts of some locks of one process."""

    locks: Sequence[LockCounts]
    takes: Sequence[TakeCounts]

    def as_json(self) -> dict[str, Any]:
        return {
            "locks": [[*lock.key, lock.contended, lock.timeouts, dict(lock.waits)] for lock in self.locks],
            "takes": [[[list(key) for key in take.keys], take.turns, dict(take.holds)] for take in self.takes],
        }

    @classmethod
    def from_json(cls, document: object) -> Counts:
        """Return what `as_json` has made of some counts. Raises ValueError where the document is anything else."""
        try:
            locks, takes = document["locks"], document["takes"]  # type: ignore[index]
            return cls(
                [
                    LockCounts(_checked_key(*key), _number(contended), _number(timeouts), _histogram(waits))
                    for *key, contended, timeouts, waits in locks
                ],
                [
                    TakeCounts(tuple(_checked_key(*key) for key in keys), _number(turns), _histogram(holds))
                    for keys, turns, holds in takes
                ],
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"these are no counts of locks: {error}") from None


@dataclass(frozen=True)
class LockReport:
    """One lock. Times in seconds."""

    name: str
    scope: str
    database: str
    """The pool whose connections hold it; "" in the other scopes."""
    turns: int
    """How often it was taken, holds of what the thread held already aside."""
    contended: int
    """How many of these had to wait."""
    timeouts: int
    """How many more gave up."""
    wait_p50: float
    wait_p99: float
    hold_p50: float
    hold_p99: float
    advice: str

    @property
    def share_contended(self) -> float:
        return self.contended / self.turns if self.turns else 0.0


@dataclass(frozen=True)
class Report:
    """Some locks, those most waited for first."""

    locks: Sequence[LockReport] = field(default_factory=tuple)

    def __str__(self) -> str:
        rows = [COLUMNS, *(as_cells(lock) for lock in self.locks)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if column in (0, len(COLUMNS) - 1) else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )


def counts(resources: Iterable[Resource], plans: Iterable[Plan]) -> Counts:
    """Return the counts of locks and of what takes them."""
    return Counts(
        [
            LockCounts(_key(resource), resource.contended, resource.timeouts, _of_buckets(resource.waits))
            for resource in resources
        ],
        [
            TakeCounts(tuple(_key(resource) for *_, resource in plan.steps), plan.turns, _of_buckets(plan.holds))
            for plan in plans
        ],
    )


def report(all_counts: Iterable[Counts]) -> Report:
    """Return the report of several counts: of the processes of a host, of the `Locks` of a process."""
    locks: dict[LockKey, LockCounts] = {}
    takes: dict[frozenset[LockKey], Takes] = {}
    for one in all_counts:
        for lock in one.locks:
            known = locks.get(lock.key) or LockCounts(lock.key, 0, 0, Counter())
            locks[lock.key] = LockCounts(
                lock.key,
                known.contended + lock.contended,
                known.timeouts + lock.timeouts,
                known.waits + lock.waits,
            )
        for take in one.takes:
            turns, holds = takes.get(frozenset(take.keys), (0, Counter()))
            takes[frozenset(take.keys)] = turns + take.turns, holds + take.holds
    rows = [_row(lock, takes) for lock in locks.values()]
    return Report(sorted(rows, key=lambda row: (-row.share_contended, -row.turns, row.scope, row.name)))


def as_cells(lock: LockReport) -> tuple[str, ...]:
    """Return a lock's row of a table."""
    name = lock.name
    if lock.scope != "process":
        name += f" ({lock.scope})" if not lock.database else f" (database {lock.database})"
    return (
        name,
        f"{lock.turns}",
        f"{lock.share_contended * 100:.1f} %",
        seconds(lock.wait_p50),
        seconds(lock.wait_p99),
        seconds(lock.hold_p50),
        seconds(lock.hold_p99),
        lock.advice,
    )


def seconds(number: float) -> str:
    """Return a time in the unit that suits it."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if number * factor >= 1:
            return f"{rounded(number * factor)} {unit}"
    return f"{number * 1e9:.0f} ns" if number else "0"


def _row(lock: LockCounts, takes: dict[frozenset[LockKey], Takes]) -> LockReport:
    holds: Histogram = Counter()
    turns = 0
    for keys, (number, histogram) in takes.items():
        if lock.key in keys:
            turns += number
            holds += histogram
    # Who waits now is counted before its turn has ended.
    contended = min(lock.contended, turns)
    waits = Counter({0: turns - contended}) + lock.waits
    scope, database, name = lock.key
    return LockReport(
        name=name,
        scope=scope,
        database=database,
        turns=turns,
        contended=contended,
        timeouts=lock.timeouts,
        wait_p50=_percentile(waits, 0.5),
        wait_p99=_percentile(waits, 0.99),
        hold_p50=_percentile(holds, 0.5),
        hold_p99=_percentile(holds, 0.99),
        advice=_advice(lock.key, turns, contended, _percentile(holds, 0.5), takes),
    )


def _advice(key: LockKey, turns: int, contended: int, hold_p50: float, takes: dict[frozenset[LockKey], Takes]) -> str:
    if turns < ENOUGH:
        return f"fewer than {ENOUGH} turns: too early to say"
    inseparable = _always_with(key, turns, takes)
    if inseparable:
        return f"always taken with {', '.join(inseparable)}: group them"
    if contended >= OFTEN * turns:
        if hold_p50 >= LONG:
            return "held long and contended: split it, or shorten what is done with it"
        return "contended, and held briefly: leave it, or read= where nothing is written"
    if not contended:
        return "never contended: leave it, or merge it with a neighbour"
    return "leave it"


def _always_with(key: LockKey, turns: int, takes: dict[frozenset[LockKey], Takes]) -> list[str]:
    """Return the names of the locks that are taken with this one nearly always, and this one with them."""
    alone: Counter[LockKey] = Counter()
    together: Counter[LockKey] = Counter()
    for keys, (number, _) in takes.items():
        for other in keys - {key}:
            (together if key in keys else alone)[other] += number
    return sorted(
        name
        for (scope, database, name), number in together.items()
        # A group has one scope.
        if (scope, database) == key[:2] and number >= TOGETHER * max(turns, number + alone[scope, database, name])
    )


def _key(resource: Resource) -> LockKey:
    return (resource.scope, resource.database, resource.name)


def _of_buckets(buckets: Sequence[int]) -> Histogram:
    return Counter({bucket: number for bucket, number in enumerate(buckets) if number})


def _checked_key(scope: object, database: object, name: object) -> LockKey:
    if not (scope in SCOPES and isinstance(database, str) and isinstance(name, str)):
        raise ValueError("there is no such lock")
    # What is no text, half of a surrogate pair, could not be shown.
    return scope, _shown(database), _shown(name)


def _shown(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _number(value: object) -> int:
    if isinstance(value, int) and 0 <= value < 1 << 63:
        return value
    raise ValueError("a count is a number from 0")


def _histogram(document: dict[str, object]) -> Histogram:
    histogram = Counter({int(bucket): _number(number) for bucket, number in document.items()})
    if not all(0 <= bucket < BUCKETS for bucket in histogram):
        raise ValueError(f"a histogram has {BUCKETS} buckets")
    return histogram


def _percentile(histogram: Histogram, share: float) -> float:
    """Return the seconds within which this share of the turns was; the upper end of its bucket."""
    rest = share * histogram.total()
    for bucket in sorted(histogram):
        rest -= histogram[bucket]
        if rest <= 0:
            return (1 << bucket) / 1e9 if bucket else 0.0
    return 0.0
