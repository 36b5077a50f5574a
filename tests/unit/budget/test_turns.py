"""Turns in a used-up budget: which pool gets a permit, and which pool yields one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest

from unit.budgets import A_TURN, Clock, MakeBudget, Process, take_all, take_one
from unit.fakes import Task, eventually
from wsgipool.budget.board import LEASE
from wsgipool.budget.budget import Budget
from wsgipool.budget.file_permit import TURN
from wsgipool.budget.permits import Permit
from wsgipool.drivers.session_end import SessionEnd

# --- turns -----------------------------------------------------------------------------------------------------------


def test_the_pool_that_has_waited_longest_comes_next(make_budget: MakeBudget) -> None:
    holder, first, second = make_budget(1), make_budget(1), make_budget(1)
    permit = take_one(holder)
    assert first.take(1) is None
    assert second.take(1) is None

    permit.release()

    assert second.take(1) is None
    assert holder.take(1) is None
    assert first.take(1) is not None


def test_a_pool_without_permits_comes_before_one_that_wants_more(make_budget: MakeBudget) -> None:
    holder, rich, poor = make_budget(2), make_budget(2), make_budget(2)
    permit, one = take_one(holder), rich.take(1)
    assert one is not None
    assert rich.take(1) is None
    assert poor.take(1) is None

    permit.release()

    assert rich.take(1) is None
    assert poor.take(1) is not None


def test_a_permit_without_a_waiter_is_taken_only_where_no_pool_is_starved(make_budget: MakeBudget) -> None:
    holder, starved, filler = make_budget(2), make_budget(2), make_budget(2)
    permits = [holder.take(1), holder.take(1)]
    assert starved.take(1) is None
    for permit in permits:
        assert permit is not None
        permit.release()

    assert filler.take(0) is None
    assert not filler.is_starved

    assert starved.take(1) is not None
    assert filler.take(0) is not None


def test_a_pool_is_starved_until_it_gets_a_permit_or_is_satisfied(make_budget: MakeBudget) -> None:
    holder, starved, other = make_budget(1), make_budget(1), make_budget(1)
    permit = take_one(holder)
    assert starved.take(1) is None
    assert starved.is_starved
    assert holder.count_to_yield(0) == 1

    starved.satisfied()
    assert not starved.is_starved
    assert holder.count_to_yield(0) == 0

    assert starved.take(1) is None
    permit.release()
    its = starved.take(1)
    assert its is not None
    assert not starved.is_starved
    assert other.count_to_yield(0) == 0


def test_a_pool_that_got_a_permit_waits_behind_the_others_for_more(make_budget: MakeBudget) -> None:
    holder, first, second = make_budget(4), make_budget(4), make_budget(4)
    permits = [holder.take(1) for _ in range(4)]
    assert first.take(2) is None
    assert second.take(2) is None
    del permits[:2]

    permits += [first.take(2)]
    assert first.take(1) is None
    permits += [second.take(2)]

    assert None not in permits


def test_the_notice_of_a_killed_process_lapses(make_budget: MakeBudget, start: Callable[[int], Process]) -> None:
    holder, other, process = make_budget(1), make_budget(1), start(1)
    permit = take_one(holder)
    process.run("assert budget.take(1) is None")
    process.kill()
    permit.release()
    died = time.monotonic()

    assert other.take(1) is None, "the killed process was first"
    eventually(lambda: other.take(1) is not None)

    assert time.monotonic() - died < 2 * LEASE / 1e9


def test_if_no_pool_waits_nothing_is_yielded(make_timed: MakeBudget, clock: Clock) -> None:
    budget = make_timed(3)
    permits = [take_one(budget), take_one(budget)]
    clock.pass_ms(A_TURN)

    assert budget.count_to_yield(0) == 0
    assert not any(budget.must_yield(permit, clock.seconds) for permit in permits)
    assert len(permits) == budget.held


@pytest.mark.parametrize(
    ("mine", "theirs", "wanted", "keep", "i_wait", "yielded"),
    [
        (1, 0, 1, 1, False, 1),  # the last permit goes to a pool without permits
        (1, 0, 1, 1, True, 1),  # also if this pool wants more, because the pools take turns
        (1, 1, 1, 1, False, 0),  # but not to a pool that wants a second one
        (1, 1, 1, 0, False, 1),  # unless this pool is unused
        (3, 1, 9, 1, False, 2),  # the permits that this pool does not need
        (4, 0, 9, 1, True, 2),  # half of them, if both pools need all
        (3, 2, 9, 1, True, 1),  # the odd one moves between the pools
        (2, 2, 9, 1, True, 0),
    ],
)
def test_the_number_of_connections_that_a_pool_yields(
    mine: int, theirs: int, wanted: int, keep: int, i_wait: bool, yielded: int, make_budget: MakeBudget
) -> None:
    me, other = make_budget(mine + theirs), make_budget(mine + theirs)
    permits = [me.take(1) for _ in range(mine)] + [other.take(1) for _ in range(theirs)]
    assert None not in permits
    assert other.take(wanted) is None
    if i_wait:
        assert me.take(1) is None

    assert me.count_to_yield(keep) == yielded


def wait_for_more(*budgets: Budget) -> None:
    for budget in budgets:
        assert budget.take(4) is None


def test_between_waiting_pools_with_the_same_number_nothing_moves(make_timed: MakeBudget, clock: Clock) -> None:
    pools = [make_timed(8), make_timed(8)]
    permits = [take_all(pool, 4) for pool in pools]
    wait_for_more(*pools)

    for step in range(100):
        clock.pass_ms(30)
        pool, other = pools if step % 2 else pools[::-1]
        pool.satisfied()  # for a moment no thread waits in this pool
        other.until_turn()
        assert not any(pool.must_yield(permit, clock.seconds) for permit in permits[pools.index(pool)])
        assert pool.count_to_yield(1) == 0
        wait_for_more(pool)

    assert [pool.held for pool in pools] == [4, 4]


def test_a_pool_that_has_not_waited_for_long_yields_unneeded_connections(make_timed: MakeBudget, clock: Clock) -> None:
    me, other = make_timed(8), make_timed(8)
    permits = take_all(me, 4) + take_all(other, 4)
    wait_for_more(me, other)
    me.satisfied()
    clock.pass_ms(249)
    other.until_turn()
    assert me.count_to_yield(1) == 0

    clock.pass_ms(1)

    assert me.count_to_yield(1) == 3
    assert me.count_to_yield(3) == 1
    assert me.maintain(has_connections=True) == TURN
    assert not me.must_yield(permits[0], clock.seconds), "maintenance closes the unused ones"


def test_a_pool_that_has_its_share_polls_five_times_a_second(make_timed: MakeBudget, clock: Clock) -> None:
    one, another, third = make_timed(8), make_timed(8), make_timed(8)
    permits = take_all(one, 4) + take_all(another, 4)
    wait_for_more(one, another)

    assert [pool.until_turn() for pool in (one, another)] == [0.2, 0.2]
    assert [pool.maintain(has_connections=True) for pool in (one, another)] == [0.2, 0.2]
    another.satisfied()
    assert one.until_turn() == 0.2, "it has the same number, waiting or not"

    wait_for_more(third)
    assert third.until_turn() == 0.02, "it has fewer"
    third.satisfied()
    permits.pop().release(SessionEnd(assumed_after=0.0))
    assert one.until_turn() == 0.02, "one cools down for it"
    clock.pass_ms(20)
    assert one.until_turn() == 0.0


def test_a_pool_that_has_its_share_waits_and_is_satisfied_without_touching_the_file(
    make_timed: MakeBudget, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, another = make_timed(8), make_timed(8)
    permits = take_all(one, 4) + take_all(another, 4)
    wait_for_more(one, another)

    with monkeypatch.context() as patch:
        for call in ("pread", "pwrite", "lstat"):
            patch.setattr(os, call, None)
        for _ in range(10):
            clock.pass_ms(10)
            one.satisfied()
            assert not one.is_starved
            wait_for_more(one)
            assert one.is_starved

    another.satisfied()
    another.maintain(has_connections=True)
    permits.pop().release()
    clock.pass_ms(100)
    assert one.take(1) is not None, "it polls again within 0.2 s"


def test_a_pool_that_has_its_share_keeps_its_notice_valid(make_timed: MakeBudget, clock: Clock) -> None:
    one, another = make_timed(8), make_timed(8)
    permits = take_all(one, 4) + take_all(another, 4)
    wait_for_more(one)

    for _ in range(40):
        clock.pass_ms(50)
        wait_for_more(one)
        one.maintain(has_connections=True)

    assert another.count_to_yield(0) == 4
    assert len(permits) == 8


def test_a_pool_that_has_released_part_of_its_share_polls_at_once(make_timed: MakeBudget) -> None:
    one, another = make_timed(8), make_timed(8)
    permits = take_all(one, 4) + take_all(another, 4)
    wait_for_more(one, another)

    permits.pop(0).release()

    assert one.take(1) is not None


def test_maintenance_removes_the_notice_of_a_satisfied_pool(make_timed: MakeBudget) -> None:
    one, another = make_timed(8), make_timed(8)
    permits = take_all(one, 4) + take_all(another, 4)
    wait_for_more(one)
    one.satisfied()
    assert another.count_to_yield(1) == 3

    one.maintain(has_connections=True)

    assert another.count_to_yield(1) == 0
    assert len(permits) == 8


def test_a_pool_polls_quickly_while_another_has_more(make_timed: MakeBudget) -> None:
    poor, rich = make_timed(7), make_timed(7)
    permits = take_all(poor, 3) + take_all(rich, 4)
    wait_for_more(poor)
    assert poor.until_turn() == 0.02

    wait_for_more(rich)
    assert poor.until_turn() == 0.02
    assert rich.until_turn() == 0.2
    assert len(permits) == 7


def test_no_pool_yields_if_a_permit_is_about_to_be_free_elsewhere(make_budget: MakeBudget) -> None:
    me, another, starved = make_budget(2), make_budget(2), make_budget(2)
    mine, coming = me.take(1), take_one(another)
    assert mine is not None
    assert starved.take(1) is None
    assert me.count_to_yield(1) == 1

    coming.release()

    assert me.count_to_yield(1) == 0


def test_a_permit_stays_with_its_pool_for_a_turn(make_timed: MakeBudget, clock: Clock) -> None:
    me, starved = make_timed(1), make_timed(1)
    permit = take_one(me)
    assert starved.take(1) is None

    clock.pass_ms(A_TURN - 1)
    assert not permit.is_due()
    assert not me.must_yield(permit, clock.seconds)

    clock.pass_ms(1)
    assert permit.is_due()
    assert me.must_yield(permit, clock.seconds)


def test_each_permit_that_other_pools_wait_for_is_yielded_once(make_timed: MakeBudget, clock: Clock) -> None:
    me, starved = make_timed(4), make_timed(4)
    permits = take_all(me, 4)
    assert starved.take(4) is None
    clock.pass_ms(A_TURN)

    asked = []
    for _ in range(20):  # without a close in between
        asked.append([me.must_yield(permit, clock.seconds) for permit in permits])
        clock.pass_ms(11)
        starved.until_turn()

    assert asked == [[True, True, False, False]] * 20
    assert me.count_to_yield(0) == 2, "of the connections that no thread was told to close"


def test_simultaneous_returns_yield_no_more_than_is_wanted(make_budget: MakeBudget) -> None:
    me, starved = make_budget(16), make_budget(16)
    permits = take_all(me, 16)
    eventually(permits[-1].is_due)
    assert starved.take(3) is None
    given: set[Permit] = set()
    calls = [0] * 16
    is_over = threading.Event()

    def come_back(number: int) -> None:
        while not is_over.is_set():
            if me.must_yield(permits[number], time.monotonic()):
                given.add(permits[number])
            calls[number] += 1

    def is_renewed() -> bool:
        return starved.until_turn() >= 0.0

    tasks = [Task(lambda number=number: come_back(number)) for number in range(16)]  # type: ignore[misc]
    eventually(lambda: is_renewed() and len(given) >= 3)
    before = list(calls)
    eventually(lambda: is_renewed() and all(now > then + 100 for now, then in zip(calls, before, strict=True)))
    is_over.set()
    for task in tasks:
        task.result()

    assert len(given) == 3


def test_a_pool_counts_connections_to_yield_at_most_every_ten_ms(
    make_timed: MakeBudget, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    me, starved = make_timed(2), make_timed(2)
    permits = take_all(me, 2)
    clock.pass_ms(A_TURN)
    assert not me.must_yield(permits[0], clock.seconds)
    assert starved.take(1) is None

    clock.pass_ms(9)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", None)  # the file is not read
        assert not me.must_yield(permits[0], clock.seconds)
    clock.pass_ms(2)
    assert me.must_yield(permits[0], clock.seconds)


WORK = """
def work(told, served):
    from unit.fakes import FakeDatabase
    from wsgipool import Pool
    pool = Pool(FakeDatabase(), name='orders', max_size=1, timeout=30, permits=budget)
    while not told.wait(0.001):
        with pool.connection():
            time.sleep(0.005)
        served.append(1)
    pool.close()
"""


def test_all_waiting_pools_get_their_turn(start: Callable[[int], Process]) -> None:
    processes = [start(2) for _ in range(8)]
    for process in processes:
        process.run(f"exec({WORK!r}); import threading; told, served = threading.Event(), []")
    for process in processes:
        process.run("thread = threading.Thread(target=work, args=[told, served]); thread.start()")

    def served() -> list[int]:
        return [int(process.run("print(len(served))")[0]) for process in processes]

    eventually(lambda: min(served()) > 0)
    before = served()
    eventually(lambda: min(now - then for now, then in zip(served(), before, strict=True)) >= 60)
    turns = [now - then for now, then in zip(served(), before, strict=True)]
    for process in processes:
        process.run("told.set(); thread.join()")

    assert max(turns) <= 2 * min(turns), turns


def test_pools_far_behind_poll_less_often(make_timed: MakeBudget, clock: Clock) -> None:
    clock.now = 1_000_000_000
    holder, *starved = (make_timed(2) for _ in range(18))
    first, second = take_one(holder), take_one(holder)
    for budget in starved:
        assert budget.take(1) is None
        clock.now += 1
    clock.now = 1_100_000_000

    pauses = [budget.until_turn() for budget in starved]

    assert pauses[0] == 0.02, "the cooldown of a permit that is released now"
    assert pauses[1:4] == pytest.approx([0.05, 0.1, 0.15]), "half of the time if one permit is released each 0.1 s"
    assert pauses[4:] == pytest.approx([0.2] * 13)
    assert [budget.maintain(has_connections=False) for budget in starved] == pauses

    first.release(SessionEnd(assumed_after=0.0))
    clock.pass_ms(5)

    assert [budget.until_turn() for budget in starved[:3]] == pytest.approx([0.015, 0.02, 0.105 / 2 / 2])

    clock.pass_ms(15)

    assert starved[0].until_turn() == 0.0
    assert starved[0].take(1) is not None
    second.release()
