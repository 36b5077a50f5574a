"""Asynchronous exceptions at any place leave no lock taken and no thread waiting."""

from __future__ import annotations

import contextlib
import itertools
import random
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from unit.fakes import PATIENCE, Task, eventually
from unit.interrupts import ExceptionInjector, Interrupt, debris_ignored, interrupt_at_work
from wsgipool import Locks, LockTimeout
from wsgipool.locks import rwlock
from wsgipool.locks.holding import Hold, this_holder
from wsgipool.locks.rwlock import ReadWriteLock, Turn

NAMES = ("a", "b", "c")


class Stage:
    """Locks, and other threads that hold some or wait for some."""

    def __init__(self) -> None:
        self.locks = Locks()
        self.waits = threading.Event()
        self.holders: list[Task[None]] = []
        """The threads that hold locks until the thread of the test waits."""
        self.others: list[Task[None]] = []
        for number in (0, 1, 2):
            # Each call has a new function: the first call creates the lock set and is interrupted at other places.
            self.function(number)()
            self.nested()
        self.reading = self.locks.requires(read="b")(lambda: None)

    def function(self, number: int) -> Callable[[], None]:
        @self.locks.requires("c", *NAMES[:number], read="b")
        def function() -> None: ...

        return function

    def nested(self) -> None:
        with self.locks.hold("a"), self.locks.hold("b"), self.locks.hold("a", read="c"):
            pass

    def hold_until_it_waits(self, *names: str, read: tuple[str, ...] = ()) -> None:
        held = threading.Event()

        def hold() -> None:
            with self.locks.hold(*names, read=read):
                held.set()
                assert self.waits.wait(PATIENCE), "it has neither waited nor come to an end"

        self.holders.append(Task(hold))
        self.others.append(self.holders[-1])
        assert held.wait(PATIENCE)

    def wait_for(self, *names: str, read: tuple[str, ...] = ()) -> None:
        """Have another thread wait."""
        before = self.waiting()

        def take() -> None:
            with self.locks.hold(*names, read=read):
                pass

        self.others.append(Task(take))
        eventually(lambda: self.waiting() > before)

    def waiting(self) -> int:
        return sum(len(resource.lock.queue) for resource in self.locks._resources.values())

    def have_all_released(self) -> None:
        self.waits.set()
        for holder in self.holders:
            holder.result()
        self.holders.clear()

    def assert_whole(self) -> None:
        self.have_all_released()
        for other in self.others:
            other.result()
        self.others.clear()
        assert not this_holder().holds
        # A thread whose start was interrupted is not counted.
        eventually(lambda: not any(one.lock.owners or one.lock.queue for one in self.locks._resources.values()))
        self.waits.clear()


Operation = Callable[[Stage], Iterator[None]]


def calls_a_function(stage: Stage) -> Iterator[None]:
    function = stage.function(2)
    function()
    yield
    function()


def calls_a_function_for_the_first_time(stage: Stage) -> Iterator[None]:
    function = stage.function(2)
    yield
    function()


def enters_a_block(stage: Stage) -> Iterator[None]:
    yield
    with stage.locks.hold("a", "c", read="b"):
        pass


def raises(stage: Stage) -> Iterator[None]:
    yield
    with contextlib.suppress(KeyError), stage.locks.hold("a", read="b"):
        raise KeyError


def nests(stage: Stage) -> Iterator[None]:
    yield
    stage.nested()


def calls_within_a_block(stage: Stage) -> Iterator[None]:
    function = stage.function(2)
    yield
    with stage.locks.hold("a"):
        function()


def waits_and_is_served(stage: Stage) -> Iterator[None]:
    function = stage.function(1)
    function()
    stage.hold_until_it_waits("b")
    yield
    function()


def waits_before_others(stage: Stage) -> Iterator[None]:
    stage.hold_until_it_waits("c")
    yield
    with stage.locks.hold("a", "c"):
        pass


def waits_to_read(stage: Stage) -> Iterator[None]:
    stage.hold_until_it_waits("b")
    stage.wait_for(read=("b",))
    yield
    stage.reading()


def waits_behind_another(stage: Stage) -> Iterator[None]:
    stage.hold_until_it_waits(read=("b",))
    stage.wait_for("b")
    yield
    with stage.locks.hold(read="b"):
        pass


