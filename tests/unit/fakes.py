"""Fakes for the tests: a database whose connections notice misuse, gates, and threads that hold connections."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Generic, TypeVar

from wsgipool.drivers import CLEANING_TIMEOUT, BaseDriver, Reset
from wsgipool.drivers.base import ENDED, IN_THE_POOL, Holder, Hook
from wsgipool.drivers.session_end import SessionEnd

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds after which a waiting test fails: far more than a busy machine needs."""


class Gate:
    """A hook that stops its thread until the gate is opened."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def __call__(self) -> None:
        self._reached.set()
        assert self._opened.wait(PATIENCE), "the gate was not opened"

    def wait_until_reached(self) -> None:
        assert self._reached.wait(PATIENCE), "no thread reached the gate"

    def open(self) -> None:
        self._opened.set()


def raising(error: BaseException) -> Callable[[], None]:
    """Return a hook that raises an error."""

    def hook() -> None:
        raise error

    return hook


def then(*hooks: Callable[[], object]) -> Callable[[], None]:
    """Return a hook that calls several hooks in order."""

    def hook() -> None:
        for each in hooks:
            each()

    return hook


def in_turn(*hooks: Callable[[], object]) -> Callable[[], object]:
    """Return a hook that calls another hook each time, and nothing after the last one."""
    remaining = iter(hooks)

    def hook() -> object:
        return next(remaining, lambda: None)()

    return hook


class FakeConnection:
    """A DB-API connection that records its calls, and notices two threads at the same time."""

    def __init__(self, database: FakeDatabase) -> None:
        self.calls: list[str] = []
        self.alive = True
        self.answer_due = False
        self.hooks: dict[str, Callable[[], object]] = {}
        """Hooks of this connection, called in "commit", "rollback", "close" and so on."""
        self.holder = Holder()
        self._database = database
        self._user = threading.RLock()

    def commit(self) -> None:
        self._call("commit")

    def rollback(self) -> None:
        self._call("rollback")

    def close(self) -> None:
        self.holder.close(self.end)

    def end(self) -> None:
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
        """Mark a section in which no other thread may use this connection."""
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
            self._database.call_hook(name)
            self.hooks.get(name, lambda: None)()
            self.calls.append(name)


class FakeDatabase(BaseDriver[FakeConnection]):
    """A driver that counts fake connections like a server: from the start of connect to the end of close."""

    address = "fake://database"

    def __init__(self) -> None:
        self.hooks: dict[str, Callable[[], object]] = {}
        """Hooks, such as a `Gate`, called in "connect", "check_out", "commit", "rollback", "close", "reload"."""
        self.pipelined = False
        """Whether the answer to a reset is read at the next checkout."""
        self.opened: list[FakeConnection] = []
        self.left_to_parent: list[FakeConnection] = []
        self.misuses: list[str] = []
        self.timeouts: list[float] = []
        self.sessions = 0
        self.most_sessions = 0
        self._lock = threading.Lock()

    def call_hook(self, name: str) -> None:
        self.hooks.get(name, lambda: None)()

    def connect(self, timeout: float, pipeline: bool = True) -> FakeConnection:  # noqa: ARG002
        with self._lock:
            self.sessions += 1
            self.most_sessions = max(self.most_sessions, self.sessions)
            self.timeouts.append(timeout)
        try:
            self.call_hook("connect")
        except BaseException:
            with self._lock:
                self.sessions -= 1
            raise
        connection = FakeConnection(self)
        self.opened.append(connection)
        return connection

    def set_close_hook(self, connection: FakeConnection, hook: Hook) -> bool:
        connection.holder.hook = hook
        return True

    def adopt(self, connection: FakeConnection, thread_id: int) -> None:
        connection.holder.thread_id = thread_id

    def reload(self) -> None:
        self.call_hook("reload")

    def check_out(self, connection: FakeConnection, thread_id: int, timeout: float) -> bool:
        if connection.answer_due:
            self.finish_reset(connection, timeout)
        self.call_hook("check_out")
        connection.holder.thread_id = thread_id
        return connection.alive

    def check_in(self, connection: FakeConnection, how: Reset | None, pipeline: bool = True) -> None:
        if how == "session":
            connection.reset_session()
        elif how == "rollback":
            connection.rollback()
        connection.answer_due = how is not None and self.pipelined
        if connection.answer_due and not pipeline:
            self.finish_reset(connection, CLEANING_TIMEOUT)
        connection.holder.thread_id = IN_THE_POOL

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

    def close(self, connection: FakeConnection) -> SessionEnd:
        connection.holder.thread_id = ENDED
        with contextlib.suppress(Exception):
            connection.end()
        with self._lock:
            self.sessions -= 1
        return SessionEnd(assumed_after=0.0)

    def after_fork(self, connection: FakeConnection) -> None:
        self.left_to_parent.append(connection)


class Task(Generic[T]):
    """A function on a new thread, with its result or its exception."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._results: list[T] = []
        self._error: BaseException | None = None
        # A daemon, so that a hanging test does not block the end of the test run.
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

    def stack(self) -> str:
        """Return what the thread does now, as a traceback, for the message of a failed test."""
        frame = sys._current_frames().get(self.thread_id)
        return "".join(traceback.format_stack(frame)) if frame else "the thread has ended"

    def result(self) -> T:
        self._thread.join(PATIENCE)
        assert self.done, f"the thread has not ended; it is here:\n{self.stack()}"
        if self._error is not None:
            raise self._error
        return self._results[0]


class HolderThread(Generic[T]):
    """A new thread that checks a connection out and holds it until `give_back`."""

    def __init__(self, getconn: Callable[[], T], putconn: Callable[[T], object]) -> None:
        checkout: Future[T] = Future()
        self._may_return = threading.Event()

        def hold() -> None:
            try:
                connection = getconn()
            except BaseException as error:
                checkout.set_exception(error)
                raise
            checkout.set_result(connection)
            assert self._may_return.wait(3 * PATIENCE), "give_back was not called"
            putconn(connection)

        self._task = Task(hold)
        wait([checkout], PATIENCE)
        assert checkout.done(), f"the thread has no connection; it is here:\n{self._task.stack()}"
        self.connection = checkout.result()

    @property
    def thread_id(self) -> int:
        return self._task.thread_id

    def begin_return(self) -> Task[None]:
        """Let the thread return its connection, and return the thread."""
        self._may_return.set()
        return self._task

    def give_back(self) -> None:
        self.begin_return().result()


def eventually(condition: Callable[[], bool], within: float = PATIENCE) -> None:
    """Wait until a condition without an event is true."""
    deadline = time.monotonic() + within
    pause = 0.00005  # usually enough for another thread to run
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(pause)
        pause = min(2 * pause, 0.01)


def run_python(program: str) -> str:
    """Run a program in a new Python process, which can import these fakes; return its output."""
    preamble = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
    finished = subprocess.run(
        [sys.executable, "-c", preamble + program], capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout
