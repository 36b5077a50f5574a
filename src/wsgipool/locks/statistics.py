"""Counts of how often locks were taken, waited for and held, and advice from these numbers.

Times are kept in histograms of powers of two nanoseconds. So each time is exact to a factor of two: the true time lies
between half of it and all of it. Percentiles of waits cover all turns, also those without a wait. Percentiles of holds
cover the timed turns, every 7th (`lock_set.TIMED`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from wsgipool import showing
from wsgipool.locks.lock_set import BUCKETS, SCOPES, LockSet, Resource
from wsgipool.wording import rounded

COLUMNS = ("lock", "turns", "contended", "wait p50", "p99", "hold p50", "p99", "advice")

MIN_TURNS = 100
"""Turns that are needed for advice."""
MUCH_CONTENDED = 0.1
"""Share of contended turns from which a change is advised."""
LONG_HOLD = 0.001
"""Median hold in seconds from which waits come from the hold itself; below, they come from thread scheduling."""
ALWAYS_TOGETHER = 0.99
"""Share of the turns of two locks in which one call took both, from which one lock is advised."""

LockKey = tuple[str, str, str]
"""A lock's scope, database and name."""
Histogram = Counter[int]
Takes = tuple[int, Histogram]
"""How many times some locks were taken at once, and how long they were held."""


@dataclass(frozen=True)
class LockCounts:
    """The counts of one lock. Its turns and holds are in `TakeCounts`."""

    key: LockKey
    contended: int
    timeouts: int
    waits: Histogram


@dataclass(frozen=True)
class TakeCounts:
    """The counts of locks that were taken at once."""

    keys: tuple[LockKey, ...]
    turns: int
    holds: Histogram
    """The timed holds."""


@dataclass(frozen=True)
class Counts:
    """The counts of the locks of one process."""

    locks: Sequence[LockCounts]
    takes: Sequence[TakeCounts]

    def as_json(self) -> dict[str, Any]:
        """Return the counts as a JSON document."""
        return {
            "locks": [[*lock.key, lock.contended, lock.timeouts, dict(lock.waits)] for lock in self.locks],
            "takes": [[[list(key) for key in take.keys], take.turns, dict(take.holds)] for take in self.takes],
        }

    @classmethod
    def from_json(cls, document: object) -> Counts:
        """Return the counts from a document of `as_json`. Raises ValueError for any other document."""
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
            raise ValueError(f"the document has no lock counts: {error}") from None


@dataclass(frozen=True)
class LockRow:
    """The numbers of one lock; times are in seconds."""

    name: str
    scope: str
    database: str
    """The pool whose connections hold the lock; "" in the other scopes."""
    turns: int
    """How many times the lock was taken; nested holds of the same thread are not counted."""
    contended: int
    """Turns that had to wait."""
    timeouts: int
    """Attempts that timed out, which are not turns."""
    wait_p50: float
    wait_p99: float
    hold_p50: float
    hold_p99: float
    advice: str

    @property
    def share_contended(self) -> float:
        """Share of the turns that had to wait, 0 to 1."""
        return self.contended / self.turns if self.turns else 0.0


@dataclass(frozen=True)
class LocksReport:
    """The numbers of all locks, the most contended first; `str()` returns a table."""

    locks: Sequence[LockRow] = field(default_factory=tuple)

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


def counts(resources: Iterable[Resource], lock_sets: Iterable[LockSet]) -> Counts:
    """Return the counts of locks and of the lock sets that take them."""
    return Counts(
        [
            LockCounts(_key(resource), resource.contended, resource.timeouts, _of_buckets(resource.waits))
            for resource in resources
        ],
        [
            TakeCounts(
                tuple(_key(resource) for *_, resource in lock_set.steps), lock_set.turns, _of_buckets(lock_set.holds)
            )
            for lock_set in lock_sets
        ],
    )


def total(all_counts: Iterable[Counts]) -> Counts:
    """Return the sum of several counts, such as those of all processes of a host."""
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
    return Counts(
        list(locks.values()), [TakeCounts(tuple(sorted(keys)), turns, holds) for keys, (turns, holds) in takes.items()]
    )


