"""Everything that can be done to a pool, in any order, beside a model of it: both come to the same, step by step."""

from __future__ import annotations

import logging
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from time import monotonic
from types import SimpleNamespace
from typing import TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from unit.conftest import Clock
from unit.fakes import FakeConnection, FakeDatabase, in_turn, raising
from unit.pool_model import Block, Connection, Model, Opening, Settings, Story
from unit.stage import Actor, Background, Stage
from wsgipool import Pool
from wsgipool.housekeeping import housekeeping

T = TypeVar("T")

LONG = 1e9
"""Seconds that no waiter of these stories waits to the end."""
BORROWERS, OPENERS = 4, 3

choice = st.integers(0, 11)
"""Which of those that there are at that moment."""
timeouts = st.sampled_from([LONG, LONG, LONG, LONG, LONG, 0.0])
times = st.sampled_from([0.0, 0.0625, 1.0, 60.0])
"""Binary fractions, so that sums come out the same in any order."""


class Interrupt(BaseException):
    """Stands for KeyboardInterrupt and mod_wsgi's RequestTimeout."""


def errors() -> st.SearchStrategy[Exception | None]:
    return st.builds(lambda text: RuntimeError(text) if text else None, st.sampled_from(["", "deadlock", "a bug"]))


def one_of(options: Sequence[T], number: int) -> T:
    return options[number % len(options)]


def replace_everywhere(monkeypatch: pytest.MonkeyPatch, name: str, original: object, replacement: object) -> None:
    """Replace what modules of the package have imported under this name."""
    for module in [module for path, module in sys.modules.items() if path.startswith("wsgipool.")]:
        if getattr(module, name, None) is original:
            monkeypatch.setattr(module, name, replacement)


