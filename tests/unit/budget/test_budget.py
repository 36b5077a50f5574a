"""The budget of a host: the number of permits, and the time at which a released permit is free."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unit.budgets import SERVER, Clock, MakeBudget, take_all, take_one
from unit.fakes import eventually
from wsgipool.budget.board import HALF_LIFE, Board
from wsgipool.budget.budget import Budget, BudgetLimit
from wsgipool.budget.permits import Permit
from wsgipool.drivers.session_end import ASSUMED_AFTER, SessionEnd
from wsgipool.errors import ConfigError

# --- the limit -------------------------------------------------------------------------------------------------------


def test_there_are_as_many_permits_as_connections(make_budget: MakeBudget) -> None:
    budget, other = make_budget(3), make_budget(3)

    permits = [budget.take(1), other.take(1), budget.take(1)]

    assert None not in permits
    assert budget.take(1) is None
    assert other.take(1) is None


def test_a_released_permit_can_be_taken_once(make_budget: MakeBudget) -> None:
    budget, other = make_budget(1), make_budget(1)
    permit = take_one(budget)

    permit.release()
    permit.release()
    taken = other.take(1)
    permit.release()

    assert taken is not None
    assert budget.take(1) is None


def test_a_permit_dropped_by_an_exception_is_released(make_budget: MakeBudget) -> None:
    budget, other = make_budget(1), make_budget(1)
    permit = budget.take(1)

    del permit

    assert other.take(1) is not None


def used_permit(budget: Budget) -> Permit:
    permit = take_one(budget)
    permit.is_used = True
    return permit


def test_a_permit_cools_down_until_the_server_has_ended_its_count(make_timed: MakeBudget, clock: Clock) -> None:
    budget, other = make_timed(1), make_timed(1)

    used_permit(budget).release(SessionEnd(assumed_after=0.0))

    clock.pass_ms(19)
    assert other.take(1) is None
    clock.pass_ms(1)
    assert other.take(1) is not None


@pytest.fixture
def session_end() -> Iterator[tuple[SessionEnd, socket.socket]]:
    """The end of a session, and the server's socket of that session."""
    here, there = socket.socketpair()
    session_end = SessionEnd(here.fileno())
    here.close()
    session_end.shut_down_writing()
    with there:
        yield session_end, there


def test_a_permit_stays_until_the_server_has_ended_the_session(
    make_budget: MakeBudget, session_end: tuple[SessionEnd, socket.socket]
) -> None:
    budget, other = make_budget(1), make_budget(1)
    end, server = session_end
    used_permit(budget).release(end)
    time.sleep(0.05)  # longer than a cooldown
    assert budget.maintain(has_connections=False) is not None, "another call is due"
    assert other.take(1) is None

    server.close()

    assert budget.maintain(has_connections=False) is None
    assert budget.held == 0
    eventually(lambda: other.take(1) is not None)


def test_a_cooldown_begins_when_the_end_was_seen(make_timed: MakeBudget, clock: Clock) -> None:
    class SlowEnd(SessionEnd):
        """A session end that is observed by a thread without a processor."""

        def is_over(self) -> bool:
            clock.pass_ms(50)
            return super().is_over()

    budget, other = make_timed(1), make_timed(1)
    used_permit(budget).release(SlowEnd(assumed_after=0.0))

    assert other.take(1) is None
    clock.pass_ms(20)
    assert other.take(1) is not None


def test_a_server_that_was_slow_to_end_a_session_makes_the_next_cooldown_longer(
    make_budget: MakeBudget, session_end: tuple[SessionEnd, socket.socket]
) -> None:
    budget, other = make_budget(2), make_budget(2)
    end, server = session_end
    time.sleep(0.2)
    server.close()
    used_permit(budget).release(end)
    released = time.monotonic()

    used_permit(other).release(SessionEnd(assumed_after=0.0))

    eventually(lambda: (budget.take(1), other.take(1)).count(None) == 0)
    assert time.monotonic() - released > 0.02 + 0.1  # a longer delay counts for 0.1 s


