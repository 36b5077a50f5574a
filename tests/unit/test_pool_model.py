"""A pool and its model get the same random steps, and must have the same outcome after each."""

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
from unit.slots import legal_moves
from unit.stage import Actor, Background, Stage
from wsgipool import Pool
from wsgipool._background import background

T = TypeVar("T")

LONG = 1e9
"""Seconds that no waiter waits to the end."""
USERS, OPENERS = 4, 3

choice = st.integers(0, 11)
"""Index into the options of the moment."""
timeouts = st.sampled_from([LONG, LONG, LONG, LONG, LONG, 0.0])
times = st.sampled_from([0.0, 0.0625, 1.0, 60.0])
"""Binary fractions, so that sums are equal in any order."""


class Interrupt(BaseException):
    """A stand-in for KeyboardInterrupt and mod_wsgi's RequestTimeout."""


def errors() -> st.SearchStrategy[Exception | None]:
    return st.builds(lambda text: RuntimeError(text) if text else None, st.sampled_from(["", "deadlock", "a bug"]))


def one_of(options: Sequence[T], number: int) -> T:
    return options[number % len(options)]


def replace_everywhere(monkeypatch: pytest.MonkeyPatch, name: str, original: object, replacement: object) -> None:
    """Replace an object in all modules of the package that have imported it under this name."""
    for module in [module for path, module in sys.modules.items() if path.startswith("wsgipool.")]:
        if getattr(module, name, None) is original:
            monkeypatch.setattr(module, name, replacement)


