"""The background threads of a process: one that maintains all its pools, and a short-lived one for each connect.

The maintenance thread starts with the first connection, and sleeps until a task is due or wakes it. It knows only the
`maintain` method of a pool. At the end of the process the threads are stopped and joined, for a second at most: in a
sub-interpreter, a thread still running then would crash the process.
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from wsgipool import _runtime
from wsgipool._wakeup import Wakeup

logger = logging.getLogger("wsgipool")

_STOP_TIMEOUT = 1.0
"""Maximum seconds to wait for the threads at the end of a process. httpd kills a child after about three."""


class Task(Protocol):
    """An object with maintenance that is due from time to time."""

    def maintain(self) -> float | None:
        """Do the maintenance that is due; return the seconds until the next call, None if none is due."""


class Background:
    """The background threads of one process."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin without threads and tasks, at the start and in the child of a fork."""
        self._lock = threading.RLock()  # reentrant: a signal handler on top of its holder may register, too
        self._tasks: weakref.WeakSet[Any] = weakref.WeakSet()
        self._wakeup = Wakeup()
        self._thread: threading.Thread | None = None
        self._helpers: set[threading.Thread] = set()
        self._stopped = False
        self._ends_early = False

    @property
    def is_running(self) -> bool:
        """Whether the maintenance thread runs."""
        return self._thread is not None and not self._stopped

    def register(self, task: Task) -> None:
        """Maintain a task from now on, until it is garbage. A registered task is maintained at once."""
        if task not in self._tasks or self._thread is None:
            with self._lock:
                self._tasks.add(task)
                if self._thread is None and not self._stopped:
                    self._thread = self._started(self._run, "wsgipool-maintenance")
        # The thread may be sleeping without a timeout, because no task was due.
        self.wake()

    def register_passive(self, task: Task) -> None:
        """Maintain a task while the thread runs, without starting the thread for it."""
        with self._lock:
            self._tasks.add(task)

    def wake(self) -> None:
        """Maintain all tasks at once. A signal handler or a destructor may call this."""
        self._wakeup.set()

    def run(self, function: Callable[[], object]) -> bool:
        """Call a function on a new thread; return False if no thread can be started."""
        if self._stopped:
            return False

        def run_and_leave() -> None:
            me = threading.current_thread()
            self._helpers.add(me)
            try:
                function()
            finally:
                self._helpers.discard(me)

        return self._started(run_and_leave, "wsgipool-connect") is not None

    def stop(self) -> None:
        """Stop the threads, and wait for them at most a second. Takes no lock: a signal handler may call this."""
        self._stopped = True
        self.wake()
        deadline = time.monotonic() + _STOP_TIMEOUT
        for thread in [self._thread, *self._helpers]:
            if thread is not None and thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _started(self, function: Callable[[], None], name: str) -> threading.Thread | None:
        thread = threading.Thread(target=_without_signals, args=[function], name=name)
        try:
            thread.daemon = True
        except RuntimeError:
            # A sub-interpreter with its own GIL has no daemon threads: it joins all threads before it calls atexit's
            # functions. No public hook comes earlier; concurrent.futures ends its threads in this way, too.
            if not self._ends_early:
                threading._register_atexit(self.stop)  # type: ignore[attr-defined]
                self._ends_early = True
        try:
            thread.start()
        except RuntimeError as error:
            logger.warning("thread %s cannot be started: %s", name, error)
            return None
        return thread

    def _run(self) -> None:
        with self._lock:
            if self._thread is not threading.current_thread():
                return  # an asynchronous exception has ended register(); its next call starts another thread
        due: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()
        is_woken = True
        while not self._stopped:
            with self._lock:
                tasks = list(self._tasks)
            _maintain_those_due(tasks, due, all_are=is_woken)
            del tasks  # so that a pool without references is garbage, also while this sleeps
            first = min(due.values(), default=None)
            is_woken = self._wakeup.wait(None if first is None else first - time.monotonic())


def _maintain_those_due(tasks: list[Any], due: weakref.WeakKeyDictionary[Any, float], *, all_are: bool) -> None:
    """Maintain the tasks that are due, or all of them, and record when each is due next."""
    now = time.monotonic()
    for task in tasks:
        if all_are or due.get(task, math.inf) <= now:
            pause = _maintain(task)
            if pause is None:
                due.pop(task, None)
            else:
                due[task] = time.monotonic() + pause


def _maintain(task: Task) -> float | None:
    try:
        return task.maintain()
    except Exception:
        # A logging handler of the program may be what fails. Without this thread no connection would be opened.
        with contextlib.suppress(Exception):
            logger.exception("maintenance of %r failed; next attempt in a second", task)
        return 1.0


def _without_signals(function: Callable[[], None]) -> None:
    # A child of httpd handles a signal on the thread that receives it, which must not be this one.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    function()


background = Background()
"""The background of this process."""

_runtime.at_end(background.stop)
_runtime.after_fork(background.reset)
