"""The background of a process: one thread that looks after all its pools, and a short one for each connect.

It starts with the first connection and sleeps until a pool has something to do or calls. It knows of a pool only
that it can be tended. A process that ends stops it and waits for it, but not for long: in a sub-interpreter a thread
that is still there at the end crashes the process.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol

logger = logging.getLogger("wsgipool")

_STOP_PATIENCE = 1.0
"""Seconds to wait for the threads at the end of a process: httpd gives a child about three before it insists."""


class Tended(Protocol):
    """What has something to do from time to time."""

    def tend(self) -> float | None:
        """Do what is due; return the seconds until it should be called again, None if nothing is to be expected."""


class Housekeeping:
    """The threads of one process."""

    def __init__(self) -> None:
        self._start_anew()

    def _start_anew(self) -> None:
        self._lock = threading.RLock()  # a signal handler, on top of a thread that is in it, may call as well
        self._tended: weakref.WeakSet[Any] = weakref.WeakSet()
        # Free when somebody has called, who may be a signal handler or a destructor, on top of anything. Not a
        # queue.SimpleQueue: its get() waits for ever where the thread gets the processor only after the timeout.
        self._called = threading.Lock()
        self._thread: threading.Thread | None = None
        self._helpers: set[threading.Thread] = set()
        self._stopped = False
        self._ends_early = False

    @property
    def is_running(self) -> bool:
        return self._thread is not None and not self._stopped

    def watch(self, tended: Tended) -> None:
        """Look after this too from now on, until it is garbage; it has something to do again."""
        if tended not in self._tended or self._thread is None:
            with self._lock:
                self._tended.add(tended)
                if self._thread is None and not self._stopped:
                    self._thread = self._started(self._run, "wsgipool-housekeeping")
        # The thread may be asleep for good: this had nothing to do the last time.
        self.call()

    def accompany(self, tended: Tended) -> None:
        """Look after this too, but only while there is something to watch: it is no reason to start the thread."""
        with self._lock:
            self._tended.add(tended)

    def call(self) -> None:
        """Let the thread look at once."""
        with contextlib.suppress(RuntimeError):  # somebody has called already
            self._called.release()

    def run(self, function: Callable[[], object]) -> bool:
        """Call a function on a thread of its own; False where none can be had."""
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
        """Stop, and wait for the threads a moment. Takes no lock: it may be called from a signal handler."""
        self._stopped = True
        self.call()
        deadline = time.monotonic() + _STOP_PATIENCE
        for thread in [self._thread, *self._helpers]:
            if thread is not None and thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _started(self, function: Callable[[], None], name: str) -> threading.Thread | None:
        thread = threading.Thread(target=_without_signals, args=[function], name=name)
        try:
            thread.daemon = True
        except RuntimeError:
            # A sub-interpreter with a GIL of its own: it waits for all its threads before it calls atexit's functions.
            # Nothing public comes earlier; concurrent.futures ends its threads so, too.
            if not self._ends_early:
                threading._register_atexit(self.stop)  # type: ignore[attr-defined]
                self._ends_early = True
        try:
            thread.start()
        except RuntimeError as error:
            logger.warning("there can be no thread %s: %s", name, error)
            return None
        return thread

    def _run(self) -> None:
        with self._lock:
            if self._thread is not threading.current_thread():
                return  # an exception from outside has struck watch() just then, so the next will start another
        while not self._stopped:
            with self._lock:
                watched = list(self._tended)
            pauses = [pause for tended in watched if (pause := self._tend(tended)) is not None]
            del watched  # a pool that nobody has any more is garbage while this sleeps, too
            self._called.acquire(timeout=min(pauses) if pauses else -1)

    @staticmethod
    def _tend(tended: Tended) -> float | None:
        try:
            return tended.tend()
        except Exception:
            logger.exception("%r could not be looked after; it is tried again in a while", tended)
            return 1.0


def _without_signals(function: Callable[[], None]) -> None:
    # httpd's child handles its signals on the thread that got them: not on this one.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    function()


housekeeping = Housekeeping()
"""That of this process."""

atexit.register(housekeeping.stop)
os.register_at_fork(after_in_child=housekeeping._start_anew)
