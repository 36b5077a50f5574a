"""What the tests put in place of a database and of time: connections that notice misuse, gates, and patient waiting."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from wsgipool.drivers import CLEANING_TIMEOUT, PlainDriver, Reset
from wsgipool.farewell import Farewell

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds after which a test that waits has failed: far more than a busy machine needs."""


class Gate:
    """A place where whoever comes by says so and stops until the gate is opened."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def __call__(self) -> None:
        self._reached.set()
        assert self._opened.wait(PATIENCE), "nobody opened the gate"

    def wait_until_reached(self) -> None:
        assert self._reached.wait(PATIENCE), "nobody came to the gate"

    def open(self) -> None:
        self._opened.set()


def raising(error: BaseException) -> Callable[[], None]:
    """Return a hook that raises."""

    def hook() -> None:
        raise error

    return hook


def then(*hooks: Callable[[], object]) -> Callable[[], None]:
    """Return a hook that does one thing after the other."""

    def hook() -> None:
        for each in hooks:
            each()

    return hook


def in_turn(*hooks: Callable[[], object]) -> Callable[[], object]:
    """Return a hook that does something else each time, and at last nothing."""
    remaining = iter(hooks)

    def hook() -> object:
        return next(remaining, lambda: None)()

    return hook


class FakeConnection:
    """A DB-API connection that records what it is told, and which thread is with it."""

    def __init__(self, database: FakeDatabase) -> None:
        self.calls: list[str] = []
        self.alive = True
        self.answer_due = False
        self.hooks: dict[str, Callable[[], object]] = {}
        """What else happens in this connection's "commit", "rollback", "close"."""
        self._database = database
        self._user = threading.RLock()

    def commit(self) -> None:
        self._call("commit")

    def rollback(self) -> None:
        self._call("rollback")

    def close(self) -> None:
        self._call("close")

    def execute(self) -> None:
        self._call("execute")

    def reset_session(self) -> None:
        self._call("reset_session")

    def read_answer(self) -> None:
        self._call("read_answer")

    def ping(self) -> None:
        self._call("ping")

    @property
    def closed(self) -> bool:
        return "close" in self.calls

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Mark a stretch of work in which no other thread may be with this connection."""
        if not self._user.acquire(blocking=False):
            self._database.misuses.append("two threads at once")
            yield
            return
        try:
            if self.closed:
                self._database.misuses.append("used after its close")
            yield
        finally:
            self._user.release()

    def _call(self, name: str) -> None:
        with self.used():
            self._database.pass_by(name)
            self.hooks.get(name, lambda: None)()
            self.calls.append(name)


class FakeDatabase(PlainDriver[FakeConnection]):
    """A `Driver` that opens fake connections and counts them as a server would: from connect's start to close's end."""

    address = "fake://database"

    def __init__(self) -> None:
        self.hooks: dict[str, Callable[[], object]] = {}
        """What else happens in "connect", "check_out", "commit", "rollback", "close": a `Gate`, an exception."""
        self.pipelined = False
        """Whether the answer to a reset is left to the next checkout."""
        self.opened: list[FakeConnection] = []
        self.abandoned: list[FakeConnection] = []
        self.misuses: list[str] = []
        self.timeouts: list[float] = []
        self.sessions = 0
        self.most_sessions = 0
        self._lock = threading.Lock()

    def pass_by(self, name: str) -> None:
        self.hooks.get(name, lambda: None)()

    def connect(self, timeout: float, pipeline: bool = True) -> FakeConnection:  # noqa: ARG002
        with self._lock:
            self.sessions += 1
            self.most_sessions = max(self.most_sessions, self.sessions)
            self.timeouts.append(timeout)
        try:
            self.pass_by("connect")
        except BaseException:
            with self._lock:
                self.sessions -= 1
            raise
        connection = FakeConnection(self)
        self.opened.append(connection)
        return connection

    def check_out(self, connection: FakeConnection, thread_id: int, timeout: float) -> bool:  # noqa: ARG002
        if connection.answer_due:
            self.finish_reset(connection, timeout)
        self.pass_by("check_out")
        return connection.alive

    def check_in(self, connection: FakeConnection, how: Reset | None, pipeline: bool = True) -> None:
        if how == "session":
            connection.reset_session()
        elif how == "rollback":
            connection.rollback()
        connection.answer_due = how is not None and self.pipelined
        if connection.answer_due and not pipeline:
            self.finish_reset(connection, CLEANING_TIMEOUT)

    def finish_reset(self, connection: FakeConnection, timeout: float) -> None:
        self.timeouts.append(timeout)
        connection.read_answer()
        connection.answer_due = False

    def ping(self, connection: FakeConnection, timeout: float) -> None:
        self.timeouts.append(timeout)
        connection.ping()

    def will_be_refused_again(self, error: BaseException) -> bool:
        return isinstance(error, PermissionError)

    def can_run_again(self, error: BaseException) -> bool:
        return str(error) == "deadlock"

    def close(self, connection: FakeConnection) -> Farewell:
        with contextlib.suppress(Exception):
            connection.close()
        with self._lock:
            self.sessions -= 1
        return Farewell(unseen=0.0)

    def abandon(self, connection: FakeConnection) -> None:
        self.abandoned.append(connection)


class Task(Generic[T]):
    """A function on a thread of its own, with its result or its exception."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._results: list[T] = []
        self._error: BaseException | None = None
        # A daemon: a test that hangs fails, and does not keep the others from their end.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._results.append(self._function())
        except BaseException as error:
            self._error = error

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def is_done_within(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return self.done

    @property
    def thread_id(self) -> int:
        assert self._thread.ident is not None
        return self._thread.ident

    def result(self) -> T:
        self._thread.join(PATIENCE)
        assert self.done, "the thread did not come to its end"
        if self._error is not None:
            raise self._error
        return self._results[0]


class Borrower(Generic[T]):
    """A thread of its own that borrows a connection, and gives it back when told."""

    def __init__(self, getconn: Callable[[], T], putconn: Callable[[T], object]) -> None:
        self._borrowed: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._told = threading.Event()

        def borrow() -> None:
            connection = getconn()
            self._borrowed.put(connection)
            assert self._told.wait(3 * PATIENCE), "nobody told it to give back"
            putconn(connection)

        self._task = Task(borrow)
        self.connection = self._borrowed.get(timeout=PATIENCE)

    @property
    def thread_id(self) -> int:
        return self._task.thread_id

    def begin_to_give_back(self) -> Task[None]:
        """Let it give back, and return the thread."""
        self._told.set()
        return self._task

    def give_back(self) -> None:
        self.begin_to_give_back().result()


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something that has no event to wait for."""
    deadline = time.monotonic() + PATIENCE
    pause = 0.00005  # what another thread needs to take its turn, as most often
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(pause)
        pause = min(2 * pause, 0.01)


def run_python(program: str) -> str:
    """Run a program in a Python of its own, which can import these fakes, and return what it printed."""
    preamble = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
    finished = subprocess.run(
        [sys.executable, "-c", preamble + program], capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout
