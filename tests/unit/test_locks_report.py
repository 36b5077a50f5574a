"""The statistics of locks: numbers, advice, and the sums of all processes of the host."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from unit.fakes import eventually
from unit.test_locks import OtherThread, other_thread, waiting
from wsgipool import Locks, LockTimeout, pools
from wsgipool.cli import main
from wsgipool.locks.lock_set import TIMED
from wsgipool.locks.statistics import Counts, LockCounts, LockRow, LocksReport, TakeCounts, report

SHOP = ("process", "", "shop")
MS = 20  # the bucket of 1 ms


def row(report: LocksReport, name: str) -> LockRow:
    return next(lock for lock in report.locks if lock.name == name)


def test_turns_are_counted_but_nested_holds_are_not() -> None:
    locks = Locks()
    locks.requires("stock", read="orders")(lambda: None)()
    with locks.hold("orders"), locks.hold("orders"), locks.hold("stock", "orders"):
        pass

    assert {lock.name: lock.turns for lock in locks.report().locks} == {"stock": 2, "orders": 2}


def test_waiting_and_holding_are_timed() -> None:
    locks = Locks()
    holder = other_thread(locks, "stock")
    waiter = OtherThread(locks, "stock")
    eventually(lambda: waiting(locks, "stock") == 1)
    with pytest.raises(LockTimeout):
        locks.hold("stock", timeout=0.01).__enter__()
    time.sleep(0.02)
    holder.release()
    waiter.wait_until_it_holds().release()

    stock = row(locks.report(), "stock")

    assert (stock.turns, stock.contended, stock.timeouts) == (2, 1, 1)
    assert stock.share_contended == 0.5
    assert stock.wait_p50 == 0
    assert 0.02 <= stock.wait_p99 < 5
    assert 0.02 <= stock.hold_p99 < 5
    assert stock.hold_p50 <= stock.hold_p99
    assert "stock" in str(locks.report())


@pytest.mark.parametrize("names", [("stock",), ("stock", "orders")])
def test_each_turn_is_counted_and_every_7th_is_timed(names: tuple[str, ...]) -> None:
    locks = Locks()

    @locks.requires(*names)
    def work(turn: int) -> None:
        if turn % TIMED == 0:
            time.sleep(0.02)

    for turn in range(2 * TIMED):
        work(turn)

    stock = row(locks.report(), "stock")
    assert stock.turns == 2 * TIMED
    assert stock.hold_p50 >= 0.02, "the others are not among them"


def counts(
    turns: int = 1000, contended: int = 0, bucket: int = 5, also: tuple[str, ...] = (), alone: int = 0
) -> Counts:
    """Return the counts of the lock "shop", and how often it was taken with others."""
    keys = [SHOP, *(("process", "", name) for name in also)]
    takes = [TakeCounts(tuple(keys), turns, Counter({bucket: turns}))]
    takes += [TakeCounts((key,), alone, Counter({bucket: alone})) for key in keys[1:] if alone]
    return Counts([LockCounts(key, contended, 0, Counter({bucket: contended})) for key in keys], takes)


@pytest.mark.parametrize(
    ("numbers", "advice"),
    [
        (counts(turns=99), "fewer than 100 turns: too early to say"),
        (counts(also=("till",)), "always taken with till: group them"),
        (counts(also=("till",), alone=500), "never contended: leave it, or merge it with a related lock"),
        (counts(contended=200, bucket=MS + 1), "held long and contended: split it, or shorten the work done under it"),
        (counts(contended=200), "contended, and held briefly: leave it, or use read= where nothing is written"),
        (counts(contended=20, bucket=MS + 1), "leave it"),
        (counts(), "never contended: leave it, or merge it with a related lock"),
    ],
)
def test_the_advice(numbers: Counts, advice: str) -> None:
    assert row(report([numbers]), "shop").advice == advice


def test_the_counts_of_processes_add_up() -> None:
    both = report(
        [counts(turns=300, contended=30), Counts.from_json(json.loads(json.dumps(counts(turns=100).as_json())))]
    )

    shop = row(both, "shop")
    assert (shop.turns, shop.contended) == (400, 30)


@pytest.mark.parametrize(
    ("count", "found"),
    [
        (-1, "-1"),
        (1 << 63, "9223372036854775808"),
        (None, "None"),
        ([0], "an array"),
        ("x" * 100_000, r"'x+'\.\.\. \(100000 characters\)"),
    ],
)
def test_a_wrong_count_is_refused_with_a_short_message(count: object, found: str) -> None:
    document = counts(turns=100).as_json()
    document["takes"][0][1] = count

    with pytest.raises(ValueError, match=rf"^a count must be an integer from 0 to .*, is {found}$"):
        Counts.from_json(document)


def test_the_most_contended_comes_first() -> None:
    numbers = [
        Counts([LockCounts(key, contended, 0, Counter())], [TakeCounts((key,), 100, Counter({5: 100}))])
        for key, contended in [(("process", "", "a"), 1), (("process", "", "b"), 50), (("process", "", "c"), 0)]
    ]

    assert [lock.name for lock in report(numbers).locks] == ["b", "a", "c"]


# --- of all processes ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def _configured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pools, "_current", None)
    pools.configure({"runtime_dir": str(folder), "databases": {"shop": {"url": "sqlite:////tmp/never-opened.db"}}})
    yield
    pools.close()


GOOD_LOCK = ["process", "", "stock", 0, 0, {"5": 1}]
LOCKS_OF_STRANGERS = [
    ["process", "", "stock", -1, 0, {}], ["process", "", "stock", 0, 1 << 70, {}], ["process", "", "stock", "1", 0, {}],
    ["process", "", "stock", 0, 0.5, {}], ["process", "", 5, 0, 0, {}], ["process", ["a"], "stock", 0, 0, {}],
    ["moon", "", "stock", 0, 0, {}], ["process", "", "stock", 0, 0, []], ["process", "", "stock", 0, 0, {"a": 1}],
    ["process", "", "stock", 0, 0, {"1000000000": 1}], ["process", "", "stock", 0, 0, {"-1": 1}], [], 5, None, {},
]  # fmt: skip
STRANGE_COUNTS: list[object] = [
    5, [5], {"a": 1}, {}, {"locks": [], "takes": 7}, {"locks": [], "takes": [[[["process", "", "a"]], "1", {}]]},
    {"locks": [], "takes": [[5, 1, {}]]}, *({"locks": [lock], "takes": []} for lock in LOCKS_OF_STRANGERS),
]  # fmt: skip


@pytest.mark.parametrize("document", STRANGE_COUNTS, ids=range(len(STRANGE_COUNTS)))
def test_a_strange_document_of_counts_is_refused(document: object) -> None:
    Counts.from_json({"locks": [GOOD_LOCK], "takes": []})

    with pytest.raises(ValueError, match=r"."):
        Counts.from_json(document)


PROGRAM = """
import sys, wsgipool
wsgipool.configure({"runtime_dir": sys.argv[1], "databases": {"shop": {"url": "sqlite:////tmp/never-opened.db"}}})
locks = wsgipool.Locks()
@locks.requires("stock", read="catalogue")
def work(): ...
for line in sys.stdin:
    work()
"""


def run_cli(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["status", *arguments])


def test_the_command_line_shows_the_locks_of_running_and_ended_processes(folder: Path) -> None:
    python = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder)], stdin=subprocess.PIPE, text=True
    )  # fmt: skip
    assert python.stdin is not None
    python.stdin.write("work\n" * 7)
    python.stdin.flush()

    def counts_of_host() -> dict[str, int]:
        if not folder.exists():
            return {}
        document = json.loads(run_cli("--runtime-dir", str(folder), "--json").stdout)
        return {lock["name"]: lock["turns"] for lock in document["locks"]}

    eventually(lambda: counts_of_host() == {"stock": 7, "catalogue": 7})
    text = run_cli("--runtime-dir", str(folder)).stdout
    assert "too early to say" in text
    assert re.search(r"^1 process of \S+; the folder is ", text, re.M)

    python.communicate()
    assert counts_of_host() == {"stock": 7, "catalogue": 7}
    assert "0 processes of " in run_cli("--runtime-dir", str(folder)).stdout
