"""Locks by name compared with bare locks and reader-writer locks, for one thread and for many.

The base is a function with three nested `with` blocks on bare locks, which `requires` with three names replaces. The
peers' locks are taken as their documentation says, in a `with` block in a function. They neither count nor keep an
order, and do not release a lock after an asynchronous exception.
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
MIXED_THREADS = 16
SHARES = {"90 % read": 9, "read only": 10}
"""Number of writing turns out of ten."""
HOLD = 0.001
HOLDING_THREADS = 16
HOLD_SECONDS = 0.5

KINDS = {
    "fair": rwlock.RWLockFair,
    "writers first": rwlock.RWLockWrite,
    "readers first": rwlock.RWLockRead,
    "fair, downgradable": rwlock.RWLockFairD,
    "writers first, downgradable": rwlock.RWLockWriteD,
    "readers first, downgradable": rwlock.RWLockReadD,
}

Block = Callable[[], AbstractContextManager[Any]]
Calls = dict[str, Callable[[], object]]


def measure(run: Run) -> list[report.Table]:
    gc.collect()
    gc.freeze()
    try:
        return [uncontended(run), contended(run), mixed(run), held(run)]
    finally:
        gc.unfreeze()


def uncontended(run: Run) -> report.Table:
    calls = {FLOOR: three_bare_locks(), **named_locks(), **peers(), **beside_another()}
    samples = run.interleave("one thread", 400, {name: timed(call) for name, call in calls.items()})
    to_floor = ratios(samples, FLOOR)
    return report.Table(
        name="locks",
        title="Acquire and release, one thread",
        columns=["ns", "x three bare locks"],
        rows={name: [Spread.of(samples[name]), Spread.of(to_floor[name])] for name in calls},
        plotted=["x three bare locks"],
        logarithmic=True,
        reference=3.0,
        notes=["median (quartiles) of the rounds; wsgipool with its statistics"],
    )


def contended(run: Run) -> report.Table:
    calls = {name: write for name, (write, _) in pairs().items()}
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
        title="Threads that only write, thousands of turns a second",
        columns=[column for threads in THREADS for column in (f"{threads}: k/s", f"{threads} threads")],
        rows={**rows},
        plotted=[f"{threads} threads" for threads in THREADS],
        logarithmic=True,
        reference=1.0,
    )


def mixed(run: Run) -> report.Table:
    """Measure threads that write once in ten turns, or never."""
    calls = pairs()
    rows: dict[str, list[report.Value]] = {name: [] for name in calls}
    for title, share in SHARES.items():
        samples = run.interleave(
            f"{MIXED_THREADS} threads, {title}",
            20,
            {name: partial(throughput, ten_turns(*pair, share), MIXED_THREADS, 10) for name, pair in calls.items()},
        )
        to_base = ratios(samples, BASE)
        for name, row in rows.items():
            row += [Spread.of(samples[name]), Spread.of(to_base[name])]
    return report.Table(
        name="locks-mixed",
        title=f"{MIXED_THREADS} threads that read mostly and do nothing else, thousands of turns a second",
        columns=[column for title in SHARES for column in (f"{title}: k/s", title)],
        rows={**rows},
        plotted=list(SHARES),
        logarithmic=True,
        reference=1.0,
    )


def held(run: Run) -> report.Table:
    """Measure the waits and the number of turns of threads that hold a lock for a millisecond."""
    locks = wsgipool.Locks()
    blocks: dict[str, Block] = {
        "hold": lambda: locks.hold("a"),
        **{name: write for name, (write, _) in peers_blocks().items()},
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
        with first, second:  # noqa: SIM117 - as programs write it
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


def peers_blocks() -> dict[str, tuple[Block, Block]]:
    """Return the functions that take each peer's lock, to write and to read."""
    lock = fasteners.ReaderWriterLock()
    blocks: dict[str, tuple[Block, Block]] = {"fasteners": (lock.write_lock, lock.read_lock)}
    for name, kind in KINDS.items():
        peer = kind()
        blocks[f"readerwriterlock, {name}"] = (peer.gen_wlock, peer.gen_rlock)
    return blocks


def peers() -> Calls:
    calls: Calls = {}
    for name, (write, read) in peers_blocks().items():
        calls |= {f"{name}, write": in_block(write), f"{name}, read": in_block(read)}
    return calls


def beside_another() -> Calls:
    """Read while another thread reads all the time."""
    calls: Calls = {}
    locks = wsgipool.Locks()
    blocks: dict[str, Block] = {name: read for name, (_, read) in peers_blocks().items()}
    for name, block in {"requires": lambda: locks.hold(read="a"), **blocks}.items():
        has_it = threading.Event()
        threading.Thread(target=hold_for_ever, args=(block, has_it), daemon=True).start()
        has_it.wait()
        calls[f"{name}, read beside another"] = in_block(block)
    calls["requires, read beside another"] = locks.requires(read="a")(lambda: None)
    return calls


def pairs() -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Return for each lock a function that writes and one that reads."""
    locks = wsgipool.Locks()
    return {
        BASE: (locks.requires("a")(lambda: None), locks.requires(read="a")(lambda: None)),
        "hold, 1 name": (in_block(lambda: locks.hold("b")), in_block(lambda: locks.hold(read="b"))),
        **{name: (in_block(write), in_block(read)) for name, (write, read) in peers_blocks().items()},
    }


def ten_turns(write: Callable[[], object], read: Callable[[], object], share: int) -> Callable[[], object]:
    turns = [read] * share + [write] * (10 - share)

    def work() -> None:
        for turn in turns:
            turn()

    return work


def hold_for_ever(block: Block, has_it: threading.Event) -> None:
    with block():
        has_it.set()
        threading.Event().wait()


def in_block(block: Block) -> Callable[[], object]:
    def work() -> None:
        with block():
            pass

    return work


# --- measurements ----------------------------------------------------------------------------------------------------


def timed(call: Callable[[], object]) -> Callable[[], float]:
    """Return a function that measures nanoseconds a call, over calls of about SLICE together."""
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


def throughput(call: Callable[[], object], threads: int, turns: int = 1) -> float:
    """Return thousands of turns a second, for calls of several turns each."""

    def work(is_over: Callable[[], bool]) -> int:
        done = 0
        while not is_over():
            for _ in repeat(None, AT_A_TIME // turns):
                call()
            done += AT_A_TIME // turns
        return done

    start = time.perf_counter()
    done = in_threads(work, threads, NO_HOLD_SECONDS)
    return turns * sum(done) / (time.perf_counter() - start) / 1000


def fairness(block: Block) -> list[float]:
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
