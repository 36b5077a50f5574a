"""More threads than connections: operations a second without hold time, and waits with one.

The base is a lock and a list that hands a returned connection to the oldest waiter, the simplest fair pool.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple, TypeVar

from benchmarks import peers, report
from benchmarks.measuring import Run, Spread, ratios, shuffled
from benchmarks.peers import Contender, FakeConnection

CONNECTIONS = 4
THREADS = (4, 16, 32)
BASE = "lock and list, FIFO"

NO_HOLD_SECONDS = 0.25
AT_A_TIME = 20
"""Operations between two checks of the time, which cost a tenth of the quickest operation."""

HOLD = 0.001
HOLDING_THREADS = 16
HOLD_SECONDS = 1.0

T = TypeVar("T")


class Turn(NamedTuple):
    """The times of a thread's request for a connection, of its checkout and return, by `time.perf_counter()`."""

    asked: float
    got: float
    given: float


def measure(run: Run) -> list[report.Table]:
    with ExitStack() as close:
        contenders = {contender.name: contender for contender in make_contenders(close)}
        return [no_hold(run, contenders), with_hold(run, contenders)]


def make_contenders(close: ExitStack) -> list[Contender]:
    bare = peers.wsgipool_pool(CONNECTIONS, None, close)
    pool = peers.wsgipool_pool(CONNECTIONS, "rollback", close)
    locked = peers.LockedListPool(FakeConnection, CONNECTIONS)
    return [
        peers.by_call(BASE, locked.getconn, locked.putconn),
        peers.by_call("wsgipool, no reset", bare.getconn, bare.putconn),
        peers.by_call("wsgipool", pool.getconn, pool.putconn),
        peers.lifo_queue(CONNECTIONS),
        peers.dbutils_pool(CONNECTIONS, quickest=True),
        peers.dbutils_pool(CONNECTIONS, quickest=False),
        peers.psycopg_pool(CONNECTIONS, close),
        peers.connpool_pool(CONNECTIONS, close),
        peers.peewee_pool(CONNECTIONS),
        peers.sqlalchemy_pool(CONNECTIONS, quickest=False),
    ]


def no_hold(run: Run, contenders: dict[str, Contender]) -> report.Table:
    rows: dict[str, list[report.Value]] = {name: [] for name in contenders}
    for threads in THREADS:
        samples = run.interleave(
            f"no hold, {threads} threads",
            20,
            {name: partial(throughput, contender, threads) for name, contender in contenders.items()},
        )
        to_base = ratios(samples, BASE)
        for name, row in rows.items():
            row += [Spread.of(samples[name]).median, Spread.of(to_base[name])]
    return report.Table(
        name="contended",
        title=f"No hold: threads on {CONNECTIONS} connections, thousands of operations a second and x {BASE}",
        columns=[column for threads in THREADS for column in (f"{threads}: k/s", f"{threads} threads")],
        rows={**rows},
        plotted=[f"{threads} threads" for threads in THREADS],
        logarithmic=True,
        reference=1.0,
        notes=[
            f"median (quartiles) of rounds of {NO_HOLD_SECONDS:g} s; without mysql-connector, whose pool raises",
        ],
    )


def throughput(contender: Contender, threads: int) -> float:
    """Return thousands of operations a second."""

    def work(is_over: Callable[[], bool]) -> int:
        done = 0
        while not is_over():
            contender.loop(AT_A_TIME)
            done += AT_A_TIME
        return done

    start = time.perf_counter()
    done = in_threads(work, threads, NO_HOLD_SECONDS)
    return sum(done) / (time.perf_counter() - start) / 1000


def with_hold(run: Run, contenders: dict[str, Contender]) -> report.Table:
    rounds: dict[str, list[list[float]]] = {name: [] for name in contenders}
    for _ in run.rounds(f"{HOLD * 1000:g} ms hold, {HOLDING_THREADS} threads", 10):
        for name in shuffled(contenders):
            rounds[name].append(fairness(contenders[name]))
    return report.Table(
        name="fairness",
        title=f"{HOLDING_THREADS} threads on {CONNECTIONS} connections, each held for {HOLD * 1000:g} ms",
        columns=[
            "turns max/min",
            "wait p50, ms",
            "p99, ms",
            "longest, ms",
            "longest x 3 holds",
            "longest x ideal",
            "longest hold, ms",
        ],
        rows={
            name: [Spread.of(samples) for samples in zip(*measured, strict=True)] for name, measured in rounds.items()
        },
        plotted=["longest x ideal"],
        logarithmic=True,
        reference=1.0,
        notes=[
            "turns max/min: turns of the thread with most, divided by those of the thread with fewest, in a second",
            "3 holds: the wait of every thread if all holds took the median time (about 3.2 ms)",
            "ideal: first come, first served, no time between a return and the next checkout, with the measured holds",
            "longest hold: the longest time that the machine let a thread sleep that asked for a millisecond",
        ],
    )


def fairness(contender: Contender) -> list[float]:
    """Return the columns of one round."""

    def work(is_over: Callable[[], bool]) -> list[Turn]:
        turns = []
        while not is_over():
            asked = time.perf_counter()
            connection = contender.check_out()
            got = time.perf_counter()
            time.sleep(HOLD)
            given = time.perf_counter()
            contender.check_in(connection)
            turns.append(Turn(asked, got, given))
        return turns

    outcome = in_threads(work, HOLDING_THREADS, HOLD_SECONDS)
    numbers = [len(turns) for turns in outcome]
    turns = [turn for turns in outcome for turn in turns]
    waits = sorted(1000 * (turn.got - turn.asked) for turn in turns)
    holds = sorted(1000 * (turn.given - turn.got) for turn in turns)
    return [
        max(numbers) / max(1, min(numbers)),
        statistics.median(waits),
        waits[int(0.99 * len(waits))],
        waits[-1],
        waits[-1] / (statistics.median(holds) * (HOLDING_THREADS / CONNECTIONS - 1)),
        waits[-1] / (1000 * longest_ideal_wait(turns)),
        holds[-1],
    ]


def longest_ideal_wait(turns: Sequence[Turn]) -> float:
    """Return the longest wait in seconds if each return served the oldest waiter at once."""
    asked = sorted(turn.asked for turn in turns)[CONNECTIONS:]  # the first ones find idle connections
    given = sorted(turn.given for turn in turns)
    return max(end - begin for begin, end in zip(asked, given, strict=False))


def in_threads(work: Callable[[Callable[[], bool]], T], threads: int, seconds: float) -> list[T]:
    """Run the work in threads that start together, until the time is up."""
    together = threading.Barrier(threads + 1)
    over: list[bool] = []

    def start(_: int) -> T:
        together.wait()
        return work(lambda: bool(over))

    with ThreadPoolExecutor(threads) as executor:
        try:
            outcome = executor.map(start, range(threads))
            together.wait()
            time.sleep(seconds)
        except BaseException:
            together.abort()  # the other threads would wait for ever
            raise
        finally:
            over.append(True)
        return list(outcome)


if __name__ == "__main__":
    report.main(measure)
