"""The background threads of a process, with something simple to look after."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator

import pytest

from unit.fakes import eventually
from unit.interrupts import Interrupt
from wsgipool.housekeeping import Housekeeping


class Plant:
    """Something that is looked after when called."""

    def __init__(self) -> None:
        self.tended_by: list[threading.Thread] = []

    def tend(self) -> None:
        self.tended_by.append(threading.current_thread())


@pytest.fixture
def housekeeping() -> Iterator[Housekeeping]:
    housekeeping = Housekeeping()
    yield housekeeping
    housekeeping.stop()


def test_what_is_watched_is_looked_after_again_when_it_has_had_nothing_to_do(housekeeping: Housekeeping) -> None:
    plant = Plant()

    for times in (1, 2, 3):
        housekeeping.watch(plant)
        eventually(lambda times=times: len(plant.tended_by) >= times)  # type: ignore[misc]


def test_what_only_accompanies_starts_no_thread_and_is_looked_after_with_the_others(
    housekeeping: Housekeeping,
) -> None:
    plant, companion = Plant(), Plant()

    housekeeping.accompany(companion)

    assert not housekeeping.is_running
    for times in (1, 2):
        housekeeping.watch(plant)
        eventually(lambda times=times: len(companion.tended_by) >= times)  # type: ignore[misc]


def test_a_call_in_the_middle_of_a_round_puts_nobody_to_sleep(housekeeping: Housekeeping) -> None:
    """The pause is over before its wait has begun: what a busy machine does now and then, often enough."""
    rounds = 0

    class Restless:
        def tend(self) -> float:
            nonlocal rounds
            rounds += 1
            if rounds % 2 == 0:
                housekeeping.call()
            return 1e-9

    restless = Restless()
    housekeeping.watch(restless)

    eventually(lambda: rounds > 15_000)


def test_what_is_watched_while_the_thread_goes_through_the_others_does_not_end_it(housekeeping: Housekeeping) -> None:
    """A set that grows while it is gone through is an error, and would be the thread's last."""
    plant, latecomer = Plant(), Plant()
    watching = threading.Thread(target=housekeeping.watch, args=[latecomer])

    class GoneThroughSlowly(weakref.WeakSet[Plant]):
        def __iter__(self) -> Iterator[Plant]:
            for watched in super().__iter__():
                if watching.ident is None:
                    watching.start()
                    watching.join(0.1)  # it may have to wait until we are through
                yield watched

    housekeeping._tended = GoneThroughSlowly()
    housekeeping.watch(plant)

    eventually(lambda: bool(latecomer.tended_by))
    watching.join()


def test_a_watch_that_is_interrupted_as_its_thread_starts_leaves_no_second_one(
    housekeeping: Housekeeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = Plant()
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def start_and_be_interrupted(thread: threading.Thread) -> None:
        started.append(thread)
        start(thread)
        raise Interrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(threading.Thread, "start", start_and_be_interrupted)
        with pytest.raises(Interrupt):
            housekeeping.watch(plant)

    housekeeping.watch(plant)

    eventually(lambda: not started[0].is_alive())
    eventually(lambda: bool(plant.tended_by))
    assert started[0] not in plant.tended_by
