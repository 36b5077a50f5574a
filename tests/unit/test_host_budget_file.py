"""The file of a budget is removed, renamed, replaced, cut or overwritten while processes count by it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import random
import resource
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unit.fakes import FakeConnection, FakeDatabase, Gate, Task, eventually
from unit.interrupts import Strikes, debris_ignored, interrupt_at_work
from unit.test_host_budget import SERVER, Process, take_all, take_one
from wsgipool import Pool
from wsgipool.errors import ConfigError
from wsgipool.farewell import Farewell
from wsgipool.host.budget import Budget, Limit
from wsgipool.permits import Permit

N = 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "parent").mkdir()
    return tmp_path / "parent" / "run"


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Process]]:
    started = [Process(tmp_path_factory.mktemp("first") / "run", N) for _ in range(2)]
    yield started
    for process in started:
        process.kill()


@pytest.fixture
def holders(processes: list[Process], folder: Path) -> list[Process]:
    """Two processes with one permit each."""
    for process in processes:
        process.run(f"permits = []; budget = Budget(Path({str(folder)!r}), {SERVER!r}, Limit({N}))")
        process.run("permits += [budget.take(1)]; assert permits[0]")
    return processes


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[[], Process]]:
    started: list[Process] = []

    def start() -> Process:
        started.append(Process(folder, N))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def held_by(processes: list[Process]) -> int:
    return sum(int(process.run("print(budget.held)")[0]) for process in processes)


def newcomer(folder: Path) -> Budget:
    """Return the part of a process that starts now: it opens what is at the path."""
    return Budget(folder, SERVER, Limit(N))


def file_of(folder: Path) -> Path:
    (path,) = folder.glob("budget-*")
    return path


# --- another file at the path ----------------------------------------------------------------------------------------


def remove_the_file(folder: Path) -> None:
    file_of(folder).unlink()


def rename_the_file(folder: Path) -> None:
    file_of(folder).rename(folder / "kept")


def replace_it_by_an_empty_one(folder: Path) -> None:
    new = folder / "new"
    new.touch(mode=0o600)
    new.rename(file_of(folder))


def replace_it_by_a_copy(folder: Path) -> None:
    shutil.copy(file_of(folder), folder / "copy")
    (folder / "copy").rename(file_of(folder))


def replace_it_by_a_copy_from_another_file_system(folder: Path) -> None:
    copy = Path("/dev/shm") / f"{os.getpid()}-{folder.parent.name}"  # noqa: S108 - a name of our own
    shutil.copy(file_of(folder), copy)
    path = file_of(folder)
    path.unlink()
    shutil.move(copy, path)


def remove_the_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def make_the_folder_again(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir(mode=0o700)


def rename_the_folder(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def rename_the_parent_folder(folder: Path) -> None:
    folder.parent.rename(folder.parent.with_name("elsewhere"))
    folder.parent.mkdir()


def replace_the_folder_by_a_copy(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("copy"))
    folder.rename(folder.with_name("elsewhere"))
    folder.with_name("copy").rename(folder)
    folder.chmod(0o700)


def remove_what_is_old(folder: Path) -> None:
    """As a cleaner that knows nothing of locks."""
    subprocess.run(["find", folder, "-mindepth", "1", "-delete"], check=True)


SHAPES = [
    remove_the_file, rename_the_file, replace_it_by_an_empty_one, replace_it_by_a_copy,
    replace_it_by_a_copy_from_another_file_system, remove_the_folder, make_the_folder_again, rename_the_folder,
    rename_the_parent_folder, replace_the_folder_by_a_copy, remove_what_is_old,
]  # fmt: skip


@pytest.mark.parametrize("change", SHAPES)
def test_a_newcomer_counts_what_the_others_have_of_a_file_that_is_gone(
    change: Callable[[Path], None], folder: Path, holders: list[Process]
) -> None:
    change(folder)
    budget = newcomer(folder)
    assert budget.take(1) is None
    holders[0].run("permits += [budget.take(1) for _ in range(9)]; budget.tend(True)")
    assert budget.take(1) is None, "the other one has not noticed yet"
    assert held_by(holders) == 2
    holders[1].run("budget.tend(True)")

    permits = take_all(budget, N - held_by(holders))

    assert budget.take(1) is None
    holders[1].run("permits = [budget.take(1), *permits]")
    assert held_by(holders) + len(permits) == N


def test_a_stopped_process_keeps_newcomers_out_until_it_is_killed(folder: Path, start: Callable[[], Process]) -> None:
    holder = start()
    holder.run("permits = [budget.take(1)]")
    holder.signal(signal.SIGSTOP)

    remove_the_file(folder)
    budgets = [newcomer(folder), newcomer(folder)]
    assert [budget.take(1) for budget in budgets] == [None, None]
    assert budgets[0].until_turn() > 0
    assert "was removed or replaced, and a process of this user still has connections" in budgets[0].describe()

    killed = time.monotonic()
    holder.kill()
    permits = take_all(budgets[0], N)
    assert time.monotonic() - killed > 0.7, "the server may not have noticed yet"
    assert budgets[1].take(1) is None
    assert len(permits) == N


def test_a_process_without_connections_keeps_nobody_out(folder: Path, start: Callable[[], Process]) -> None:
    idle = start()
    idle.run("permit = budget.take(1); permit.release()")
    idle.signal(signal.SIGSTOP)
    remove_the_file(folder)

    permits = take_all(newcomer(folder), N)

    assert len(permits) == N


def test_a_file_that_comes_back_is_counted_in_again(folder: Path, holders: list[Process]) -> None:
    path = file_of(folder)
    for _ in range(2):
        path.rename(folder / "kept")
        holders[0].run("budget.tend(True)")  # makes a new one; the other process does not notice
        (folder / "kept").rename(path)
        # At the first look it takes what is free, at the second what looks as if its process had died.
        holders[1].run("permits += [budget.take(1) for _ in range(9)]; time.sleep(1.2)")
        holders[1].run("permits += [budget.take(1) for _ in range(9)]")
        assert held_by(holders) <= N
        holders[1].run("del permits[1:]; budget.tend(True)")
        holders[0].run("budget.tend(True)")

    budget = newcomer(folder)
    held = held_by(holders)
    permits = take_all(budget, N - held)

    assert budget.take(1) is None
    assert len(permits) == N - 2


def test_a_folder_that_became_a_link_keeps_newcomers_out_and_others_at_work(
    folder: Path, holders: list[Process]
) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))

    with pytest.raises(ConfigError, match="is a symbolic link, which is not followed"):
        newcomer(folder)
    for holder in holders:
        holder.run("permits += [budget.take(1) for _ in range(9)]")

    assert held_by(holders) == N


def test_pools_at_work_keep_to_their_budget_while_its_file_comes_and_goes(folder: Path) -> None:
    database = FakeDatabase()
    stopped = threading.Event()
    served: Counter[str] = Counter()

    def use(pool: Pool[FakeConnection]) -> None:
        while not stopped.is_set():
            with pool.connection() as connection:
                connection.execute()
                time.sleep(0.001)  # as a statement waits: otherwise these threads have the processor to themselves
            served[pool.name] += 1

    def start(name: str) -> None:
        pool: Pool[FakeConnection] = Pool(database, name=name, max_size=4, timeout=60, permits=newcomer(folder))
        pools.append(pool)
        tasks.extend(Task(lambda: use(pool)) for _ in range(4))
        eventually(lambda: served[name] > 0)

    pools: list[Pool[FakeConnection]] = []
    tasks: list[Task[None]] = []
    try:
        start("first")
        for change in (remove_the_file, remove_the_folder, replace_it_by_a_copy):
            change(folder)
            start(change.__name__)
    finally:
        stopped.set()
    for task in tasks:
        task.result()
    for pool in pools:
        pool.close()

    assert database.most_sessions <= N


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EACCES, errno.ENOLCK])
def test_where_the_root_folder_cannot_be_locked_a_budget_works_and_says_what_it_cannot_see(
    error: int, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fcntl_as_it_is = fcntl.fcntl

    def refuse_folders(descriptor: int, command: int, argument: bytes) -> object:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(error, os.strerror(error))
        return fcntl_as_it_is(descriptor, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refuse_folders)
    budget = newcomer(folder)
    permits = take_all(budget, N)

    assert budget.take(1) is None
    assert len(permits) == N
    assert f"/ cannot be locked ({os.strerror(error)}): should {file_of(folder)} be removed" in caplog.text


# --- what is in the file ---------------------------------------------------------------------------------------------


def fuzz(path: Path, seed: int) -> None:
    """Do something to the file that its users never do."""
    chance = random.Random(seed)
    size = path.stat().st_size
    with path.open("r+b", buffering=0) as file:
        kind = seed % 8
        if kind == 0:
            file.truncate(0)
        elif kind == 1:
            file.truncate(chance.randrange(size))
        elif kind == 2:
            file.write(chance.randbytes(size))
        elif kind == 3:
            file.write(b"\xff" * size)
        elif kind == 4:
            file.write(bytes(size))
        elif kind == 5:
            file.truncate(1 << 40)
        elif kind == 6:
            for _ in range(50):
                file.seek(chance.randrange(size))
                file.write(chance.randbytes(8))
        else:
            file.seek(chance.randrange(256))
            file.write(chance.randbytes(200))


@pytest.mark.parametrize("connections", [N, "auto"])
def test_whatever_is_written_into_the_file_the_budget_is_kept(connections: object, folder: Path) -> None:
    budgets = [Budget(folder, SERVER, Limit(connections)) for _ in range(3)]  # type: ignore[arg-type]
    for budget in budgets:
        budget.learn(N)
    path = file_of(folder)

    for seed in range(64):
        permits = [permit for budget in budgets for _ in range(2) if (permit := budget.take(1)) is not None]
        assert len(permits) == sum(budget.held for budget in budgets) <= N
        fuzz(path, seed)
        for budget in budgets:
            permits += [permit for _ in range(N) if (permit := budget.take(1)) is not None]
            budget.until_turn()
            budget.others_hunger()
            budget.to_give_up(0)
            budget.tend(has_connections=True)
            assert budget.describe()
            assert str(budget)
        assert len(permits) <= N, f"at seed {seed}"
        while permits:
            permits.pop().release()

    for budget in budgets:
        budget.sated()
    last = take_all(budgets[0], N)
    assert budgets[0].take(1) is None
    assert len(last) == N


@pytest.mark.parametrize("length", [0, 100, 163_904])  # of which the last leaves all but the permits
def test_what_rested_rests_on_after_the_file_was_cut(length: int, folder: Path) -> None:
    budget, other = newcomer(folder), newcomer(folder)
    released = time.monotonic()
    for permit in take_all(budget, N):
        permit.release(Farewell(unseen=0.0))
    assert budget.held == 0

    os.truncate(file_of(folder), length)

    take_all(other, N)
    assert time.monotonic() - released > 0.75


def test_what_is_taken_is_told_again_after_the_file_was_cut(folder: Path) -> None:
    budget, other = newcomer(folder), newcomer(folder)
    permits = [take_one(budget), take_one(budget)]
    os.truncate(file_of(folder), 0)

    budget.tend(has_connections=True)

    assert f"{len(permits)} of {N} connections" in other.describe()


def test_a_damaged_file_is_reported_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    budget = newcomer(folder)
    with caplog.at_level(logging.WARNING, "wsgipool"):
        for _ in range(3):
            os.truncate(file_of(folder), 100)
            budget.take(1)
            budget.tend(has_connections=False)

    message = f"{file_of(folder)} was damaged by something else than wsgipool, and has been mended"
    assert [record.getMessage() for record in caplog.records].count(message) == 1


def test_a_process_survives_that_its_file_is_cut_at_any_moment(folder: Path, start: Callable[[], Process]) -> None:
    process = start()
    process.run("exec('import threading\\ndef work():\\n while True:\\n  permit = budget.take(1); budget.tend(True)')")
    process.run("threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]")
    process.run("[thread.start() for thread in threads]")
    path = file_of(folder)

    for length in range(300):
        os.truncate(path, length)

    assert process.run("print(all(thread.is_alive() for thread in threads))") == ["True"]


@pytest.mark.parametrize("sessions", [0, -1, 10**9, 1 << 64, None, "151", 1.5])
def test_a_number_that_no_server_can_mean_leaves_the_budget_as_it_is(
    sessions: object, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known, unknown = Budget(folder, SERVER, Limit("auto")), Budget(folder, "mysql://other:3306", Limit("auto"))
    known.learn(3)

    for budget in (known, unknown):
        budget.learn(sessions)  # type: ignore[arg-type]

    permits: list[Permit | None] = [*take_all(known, 3)]
    assert known.take(1) is None
    permits = [*permits, unknown.take(1), unknown.take(1)]
    assert permits.index(None) == 4
    assert f"says that it allows {sessions!r} connections, which cannot be" in caplog.text


# --- what is interrupted, and what cannot be opened ------------------------------------------------------------------


def give_back_one(_: Budget, permits: list[Permit]) -> None:
    permits.pop().release(Farewell(unseen=0.0))


def drop_all(_: Budget, permits: list[Permit]) -> None:
    permits.clear()


def take_another(budget: Budget, permits: list[Permit]) -> None:
    permits += [permit for permit in [budget.take(1)] if permit is not None]


class LateEnd(Farewell):
    """The end of a session that a test lets come."""

    has_come = False

    def is_over(self) -> bool:
        return self.has_come


def see_the_end(budget: Budget, permits: list[Permit]) -> None:
    end = LateEnd()
    try:
        permits.pop().release(end)
    finally:
        end.has_come = True
    budget.tend(has_connections=True)


def move(budget: Budget, _: list[Permit]) -> None:
    remove_the_file(budget.path.parent)
    budget.tend(has_connections=True)


@pytest.mark.parametrize("operation", [give_back_one, drop_all, take_another, see_the_end, move])
def test_wherever_an_exception_strikes_no_permit_is_lost(
    operation: Callable[[Budget, list[Permit]], None], tmp_path: Path
) -> None:
    strikes = Strikes(__file__, when_waiting=lambda: None)

    def strike(place: int) -> int:
        folder = tmp_path / f"{operation.__name__}-{place}"
        budget, other = newcomer(folder), newcomer(folder)
        permits = [take_one(budget), take_one(budget)]
        places = 0
        with debris_ignored():
            if place:
                strikes.at(place, lambda: operation(budget, permits))
            else:
                places = strikes.places(lambda: operation(budget, permits))
            permits.clear()
        budget.tend(has_connections=False)

        assert budget.held == 0, f"at place {place}"
        other.tend(has_connections=False)
        assert not other._opened().locks.is_locked_by_others(0, N), f"at place {place}"
        shutil.rmtree(folder)
        return places

    for place in range(1, 1 + strike(0)):
        strike(place)


def test_exceptions_at_any_moment_in_many_threads_lose_no_permit(folder: Path) -> None:
    budget, other = newcomer(folder), newcomer(folder)

    def work() -> None:
        permits = [budget.take(1), budget.take(1)]
        for permit in permits:
            if permit is not None:
                permit.is_used = True
                permit.release(Farewell(unseen=0.0))
        budget.tend(has_connections=True)

    for _ in range(10):
        with debris_ignored():
            strikes = [Task(lambda: interrupt_at_work(work, 0.02)) for _ in range(8)]
            for strike in strikes:
                strike.result()
        eventually(lambda: (budget.tend(has_connections=False), budget.held)[1] == 0)

    assert len(take_all(other, N)) == N


def test_a_thread_that_is_held_up_in_the_budget_holds_up_no_other(folder: Path) -> None:
    """The garbage collector may have it wait for what the other thread holds."""
    gate = Gate()

    class SlowEnd(Farewell):
        def is_over(self) -> bool:
            gate()
            return True

    budget = newcomer(folder)
    first = take_one(budget)
    slow = Task(lambda: first.release(SlowEnd()))
    gate.wait_until_reached()

    began = time.monotonic()
    assert budget.take(1) is None
    budget.tend(has_connections=True)
    assert time.monotonic() - began < 1.0

    gate.open()
    slow.result()
    assert len(take_all(budget, N)) == N


def test_an_exception_in_a_destructor_loses_no_permit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget, other = newcomer(folder), newcomer(folder)
    permits = take_all(budget, N)

    def struck(_: object) -> None:
        raise TimeoutError  # as a handler of SIGALRM may

    monkeypatch.setattr(Farewell, "is_over", struck)
    permits.clear()
    monkeypatch.undo()
    budget.tend(has_connections=False)

    assert len(list(take_all(other, N))) == N


@contextlib.contextmanager
def no_free_descriptor() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_a_free_descriptor_permits_are_taken_and_given_back(folder: Path) -> None:
    budget = newcomer(folder)
    with no_free_descriptor():
        for _ in range(3):
            permits = take_all(budget, N)
            assert budget.take(1) is None
            for permit in permits:
                permit.release()
    assert budget.held == 0


def test_a_session_of_which_no_descriptor_can_be_had_keeps_its_permit_for_a_while(folder: Path) -> None:
    budget = newcomer(folder)
    here, there = socket.socketpair()
    with here, there, no_free_descriptor():
        take_one(budget).release(Farewell(here.fileno()))
        budget.tend(has_connections=False)

        assert budget.held == 1
        eventually(lambda: (budget.tend(has_connections=False), budget.held)[1] == 0)


def test_a_file_that_was_removed_where_no_descriptor_is_free_keeps_its_holders_at_work(folder: Path) -> None:
    budget = newcomer(folder)
    permits = [budget.take(1)]
    remove_the_file(folder)

    with no_free_descriptor():
        permits += [budget.take(1) for _ in range(N)]
    assert permits.count(None) == 1
    other = newcomer(folder)
    assert other.take(1) is None
    budget.tend(has_connections=True)
    assert other.take(1) is None


def test_a_process_that_has_no_free_descriptor_says_so(folder: Path) -> None:
    newcomer(folder)
    with no_free_descriptor(), pytest.raises(ConfigError, match=r"Too many open files. It may have 0; raise that"):
        newcomer(folder)
