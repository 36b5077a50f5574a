"""Locks of scope "host": real processes, real files."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unit.fakes import PATIENCE, Task, eventually
from unit.test_locks import in_a_child, is_free
from wsgipool import ConfigError, LockOrderError, Locks, LockTimeout, pools
from wsgipool.locks import host_lock, named

PREAMBLE = """
import contextlib, os, sys, threading, time
import wsgipool
from pathlib import Path
from wsgipool.locks import host_lock
host_lock.runtime_dir = lambda: Path({folder!r})
locks = wsgipool.Locks(scope="host")
stack = contextlib.ExitStack()
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Process:
    """A separate Python with `locks` of the host, which runs one statement after the other."""

    def __init__(self, folder: Path) -> None:
        self.python = subprocess.Popen(
            [sys.executable, "-P", "-c", PREAMBLE.format(folder=str(folder))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def begin(self, statement: str) -> None:
        assert self.python.stdin is not None
        self.python.stdin.write(f"{statement}\n")
        self.python.stdin.flush()

    def end(self) -> list[str]:
        """Return the lines that the statement printed."""
        assert self.python.stdout is not None
        lines: list[str] = []
        while (line := self.python.stdout.readline().strip()) != "done":
            assert line, "the process has ended"
            lines.append(line)
        return lines

    def run(self, statement: str) -> list[str]:
        self.begin(statement)
        return self.end()

    def kill(self) -> None:
        self.python.kill()
        self.python.wait()
        for pipe in (self.python.stdin, self.python.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "run"
    monkeypatch.setattr(host_lock, "runtime_dir", lambda: folder)
    monkeypatch.setattr(named, "_beyond_process", {})
    return folder


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[[], Process]]:
    started: list[Process] = []

    def start() -> Process:
        started.append(Process(folder))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture
def host(folder: Path) -> Locks:  # noqa: ARG001 - where its files are
    return Locks(scope="host")


def test_another_process_waits_until_the_lock_is_released(host: Locks, start: Callable[[], Process]) -> None:
    other = start()
    other.run("stack.enter_context(locks.hold('stock'))")

    assert not is_free(host, "stock")
    assert is_free(host, "orders")

    other.begin("stack.close()")
    with host.hold("stock", timeout=PATIENCE):
        pass
    other.end()


def test_reading_processes_share_the_lock_and_exclude_a_writer(host: Locks, start: Callable[[], Process]) -> None:
    other = start()
    other.run("stack.enter_context(locks.hold(read='stock'))")

    with host.hold(read="stock", timeout=0):
        Task(lambda: host.hold(read="stock", timeout=0).__enter__()).result()
    assert not is_free(host, "stock")

    other.run("stack.close()")
    assert is_free(host, "stock")


def test_a_holder_that_is_killed_frees_the_lock(host: Locks, start: Callable[[], Process]) -> None:
    for _ in range(3):
        other = start()
        other.run("stack.enter_context(locks.hold('stock', read='catalogue'))")
        other.python.send_signal(signal.SIGKILL)

        with host.hold("stock", "catalogue", timeout=PATIENCE):
            pass


def test_a_timeout_says_which_process_holds_it_and_where(host: Locks, start: Callable[[], Process]) -> None:
    other = start()
    other.run("stack.enter_context(locks.hold('stock'))")

    with pytest.raises(LockTimeout) as caught:
        host.hold("stock", timeout=0.02).__enter__()

    message = str(caught.value)
    assert "'stock' of the host was not free within 0.02 s at " in message
    assert f"of process {other.python.pid}, taken at " in message
    assert ", for 0." in message


def test_a_timeout_behind_readers_says_so(host: Locks, start: Callable[[], Process]) -> None:
    other = start()
    other.run("stack.enter_context(locks.hold(read='stock'))")

    with pytest.raises(LockTimeout, match="held by readers in other processes"):
        host.hold("stock", timeout=0).__enter__()


def test_endless_reading_processes_do_not_starve_a_writer(host: Locks, start: Callable[[], Process]) -> None:
    others = [start() for _ in range(3)]
    for other in others:
        other.run("deadline = time.monotonic() + 60")
        other.begin("exec('while time.monotonic() < deadline:\\n with locks.hold(read=\"stock\"): time.sleep(0.003)')")
    eventually(lambda: not is_free(host, "stock"))

    for _ in range(3):
        with host.hold("stock", timeout=PATIENCE):
            pass


def test_waiting_costs_next_to_no_processor(host: Locks, start: Callable[[], Process]) -> None:
    other = start()
    other.run("stack.enter_context(locks.hold('stock'))")
    before = time.thread_time()

    with pytest.raises(LockTimeout):
        host.hold("stock", timeout=1).__enter__()

    assert time.thread_time() - before < 0.1


COUNT = """
def count(path, turns):
    for _ in range(turns):
        with locks.hold('stock'):
            number = int(path.read_text())
            path.write_text(str(number + 1))
"""


def test_no_turn_is_lost_between_threads_of_processes(
    host: Locks, folder: Path, tmp_path: Path, start: Callable[[], Process]
) -> None:
    path = tmp_path / "count"
    path.write_text("0")
    processes = [start() for _ in range(3)]
    for each in processes:
        each.run(f"exec({COUNT!r}); threads = [threading.Thread(target=count, args=[Path({str(path)!r}), 20]) "
                    "for _ in range(4)]")  # fmt: skip
        each.run("[thread.start() for thread in threads]")
    for each in processes:
        each.run("[thread.join() for thread in threads]")

    with host.hold("stock"):
        assert path.read_text() == "240"
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forks_child_shares_nothing_of_its_parents_lock(host: Locks, start: Callable[[], Process]) -> None:
    def in_child() -> None:
        with pytest.raises(LockTimeout):
            host.hold("stock", timeout=0).__enter__()

    with host.hold("stock"):
        in_a_child(in_child)
        other = start()
        with pytest.raises(AssertionError, match="the process has ended"):
            other.run("stack.enter_context(locks.hold('stock', timeout=0))")

    with host.hold("stock", timeout=0):
        pass


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forks_child_that_lives_on_keeps_no_lock_of_a_dead_parent(host: Locks, start: Callable[[], Process]) -> None:
    parent = start()
    parent.run("stack.enter_context(locks.hold('stock'))")
    (child,) = parent.run("child = os.fork() or (time.sleep(60), os._exit(0)); print(child)")
    parent.kill()

    try:
        with host.hold("stock", timeout=PATIENCE):
            pass
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_a_removed_lock_file_is_created_again(host: Locks, folder: Path, start: Callable[[], Process]) -> None:
    with host.hold("stock"):
        pass
    for path in folder.glob("lock-*"):
        path.unlink()
    other = start()
    other.run("stack.enter_context(locks.hold('stock'))")

    assert not is_free(host, "stock")


CHANGES: dict[str, Callable[[Path], object]] = {
    "removed": lambda path: path.unlink(),
    "renamed": lambda path: path.rename(path.with_name("elsewhere")),
    "replaced": lambda path: Path(shutil.copy(path, path.with_name("copy"))).rename(path),
    "the folder renamed": lambda path: path.parent.rename(path.parent.with_name("elsewhere")),
    "the folder removed": lambda path: shutil.rmtree(path.parent),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("held", ["'stock'", "read='stock'"])
def test_a_lock_whose_file_is_removed_while_it_is_held_stays_held(
    host: Locks, folder: Path, start: Callable[[], Process], change: str, held: str
) -> None:
    holder = start()
    holder.run(f"stack.enter_context(locks.hold({held}))")
    (path,) = folder.glob("lock-*[!e]")
    CHANGES[change](path)

    assert not is_free(host, "stock")
    assert not is_free(host, "stock")
    holder.run("stack.close()")
    with host.hold("stock", timeout=PATIENCE):
        assert holder.run(IS_FREE) == ["False"]
    assert holder.run(IS_FREE) == ["True"]


IS_FREE = (
    "exec('try:\\n with locks.hold(\"stock\", timeout=0): print(True)\\nexcept wsgipool.LockTimeout: print(False)')"
)


@pytest.mark.parametrize("shared", [False, True])
def test_a_waiting_process_that_is_stopped_keeps_no_other_from_a_free_lock(
    host: Locks, folder: Path, start: Callable[[], Process], shared: bool
) -> None:
    holder, waiter = start(), start()
    holder.run("stack.enter_context(locks.hold('stock'))")
    waiter.begin("stack.enter_context(locks.hold('stock'))")
    (gate,) = folder.glob("lock-*.gate")
    eventually(lambda: is_locked(gate))
    waiter.python.send_signal(signal.SIGSTOP)
    holder.run("stack.close()")

    for timeout in (0, PATIENCE):
        with host.hold(read="stock", timeout=timeout) if shared else host.hold("stock", timeout=timeout):
            assert holder.run(IS_FREE) == ["False"]

    waiter.python.send_signal(signal.SIGCONT)
    waiter.end()
    assert not is_free(host, "stock")


def is_locked(path: Path) -> bool:
    """Return whether another process has an exclusive lock on the file."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


NOTES = [
    b"", b"5", b"[]", b"[1, 2, 3]", b'["a", "b", "c"]', b'["a", 1, -1]', b'["a\\nb", 1, 1]', b'["a", 1e999, 1]',
    b'["a", 1, 99999999999999999999]', b"[" * 512, b"\xff" * 512, b'{"a": 1, "b": 2, "c": 3}', b'["a", NaN, 1]',
]  # fmt: skip


@pytest.mark.parametrize("note", NOTES)
def test_any_content_of_the_lock_file_leaves_a_timeout_a_timeout(
    host: Locks, folder: Path, start: Callable[[], Process], note: bytes
) -> None:
    other = start()
    other.run("stack.enter_context(locks.hold('stock'))")
    (path,) = folder.glob("lock-*[!e]")
    path.write_bytes(note)

    with pytest.raises(LockTimeout, match="held by readers in other processes"):
        host.hold("stock", timeout=0).__enter__()
    os.truncate(path, 0)
    other.run("stack.close()")
    assert is_free(host, "stock")


def test_two_names_with_the_same_letters_are_two_locks(host: Locks) -> None:
    with host.hold("a/b"):
        assert is_free(host, "a-b")


def test_all_locks_objects_mean_the_same_lock_of_the_host(host: Locks) -> None:
    others = Locks()
    others.group("stock", scope="host")

    with host.hold("stock"):
        assert not is_free(others, "stock")
        with others.hold("stock", timeout=0):
            pass


def test_locks_of_the_host_come_before_those_of_the_process(host: Locks) -> None:
    inner = Locks()
    with host.hold("z"), inner.hold("a"):
        pass
    with inner.hold("a"), pytest.raises(LockOrderError, match="'z' of the host is wanted"):
        host.hold("z").__enter__()


def test_a_folder_that_cannot_be_used_is_an_error_and_leaves_the_lock_free(host: Locks, folder: Path) -> None:
    folder.mkdir(mode=0o755)
    with pytest.raises(ConfigError, match="is open to others"):
        host.hold("stock").__enter__()
    folder.chmod(0o700)

    assert is_free(host, "stock")


def test_the_folder_is_that_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "_current", None)
    pools.configure(
        {"runtime_dir": str(tmp_path / "shared"), "databases": {"shop": {"url": "sqlite:////tmp/never-opened.db"}}}
    )

    assert pools.runtime_dir() == tmp_path / "shared"
    pools.close()


def test_threads_of_a_process_wait_for_each_other_in_memory(host: Locks) -> None:
    """Only one thread polls the file, since polling costs processor time."""
    inside: list[int] = []

    def work() -> None:
        for _ in range(50):
            with host.hold("stock"):
                inside.append(threading.get_ident())
                assert len(inside) == 1
                inside.pop()

    for task in [Task(work) for _ in range(8)]:
        task.result()