def test_the_slowest_end_of_a_session_counts_for_half_every_ten_seconds(tmp_path: Path) -> None:
    with (tmp_path / "board").open("w+b", buffering=0) as file:
        board = Board(file)
        board.record_delay(1000, 8_000_000)
        board.record_delay(2000, 1_000_000)

        assert [board.delay(2000 + times * HALF_LIFE) for times in range(3)] == [8_000_000, 4_000_000, 2_000_000]

        board.record_delay(2000 + 3 * HALF_LIFE, 1_500_000)
        assert board.delay(2000 + 3 * HALF_LIFE) == 1_500_000


def test_a_forks_child_leaves_the_session_ends_to_its_parent(
    make_budget: MakeBudget, session_end: tuple[SessionEnd, socket.socket]
) -> None:
    budget, other = make_budget(1), make_budget(1)
    used_permit(budget).release(session_end[0])

    child = os.fork()
    if child == 0:
        budget.maintain(has_connections=False)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

    assert budget.maintain(has_connections=False) is not None
    assert other.take(1) is None


def test_an_unused_permit_needs_no_cooldown(make_budget: MakeBudget) -> None:
    budget, other = make_budget(1), make_budget(1)
    permit = take_one(budget)

    permit.release()

    assert other.take(1) is not None


def test_a_permit_whose_session_end_was_not_observed_cools_down_longer(make_budget: MakeBudget) -> None:
    budget, other = make_budget(1), make_budget(1)
    released = time.monotonic()

    used_permit(budget).release()

    def is_free() -> bool:
        budget.maintain(has_connections=False)
        return other.take(1) is not None

    eventually(is_free)
    assert time.monotonic() - released > ASSUMED_AFTER


def test_servers_do_not_share(folder: Path, make_budget: MakeBudget) -> None:
    permit = make_budget(1).take(1)
    elsewhere = Budget(folder, "mysql://db.example.com:3307", BudgetLimit(1)).take(1)

    assert permit is not None
    assert elsewhere is not None


def test_a_smaller_limit_counts_the_permits_of_the_old_generation(make_budget: MakeBudget) -> None:
    old, new = make_budget(4), make_budget(2)
    permits = [old.take(1) for _ in range(4)]
    assert new.take(1) is None

    for permit in permits[:3]:
        assert permit is not None
        permit.release()

    take_all(new, 2)
    assert permits[3] is not None, "it stays taken, beyond the new limit"


def test_an_automatic_limit_is_one_until_a_process_has_asked_the_server(folder: Path) -> None:
    limit = BudgetLimit("auto", hosts=2, reserve=10)
    budget, other = Budget(folder, SERVER, limit), Budget(folder, SERVER, limit)
    permits = [budget.take(1)]
    assert other.take(1) is None
    assert budget.asks_server
    assert str(budget).startswith('an "auto" number (the first asks the server) of connections')

    budget.learn(30)

    assert not budget.asks_server
    assert str(other).startswith("10 connections")
    permits += [other.take(1) for _ in range(9)]
    assert None not in permits
    assert other.take(1) is None


# --- what the server allows to an account ----------------------------------------------------------------------------


@pytest.fixture
def pool_of(folder: Path) -> Callable[[str], Budget]:
    """Make the part of a pool with this account, in a budget that follows the server."""
    return lambda account: Budget(folder, SERVER, BudgetLimit("auto"), account)


PoolOf = Callable[[str], Budget]


@pytest.mark.parametrize("first", ["shop", "report"])
def test_the_smallest_limit_of_an_account_holds_for_all_in_any_order(pool_of: PoolOf, first: str) -> None:
    pools = {"shop": pool_of("shop"), "report": pool_of("report")}
    own = {"shop": None, "report": 3}
    for account in sorted(pools, key=lambda account: account != first):
        pools[account].learn(8, own[account])

    permits = [pools["shop"].take(1), pools["report"].take(1), pools["shop"].take(1)]

    assert None not in permits
    assert pools["shop"].take(1) is None
    assert pools["report"].take(1) is None


