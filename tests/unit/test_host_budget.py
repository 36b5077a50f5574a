"""One budget for all processes of a host: real files, real locks, real processes."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unit.fakes import PATIENCE, eventually
from unit.interrupts import Strikes, debris_ignored
from wsgipool.errors import ConfigError
from wsgipool.farewell import UNSEEN, Farewell
from wsgipool.host import budget as host_budget
from wsgipool.host.board import HALF_LIFE, LEASE, Board
from wsgipool.host.budget import Budget, Limit
from wsgipool.host.bytelocks import ByteLocks
from wsgipool.permits import Permit

SERVER = "mysql://db.example.com:3306"
MakeBudget = Callable[[int], Budget]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def make_budget(folder: Path) -> MakeBudget:
    """Makes the part of a pool in the budget: each has a description of its own, so each is as good as a process."""
    return lambda connections: Budget(folder, SERVER, Limit(connections))


class Process:
    """A Python of its own that has `budget`, and does one statement after the other; each prints one line."""

    def __init__(self, folder: Path, connections: int) -> None:
        program = (
            f"import os, sys, subprocess, time; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
            "from pathlib import Path\n"
            "from wsgipool.host.budget import Budget, Limit\n"
            f"budget = Budget(Path({str(folder)!r}), {SERVER!r}, Limit({connections}))\n"
            "permits = []\n"
            "for line in sys.stdin:\n"
            "    exec(line)\n"
            "    print('done', flush=True)\n"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, statement: str) -> list[str]:
        """Return the lines that the statement printed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{statement}\n")
        self._process.stdin.flush()
        lines: list[str] = []
        while (line := self._process.stdout.readline().strip()) != "done":
            assert line, "the process has ended"
            lines.append(line)
        return lines

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def take_one(budget: Budget) -> Permit:
    permit = budget.take(1)
    assert permit is not None
    return permit


def take_all(budget: Budget, number: int) -> list[Permit]:
    """Wait until so many permits can be had, and return them."""
    permits: list[Permit] = []

    def has_all() -> bool:
        permit = budget.take(1)
        if permit is not None:
            permits.append(permit)
        return len(permits) == number

    eventually(has_all)
    return permits


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[[int], Process]]:
    started: list[Process] = []

    def start(connections: int) -> Process:
        started.append(Process(folder, connections))
        return started[-1]

    yield start
    for process in started:
        process.kill()


# --- the limit -------------------------------------------------------------------------------------------------------


def test_there_are_as_many_permits_as_connections(make_budget: MakeBudget) -> None:
    budget, other = make_budget(3), make_budget(3)

    permits = [budget.take(1), other.take(1), budget.take(1)]

    assert None not in permits
    assert budget.take(1) is None
    assert other.take(1) is None


def test_what_is_given_back_can_be_taken_once(make_budget: MakeBudget) -> None:
    budget, other = make_budget(1), make_budget(1)
    permit = take_one(budget)

    permit.release()
    permit.release()
    taken = other.take(1)
    permit.release()

    assert taken is not None
    assert budget.take(1) is None


def test_a_permit_that_was_dropped_by_an_exception_comes_back(make_budget: MakeBudget) -> None:
    budget, other = make_budget(1), make_budget(1)
    permit = budget.take(1)

    del permit

    assert other.take(1) is not None


def used_permit(budget: Budget) -> Permit:
    permit = take_one(budget)
    permit.is_used = True
    return permit


