"""A stage for threads: each thread does one step at a time, and the test goes on when all of them are at rest.

A thread is at rest if it has finished its step, sleeps in a pool's queue, or waits for a cue of the test. So each step
has one outcome, and a test of many threads can be repeated.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Literal

import pytest

from unit.conftest import Clock
from unit.fakes import PATIENCE
from wsgipool.pool._slot import Waiter

LONG = 1e9
"""Seconds that no waiter waits to the end."""

State = Literal["free", "running", "asleep", "before its cue"]


class Actor:
    """A thread that runs one function after the other."""

    def __init__(self, report: Callable[[Actor, State, object], None]) -> None:
        self.state: State = "free"
        self.outcomes: list[object] = []
        """Results of the functions, or the exceptions that they raised."""
        self.functions: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self.cues: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._report = report
        # A daemon, so that a hanging test does not block the end of the test run.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._thread.ident is not None
        self.thread_id = self._thread.ident

    @property
    def lives(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> None:
        """End the thread, which must be free."""
        self.functions.put(None)
        self._thread.join(PATIENCE)
        assert not self.lives, "the thread has not ended"

    def _run(self) -> None:
        while (function := self.functions.get()) is not None:
            try:
                outcome = function()
            except BaseException as error:
                # Without its frames, which would keep their objects alive.
                outcome = error.with_traceback(None)
            del function
            self._report(self, "free", outcome)


class Stage:
    """The actors, and their reports to the test."""

    def __init__(self, actors: int) -> None:
        self._reports: queue.SimpleQueue[tuple[Actor | None, State, object]] = queue.SimpleQueue()
        self._actors: dict[int, Actor] = {}
        self._woken: set[object] = set()
        # All actors now, because the interpreter reuses the identifiers of ended threads.
        for _ in range(actors):
            actor = Actor(lambda *report: self._reports.put(report))
            self._actors[actor.thread_id] = actor
        self.actors = list(self._actors.values())

    def report_waits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Report each waiter that falls asleep in a pool's queue or is woken there."""
        wait, wake = Waiter.wait, Waiter.wake

        def reported_wait(waiter: Waiter[Any], *_: float) -> bool:
            # Up to the deadline: the calls for maintenance in between are not part of the test.
            if waiter.deadline > waiter.asked:
                self._reports.put((self._actors.get(waiter.thread.ident), "asleep", waiter))
            return wait(waiter, LONG)

        def reported_wake(waiter: Waiter[Any]) -> None:
            self._reports.put((self._actors.get(waiter.thread.ident), "running", waiter))
            wake(waiter)

        monkeypatch.setattr(Waiter, "wait", reported_wait)
        monkeypatch.setattr(Waiter, "wake", reported_wake)

    def tell(self, actor: Actor, function: Callable[[], object]) -> None:
        """Have an actor call a function, and wait until all are at rest."""
        assert actor.state == "free"
        actor.state = "running"
        actor.functions.put(function)
        self.rest()

    def cue(self, actor: Actor, error: BaseException | None) -> None:
        """Let an actor go on, or raise an error, and wait until all are at rest."""
        assert actor.state == "before its cue"
        actor.state = "running"
        actor.cues.put(error)
        self.rest()

    def await_cue(self) -> None:
        """Stop the calling actor until it gets its cue."""
        actor = self._actors[threading.get_ident()]
        self._reports.put((actor, "before its cue", None))
        error = actor.cues.get(timeout=3 * PATIENCE)
        if error is not None:
            raise error

    def rest(self) -> None:
        """Wait until all are at rest."""
        while any(actor.state == "running" for actor in self.actors) or not self._reports.empty():
            actor, state, what = self._reports.get(timeout=PATIENCE)
            if actor is None:
                continue
            if state == "running":
                # This concerns only the waiter: the actor may be running already.
                self._woken.add(what)
                if actor.state == "asleep":
                    actor.state = "running"
            elif state != "asleep" or what not in self._woken:
                actor.state = state
                if state == "free":
                    actor.outcomes.append(what)

    def clear(self) -> None:
        """End the threads that can be ended. A hanging one has already failed its test."""
        for actor in self.actors:
            actor.functions.put(None)
            actor.cues.put(SystemExit())


class Background:
    """A stand-in for `wsgipool._background`: it records the work, and the test runs it."""

    def __init__(self, clock: Clock, *, is_running: bool) -> None:
        self.is_running = is_running
        self.has_threads = True
        """Whether a thread for each connect can be started."""
        self.recorded: list[Callable[[], object]] = []
        self._clock = clock
        self._is_awake = False
        self._next_round: float | None = None

    def register(self, _: object) -> None:
        self.wake()

    def wake(self) -> None:
        self._is_awake = True

    def run(self, function: Callable[[], object]) -> bool:
        if self.can_run:
            self.recorded.append(function)
        return self.can_run

    @property
    def can_run(self) -> bool:
        return self.is_running and self.has_threads

    def stop(self) -> None:
        self.is_running = False

    def round_begins(self) -> None:
        self._is_awake = False

    def round_ends(self, pause: float | None) -> None:
        self._next_round = None if pause is None else self._clock() + pause

    @property
    def next_round(self) -> float | None:
        """The time of the next maintenance; None if it must be requested."""
        return self._clock() if self._is_awake else self._next_round
