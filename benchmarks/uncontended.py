"""Checkout and return by one thread: nanoseconds, and multiples of the base, a lock with a list.

The floor is `with lock: list.pop()` and `with lock: list.append()`, inline: a pool without a pool.
"""

from __future__ import annotations

import gc
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import cycle, islice, repeat
from time import perf_counter_ns
from typing import Any

from benchmarks import peers, report
from benchmarks.measuring import Run, Spread, ratios
from benchmarks.peers import FakeConnection

SLICE = 2_000_000
"""Nanoseconds for which a contender runs in each round."""

SIZE = 4
MANY = 1000

Locks = dict[str, tuple[threading.Lock, list[FakeConnection]]]


def measure(run: Run) -> list[report.Table]:
    with ExitStack() as close:
        # The garbage collector stays on, as in a site, but skips the objects that exist now.
        gc.collect()
        gc.freeze()
        close.callback(gc.unfreeze)
        return [against_the_floor(run, close), flatness(run, close)]


def against_the_floor(run: Run, close: ExitStack) -> report.Table:
    bare = peers.wsgipool_pool(SIZE, None, close)
    pool = peers.wsgipool_pool(SIZE, "rollback", close)
    locked = peers.LockedListPool(FakeConnection, SIZE)
    contenders = [
        peers.by_call("wsgipool, no reset", bare.getconn, bare.putconn),
        peers.by_call("wsgipool", pool.getconn, pool.putconn),
        peers.by_block("wsgipool, with connection()", pool.connection),
        peers.by_block("wsgipool, with connection(readonly=True)", lambda: pool.connection(readonly=True)),
        peers.by_call("lock and list, FIFO", locked.getconn, locked.putconn),
        peers.lifo_queue(SIZE),
        peers.dbutils_pool(SIZE, quickest=True),
        peers.dbutils_pool(SIZE, quickest=False),
        peers.psycopg_pool(SIZE, close),
        peers.mysql_pool(SIZE),
        peers.connpool_pool(SIZE, close),
        peers.peewee_pool(SIZE),
        peers.sqlalchemy_pool(SIZE, quickest=True),
        peers.sqlalchemy_pool(SIZE, quickest=False),
    ]
    loops: dict[str, Callable[[int], None]] = {
        "floor": floor,
        "deque.pop and append": no_lock,
        "threading.local": thread_local,
        **{contender.name: contender.loop for contender in contenders},
    }
    samples = run.interleave("acquire and release", 400, {name: timed(loop) for name, loop in loops.items()})
    to_floor = ratios(samples, "floor")
    return report.Table(
        name="uncontended",
        title="Acquire and release, one thread, a fake connection",
        columns=["ns", "x floor"],
        rows={name: [Spread.of(samples[name]), Spread.of(to_floor[name])] for name in loops},
        plotted=["x floor"],
        logarithmic=True,
        reference=1.0,
        notes=["median (quartiles) of the rounds; peewee without the ping of its pool for MySQL"],
    )


def flatness(run: Run, close: ExitStack) -> report.Table:
    """Measure pools of several sizes, and several numbers of pools."""
    base = "wsgipool, 1 connection"
    loops: dict[str, Callable[[int], None]] = {}
    for size in (1, 10, 100, MANY):
        pool = peers.wsgipool_pool(size, None, close)
        name = f"wsgipool, {size} connection{'s' if size > 1 else ''}"
        loops[name] = peers.by_call(name, pool.getconn, pool.putconn).loop
    pools = {f"database{number}": peers.wsgipool_pool(1, None, close) for number in range(MANY)}
    locks: Locks = {name: (threading.Lock(), [FakeConnection()]) for name in pools}
    names = list(pools)
    alone = names[:1]
    for title, there, turn in (
        ("1 database, by name", alone, alone),
        (f"1 of {MANY} databases, by name", names, alone),
        (f"{MANY} databases, by name in turn", names, names),
    ):
        loops[f"wsgipool, {title}"] = by_name({name: pools[name] for name in there}, turn)
        # The effect of the processor's caches alone.
        loops[f"floor, {title}"] = floor_by_name({name: locks[name] for name in there}, turn)
    samples = run.interleave("sizes", 200, {name: timed(loop) for name, loop in loops.items()})
    rows: dict[str, Sequence[report.Value]] = {}
    for name in loops:
        kind = name.partition(",")[0]
        beside = f"{kind}, 1 database, by name" if "database" in name else base
        rows[name] = [Spread.of(samples[name]), Spread.of(ratios(samples, beside)[name])]
    return report.Table(
        name="flatness",
        title="Acquire and release by the size of the pool and the number of databases",
        columns=["ns", "x smallest"],
        rows=rows,
        plotted=["x smallest"],
        reference=1.0,
        notes=["x smallest: relative to 1 connection, or to 1 database of the same kind"],
    )


def timed(loop: Callable[[int], None]) -> Callable[[], float]:
    """Return a function that runs the loop for about a slice and returns the nanoseconds of one turn."""
    count = 100
    while (elapsed := _elapsed(loop, count)) < SLICE / 10:
        count *= 2
    count = max(1, count * SLICE // elapsed)
    return lambda: _elapsed(loop, count) / count


def _elapsed(loop: Callable[[int], None], count: int) -> int:
    start = perf_counter_ns()
    loop(count)
    return perf_counter_ns() - start


def floor(count: int) -> None:
    lock, idle = threading.Lock(), [FakeConnection()]
    for _ in repeat(None, count):
        with lock:
            connection = idle.pop()
        with lock:
            idle.append(connection)


def no_lock(count: int) -> None:
    idle = deque([FakeConnection()])
    for _ in repeat(None, count):
        connection = idle.pop()
        idle.append(connection)


def thread_local(count: int) -> None:
    local = threading.local()
    local.connection = FakeConnection()
    for _ in repeat(None, count):
        local.connection  # noqa: B018 - the whole checkout


def by_name(pools: dict[str, Any], names: list[str]) -> Callable[[int], None]:
    def loop(count: int) -> None:
        for name in islice(cycle(names), count):
            pool = pools[name]
            pool.putconn(pool.getconn())

    return loop


def floor_by_name(locks: Locks, names: list[str]) -> Callable[[int], None]:
    def loop(count: int) -> None:
        for name in islice(cycle(names), count):
            lock, idle = locks[name]
            with lock:
                connection = idle.pop()
            with lock:
                idle.append(connection)

    return loop


if __name__ == "__main__":
    report.main(measure)
