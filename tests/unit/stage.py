"""A stage for threads: each does one thing when told, and the test looks on only when all of them are at rest.

At rest is who has done what it was told, who sleeps in a pool's queue, and who stands before a cue that the test has
not given yet. So whatever happens between two looks has one outcome, and a test of many threads can be repeated.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Literal

import pytest

from unit.conftest import Clock
from unit.fakes import PATIENCE
from wsgipool.loan import Waiter

State = Literal["free", "running", "asleep", "before its cue"]


class Actor:
    """A thread that does one thing after the other."""

    def __init__(self, say: Callable[[Actor, State, object], None]) -> None:
        self.state: State = "free"
        self.outcomes: list[object] = []
        """What it has returned, or the exceptions that it has raised."""
        self.told: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self.cues: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._say = say
        # A daemon: a test that hangs fails, and does not keep the others from their end.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._thread.ident is not None
        self.thread_id = self._thread.ident

    @property
    def lives(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> None:
        """End the thread, which must be free."""
        self.told.put(None)
        self._thread.join(PATIENCE)
        assert not self.lives, "the thread did not come to its end"

    def _run(self) -> None:
        while (function := self.told.get()) is not None:
            try:
                outcome = function()
            except BaseException as error:
                # Without its frames: they would go on holding what they were about.
                outcome = error.with_traceback(None)
            del function
            self._say(self, "free", outcome)


class Stage:
    """Where actors are told what to do, and watched."""

    def __init__(self, actors: int) -> None:
        self._reports: queue.SimpleQueue[tuple[Actor | None, State, object]] = queue.SimpleQueue()
        self._actors: dict[int, Actor] = {}
        self._woken: set[object] = set()
        # All of them now: the number of a thread that has ended would be given to one that begins.
        for _ in range(actors):
            actor = Actor(lambda *report: self._reports.put(report))
            self._actors[actor.thread_id] = actor
        self.actors = list(self._actors.values())

    def watch_the_queue(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """See who falls asleep in a pool's queue and who is woken there."""
        wait, wake = Waiter.wait, Waiter.wake

        def watched_wait(waiter: Waiter[Any], *_: float) -> bool:
            # Up to the deadline: what it does in between, for housekeeping, is not on the stage.
            if waiter.remaining() > 0:
                self._reports.put((self._actors.get(waiter.thread_id), "asleep", waiter))
            return wait(waiter)

        def watched_wake(waiter: Waiter[Any]) -> None:
            self._reports.put((self._actors.get(waiter.thread_id), "running", waiter))
            wake(waiter)

        monkeypatch.setattr(Waiter, "wait", watched_wait)
        monkeypatch.setattr(Waiter, "wake", watched_wake)

    def tell(self, actor: Actor, function: Callable[[], object]) -> None:
        """Have an actor do something, up to where all are at rest."""
        assert actor.state == "free"
        actor.state = "running"
        actor.told.put(function)
        self.rest()

    def cue(self, actor: Actor, error: BaseException | None) -> None:
        """Let an actor go on from where it stands, or fail there, up to where all are at rest."""
        assert actor.state == "before its cue"
        actor.state = "running"
        actor.cues.put(error)
        self.rest()

    def await_cue(self) -> None:
        """Stop the actor that comes by until it gets its cue."""
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
                # Of its waiter only: the actor may have been on its way without it.
                self._woken.add(what)
                if actor.state == "asleep":
                    actor.state = "running"
            elif state != "asleep" or what not in self._woken:
                actor.state = state
                if state == "free":
                    actor.outcomes.append(what)

    def clear(self) -> None:
        """End the threads that can be ended; one that hangs has failed its test already."""
        for actor in self.actors:
            actor.told.put(None)
            actor.cues.put(SystemExit())


class Background:
    """Stands for the threads of `wsgipool.housekeeping`: notes what they have to do, for the story to say when."""

    def __init__(self, clock: Clock, *, is_running: bool) -> None:
        self.is_running = is_running
        self.has_threads = True
        """Whether there is one for each connect."""
        self.recorded: list[Callable[[], object]] = []
        self._clock = clock
        self._is_called = False
        self._next_round: float | None = None

    def watch(self, _: object) -> None:
        self.call()

    def call(self) -> None:
        self._is_called = True

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
        self._is_called = False

    def round_ends(self, pause: float | None) -> None:
        self._next_round = None if pause is None else self._clock() + pause

    @property
    def next_round(self) -> float | None:
        """When the pool is tended next; None for not before it calls."""
        return self._clock() if self._is_called else self._next_round