def test_a_permit_rests_until_the_server_has_ended_its_count(
    make_budget: MakeBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic_ns()
    monkeypatch.setattr(host_budget, "monotonic_ns", lambda: now)
    budget, other = make_budget(1), make_budget(1)

    used_permit(budget).release(Farewell(unseen=0.0))

    now += 19_000_000
    assert other.take(1) is None
    now += 1_000_000
    assert other.take(1) is not None


@pytest.fixture
def farewell() -> Iterator[tuple[Farewell, socket.socket]]:
    """A farewell to a server, and the server's socket."""
    here, there = socket.socketpair()
    farewell = Farewell(here.fileno())
    here.close()
    farewell.hang_up()
    with there:
        yield farewell, there


def test_a_permit_stays_until_the_server_has_ended_the_session(
    make_budget: MakeBudget, farewell: tuple[Farewell, socket.socket]
) -> None:
    budget, other = make_budget(1), make_budget(1)
    end, server = farewell
    used_permit(budget).release(end)
    time.sleep(0.05)  # longer than a rest
    assert budget.tend(has_connections=False) is not None, "it has to be looked at again"
    assert other.take(1) is None

    server.close()

    assert budget.tend(has_connections=False) is None
    assert budget.held == 0
    eventually(lambda: other.take(1) is not None)


def test_a_permit_rests_from_when_the_end_was_seen(make_budget: MakeBudget, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic_ns()
    monkeypatch.setattr(host_budget, "monotonic_ns", lambda: now)

    class SlowLook(Farewell):
        """One whose end comes while a thread looks for it that has to wait for a processor."""

        def is_over(self) -> bool:
            nonlocal now
            now += 50_000_000
            return super().is_over()

    budget, other = make_budget(1), make_budget(1)
    used_permit(budget).release(SlowLook(unseen=0.0))

    assert other.take(1) is None
    now += 20_000_000
    assert other.take(1) is not None


def test_a_server_that_was_slow_to_end_a_session_lets_the_next_permit_rest_longer(
    make_budget: MakeBudget, farewell: tuple[Farewell, socket.socket]
) -> None:
    budget, other = make_budget(2), make_budget(2)
    end, server = farewell
    time.sleep(0.2)
    server.close()
    used_permit(budget).release(end)
    released = time.monotonic()

    used_permit(other).release(Farewell(unseen=0.0))

    eventually(lambda: (budget.take(1), other.take(1)).count(None) == 0)
    assert time.monotonic() - released > 0.02 + 0.1  # of which more would not count


def test_the_slowest_end_of_a_session_counts_until_it_was_long_ago(tmp_path: Path) -> None:
    with (tmp_path / "board").open("w+b", buffering=0) as file:
        board = Board(file)
        board.note_delay(1000, 8_000_000)
        board.note_delay(2000, 1_000_000)

        assert [board.delay(2000 + times * HALF_LIFE) for times in range(3)] == [8_000_000, 4_000_000, 2_000_000]

        board.note_delay(2000 + 3 * HALF_LIFE, 1_500_000)
        assert board.delay(2000 + 3 * HALF_LIFE) == 1_500_000


def test_a_forks_child_leaves_the_farewells_to_its_parent(
    make_budget: MakeBudget, farewell: tuple[Farewell, socket.socket]
) -> None:
    budget, other = make_budget(1), make_budget(1)
    used_permit(budget).release(farewell[0])

    child = os.fork()
    if child == 0:
        budget.tend(has_connections=False)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

    assert budget.tend(has_connections=False) is not None
    assert other.take(1) is None


def test_a_permit_with_which_nothing_was_opened_needs_no_rest(make_budget: MakeBudget) -> None:
    budget, other = make_budget(1), make_budget(1)
    permit = take_one(budget)

    permit.release()

    assert other.take(1) is not None


def test_a_permit_whose_connection_ended_nobody_knows_how_rests_longer(make_budget: MakeBudget) -> None:
    budget, other = make_budget(1), make_budget(1)
    released = time.monotonic()

    used_permit(budget).release()

    def is_free() -> bool:
        budget.tend(has_connections=False)
        return other.take(1) is not None

    eventually(is_free)
    assert time.monotonic() - released > UNSEEN


def test_servers_do_not_share(folder: Path, make_budget: MakeBudget) -> None:
    permit = make_budget(1).take(1)
    elsewhere = Budget(folder, "mysql://db.example.com:3307", Limit(1)).take(1)

    assert permit is not None
    assert elsewhere is not None


def test_a_smaller_limit_counts_what_the_old_generation_has(make_budget: MakeBudget) -> None:
    old, new = make_budget(4), make_budget(2)
    permits = [old.take(1) for _ in range(4)]
    assert new.take(1) is None

    for permit in permits[:3]:
        assert permit is not None
        permit.release()

    take_all(new, 2)
    assert permits[3] is not None, "it stays where it is, beyond the new limit"


def test_an_automatic_limit_is_one_until_somebody_has_asked_the_server(folder: Path) -> None:
    limit = Limit("auto", hosts=2, reserve=10)
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
    """Makes the part of a pool that connects as this account, in a budget that follows the server."""
    return lambda account: Budget(folder, SERVER, Limit("auto"), account)


PoolOf = Callable[[str], Budget]


@pytest.mark.parametrize("first", ["shop", "report"])
def test_what_is_allowed_to_one_account_holds_for_all_whoever_asks_last(pool_of: PoolOf, first: str) -> None:
    pools = {"shop": pool_of("shop"), "report": pool_of("report")}
    own = {"shop": None, "report": 3}
    for account in sorted(pools, key=lambda account: account != first):
        pools[account].learn(8, own[account])

    permits = [pools["shop"].take(1), pools["report"].take(1), pools["shop"].take(1)]

    assert None not in permits
    assert pools["shop"].take(1) is None
    assert pools["report"].take(1) is None


def test_a_limit_that_was_raised_is_learnt_from_whoever_asks_next(pool_of: PoolOf) -> None:
    shop, report = pool_of("shop"), pool_of("report")
    shop.learn(4)
    report.learn(4, 2)

    pool_of("report").learn(6, 5)
    permits = [shop.take(1) for _ in range(5)]
    assert None not in permits
    assert shop.take(1) is None

    pool_of("report").learn(6)
    permits += [shop.take(1)]
    assert None not in permits
    assert shop.take(1) is None


def test_what_is_allowed_to_an_account_counts_as_long_as_a_pool_connects_as_it(pool_of: PoolOf) -> None:
    shop, report, idle = pool_of("shop"), pool_of("report"), pool_of("report")
    report.learn(4, 2)
    shop.learn(4)

    del report
    pool_of("shop").learn(4)
    permits = [shop.take(1) for _ in range(2)]
    assert None not in permits
    assert shop.take(1) is None, "another process has a pool of it, though that has not asked"

    del idle
    pool_of("shop").learn(4)
    assert None not in [shop.take(1) for _ in range(2)]


def test_as_long_as_nobody_has_asked_for_an_account_it_has_one_connection(pool_of: PoolOf) -> None:
    """Its own limit may be one. Of those that wait for the answer none keeps the others from asking."""
    shop, one, another = pool_of("shop"), pool_of("report"), pool_of("report")
    shop.learn(8)
    permits = [one.take(1)]
    assert permits[0] is not None
    assert one.take(1) is None
    assert another.take(1) is None
    assert shop.take(1) is not None

    permits.clear()  # it has not connected
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


def test_what_others_know_of_an_account_a_new_process_need_not_ask(pool_of: PoolOf) -> None:
    pool_of("report").learn(8, 2)

    new = pool_of("report")

    permits = [new.take(1), new.take(1)]
    assert None not in permits
    assert new.asks_server, "it may have changed"


# --- processes -------------------------------------------------------------------------------------------------------


def test_a_killed_process_leaves_its_permits_to_others_after_a_rest(
    make_budget: MakeBudget, start: Callable[[int], Process]
) -> None:
    budget, process = make_budget(2), start(2)
    process.run("permits = [budget.take(1), budget.take(1)]")
    assert budget.take(1) is None

    process.kill()
    killed = time.monotonic()

    take_all(budget, 2)
    assert time.monotonic() - killed > 0.2, "the server may not have noticed yet"


def test_a_started_program_does_not_keep_its_parents_permits(
    make_budget: MakeBudget, start: Callable[[int], Process]
) -> None:
    budget, process = make_budget(1), start(1)
    (child,) = process.run(
        "permits = [budget.take(1)]; print(subprocess.Popen(['sleep', '60'], close_fds=False, stdout=2).pid)"
    )
    try:
        process.kill()
        eventually(lambda: budget.take(1) is not None)
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_a_forks_child_does_not_keep_its_parents_permits_and_takes_its_own(
    make_budget: MakeBudget, start: Callable[[int], Process]
) -> None:
    budget, process = make_budget(3), start(3)
    process.run("from unit.fakes import FakeDatabase; from wsgipool import Pool")
    process.run("pool = Pool(FakeDatabase(), name='orders', max_size=3, permits=budget)")
    process.run("held = [pool.getconn(), pool.getconn()]; reader, writer = os.pipe()")
    (child,) = process.run(
        "pid = os.fork(); mine = None if pid else pool.getconn();"
        "print(pid, os.read(reader, 1), sep='') if pid else (os.close(1), os.write(writer, b'!'), time.sleep(60))"
    )
    child = child.partition("b")[0]
    try:
        time.sleep(0.05)  # longer than a rest, had the child given back what is its parent's
        assert budget.take(1) is None, "the parent has two, the child one"
        process.kill()
        permits = take_all(budget, 2)
        assert budget.take(1) is None, f"{permits} are the parent's"
    finally:
        os.kill(int(child), signal.SIGKILL)


class Server:
    """Stands for a database server: counts who is connected."""

    def __init__(self, path: Path) -> None:
        self.sessions = self.most = self.served = 0
        self.path = path
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(100)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                session, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.sessions += 1
                self.served += 1
                self.most = max(self.most, self.sessions)
            threading.Thread(target=self._serve, args=[session], daemon=True).start()

    def _serve(self, session: socket.socket) -> None:
        session.recv(1)
        with self._lock:
            self.sessions -= 1
        session.close()


CLIENT = """
def client(path):
    import socket
    while True:
        permit = budget.take(1)
        if permit is None:
            time.sleep(0.005)
            continue
        session = socket.socket(socket.AF_UNIX)
        session.connect(path)
        time.sleep(0.005)
        session.shutdown(socket.SHUT_WR)
        session.recv(1)
        session.close()
        permit.release()
"""


def test_the_limit_holds_however_processes_die(
    tmp_path: Path, make_budget: MakeBudget, start: Callable[[int], Process]
) -> None:
    server = Server(tmp_path / "socket")

    def begin() -> Process:
        process = start(3)
        process.run(f"exec({CLIENT!r})")
        process.run(
            f"import threading; threading.Thread(target=client, args=[{str(server.path)!r}], daemon=True).start()"
        )
        return process

    processes = [begin() for _ in range(5)]
    for _ in range(6):
        served = server.served
        eventually(lambda served=served: server.served > served + 5)  # type: ignore[misc]
        processes.pop(0).kill()
        processes.append(begin())
    for process in processes:
        process.kill()
    server.close()

    assert server.most <= 3
    budget = make_budget(3)
    take_all(budget, 3)


# --- whose turn it is ------------------------------------------------------------------------------------------------


def test_the_one_who_has_waited_longest_comes_next(make_budget: MakeBudget) -> None:
    holder, first, second = make_budget(1), make_budget(1), make_budget(1)
    permit = take_one(holder)
    assert first.take(1) is None
    assert second.take(1) is None

    permit.release()

    assert second.take(1) is None
    assert holder.take(1) is None
    assert first.take(1) is not None


def test_the_one_who_has_none_comes_before_one_who_wants_more(make_budget: MakeBudget) -> None:
    holder, rich, poor = make_budget(2), make_budget(2), make_budget(2)
    permit, one = take_one(holder), rich.take(1)
    assert one is not None
    assert rich.take(1) is None
    assert poor.take(1) is None

    permit.release()

    assert rich.take(1) is None
    assert poor.take(1) is not None


def test_what_nobody_waits_for_is_taken_only_where_nobody_hungers(make_budget: MakeBudget) -> None:
    holder, hungry, filler = make_budget(2), make_budget(2), make_budget(2)
    permits = [holder.take(1), holder.take(1)]
    assert hungry.take(1) is None
    for permit in permits:
        assert permit is not None
        permit.release()

    assert filler.take(0) is None
    assert not filler.hungers

    assert hungry.take(1) is not None
    hungry.sated()
    assert filler.take(0) is not None


def test_the_hunger_of_the_dead_lapses(make_budget: MakeBudget, start: Callable[[int], Process]) -> None:
    holder, other, process = make_budget(1), make_budget(1), start(1)
    permit = take_one(holder)
    process.run("assert budget.take(1) is None")
    process.kill()
    permit.release()
    died = time.monotonic()

    assert other.take(1) is None, "the dead one was first"
    eventually(lambda: other.take(1) is not None)

    assert time.monotonic() - died < 2 * LEASE / 1e9


def test_without_hunger_nothing_is_to_be_given_up(make_budget: MakeBudget) -> None:
    budget = make_budget(3)
    permits = [budget.take(1), budget.take(1)]

    assert not budget.others_hunger()
    assert budget.to_give_up(0) == 0
    assert len(permits) == budget.held


@pytest.mark.parametrize(
    ("mine", "theirs", "wanted", "keep", "i_hunger", "given"),
    [
        (1, 0, 1, 1, False, 1),  # the last one goes to who has none
        (1, 0, 1, 1, True, 1),  # even if I want more myself: that is what a turn is
        (1, 1, 1, 1, False, 0),  # and not to who wants a second
        (1, 1, 1, 0, False, 1),  # unless I do nothing at all
        (3, 1, 9, 1, False, 2),  # what I do not need
        (4, 0, 9, 1, True, 2),  # half, if we both need all
        (3, 2, 9, 1, True, 1),  # the odd one goes round
        (2, 2, 9, 1, True, 0),
    ],
)
def test_what_is_given_up_for_others(
    mine: int, theirs: int, wanted: int, keep: int, i_hunger: bool, given: int, make_budget: MakeBudget
) -> None:
    me, other = make_budget(mine + theirs), make_budget(mine + theirs)
    permits = [me.take(1) for _ in range(mine)] + [other.take(1) for _ in range(theirs)]
    assert None not in permits
    assert other.take(wanted) is None
    if i_hunger:
        assert me.take(1) is None

    assert me.others_hunger()
    assert me.to_give_up(keep) == given


def test_nobody_is_asked_for_what_is_about_to_be_free(make_budget: MakeBudget) -> None:
    me, another, hungry = make_budget(2), make_budget(2), make_budget(2)
    mine, coming = me.take(1), take_one(another)
    assert mine is not None
    assert hungry.take(1) is None
    assert me.to_give_up(1) == 1

    coming.release()

    assert me.to_give_up(1) == 0


def test_a_permit_stays_for_a_turn(make_budget: MakeBudget, monkeypatch: pytest.MonkeyPatch) -> None:
    me, hungry = make_budget(1), make_budget(1)
    permit = take_one(me)
    assert hungry.take(1) is None

    monkeypatch.setattr(host_budget, "TURN", PATIENCE)
    assert not permit.is_wanted()

    monkeypatch.setattr(host_budget, "TURN", 0.0)
    assert permit.is_wanted()


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


def test_the_turn_goes_round(start: Callable[[int], Process]) -> None:
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


def test_those_far_behind_look_less_often(make_budget: MakeBudget, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000_000
    monkeypatch.setattr(host_budget, "monotonic_ns", lambda: now)
    holder, *hungry = (make_budget(2) for _ in range(18))
    first, second = take_one(holder), take_one(holder)
    for budget in hungry:
        assert budget.take(1) is None
        now += 1
    now = 1_100_000_000

    pauses = [budget.until_turn() for budget in hungry]

    assert pauses[0] == 0.02, "what is given back now has to rest for so long"
    assert pauses[1:4] == pytest.approx([0.05, 0.1, 0.15]), "half of what it takes if one is given back each 0.1 s"
    assert pauses[4:] == pytest.approx([0.2] * 13)
    assert [budget.tend(has_connections=False) for budget in hungry] == pauses

    first.release(Farewell(unseen=0.0))
    now += 5_000_000

    assert [budget.until_turn() for budget in hungry[:3]] == pytest.approx([0.015, 0.02, 0.105 / 2 / 2])

    now += 15_000_000

    assert hungry[0].until_turn() == 0.0
    assert hungry[0].take(1) is not None
    second.release()


def test_of_all_who_wait_one_at_a_time_searches_for_permits_of_the_dead(tmp_path: Path) -> None:
    with (tmp_path / "board").open("w+b", buffering=0) as file:
        boards = [Board(file) for _ in range(2)]
        searches = [[board.is_time_to_search(10**9 + ms * 10**6) for board in boards] for ms in (0, 49, 50)]

    assert searches == [[True, False], [False, False], [True, False]]


def test_a_permit_of_the_dead_is_found_by_those_who_do_nothing_but_wait(
    make_budget: MakeBudget, start: Callable[[int], Process]
) -> None:
    process, budget = start(1), make_budget(1)
    process.run("permits.append(budget.take(1))")
    assert budget.take(1) is None
    process.kill()

    eventually(lambda: budget.until_turn() == 0.0)

    assert budget.take(1) is not None


def test_who_looks_for_permits_of_the_dead_takes_none_from_another_thread(
    make_budget: MakeBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic_ns()
    monkeypatch.setattr(host_budget, "monotonic_ns", lambda: now)
    budget, other, third = make_budget(1), make_budget(1), make_budget(1)
    its = take_one(other)
    lock = ByteLocks.lock
    got: list[Permit | None] = []

    def lock_late(locks: ByteLocks, byte: int) -> bool:
        if byte == 0 and locks is budget._opened().locks:
            monkeypatch.undo()
            monkeypatch.setattr(host_budget, "monotonic_ns", lambda: now)
            its.release()
            got.append(budget.take(1))  # as another thread of this process might at this very moment
        return lock(locks, byte)

    monkeypatch.setattr(ByteLocks, "lock", lock_late)
    budget.take(1)
    assert len(got) == 1, "it has not looked"
    now += 2_000_000_000

    permits = [got[0] or budget.take(1), third.take(1)]

    assert permits.count(None) == 1, "one connection is allowed"


def test_who_is_interrupted_while_it_looks_for_permits_of_the_dead_says_no_word_of_anothers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic_ns()
    monkeypatch.setattr(host_budget, "monotonic_ns", lambda: now)
    unlock = ByteLocks.unlock
    strikes = Strikes(__file__, when_waiting=lambda: None)

    def struck_at(place: int) -> tuple[bool, bool]:
        """Tell whether there is such a place, and whether another got the permit meanwhile, which must have stayed."""
        budget, dead, other = (Budget(tmp_path / str(place), SERVER, Limit(1)) for _ in range(3))
        its = take_one(dead)
        dead._opened().locks.close()
        dead._held.clear()
        others: list[Permit | None] = [its]

        def unlock_for_another(locks: ByteLocks, byte: int) -> None:
            nonlocal now
            unlock(locks, byte)
            if locks is budget._opened().locks and not other.held:
                now += 2_000_000_000
                others.append(other.take(1))

        monkeypatch.setattr(ByteLocks, "unlock", unlock_for_another)
        with debris_ignored():  # the destructor of a permit is struck, too
            was_struck = strikes.at(place, lambda: budget.take(1))
        monkeypatch.setattr(ByteLocks, "unlock", unlock)

        assert other._opened().board.taken(1) == [0] or not other.held, f"at place {place}"
        budget.tend(has_connections=False)
        assert budget.held == 0, f"at place {place}"
        return was_struck, other.held == 1

    moved = 0
    for place in itertools.count(1):
        was_struck, has_moved = struck_at(place)
        moved += has_moved
        if not was_struck:
            break
    assert moved > 1


# --- what cannot be --------------------------------------------------------------------------------------------------


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

    with pytest.raises(ConfigError, match="is on a file system whose locks keep nobody out"):
        make_budget(1)


def test_the_message_tells_the_numbers(make_budget: MakeBudget, folder: Path) -> None:
    budget, other = make_budget(2), make_budget(2)
    permits = [budget.take(1), other.take(1)]
    assert budget.take(1) is None

    assert budget.describe() == (
        "the budget of this host is used up: 2 of 2 connections to mysql://db.example.com:3306 are open, 1 of them in "
        "this pool; 1 pools want one. Raise connections in [budget], if the server allows more"
    )
    assert str(budget).startswith(f"2 connections of this host to {SERVER}, counted in {folder}/budget-3-mysql---db.")
    assert len(permits) == 2