def report(all_counts: Iterable[Counts]) -> LocksReport:
    """Return one report of several counts."""
    counts = total(all_counts)
    takes: dict[LockKey, list[TakeCounts]] = {}
    for take in counts.takes:
        for key in take.keys:
            takes.setdefault(key, []).append(take)
    rows = [_row(lock, takes) for lock in counts.locks]
    return LocksReport(sorted(rows, key=lambda row: (-row.share_contended, -row.turns, row.scope, row.name)))


def as_cells(lock: LockRow) -> tuple[str, ...]:
    """Return the cells of a lock's row."""
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
    """Return a time with a unit: s, ms, µs or ns."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if number * factor >= 1:
            return f"{rounded(number * factor)} {unit}"
    return f"{number * 1e9:.0f} ns" if number else "0"


def _row(lock: LockCounts, takes: dict[LockKey, list[TakeCounts]]) -> LockRow:
    holds: Histogram = Counter()
    for take in takes.get(lock.key, []):
        holds.update(take.holds)
    turns = _turns(lock.key, takes)
    # A wait is counted before its turn, which is counted when it ends.
    contended = min(lock.contended, turns)
    waits = Counter({0: turns - contended}) + lock.waits
    scope, database, name = lock.key
    return LockRow(
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


def _turns(key: LockKey, takes: dict[LockKey, list[TakeCounts]]) -> int:
    return sum(take.turns for take in takes.get(key, []))


def _advice(key: LockKey, turns: int, contended: int, hold_p50: float, takes: dict[LockKey, list[TakeCounts]]) -> str:
    if turns < MIN_TURNS:
        return f"fewer than {MIN_TURNS} turns: too early to say"
    inseparable = _always_with(key, turns, takes)
    if inseparable:
        return f"always taken with {', '.join(inseparable)}: group them"
    if contended >= MUCH_CONTENDED * turns:
        if hold_p50 >= LONG_HOLD:
            return "held long and contended: split it, or shorten the work done under it"
        return "contended, and held briefly: leave it, or use read= where nothing is written"
    if not contended:
        return "never contended: leave it, or merge it with a related lock"
    return "leave it"


def _always_with(key: LockKey, turns: int, takes: dict[LockKey, list[TakeCounts]]) -> list[str]:
    """Return the names of the locks that are almost always taken together with this one."""
    together: Counter[LockKey] = Counter()
    for take in takes.get(key, []):
        # A group has one scope.
        together.update({other: take.turns for other in take.keys if other != key and other[:2] == key[:2]})
    return sorted(
        other[2] for other, number in together.items() if number >= ALWAYS_TOGETHER * max(turns, _turns(other, takes))
    )


def _key(resource: Resource) -> LockKey:
    return (resource.scope, resource.database, resource.name)


def _of_buckets(buckets: Sequence[int]) -> Histogram:
    return Counter({bucket: number for bucket, number in enumerate(buckets) if number})


def _checked_key(scope: object, database: object, name: object) -> LockKey:
    if not (scope in SCOPES and isinstance(database, str) and isinstance(name, str)):
        raise ValueError("the key of a lock is a scope, a database and a name")
    # A lone surrogate cannot be printed.
    return scope, _shown(database), _shown(name)


def _shown(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _number(value: object) -> int:
    if isinstance(value, int) and 0 <= value < 1 << 63:
        return value
    raise ValueError(f"a count must be an integer from 0 to 2**63 - 1, is {showing.shown(value)}")


def _histogram(document: dict[str, object]) -> Histogram:
    histogram = Counter({int(bucket): _number(number) for bucket, number in document.items()})
    if not all(0 <= bucket < BUCKETS for bucket in histogram):
        raise ValueError(f"a histogram has the buckets 0 to {BUCKETS - 1}")
    return histogram


def _percentile(histogram: Histogram, share: float) -> float:
    """Return the time in seconds that this share of the turns did not exceed: the upper end of a bucket."""
    rest = share * histogram.total()
    for bucket in sorted(histogram):
        rest -= histogram[bucket]
        if rest <= 0:
            return (1 << bucket) / 1e9 if bucket else 0.0
    return 0.0
