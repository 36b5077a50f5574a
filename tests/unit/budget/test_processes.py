"""One budget for many threads and processes, with real files, locks, forks and killed processes."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from unit.budgets import SERVER, Clock, MakeBudget, Process, take_all, take_one
from unit.fakes import Task, eventually
from unit.interrupts import ExceptionInjector, debris_ignored
from wsgipool.budget.board import Board
from wsgipool.budget.budget import Budget, BudgetLimit
from wsgipool.budget.permits import Permit
from wsgipool.shared.bytelocks import ByteLocks

# --- threads ---------------------------------------------------------------------------------------------------------


def test_threads_that_take_at_once_get_as_many_permits_as_there_are(make_budget: MakeBudget) -> None:
    budget, other = make_budget(5), make_budget(5)
    start = threading.Barrier(8)

    def take() -> list[Permit | None]:
        start.wait()
        return [budget.take(1) for _ in range(3)]

    tasks = [Task(take) for _ in range(8)]
    permits = [permit for task in tasks for permit in task.result() if permit is not None]

    assert len(permits) == budget.held <= 5
    permits += take_all(budget, 5 - len(permits))
    assert other.take(1) is None


def test_threads_that_use_a_budget_at_once_leave_it_as_it_was(make_budget: MakeBudget) -> None:
    budget, other = make_budget(3), make_budget(3)
    most = 0

    def use() -> None:
        nonlocal most
        for _ in range(100):
            permit = budget.take(1)
            most = max(most, budget.held)
            budget.until_turn()
            if permit is not None:
                budget.must_yield(permit, time.monotonic())
                permit.release()
            budget.satisfied()
            budget.maintain(has_connections=True)
            budget.count_to_yield(1)

    for task in [Task(use) for _ in range(6)]:
        task.result()

    assert most <= 3
    assert budget.held == 0
    assert not budget.is_starved
    assert len(take_all(other, 3)) == 3
    assert other.count_to_yield(0) == 0, "no notice is left"


def test_a_wait_that_ends_during_the_write_of_its_notice_leaves_no_notice(
    make_budget: MakeBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, starved = make_budget(1), make_budget(1)
    permit = take_one(holder)
    post_notice = Board.post_notice

    def post_late(board: Board, *words: int) -> None:
        starved.satisfied()  # as another thread might at this moment
        post_notice(board, *words)

    monkeypatch.setattr(Board, "post_notice", post_late)
    assert starved.take(1) is None

    assert not starved.is_starved
    assert holder.count_to_yield(0) == 0
    assert permit is not None


# --- processes -------------------------------------------------------------------------------------------------------


def test_a_killed_process_leaves_its_permits_to_others_after_a_while(
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
        time.sleep(0.05)  # longer than a cooldown, in case the child has released the parent's permits
        assert budget.take(1) is None, "the parent has two, the child one"
        process.kill()
        permits = take_all(budget, 2)
        assert budget.take(1) is None, f"{permits} are the parent's"
    finally:
        os.kill(int(child), signal.SIGKILL)


RAW_FORK = """
pid = ctypes.PyDLL(None).fork()
if pid == 0:
    os.close(1)
    held_before, mine = budget.held, budget.take(1)
    os.write(writer, b"%d %d" % (held_before, budget.held))
    time.sleep(60)
