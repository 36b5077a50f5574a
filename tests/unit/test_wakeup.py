"""Wake-ups of waiting threads."""

from __future__ import annotations

import signal
import sys
import threading
from time import monotonic

import pytest

from unit.fakes import PATIENCE, Task, eventually
from unit.interrupts import Alarm
from wsgipool._wakeup import Wakeup


def waiting(wakeup: Wakeup) -> Task[bool]:
    """Return a thread that waits, once it has begun to wait."""
    task = Task(wakeup.wait)
    eventually(lambda: sys._current_frames()[task.thread_id].f_code is Wakeup.wait.__code__)
    return task


def test_a_thread_that_waits_is_woken() -> None:
    wakeup = Wakeup()
    task = waiting(wakeup)

    wakeup.set()

    assert task.result() is True


def test_a_set_before_the_wait_ends_that_wait() -> None:
    wakeup = Wakeup()

    wakeup.set()

    assert wakeup.wait(PATIENCE) is True


def test_two_sets_wake_once_and_it_can_be_set_again() -> None:
    wakeup = Wakeup()

    wakeup.set()
    wakeup.set()

    assert wakeup.wait(0) is True
    assert wakeup.wait(0) is False
    wakeup.set()
    assert wakeup.wait(0) is True


@pytest.mark.parametrize("timeout", [0.0, -1.0, 0.01])
def test_a_wait_without_a_set_ends_after_its_timeout(timeout: float) -> None:
    begun = monotonic()

    assert Wakeup().wait(timeout) is False

    assert timeout <= monotonic() - begun < PATIENCE


def test_a_timeout_may_be_longer_than_a_lock_allows() -> None:
    wakeup = Wakeup()
    wakeup.set()

    assert wakeup.wait(2 * threading.TIMEOUT_MAX) is True


def test_two_waiting_threads_need_two_sets() -> None:
    wakeup = Wakeup()
    tasks = [waiting(wakeup) for _ in range(2)]

    wakeup.set()
    eventually(lambda: any(task.is_done_within(0) for task in tasks))
    wakeup.set()

    assert [task.result() for task in tasks] == [True, True]


def test_a_signal_handler_can_set_it_for_the_thread_that_it_runs_on() -> None:
    wakeup = Wakeup()
    previous = signal.signal(signal.SIGALRM, lambda *_: wakeup.set())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)

        assert wakeup.wait(PATIENCE) is True
    finally:
        signal.signal(signal.SIGALRM, previous)


def test_a_wait_ended_by_a_failing_signal_handler_keeps_the_set() -> None:
    wakeup = Wakeup()

    def set_and_raise(*_: object) -> None:
        wakeup.set()
        raise Alarm

    previous = signal.signal(signal.SIGALRM, set_and_raise)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(Alarm):
            wakeup.wait(PATIENCE)
    finally:
        signal.signal(signal.SIGALRM, previous)

    assert wakeup.wait(0) is True
