"""The budget file is removed, renamed, replaced, truncated or overwritten while processes use it."""

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

from unit.budgets import SERVER, Process, take_all, take_one
from unit.fakes import FakeConnection, FakeDatabase, Gate, Task, eventually
from unit.interrupts import ExceptionInjector, debris_ignored, interrupt_at_work
from wsgipool import Pool
from wsgipool.budget.budget import Budget, BudgetLimit
from wsgipool.budget.permits import Permit
from wsgipool.drivers.session_end import SessionEnd
from wsgipool.errors import ConfigError

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
        process.run(f"permits = []; budget = Budget(Path({str(folder)!r}), {SERVER!r}, BudgetLimit({N}))")
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


def new_process(folder: Path) -> Budget:
    """Return the budget of a new process, which opens the file at the path."""
    return Budget(folder, SERVER, BudgetLimit(N))


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


def remove_old_files(folder: Path) -> None:
    """Remove files like a cleaner that ignores locks."""
    subprocess.run(["find", folder, "-mindepth", "1", "-delete"], check=True)


CHANGES = [
    remove_the_file, rename_the_file, replace_it_by_an_empty_one, replace_it_by_a_copy,
    replace_it_by_a_copy_from_another_file_system, remove_the_folder, make_the_folder_again, rename_the_folder,
    rename_the_parent_folder, replace_the_folder_by_a_copy, remove_old_files,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_new_process_counts_the_permits_of_an_earlier_file(
    change: Callable[[Path], None], folder: Path, holders: list[Process]
) -> None:
    change(folder)
    budget = new_process(folder)
    assert budget.take(1) is None
    holders[0].run("permits += [budget.take(1) for _ in range(9)]; budget.maintain(True)")
    assert budget.take(1) is None, "the other process has not noticed yet"
    assert held_by(holders) == 2
    holders[1].run("budget.maintain(True)")

    permits = take_all(budget, N - held_by(holders))

    assert budget.take(1) is None
    holders[1].run("permits = [budget.take(1), *permits]")
    assert held_by(holders) + len(permits) == N


def test_a_stopped_process_blocks_new_processes_until_it_is_killed(folder: Path, start: Callable[[], Process]) -> None:
    holder = start()
    holder.run("permits = [budget.take(1)]")
    holder.signal(signal.SIGSTOP)

    remove_the_file(folder)
    budgets = [new_process(folder), new_process(folder)]
    assert [budget.take(1) for budget in budgets] == [None, None]
    assert budgets[0].until_turn() > 0
    assert "was removed or replaced, and a process of this user still has connections" in budgets[0].describe()

    killed = time.monotonic()
    holder.kill()
    permits = take_all(budgets[0], N)
    assert time.monotonic() - killed > 0.7, "the server may not have noticed yet"
    assert budgets[1].take(1) is None
    assert len(permits) == N


def test_a_process_without_connections_does_not_block_others(folder: Path, start: Callable[[], Process]) -> None:
    idle = start()
    idle.run("permit = budget.take(1); permit.release()")
    idle.signal(signal.SIGSTOP)
    remove_the_file(folder)

    permits = take_all(new_process(folder), N)

    assert len(permits) == N


def test_permits_move_back_to_a_file_that_was_renamed_back(folder: Path, holders: list[Process]) -> None:
    path = file_of(folder)
    for _ in range(2):
        path.rename(folder / "kept")
        holders[0].run("budget.maintain(True)")  # creates a new file; the other process does not notice
        (folder / "kept").rename(path)
        # First it takes the free permits, then those of seemingly dead processes.
        holders[1].run("permits += [budget.take(1) for _ in range(9)]; time.sleep(1.2)")
        holders[1].run("permits += [budget.take(1) for _ in range(9)]")
        assert held_by(holders) <= N
        holders[1].run("del permits[1:]; budget.maintain(True)")
        holders[0].run("budget.maintain(True)")

    budget = new_process(folder)
    held = held_by(holders)
    permits = take_all(budget, N - held)

    assert budget.take(1) is None
    assert len(permits) == N - 2


def test_a_folder_replaced_by_a_link_stops_only_new_processes(folder: Path, holders: list[Process]) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))

    with pytest.raises(ConfigError, match="is a symbolic link, which is not followed"):
        new_process(folder)
    for holder in holders:
        holder.run("permits += [budget.take(1) for _ in range(9)]")

    assert held_by(holders) == N