def waits_in_vain(stage: Stage) -> Iterator[None]:
    stage.hold_until_it_waits("b")
    yield
    # On free-threaded Python, the other thread may have released it just before.
    with contextlib.suppress(LockTimeout), stage.locks.hold("a", "b", timeout=0):
        pass


def gives_back_to_one_who_waits(stage: Stage) -> Iterator[None]:
    with stage.locks.hold("a", "b"):
        stage.wait_for("b")
        stage.wait_for(read=("a", "b"))
        yield


def returns_while_others_wait(stage: Stage) -> Iterator[None]:
    go_on = itertools.count()

    @stage.locks.requires("b", read="a")
    def function() -> None:
        if next(go_on):
            stage.wait_for("b")
            stage.wait_for(read=("b",))

    function()
    yield
    function()


def reads_while_others_wait(stage: Stage) -> Iterator[None]:
    with stage.locks.hold(read="b"):
        stage.hold_until_it_waits(read=("b",))
        stage.wait_for("b")
        stage.wait_for(read=("b",))
        yield


OPERATIONS: list[Operation] = [
    calls_a_function,
    calls_a_function_for_the_first_time,
    enters_a_block,
    raises,
    nests,
    calls_within_a_block,
    waits_and_is_served,
    waits_before_others,
    waits_to_read,
    waits_behind_another,
    waits_in_vain,
    gives_back_to_one_who_waits,
    returns_while_others_wait,
    reads_while_others_wait,
]


def prepared(operation: Operation, stage: Stage) -> Callable[[], None]:
    steps = operation(stage)
    next(steps)
    return lambda: next(steps, None)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Locks whose holders release them when the thread of the test goes to sleep."""
    stage = Stage()
    wait, main = ReadWriteLock.wait, threading.get_ident()

    def watched(lock: ReadWriteLock, turn: Turn, deadline: float | None) -> bool:
        if threading.get_ident() == main:
            stage.waits.set()
        return wait(lock, turn, deadline)

    monkeypatch.setattr(ReadWriteLock, "wait", watched)
    return stage


@pytest.fixture(params=["at any time", "before an interrupted one"])
def _others_release(request: pytest.FixtureRequest, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other threads release at any time, or all between an exception and its clean-up, with strict hand-off."""
    if request.param == "at any time":
        return
    release, main = Hold.release, threading.get_ident()

    def after_the_others(hold: Hold) -> None:
        if threading.get_ident() == main and isinstance(sys.exception(), Interrupt):
            stage.have_all_released()
        release(hold)

    monkeypatch.setattr(Hold, "release", after_the_others)
    monkeypatch.setattr(rwlock, "PATIENCE", -1)


@pytest.mark.skipif(sys.version_info[:2] == (3, 12), reason="it does not trace all instructions while threads begin")
@pytest.mark.usefixtures("_others_release")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_asynchronous_exception_at_any_place_leaves_no_lock_taken(operation: Operation, stage: Stage) -> None:
    injector = ExceptionInjector(__file__, when_waiting=lambda: None)
    with debris_ignored():
        for place in itertools.count(1):
            try:
                was_raised = injector.at(place, prepared(operation, stage))
                stage.assert_whole()
            except Exception as error:
                error.add_note(f"{operation.__name__} was interrupted at place {place}")
                raise
            if not was_raised:
                break
    assert place > 10


def test_asynchronous_exceptions_at_any_moment_leave_no_lock_taken(effort: int) -> None:
    stage = Stage()
    numbers = random.Random("moments")
    ended = threading.Event()
    calls = [stage.function(number) for number in (0, 1, 2)]

    def work(number: int) -> None:
        calls[number % 3]()
        with contextlib.suppress(LockTimeout), stage.locks.hold("a", timeout=0.001 * (number % 2)):
            stage.nested() if number % 5 == 0 else None

    def work_on() -> None:
        for number in itertools.count():
            work(number)
            if ended.is_set():
                return

    others = [Task(work_on) for _ in range(3)]
    count = itertools.count()
    with debris_ignored():
        for _ in range(25 * effort):
            interrupt_at_work(lambda: work(next(count)), numbers.random() / 1000)
    ended.set()
    for other in others:
        other.result()

    eventually(lambda: all(not resource.lock.owners for resource in stage.locks._resources.values()))
    stage.assert_whole()


def test_simulated_exceptions_behave_like_real_ones() -> None:
    assert not issubclass(Interrupt, Exception)