def test_a_limit_that_was_raised_is_learnt_from_the_next_process(pool_of: PoolOf) -> None:
    shop, report = pool_of("shop"), pool_of("report")
    shop.learn(4)
    report.learn(4, 2)

    pool_of("report").learn(6, 5)
    permits = [shop.take(1) for _ in range(5)]
    assert None not in permits
    assert shop.take(1) is None

    pool_of("report").learn(6)
    permits += take_all(shop, 1)
    assert shop.take(1) is None


def test_the_limit_of_an_account_counts_while_a_pool_uses_the_account(pool_of: PoolOf) -> None:
    shop, report, idle = pool_of("shop"), pool_of("report"), pool_of("report")
    report.learn(4, 2)
    shop.learn(4)

    del report
    pool_of("shop").learn(4)
    permits = [shop.take(1) for _ in range(2)]
    assert None not in permits
    assert shop.take(1) is None, "another process has a pool of this account, which has not asked"

    del idle
    pool_of("shop").learn(4)
    assert len(take_all(shop, 2)) == 2


def test_an_account_has_one_connection_until_a_process_has_asked_for_it(pool_of: PoolOf) -> None:
    """The account's limit may be one. A pool that waits for the answer does not stop others from asking."""
    shop, one, another = pool_of("shop"), pool_of("report"), pool_of("report")
    shop.learn(8)
    permits = [one.take(1)]
    assert permits[0] is not None
    assert one.take(1) is None
    assert another.take(1) is None
    assert shop.take(1) is not None

    permits.clear()  # without a connect
    permits = [another.take(1)]
    assert permits[0] is not None
    assert one.take(1) is None

    another.learn(8, 4)
    assert one.take(1) is not None


def test_a_pool_that_has_to_wait_for_a_permit_keeps_no_other_one_from_asking(pool_of: PoolOf) -> None:
    shop, one, another = pool_of("shop"), pool_of("report"), pool_of("report")
    shop.learn(1)
    permits = [shop.take(1)]
    assert one.take(0) is None

    permits.clear()

    assert another.take(1) is not None


def test_a_new_process_uses_the_known_limit_of_an_account(pool_of: PoolOf) -> None:
    pool_of("report").learn(8, 2)

    new = pool_of("report")

    permits = [new.take(1), new.take(1)]
    assert None not in permits
    assert new.asks_server, "it may have changed"


# --- unusable file systems -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_such_locks_is_refused(
    error: int, make_budget: MakeBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "fcntl", refuse)

    with pytest.raises(ConfigError, match="is on a file system without open-file-description locks"):
        make_budget(1)


def test_a_file_system_whose_locks_do_nothing_is_refused(
    make_budget: MakeBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = struct.pack("hhqqi4x", fcntl.F_UNLCK, 0, 0, 0, 0)
    monkeypatch.setattr(fcntl, "fcntl", lambda *_: free)

    with pytest.raises(ConfigError, match="is on a file system whose locks have no effect"):
        make_budget(1)


def test_the_message_has_the_numbers_of_the_budget(make_budget: MakeBudget, folder: Path) -> None:
    budget, other = make_budget(2), make_budget(2)
    permits = [budget.take(1), other.take(1)]
    assert budget.take(1) is None

    assert budget.describe() == (
        "the budget of this host is used up: 2 of 2 connections to mysql://db.example.com:3306 are open, 1 of them in "
        "this pool; waiting pools: 1. Raise connections in [budget], if the server allows more"
    )
    assert str(budget).startswith(f"2 connections of this host to {SERVER}, counted in {folder}/budget-3-mysql---db.")
    assert len(permits) == 2