def test_working_pools_keep_their_budget_while_its_file_is_removed_and_replaced(folder: Path) -> None:
    database = FakeDatabase()
    stopped = threading.Event()
    served: Counter[str] = Counter()

    def use(pool: Pool[FakeConnection]) -> None:
        while not stopped.is_set():
            with pool.connection() as connection:
                connection.execute()
                time.sleep(0.001)  # like a waiting statement, so that other threads get the processor
            served[pool.name] += 1

    def start(name: str) -> None:
        pool: Pool[FakeConnection] = Pool(database, name=name, max_size=4, timeout=60, permits=new_process(folder))
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
def test_a_root_folder_that_cannot_be_locked_is_a_warning(
    error: int, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fcntl_as_it_is = fcntl.fcntl

    def refuse_folders(descriptor: int, command: int, argument: bytes) -> object:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(error, os.strerror(error))
        return fcntl_as_it_is(descriptor, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refuse_folders)
    budget = new_process(folder)
    permits = take_all(budget, N)

    assert budget.take(1) is None
    assert len(permits) == N
    assert f"/ cannot be locked ({os.strerror(error)}): if {file_of(folder)} is removed" in caplog.text


# --- damaged content -------------------------------------------------------------------------------------------------


def fuzz(path: Path, seed: int) -> None:
    """Damage the file."""
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
def test_the_budget_is_kept_after_any_damage_to_its_file(connections: object, folder: Path) -> None:
    budgets = [Budget(folder, SERVER, BudgetLimit(connections)) for _ in range(3)]  # type: ignore[arg-type]
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
            budget.count_to_yield(0)
            budget.maintain(has_connections=True)
            assert budget.describe()
            assert str(budget)
        assert len(permits) <= N, f"at seed {seed}"
        while permits:
            permits.pop().release()

    for budget in budgets:
        budget.satisfied()
    last = take_all(budgets[0], N)
    assert budgets[0].take(1) is None
    assert len(last) == N


@pytest.mark.parametrize("length", [0, 100, 163_904])  # the last one keeps everything except the permits
def test_a_cooldown_continues_after_the_file_was_truncated(length: int, folder: Path) -> None:
    budget, other = new_process(folder), new_process(folder)
    released = time.monotonic()
    for permit in take_all(budget, N):
        permit.release(SessionEnd(assumed_after=0.0))
    assert budget.held == 0

    os.truncate(file_of(folder), length)

    take_all(other, N)
    assert time.monotonic() - released > 0.75


def test_taken_permits_are_marked_again_after_the_file_was_truncated(folder: Path) -> None:
    budget, other = new_process(folder), new_process(folder)
    permits = [take_one(budget), take_one(budget)]
    os.truncate(file_of(folder), 0)

    budget.maintain(has_connections=True)

    assert f"{len(permits)} of {N} connections" in other.describe()


def test_a_damaged_file_is_reported_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    budget = new_process(folder)
    with caplog.at_level(logging.WARNING, "wsgipool"):
        for _ in range(3):
            os.truncate(file_of(folder), 100)
            budget.take(1)
            budget.maintain(has_connections=False)

    message = f"{file_of(folder)} was damaged by another program and has been repaired"
    assert [record.getMessage() for record in caplog.records].count(message) == 1


def test_a_process_survives_a_truncation_of_its_file_at_any_moment(folder: Path, start: Callable[[], Process]) -> None:
    process = start()
    process.run(
        "exec('import threading\\ndef work():\\n while True:\\n  permit = budget.take(1); budget.maintain(True)')"
    )
    process.run("threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]")
    process.run("[thread.start() for thread in threads]")
    path = file_of(folder)

    for length in range(300):
        os.truncate(path, length)

    assert process.run("print(all(thread.is_alive() for thread in threads))") == ["True"]


@pytest.mark.parametrize("sessions", [0, -1, 10**9, 1 << 64, None, "151", 1.5])
def test_an_implausible_limit_of_a_server_leaves_the_budget_unchanged(
    sessions: object, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known, unknown = (
        Budget(folder, SERVER, BudgetLimit("auto")),
        Budget(folder, "mysql://other:3306", BudgetLimit("auto")),
    )
    known.learn(3)

    for budget in (known, unknown):
        budget.learn(sessions)  # type: ignore[arg-type]

    permits: list[Permit | None] = [*take_all(known, 3)]
    assert known.take(1) is None
    permits = [*permits, unknown.take(1), unknown.take(1)]
    assert permits.index(None) == 4
    assert f"reports a limit of {sessions!r} connections, which is impossible" in caplog.text


# --- asynchronous exceptions, missing descriptors --------------------------------------------------------------------


def release_one(_: Budget, permits: list[Permit]) -> None:
    permits.pop().release(SessionEnd(assumed_after=0.0))


def drop_all(_: Budget, permits: list[Permit]) -> None:
    permits.clear()


def take_another(budget: Budget, permits: list[Permit]) -> None:
    permits += [permit for permit in [budget.take(1)] if permit is not None]


class LateEnd(SessionEnd):
    """A session end that comes when the test sets `has_come`."""

    has_come = False

    def is_over(self) -> bool:
        return self.has_come


def see_the_end(budget: Budget, permits: list[Permit]) -> None:
    end = LateEnd()
    try:
        permits.pop().release(end)
    finally:
        end.has_come = True
    budget.maintain(has_connections=True)


def move(budget: Budget, _: list[Permit]) -> None:
    remove_the_file(budget.path.parent)
    budget.maintain(has_connections=True)


@pytest.mark.parametrize("operation", [release_one, drop_all, take_another, see_the_end, move])
def test_an_asynchronous_exception_at_any_place_leaks_no_permit(
    operation: Callable[[Budget, list[Permit]], None], tmp_path: Path
) -> None:
    injector = ExceptionInjector(__file__, when_waiting=lambda: None)

    def interrupt_at(place: int) -> int:
        folder = tmp_path / f"{operation.__name__}-{place}"
        budget, other = new_process(folder), new_process(folder)
        permits = [take_one(budget), take_one(budget)]
        places = 0
        with debris_ignored():
            if place:
                injector.at(place, lambda: operation(budget, permits))
            else:
                places = injector.places(lambda: operation(budget, permits))
            permits.clear()
        budget.maintain(has_connections=False)

        assert budget.held == 0, f"at place {place}"
        other.maintain(has_connections=False)
        assert not other.file.locks.is_locked_by_others(0, N), f"at place {place}"
        shutil.rmtree(folder)
        return places

    for place in range(1, 1 + interrupt_at(0)):
        interrupt_at(place)


def test_asynchronous_exceptions_in_many_threads_leak_no_permit(folder: Path) -> None:
    budget, other = new_process(folder), new_process(folder)

    def work() -> None:
        permits = [budget.take(1), budget.take(1)]
        for permit in permits:
            if permit is not None:
                permit.is_used = True
                permit.release(SessionEnd(assumed_after=0.0))
        budget.maintain(has_connections=True)

    for _ in range(10):
        with debris_ignored():
            tasks = [Task(lambda: interrupt_at_work(work, 0.02)) for _ in range(8)]
            for task in tasks:
                task.result()
        eventually(lambda: (budget.maintain(has_connections=False), budget.held)[1] == 0)

    assert len(take_all(other, N)) == N


def test_a_blocked_thread_in_the_budget_blocks_no_other_thread(folder: Path) -> None:
    """The garbage collector may let the first thread wait for the other one."""
    gate = Gate()

    class SlowEnd(SessionEnd):
        def is_over(self) -> bool:
            gate()
            return True

    budget = new_process(folder)
    first = take_one(budget)
    slow = Task(lambda: first.release(SlowEnd()))
    gate.wait_until_reached()

    began = time.monotonic()
    assert budget.take(1) is None
    budget.maintain(has_connections=True)
    assert time.monotonic() - began < 1.0

    gate.open()
    slow.result()
    assert len(take_all(budget, N)) == N


def test_an_exception_in_a_destructor_leaks_no_permit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget, other = new_process(folder), new_process(folder)
    permits = take_all(budget, N)

    def fail(_: object) -> None:
        raise TimeoutError  # as a handler of SIGALRM may

    monkeypatch.setattr(SessionEnd, "is_over", fail)
    permits.clear()
    monkeypatch.undo()
    budget.maintain(has_connections=False)

    assert len(list(take_all(other, N))) == N


@contextlib.contextmanager
def no_free_descriptor() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_a_free_descriptor_permits_are_taken_and_released(folder: Path) -> None:
    budget = new_process(folder)
    with no_free_descriptor():
        for _ in range(3):
            permits = take_all(budget, N)
            assert budget.take(1) is None
            for permit in permits:
                permit.release()
    assert budget.held == 0


def test_a_session_without_a_free_descriptor_keeps_its_permit_for_a_while(folder: Path) -> None:
    budget = new_process(folder)
    here, there = socket.socketpair()
    with here, there, no_free_descriptor():
        take_one(budget).release(SessionEnd(here.fileno()))
        budget.maintain(has_connections=False)

        assert budget.held == 1
        eventually(lambda: (budget.maintain(has_connections=False), budget.held)[1] == 0)


def test_a_removed_file_without_a_free_descriptor_keeps_its_holders_working(folder: Path) -> None:
    budget = new_process(folder)
    permits = [budget.take(1)]
    remove_the_file(folder)

    with no_free_descriptor():
        permits += [budget.take(1) for _ in range(N)]
    assert permits.count(None) == 1
    other = new_process(folder)
    assert other.take(1) is None
    budget.maintain(has_connections=True)
    assert other.take(1) is None


def test_the_error_for_a_missing_descriptor_names_the_limit(folder: Path) -> None:
    new_process(folder)
    with no_free_descriptor(), pytest.raises(ConfigError, match=r"Too many open files. It may have 0; raise that"):
        new_process(folder)