class PoolMachine(RuleBasedStateMachine):
    """Runs each step on the pool and on the model, and compares the outcomes."""

    def __init__(self) -> None:
        super().__init__()
        self.monkeypatch = pytest.MonkeyPatch()
        self.clock = Clock()
        self.database = FakeDatabase()
        self.stage = Stage(USERS + OPENERS + 1)
        self.users = self.stage.actors[:USERS]
        self.openers = self.stage.actors[USERS:-1]
        self.maintainer = self.stage.actors[-1]
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
        replace_everywhere(self.monkeypatch, "background", background, self.background)
        # Without randomness in lifetimes and pauses.
        no_randomness = SimpleNamespace(uniform=lambda _, highest: highest)
        replace_everywhere(self.monkeypatch, "random", random, no_randomness)
        self.monkeypatch.setattr(time, "sleep", lambda _: None)
        self.monkeypatch.setattr(logging.getLogger("wsgipool"), "disabled", True)
        self.stage.report_waits(self.monkeypatch)
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

    # --- checkouts and returns -----------------------------------------------------------------------------------

    @precondition(lambda self: self.free)
    @rule(number=choice, timeout=timeouts)
    def check_out(self, number: int, timeout: float) -> None:
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
            raise AssertionError("the function was called too often")

        def run() -> int:
            return self.pool.transaction(function, retry=len(outcomes) - 1, timeout=timeout)

        self._do(actor, run, self.model.transaction(actor, outcomes, timeout))

    @precondition(lambda self: self.checked_out)
    @rule(number=choice)
    def return_one(self, number: int) -> None:
        connection = one_of(self.checked_out, number)
        actor = connection.held_by
        assert isinstance(actor, Actor)
        self._return(actor, connection)

    @precondition(lambda self: self.free)
    @rule(number=choice, which=choice)
    def return_any_connection(self, number: int, which: int) -> None:
        foreign = None
        self._return(one_of(self.free, number), one_of([*self.model.ever_opened[::-1], foreign], which))

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
        actor = one_of([actor for actor in self.users if actor.state == "free"], number)
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
    def change_circumstances(self, connects: str, has_threads: bool) -> None:
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

    @precondition(lambda self: self.background.is_running and self.maintainer.state == "free")
    @rule(seconds=times, rounds=st.sampled_from([1, 2]))
    def maintain(self, seconds: float, rounds: int) -> None:
        for _ in range(rounds):
            if self.maintainer.state == "free":
                self.clock.advance(seconds)
                self._maintain_once()

    def _maintain_once(self) -> None:
        self.background.round_begins()

        def maintain() -> float | None:
            pause = self.pool.maintain()
            self.background.round_ends(pause)
            return pause

        self._do(self.maintainer, maintain, self.model.maintain(self.maintainer))

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
        if kind is Interrupt and actor not in self.users:
            kind = OSError  # only users are interrupted
        self._end_a_connect(actor, kind() if kind else None)

    # --- faults --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.model.open)
    @rule(number=choice, which=choice, kind=st.sampled_from([OSError, Interrupt]))
    def have_a_connection_fail(self, number: int, which: int, kind: type[BaseException]) -> None:
        connection = one_of(self.model.open, number)
        real = self.database.opened[connection.number]
        call = one_of(self._expected_calls(), which)
        if call == "die":
            connection.alive = real.alive = False
        else:
            error = OSError() if call == "close" else kind()
            connection.faults[call] = error
            real.hooks[call] = in_turn(raising(error))

    def _expected_calls(self) -> list[str]:
        settings = self.settings
        calls = [
            "die",
            "commit",
            "close",
            "reset_session" if settings.has_driver and settings.reset == "session" else "rollback",
        ]
        calls += ["ping"]
        calls += ["read_answer"] * settings.pipelined
        calls += ["execute"] * settings.checks
        return calls

    # --- pool and model ------------------------------------------------------------------------------------------

    @property
    def free(self) -> list[Actor]:
        return [actor for actor in self.users if actor.state == "free" and actor.lives]

    @property
    def connecting(self) -> list[Actor]:
        return [actor for actor in self.stage.actors if actor.state == "before its cue"]

    @property
    def checked_out(self) -> list[Connection]:
        return [connection for connection in self.model.held() if connection.held_by in self.free]

    @property
    def entered(self) -> list[tuple[Block, AbstractContextManager[FakeConnection]]]:
        return [each for each in self.blocks if each[0].connection is not None and each[0].actor.state == "free"]

    def _return(self, actor: Actor, connection: Connection | None) -> None:
        real = self.database.opened[connection.number] if connection else FakeConnection(self.database)
        self._do(actor, lambda: self.pool.putconn(real), self.model.putconn(actor, connection))

    def _asker(self, number: int) -> Actor:
        """Return a free user, mostly one without a connection, because others often get PoolDeadlock."""
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

    # --- checks after each step ----------------------------------------------------------------------------------

    @invariant()
    def pool_and_model_agree(self) -> None:
        self.actors_are_in_the_same_state()
        self.connections_got_the_same_calls()
        self.counts_are_equal()
        self.server_sees_at_most_max_size_sessions()
        self.maintenance_is_due_if_needed()

    def actors_are_in_the_same_state(self) -> None:
        state = self.pool._state
        assert [waiter.thread.ident for waiter in state.waiting] == [
            turn.actor.thread_id for turn in self.model.waiting
        ]
        assert set(self.connecting) == self.model.at_the_gate
        assert [self._number(slot.connection) for slot in state.idle] == [one.number for one in self.model.idle]
        assert {self._number(slot.connection): slot.thread.ident for slot in state.held()} == {
            connection.number: connection.holder.thread_id for connection in self.model.held() if connection.holder
        }

    def connections_got_the_same_calls(self) -> None:
        assert [connection.calls for connection in self.database.opened] == [
            connection.calls for connection in self.model.ever_opened
        ]
        assert self.database.misuses == []

    def counts_are_equal(self) -> None:
        model, stats = self.model, self.pool.stats()
        assert stats.size == stats.idle + stats.in_use + stats.connecting
        assert stats.opened == stats.size - stats.connecting + sum(stats.closed.values())
        assert (stats.size, stats.idle, stats.in_use, stats.connecting, stats.waiting) == (
            (model.size, len(model.idle), len(model.held()), len(model.connecting), len(model.waiting))
        )
        assert (stats.waits, stats.wait_seconds, stats.timeouts, stats.refused, stats.connect_failures) == (
            (model.waits, model.wait_seconds, model.timeouts, model.refused, model.connect_failures)
        )
        assert stats.opened == model.opened
        assert stats.checkouts == model.checkouts
        assert stats.closed == model.closed

    def server_sees_at_most_max_size_sessions(self) -> None:
        assert self.database.sessions == len(self.model.open) + len(self.model.at_the_gate)
        assert self.database.most_sessions <= self.largest
        # After a resize the pool shrinks as connections are returned.
        assert self.pool.size <= max(self.pool.max_size, self.last_size)
        self.last_size = self.pool.size

    def maintenance_is_due_if_needed(self) -> None:
        if not self.background.is_running or self.maintainer.state != "free":
            return
        soon = max(self.clock.now, self.model.paused_until) + 0.05
        if self.model.open and not self.model.is_winding_down:
            assert self.background.next_round is not None, "connections grow old without maintenance"
        openings = sum(isinstance(one, Opening) for one in self.model.connecting)
        if len(self.model.waiting) > openings and self.model.has_room:
            assert self.background.next_round is not None, "there is room, and no connection is opened"
            assert self.background.next_round <= soon, "there is room, and no connection is opened for long"

    # --- the end -------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Assert that nothing is left when all connections are returned and the pool is closed."""
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
        for actor in self.users:
            self.pool.reclaim(actor.thread_id)
        assert (self.pool.size, self.pool.waiting, self.database.sessions) == (0, 0, 0)
        assert self.pool.close()


def comparable(outcome: object) -> object:
    return type(outcome) if isinstance(outcome, BaseException) else outcome


def test_a_pool_does_what_its_model_does(monkeypatch: pytest.MonkeyPatch) -> None:
    with legal_moves(monkeypatch):
        run_state_machine_as_test(PoolMachine)