class PoolMachine(RuleBasedStateMachine):
    """Tells actors what to do with a pool, tells the model the same, and compares."""

    def __init__(self) -> None:
        super().__init__()
        self.monkeypatch = pytest.MonkeyPatch()
        self.clock = Clock()
        self.database = FakeDatabase()
        self.stage = Stage(BORROWERS + OPENERS + 1)
        self.borrowers = self.stage.actors[:BORROWERS]
        self.openers = self.stage.actors[BORROWERS:-1]
        self.housekeeper = self.stage.actors[-1]
        self.blocks: list[tuple[Block, AbstractContextManager[FakeConnection]]] = []
        self.largest = self.last_size = 0

    @initialize(
        settings=st.builds(
            Settings,
            has_driver=st.sampled_from([True, True, False]),
            reset=st.sampled_from(["rollback", "session", None]),
            pipelined=st.booleans(),
            pipeline=st.booleans(),
            checks=st.sampled_from([False, False, True]),
            debug=st.sampled_from([False, False, False, True]),
            max_waiting=st.sampled_from([0, 0, 0, 1, 2]),
            max_connecting=st.sampled_from([2, 1, 3]),
            check_after=st.sampled_from([30.0, 0.5]),
            max_idle=st.sampled_from([60.0, 600.0]),
            max_lifetime=st.sampled_from([3600.0, 100.0]),
        ),
        max_size=st.sampled_from([2, 1, 3, 4]),
        min_size=st.sampled_from([0, 0, 1, 2]),
        has_background=st.sampled_from([True, True, True, False]),
        ends_early=st.sampled_from([False, False, False, True]),
    )
    def make_a_pool(
        self, settings: Settings, max_size: int, min_size: int, has_background: bool, ends_early: bool
    ) -> None:
        self.ends_early = ends_early
        self.connects = "at once"
        min_size = min(min_size, max_size)
        self.background = Background(self.clock, is_running=has_background)
        replace_everywhere(self.monkeypatch, "monotonic", monotonic, self.clock)
        replace_everywhere(self.monkeypatch, "housekeeping", housekeeping, self.background)
        # Chance takes nothing off a life or a pause.
        no_chance = SimpleNamespace(uniform=lambda _, highest: highest)
        replace_everywhere(self.monkeypatch, "random", random, no_chance)
        self.monkeypatch.setattr(time, "sleep", lambda _: None)
        self.monkeypatch.setattr(logging.getLogger("wsgipool"), "disabled", True)
        self.stage.watch_the_queue(self.monkeypatch)
        self.database.hooks["connect"] = self.stage.await_cue
        self.database.pipelined = settings.pipelined
        self.settings = settings
        self.pool = Pool(
            self.database if settings.has_driver else self._connect_without_a_driver,
            name="orders",
            max_size=max_size,
            min_size=min_size,
            timeout=LONG,
            max_waiting=settings.max_waiting,
            max_connecting=settings.max_connecting,
            check_after=settings.check_after,
            max_idle=settings.max_idle,
            max_lifetime=settings.max_lifetime,
            check=FakeConnection.execute if settings.checks else None,
            reset=settings.reset,
            pipeline=settings.pipeline,
            debug=settings.debug,
        )
        self.model = Model(settings, min_size, max_size, self.clock, self.background)
        self.largest = max_size

    def _connect_without_a_driver(self) -> FakeConnection:
        def end_the_session() -> None:
            self.database.sessions -= 1

        self.database.hooks["close"] = end_the_session
        return self.database.connect(0.0)

    # --- borrowing and giving back -------------------------------------------------------------------------------

    @precondition(lambda self: self.free)
    @rule(number=choice, timeout=timeouts)
    def borrow(self, number: int, timeout: float) -> None:
        actor = self._asker(number)
        self._do(actor, lambda: self._number(self.pool.getconn(timeout)), self.model.getconn(actor, timeout))

    @precondition(lambda self: self.free)
    @rule(number=choice, timeout=timeouts, readonly=st.booleans())
    def enter_a_block(self, number: int, timeout: float, readonly: bool) -> None:
        actor = self._asker(number)
        block, manager = Block(actor, readonly), self.pool.connection(timeout, readonly)
        self.blocks.append((block, manager))
        self._do(actor, lambda: self._number(manager.__enter__()), self.model.enter(block, timeout))

    @precondition(lambda self: self.free)
    @rule(number=choice, timeout=timeouts, outcomes=st.lists(errors(), min_size=1, max_size=3))
    def run_a_transaction(self, number: int, timeout: float, outcomes: list[Exception | None]) -> None:
        actor = self._asker(number)
        remaining = iter(outcomes)

        def function(connection: FakeConnection) -> int:
            for error in remaining:
                if error is None:
                    return self._number(connection)
                raise error
            raise AssertionError("called once too often")

        def run() -> int:
            return self.pool.transaction(function, retry=len(outcomes) - 1, timeout=timeout)

        self._do(actor, run, self.model.transaction(actor, outcomes, timeout))

    @precondition(lambda self: self.lent)
    @rule(number=choice)
    def give_back(self, number: int) -> None:
        connection = one_of(self.lent, number)
        actor = connection.borrower
        assert isinstance(actor, Actor)
        self._give_back(actor, connection)

    @precondition(lambda self: self.free)
    @rule(number=choice, which=choice)
    def give_back_what_may_be_anothers(self, number: int, which: int) -> None:
        foreign = None
        self._give_back(one_of(self.free, number), one_of([*self.model.ever_opened[::-1], foreign], which))

    @precondition(lambda self: self.entered)
    @rule(number=choice, outcome=st.sampled_from([None, None, RuntimeError, Interrupt]))
    def leave_a_block(self, number: int, outcome: type[BaseException] | None) -> None:
        block, manager = one_of(self.entered, number)
        self.blocks.remove((block, manager))
        error = outcome() if outcome else None
        self._do(block.actor, lambda: manager.__exit__(outcome, error, None), self.model.exit(block, error))

    @precondition(lambda self: self.free)
    @rule(number=choice, ends_thread=st.sampled_from([False, False, True]))
    def end_a_request(self, number: int, ends_thread: bool) -> None:
        actor = one_of([actor for actor in self.borrowers if actor.state == "free"], number)
        if ends_thread and len(self.free) > 2 and actor.lives:
            actor.end()
            self.blocks = [(block, manager) for block, manager in self.blocks if block.actor is not actor]
        else:
            assert self.pool.reclaim(actor.thread_id) == self.model.reclaim(actor)
            self._settle()

    # --- changes -------------------------------------------------------------------------------------------------

    @rule(max_size=st.sampled_from([0, 1, 2, 3, 5]), min_size=st.integers(0, 3))
    def resize_or_drain(self, max_size: int, min_size: int) -> None:
        if max_size:
            min_size = min(min_size, max_size)
            self.pool.resize(min_size, max_size)
            self.model.resize(min_size, max_size)
            self.largest = max(self.largest, max_size)
        else:
            self.pool.drain()
            self.model.drain()
        self._settle()

    @rule(seconds=times)
    def let_time_pass(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(connects=st.sampled_from(["slow", "refused", "denied", "at once"]), has_threads=st.booleans())
    def have_other_circumstances(self, connects: str, has_threads: bool) -> None:
        self.connects = connects
        self.background.has_threads = has_threads
        self._settle()

    @precondition(lambda self: self.ends_early and self.model.opened > 2)
    @rule(how=st.sampled_from(["close", "wind_down", "stop"]))
    def end(self, how: str) -> None:
        self.ends_early = False
        if how == "close":
            assert self.pool.close() == self.model.close()
        elif how == "wind_down":
            self.pool.wind_down()
            self.model.wind_down()
        else:
            self.background.stop()
        self._settle()

    # --- the background ------------------------------------------------------------------------------------------

    @precondition(lambda self: self.background.is_running and self.housekeeper.state == "free")
    @rule(seconds=times, rounds=st.sampled_from([1, 2]))
    def tend(self, seconds: float, rounds: int) -> None:
        for _ in range(rounds):
            if self.housekeeper.state == "free":
                self.clock.advance(seconds)
                self._tend()

    def _tend(self) -> None:
        self.background.round_begins()

        def tend() -> float | None:
            pause = self.pool.tend()
            self.background.round_ends(pause)
            return pause

        self._do(self.housekeeper, tend, self.model.tend(self.housekeeper))

    @precondition(lambda self: self.background.recorded and any(actor.state == "free" for actor in self.openers))
    @rule()
    def connect_in_the_background(self) -> None:
        opener = next(actor for actor in self.openers if actor.state == "free")
        open_one, opening = self.background.recorded.pop(0), self.model.recorded.pop(0)
        self._do(opener, open_one, self.model.background_connects(opener, opening))

    @precondition(lambda self: self.connecting)
    @rule(number=choice, kind=st.sampled_from([None, None, None, OSError, PermissionError, Interrupt]))
    def end_a_connect(self, number: int, kind: type[BaseException] | None) -> None:
        actor = one_of(self.connecting, number)
        if kind is Interrupt and actor not in self.borrowers:
            kind = OSError  # only requests are interrupted
        self._end_a_connect(actor, kind() if kind else None)

    # --- faults --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.model.open)
    @rule(number=choice, which=choice, kind=st.sampled_from([OSError, Interrupt]))
    def have_a_connection_fail(self, number: int, which: int, kind: type[BaseException]) -> None:
        connection = one_of(self.model.open, number)
        real = self.database.opened[connection.number]
        call = one_of(self._calls_that_come(), which)
        if call == "die":
            connection.alive = real.alive = False
        else:
            error = OSError() if call == "close" else kind()
            connection.faults[call] = error
            real.hooks[call] = in_turn(raising(error))

    def _calls_that_come(self) -> list[str]:
        settings = self.settings
        calls = [
            "die",
            "commit",
            "close",
            "reset_session" if settings.has_driver and settings.reset == "session" else "rollback",
        ]
        calls += ["ping"] * settings.has_driver
        calls += ["read_answer"] * settings.pipelined
        calls += ["execute"] * settings.checks
        return calls

    # --- both at once --------------------------------------------------------------------------------------------

    @property
    def free(self) -> list[Actor]:
        return [actor for actor in self.borrowers if actor.state == "free" and actor.lives]

    @property
    def connecting(self) -> list[Actor]:
        return [actor for actor in self.stage.actors if actor.state == "before its cue"]

    @property
    def lent(self) -> list[Connection]:
        return [connection for connection in self.model.held() if connection.borrower in self.free]

    @property
    def entered(self) -> list[tuple[Block, AbstractContextManager[FakeConnection]]]:
        return [each for each in self.blocks if each[0].connection is not None and each[0].actor.state == "free"]

    def _give_back(self, actor: Actor, connection: Connection | None) -> None:
        real = self.database.opened[connection.number] if connection else FakeConnection(self.database)
        self._do(actor, lambda: self.pool.putconn(real), self.model.putconn(actor, connection))

    def _asker(self, number: int) -> Actor:
        """Mostly one that has nothing yet: who has is often told that it waits for itself, and nothing comes of it."""
        holders = [connection.holder for connection in self.model.held()]
        return one_of([actor for actor in self.free if actor not in holders or number % 4 == 0] or self.free, number)

    def _number(self, connection: FakeConnection) -> int:
        return self.database.opened.index(connection)

    def _do(self, actor: Actor, function: Callable[[], object], story: Story[object]) -> None:
        self.stage.tell(actor, function)
        self.model.begin(actor, story)
        self._compare_outcomes()

    def _end_a_connect(self, actor: Actor, error: BaseException | None) -> None:
        self.stage.cue(actor, error)
        self.model.connect_ends(actor, error)
        self._compare_outcomes()

    def _settle(self) -> None:
        self.stage.rest()
        self.model.wake()
        self._compare_outcomes()

    def _compare_outcomes(self) -> None:
        outcomes = {actor: actor.outcomes.pop() for actor in self.stage.actors if actor.outcomes}
        expected = self.model.outcomes
        self.model.outcomes = {}
        assert {self._name(actor): comparable(outcome) for actor, outcome in outcomes.items()} == {
            self._name(actor): comparable(outcome) for actor, outcome in expected.items()
        }
        if self.connecting and self.connects != "slow":
            failures = {"refused": OSError(), "denied": PermissionError()}
            self._end_a_connect(self.connecting[0], failures.get(self.connects))

    def _name(self, actor: Actor) -> int:
        return self.stage.actors.index(actor)

    # --- what holds at every step --------------------------------------------------------------------------------

    @invariant()
    def all_is_well(self) -> None:
        self.everybody_is_where_the_model_says()
        self.connections_are_told_what_the_model_says()
        self.the_counts_add_up()
        self.the_server_sees_no_session_too_many()
        self.nobody_waits_for_what_nobody_does()

    def everybody_is_where_the_model_says(self) -> None:
        assert [waiter.thread_id for waiter in self.pool._waiting] == [
            turn.actor.thread_id for turn in self.model.waiting
        ]
        assert set(self.connecting) == self.model.at_the_gate
        slots = self.pool._slots.values()
        assert [self._number(slot.connection) for slot in self.pool._idle] == [one.number for one in self.model.idle]
        assert {self._number(slot.connection): slot.thread_id for slot in slots if slot.thread_id} == {
            connection.number: connection.holder.thread_id for connection in self.model.held() if connection.holder
        }

    def connections_are_told_what_the_model_says(self) -> None:
        assert [connection.calls for connection in self.database.opened] == [
            connection.calls for connection in self.model.ever_opened
        ]
        assert self.database.misuses == []

    def the_counts_add_up(self) -> None:
        pool, model, stats = self.pool, self.model, self.pool.stats()
        assert stats.size == stats.idle + stats.in_use + stats.connecting
        assert stats.opened == stats.size - stats.connecting + sum(stats.closed.values()) + len(pool._gone)
        assert (stats.size, stats.idle, stats.in_use, stats.connecting, stats.waiting) == (
            (model.size, len(model.idle), len(model.held()), len(model.connecting), len(model.waiting))
        )
        assert (stats.waits, stats.wait_seconds, stats.timeouts, stats.refused, stats.connect_failures) == (
            (model.waits, model.wait_seconds, model.timeouts, model.refused, model.connect_failures)
        )
        assert stats.opened == model.opened
        assert stats.loans == (None if self.settings.lends_as_is else model.loans)
        assert pool._gone or stats.closed == model.closed

    def the_server_sees_no_session_too_many(self) -> None:
        assert self.database.sessions == len(self.model.open) + len(self.model.at_the_gate)
        assert self.database.most_sessions <= self.largest
        # After a resize it shrinks as connections come back.
        assert self.pool.size <= max(self.pool.max_size, self.last_size)
        self.last_size = self.pool.size

    def nobody_waits_for_what_nobody_does(self) -> None:
        if not self.background.is_running or self.housekeeper.state != "free":
            return
        soon = max(self.clock.now, self.model.paused_until) + 0.05
        if self.model.open and not self.model.is_winding_down:
            assert self.background.next_round is not None, "connections grow old and nobody looks"
        openings = sum(isinstance(one, Opening) for one in self.model.connecting)
        if len(self.model.waiting) > openings and self.model.has_room:
            assert self.background.next_round is not None, "there is room, and nobody opens"
            assert self.background.next_round <= soon, "there is room, and nobody opens for long"

    # --- the end -------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Whatever has happened: when all give back and the pool is closed, nothing is left."""
        try:
            if hasattr(self, "pool") and sys.exc_info()[0] is None:
                self._end_it_all()
        finally:
            self.stage.clear()
            self.monkeypatch.undo()

    def _end_it_all(self) -> None:
        assert self.pool.close() == self.model.close()
        self.connects = "at once"
        self._settle()
        while self.background.recorded:
            self.connect_in_the_background()
        for actor in self.borrowers:
            self.pool.reclaim(actor.thread_id)
        assert (self.pool.size, self.pool.waiting, self.database.sessions) == (0, 0, 0)
        assert self.pool.close()


def comparable(outcome: object) -> object:
    return type(outcome) if isinstance(outcome, BaseException) else outcome


def test_a_pool_does_what_its_model_does() -> None:
    run_state_machine_as_test(PoolMachine)
