"""A turn of one thread: what ends it, and that nothing leaves it taken."""

from __future__ import annotations

import time

from unit.fakes import Task
from unit.interrupts import Strikes, debris_ignored
from wsgipool.host.turn import Turn


def is_free(turn: Turn) -> bool:
    """Return whether another thread can take it."""
    return Task(lambda: turn.take() is not None).result()


def test_one_thread_has_it_at_a_time_as_often_as_it_likes() -> None:
    turn = Turn()
    token, again = turn.take(), turn.take()

    assert token is not None
    assert again is not None
    assert turn.is_mine()
    assert not is_free(turn)
    again = None
    assert not is_free(turn)
    token = None
    assert is_free(turn)
    assert not turn.is_mine()
    assert is_free(turn)


def test_who_waits_in_vain_gives_up() -> None:
    turn = Turn()
    token = turn.take()
    began = time.monotonic()

    assert Task(lambda: turn.wait(0.05)).result() is None
    assert time.monotonic() - began >= 0.05
    assert token is not None


def test_an_exception_at_any_place_leaves_it_free() -> None:
    turn = Turn()

    def take() -> None:
        token = turn.wait(1.0)
        try:
            assert token is not None
            turn.is_mine()
        finally:
            token = None

    strikes = Strikes(__file__, when_waiting=lambda: None)
    for place in range(1, 1 + strikes.places(take)):
        with debris_ignored():
            strikes.at(place, take)
        assert is_free(turn), f"at place {place}"
