"""Locks by name against bare locks and against reader-writer locks, by one thread and by many.

The floor is three bare locks, one `with` within the other, in a function: what `requires` with three names replaces.
The peers' locks are taken as their documentation says, in a `with` block in a function; they neither count nor keep an
order.
"""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from itertools import repeat
from time import perf_counter_ns
from typing import Any

import fasteners
from readerwriterlock import rwlock

import wsgipool
from benchmarks import report
from benchmarks.contended import AT_A_TIME, NO_HOLD_SECONDS, in_threads
from benchmarks.measuring import Run, Spread, ratios, shuffled

SLICE = 2_000_000
"""Nanoseconds for which a contender runs in each round."""
FLOOR = "three bare locks"
BASE = "requires, 1 name"
THREADS = (4, 16, 32)
HOLD = 0.001
HOLDING_THREADS = 16
HOLD_SECONDS = 0.5

Calls = dict[str, Callable[[], object]]


def measure(run: Run) -> list[report.Table]:
    gc.collect()
    gc.freeze()
    try:
        return [uncontended(run), contended(run), held(run)]
    finally:
        gc.unfreeze()


def uncontended(run: Run) -> report.Table:
    calls = {FLOOR: three_bare_locks(), **named_locks(), **writers(), **readers()}
    samples = run.interleave("one thread", 400, {name: timed(call) for name, call in calls.items()})
    to_floor = ratios(samples, FLOOR)
    return report.Table(
        name="locks",
        title="Take and give back, one thread",
        columns=["ns", "x three bare locks"],
        rows={name: [Spread.of(samples[name]), Spread.of(to_floor[name])] for name in calls},
        plotted=["x three bare locks"],
        logarithmic=True,
        reference=3.0,
        notes=["median (quartiles) of the rounds; wsgipool with its statistics"],
    )


def contended(run: Run) -> report.Table:
    calls = {BASE: named_locks()[BASE], **writers()}
    rows: dict[str, list[report.Value]] = {name: [] for name in calls}
    for threads in THREADS:
        samples = run.interleave(
            f"{threads} threads", 20, {name: partial(throughput, call, threads) for name, call in calls.items()}
        )
        to_base = ratios(samples, BASE)
        for name, row in rows.items():
            row += [Spread.of(samples[name]).median, Spread.of(to_base[name])]
    return report.Table(
        name="locks-contended",
        title="Threads that write and do nothing else, thousands of turns a second",
        columns=[column for threads in THREADS for column in (f"{threads}: k/s", f"{threads} threads")],
        rows={**rows},
        plotted=[f"{threads} threads" for threads in THREADS],
        logarithmic=True,
        reference=1.0,
    )


def held(run: Run) -> report.Table:
    """Hold for a millisecond: who waits how long, and does everybody have a turn?"""
    locks = wsgipool.Locks()
    blocks: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "hold": lambda: locks.hold("a"),
        **write_blocks(),
    }
    rounds: dict[str, list[list[float]]] = {name: [] for name in blocks}
    for _ in run.rounds(f"{HOLD * 1000:g} ms hold", 10):
        for name in shuffled(blocks):
            rounds[name].append(fairness(blocks[name]))
    return report.Table(
        name="locks-held",
        title=f"{HOLDING_THREADS} threads that write, each for {HOLD * 1000:g} ms",
        columns=["turns a second", "turns max/min", "wait p50, ms", "p99, ms"],
        rows={name: [Spread.of(samples) for samples in zip(*rounds[name], strict=True)] for name in blocks},
        plotted=["p99, ms"],
        logarithmic=True,
    )


# --- contenders ------------------------------------------------------------------------------------------------------


def three_bare_locks() -> Callable[[], object]:
    first, second, third = threading.Lock(), threading.Lock(), threading.Lock()

    def work() -> None:
        with first, second:  # noqa: SIM117 - as one writes it
            with third:
                pass

    return work


def named_locks() -> Calls:
    locks = wsgipool.Locks()

    @locks.requires("a", "b", "c")
    def three() -> None: ...

    @locks.requires("a", "b", read="c")
    def mixed() -> None: ...

    @locks.requires("a")
    def one() -> None: ...

    @locks.requires(read="a")
    def read() -> None: ...

    def hold() -> None:
        with locks.hold("a"):
            pass

    return {
        "requires, 3 names": three,
        "requires, 2 names, 1 read": mixed,
        BASE: one,
        "requires, 1 read": read,
        "hold, 1 name": hold,
    }


def write_blocks() -> dict[str, Callable[[], AbstractContextManager[Any]]]:
    return {
        "fasteners": fasteners.ReaderWriterLock().write_lock,
        "readerwriterlock, fair": rwlock.RWLockFair().gen_wlock,
        "readerwriterlock, writers first": rwlock.RWLockWrite().gen_wlock,
        "readerwriterlock, readers first": rwlock.RWLockRead().gen_wlock,
    }


def writers() -> Calls:
    return {f"{name}, write": in_block(block) for name, block in write_blocks().items()}


def readers() -> Calls:
    return {
        "fasteners, read": in_block(fasteners.ReaderWriterLock().read_lock),
        "readerwriterlock, fair, read": in_block(rwlock.RWLockFair().gen_rlock),
        "readerwriterlock, writers first, read": in_block(rwlock.RWLockWrite().gen_rlock),
        "readerwriterlock, readers first, read": in_block(rwlock.RWLockRead().gen_rlock),
    }


def in_block(block: Callable[[], AbstractContextManager[Any]]) -> Callable[[], object]:
    def work() -> None:
        with block():
            pass

    return work


# --- measured --------------------------------------------------------------------------------------------------------


def timed(call: Callable[[], object]) -> Callable[[], float]:
    """Return a measurement: nanoseconds a call, over calls that take about a slice together."""
    start = perf_counter_ns()
    for _ in repeat(None, 200):
        call()
    count = max(100, 200 * SLICE // max(1, perf_counter_ns() - start))

    def once() -> float:
        start = perf_counter_ns()
        for _ in repeat(None, count):
            call()
        return (perf_counter_ns() - start) / count

    return once


def throughput(call: Callable[[], object], threads: int) -> float:
    """Return thousands of calls a second."""

    def work(is_over: Callable[[], bool]) -> int:
        done = 0
        while not is_over():
            for _ in repeat(None, AT_A_TIME):
                call()
            done += AT_A_TIME
        return done

    start = time.perf_counter()
    done = in_threads(work, threads, NO_HOLD_SECONDS)
    return sum(done) / (time.perf_counter() - start) / 1000


def fairness(block: Callable[[], AbstractContextManager[Any]]) -> list[float]:
    """Return the columns of one round."""

    def work(is_over: Callable[[], bool]) -> list[float]:
        waits = []
        while not is_over():
            asked = time.perf_counter()
            with block():
                waits.append(time.perf_counter() - asked)
                time.sleep(HOLD)
        return waits

    start = time.perf_counter()
    outcome = in_threads(work, HOLDING_THREADS, HOLD_SECONDS)
    seconds = time.perf_counter() - start
    turns = [len(waits) for waits in outcome]
    waits = sorted(1000 * wait for each in outcome for wait in each)
    return [
        sum(turns) / seconds,
        max(turns) / max(1, min(turns)),
        statistics.median(waits),
        waits[int(0.99 * len(waits))],
    ]


if __name__ == "__main__":
    report.main(measure)