print(pid, os.read(reader, 9).decode())
"""


def test_a_fork_that_calls_no_python_hook_leaves_the_permits_to_the_parent(
    make_budget: MakeBudget, start: Callable[[int], Process]
) -> None:
    budget, process = make_budget(4), start(4)
    process.run("import ctypes; permits = [budget.take(1), budget.take(1)]; reader, writer = os.pipe()")

    (numbers,) = process.run(f"exec({RAW_FORK!r})")
    child, held_before, held = map(int, numbers.split())
    try:
        assert (held_before, held) == (0, 1)
        permits = [take_one(budget)]
        assert budget.take(1) is None, "the parent has two, the child one"
        process.kill()
        permits += take_all(budget, 2)
        assert budget.take(1) is None, f"{len(permits)} are not the child's"
    finally:
        os.kill(child, signal.SIGKILL)


class Server:
    """A stand-in for a database server, which counts its sessions."""

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


# --- permits of dead processes ---------------------------------------------------------------------------------------


def test_one_waiting_pool_at_a_time_searches_for_permits_of_dead_processes(tmp_path: Path) -> None:
    with (tmp_path / "board").open("w+b", buffering=0) as file:
        boards = [Board(file) for _ in range(2)]
        searches = [[board.is_time_to_search(10**9 + ms * 10**6) for board in boards] for ms in (0, 49, 50)]

    assert searches == [[True, False], [False, False], [True, False]]


def test_a_waiting_pool_finds_the_permit_of_a_dead_process(
    make_budget: MakeBudget, start: Callable[[int], Process]
) -> None:
    process, budget = start(1), make_budget(1)
    process.run("permits.append(budget.take(1))")
    assert budget.take(1) is None
    process.kill()

    eventually(lambda: budget.until_turn() == 0.0)

    assert budget.take(1) is not None


def test_a_search_for_permits_of_dead_processes_takes_none_from_another_thread(
    make_timed: MakeBudget, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget, other, third = make_timed(1), make_timed(1), make_timed(1)
    its = take_one(other)
    lock = ByteLocks.lock
    got: list[Permit | None] = []

    def lock_late(locks: ByteLocks, byte: int) -> bool:
        if byte == 0 and locks is budget.file.locks:
            monkeypatch.undo()
            its.release()
            got.append(budget.take(1))  # as another thread of this process might at this moment
        return lock(locks, byte)

    monkeypatch.setattr(ByteLocks, "lock", lock_late)
    budget.take(1)
    assert len(got) == 1, "the budget has not searched"
    clock.pass_ms(2000)

    permits = [got[0] or budget.take(1), third.take(1)]

    assert permits.count(None) == 1, "one connection is allowed"


def test_a_permit_released_during_a_search_is_free_after_it(
    make_timed: MakeBudget, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget, other = make_timed(2), make_timed(2)
    its, permit = take_one(other), take_one(budget)
    assert budget.take(1) is None
    clock.pass_ms(300)
    lock = ByteLocks.lock

    def lock_late(locks: ByteLocks, byte: int) -> bool:
        monkeypatch.undo()
        Task(permit.release).result()
        assert budget.held > 0, "this thread has the lock"
        return lock(locks, byte)

    monkeypatch.setattr(ByteLocks, "lock", lock_late)
    budget.until_turn()

    assert budget.held == 0
    assert its is not None


def test_an_interrupted_search_for_permits_of_dead_processes_changes_no_other_word(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlock = ByteLocks.unlock
    injector = ExceptionInjector(__file__, when_waiting=lambda: None)

    def interrupted_at(place: int) -> tuple[bool, bool]:
        """Return whether the place exists, and whether another budget got the permit meanwhile and still has it."""
        budget, dead, other = (Budget(tmp_path / str(place), SERVER, BudgetLimit(1), clock=clock) for _ in range(3))
        its = take_one(dead)
        dead.file.locks.close()
        others: list[Permit | None] = [its]

        def unlock_for_another(locks: ByteLocks, byte: int) -> None:
            unlock(locks, byte)
            if locks is budget.file.locks and not other.held:
                clock.pass_ms(2000)
                others.append(other.take(1))

        monkeypatch.setattr(ByteLocks, "unlock", unlock_for_another)
        was_interrupted = injector.at(place, lambda: budget.take(1))
        monkeypatch.setattr(ByteLocks, "unlock", unlock)

        assert other.file.board.taken(1) == [0] or not other.held, f"at place {place}"
        budget.maintain(has_connections=False)
        assert budget.held == 0, f"at place {place}"
        return was_interrupted, other.held == 1

    moved = 0
    with debris_ignored():  # the destructor of a permit is interrupted, too
        for place in itertools.count(1):
            was_interrupted, has_moved = interrupted_at(place)
            moved += has_moved
            if not was_interrupted:
                break
    assert moved > 1
