"""The background threads of a process, with simple tasks."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Iterator

import pytest

from unit.fakes import eventually
from unit.interrupts import Interrupt
from wsgipool._background import Background


class Note:
    """A task that records the threads that maintain it."""

    def __init__(self) -> None:
        self.maintained_by: list[threading.Thread] = []

    def maintain(self) -> None:
        self.maintained_by.append(threading.current_thread())


@pytest.fixture
def background() -> Iterator[Background]:
    background = Background()
    yield background
    background.stop()


def test_registering_an_idle_task_again_maintains_it(background: Background) -> None:
    note = Note()

    for times in (1, 2, 3):
        background.register(note)
        eventually(lambda times=times: len(note.maintained_by) >= times)  # type: ignore[misc]


def test_a_passive_task_starts_no_thread_and_is_maintained_with_the_others(
    background: Background,
) -> None:
    note, passive = Note(), Note()

    background.register_passive(passive)

    assert not background.is_running
    for times in (1, 2):
        background.register(note)
        eventually(lambda times=times: len(passive.maintained_by) >= times)  # type: ignore[misc]


def test_a_logging_handler_that_raises_does_not_end_the_thread(
    background: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise LookupError

    class Failing:
        maintain = fail

    failing, note = Failing(), Note()
    monkeypatch.setattr(logging.getLogger("wsgipool"), "handle", fail)
    background.register(failing)

    for times in (1, 2):
        background.register(note)
        eventually(lambda times=times: len(note.maintained_by) >= times)  # type: ignore[misc]


def test_a_wake_during_a_round_causes_another_round(background: Background) -> None:
    """The pause may end before its wait begins, as on a busy machine."""
    rounds = 0

    class Restless:
        def maintain(self) -> float:
            nonlocal rounds
            rounds += 1
            if rounds % 2 == 0:
                background.wake()
            return 1e-9

    restless = Restless()
    background.register(restless)

    eventually(lambda: rounds > 15_000)


def test_a_task_that_is_registered_during_a_round_does_not_end_the_thread(background: Background) -> None:
    """A set that grows during an iteration raises an error, which would end the thread."""
    note, latecomer = Note(), Note()
    registering = threading.Thread(target=background.register, args=[latecomer])

    class SlowlyIterated(weakref.WeakSet[Note]):
        def __iter__(self) -> Iterator[Note]:
            for task in super().__iter__():
                if registering.ident is None:
                    registering.start()
                    registering.join(0.1)  # it may have to wait until the end of the iteration
                yield task

    background._tasks = SlowlyIterated()
    background.register(note)

    eventually(lambda: bool(latecomer.maintained_by))
    registering.join()


def test_a_registration_interrupted_during_the_thread_start_leaves_one_thread(
    background: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = Note()
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def start_and_be_interrupted(thread: threading.Thread) -> None:
        started.append(thread)
        start(thread)
        raise Interrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(threading.Thread, "start", start_and_be_interrupted)
        with pytest.raises(Interrupt):
            background.register(note)

    background.register(note)

    eventually(lambda: not started[0].is_alive())
    eventually(lambda: bool(note.maintained_by))
    assert started[0] not in note.maintained_by


def test_a_task_is_maintained_only_when_it_is_due(background: Background) -> None:
    class Frequent(Note):
        def maintain(self) -> float:  # type: ignore[override]
            super().maintain()
            return 0.001

    class Rare(Note):
        def maintain(self) -> float:  # type: ignore[override]
            super().maintain()
            return 3600.0

    frequent, rare = Frequent(), Rare()
    background.register(rare)
    background.register(frequent)
    eventually(lambda: len(frequent.maintained_by) >= 5)  # so that no wake is pending
    before = len(rare.maintained_by)

    eventually(lambda: len(frequent.maintained_by) >= 20)

    assert len(rare.maintained_by) == before
    background.wake()
    eventually(lambda: len(rare.maintained_by) > before)
