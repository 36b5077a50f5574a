"""The lock that is released with its token, also after an asynchronous exception."""

from __future__ import annotations

import time

from unit.fakes import Task
from unit.interrupts import ExceptionInjector, debris_ignored
from wsgipool.budget.token_lock import TokenLock


def is_free(lock: TokenLock) -> bool:
    """Return whether another thread can acquire the lock."""
    return Task(lambda: lock.acquire() is not None).result()


def test_one_thread_at_a_time_holds_the_lock_and_may_acquire_it_again() -> None:
    lock = TokenLock()
    token, again = lock.acquire(), lock.acquire()

    assert token is not None
    assert again is not None
    assert lock.is_mine()
    assert not is_free(lock)
    again = None
    assert not is_free(lock)
    token = None
    assert is_free(lock)
    assert not lock.is_mine()
    assert is_free(lock)


def test_a_thread_whose_wait_times_out_gets_no_token() -> None:
    lock = TokenLock()
    token = lock.acquire()
    began = time.monotonic()

    assert Task(lambda: lock.acquire_within(0.05)).result() is None
    assert time.monotonic() - began >= 0.05
    assert token is not None


def test_an_asynchronous_exception_at_any_place_leaves_the_lock_free() -> None:
    lock = TokenLock()

    def acquire() -> None:
        token = lock.acquire_within(1.0)
        try:
            assert token is not None
            lock.is_mine()
        finally:
            token = None

    injector = ExceptionInjector(__file__, when_waiting=lambda: None)
    for place in range(1, 1 + injector.places(acquire)):
        with debris_ignored():
            injector.at(place, acquire)
        assert is_free(lock), f"at place {place}"
