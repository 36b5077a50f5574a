"""After an asynchronous exception at any place, no connection, no turn and no count has leaked.

Each of many thousand times, one operation of a thread is interrupted at a random place. Then its request ends as under
mod_wsgi, with `reclaim`. After that the pool must be complete: every waiter was served, every open connection is idle
or has a holder, and no connection is in the middle of an interrupted command.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import random
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unit import interrupted
from unit.fakes import PATIENCE, Task, eventually
from unit.interrupted.operations import OPERATIONS, Operation, prepared
from unit.interrupted.site import Server, Site
from unit.interrupts import Alarm, ExceptionInjector, Interrupt, PoolAlarm, debris_ignored, interrupt_at_work
from unit.slots import legal_moves
from wsgipool import Pool
from wsgipool.pool._sessions import Sessions

KINDS: dict[str, dict[str, Any]] = {
    "a driver": {"plain": False},
    "a driver that pings and reads later": {"plain": False, "pipelined": True, "check_after": -1.0, "reset": "session"},
    "a callable": {"plain": True},
    "a callable and no reset": {"plain": True, "reset": None, "close_returns": True},
    "a callable and its stacks": {"plain": True, "debug": True, "log_slow": 1e-9},
}
EXCEPTIONS = (Interrupt, Alarm, Interrupt, PoolAlarm)
SEEDS = range(len(EXCEPTIONS))
INJECTED = {"a driver": 6500, "a callable and its stacks": 500}
"""Number of injected exceptions with each seed; 6000 of the other kinds: 100,000 in all."""
DELIVERED = 75
"""Number of exceptions of each kind that the interpreter itself delivers."""


@pytest.fixture(autouse=True)
def _silence(caplog: pytest.LogCaptureFixture) -> None:
    """Do not log leaked connections."""
    caplog.set_level(logging.CRITICAL, logger="wsgipool")


@pytest.fixture
def _legal_moves(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with legal_moves(monkeypatch):
        yield


@pytest.fixture
def _quick_switches() -> Iterator[None]:
    """Switch threads so often that an exception does not always come while they wait for each other."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    yield
    sys.setswitchinterval(before)


def places_of(operation: Operation, site: Site, injector: ExceptionInjector) -> int:
    places = injector.places(prepared(operation, site))
    site.end_request()
    site.assert_complete()
    return places


@pytest.mark.skipif(
    sys.version_info[:2] == (3, 12), reason="Python 3.12 does not trace all instructions while threads start"
)
@pytest.mark.usefixtures("_legal_moves")
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_asynchronous_exception_at_any_place_of_an_operation_leaks_nothing(
    kind: str, seed: int, effort: int
) -> None:
    site = Site(**KINDS[kind])
    # With a callable, the pool cannot see that an ordinary exception has left a connection in the middle of an answer.
    exception = Interrupt if KINDS[kind]["plain"] else EXCEPTIONS[seed]
    injector = ExceptionInjector(str(Path(interrupted.__file__).parent), site.waits.set, exception)
    numbers = random.Random(f"{kind} {seed}" if effort == 1 else None)
    places = {operation: places_of(operation, site, injector) for operation in OPERATIONS}

    done = 0
    with debris_ignored():
        while done < effort * INJECTED.get(kind, 6000):
            operation = numbers.choice(OPERATIONS)
            place = numbers.randint(1, places[operation])
            try:
                others = site.let_others_go_on if numbers.random() < 0.1 else None
                done += injector.at(place, prepared(operation, site), others)
                site.end_request()
                site.assert_complete()
                if done % 20 == 0:
                    site.assert_usable()
            except Exception as error:
                error.add_note(f"{operation.__name__} was interrupted at place {place} of {places[operation]}")
                raise


@pytest.mark.usefixtures("_quick_switches")
@pytest.mark.parametrize("has_requests", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_an_asynchronous_exception_at_any_moment_of_a_request_leaks_nothing(
    kind: str, has_requests: bool, effort: int
) -> None:
    """Without the ends of requests, maintenance finds the leaks."""
    site = Site(**KINDS[kind])
    if not has_requests:
        # The waiters must be able to call it, because this thread cannot while the interrupted one waits.
        site.have_maintenance()
    numbers = random.Random(kind)
    ended = threading.Event()

    def request(number: int) -> None:
        with contextlib.suppress(KeyError), site.pool.connection(readonly=number % 2 == 0) as session:
            session.execute()
            if number % 7 == 0:
                session.alive = False
            if number % 5 == 0:
                raise KeyError("no such book")

    def requests() -> None:
        for number in itertools.count():
            request(number)
            if ended.is_set():
                return

    # With the interrupted thread, one more than there are connections.
    others = [Task(requests) for _ in range(3)]
    work = itertools.count()
    with debris_ignored():
        for _ in range(effort * DELIVERED):
            thread_id = interrupt_at_work(lambda: request(next(work)), numbers.random() / 1000)
            if has_requests:
                site.pool.reclaim(thread_id)
            else:
                site.maintain()
    ended.set()
    for other in others:
        other.result()
    if not has_requests:
        gc.collect()
        site.maintain()

    site.assert_complete()
    site.assert_usable()


def test_a_waiter_for_an_orphaned_connection_gets_another_one() -> None:
    """No request ends, and no round of maintenance is due."""
    pool = Pool(Server(pipelined=False), name="orders", max_size=1)
    pool.connection().__enter__()

    assert Task(lambda: pool.getconn(timeout=PATIENCE)).result()


def test_a_waiter_gets_a_connection_as_soon_as_it_is_orphaned() -> None:
    pool = Pool(Server(pipelined=False), name="orders", max_size=1)
    held = [pool.connection().__enter__()]
    waiting = Task(lambda: pool.getconn(timeout=PATIENCE))
    eventually(lambda: pool.waiting == 1)
    assert not waiting.is_done_within(0.5), "the code that holds it may still use it"

    held.clear()

    assert waiting.result()


def test_maintenance_ends_a_connect_whose_clean_up_was_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise its slot would count as a connect forever, and no other thread could connect."""
    server = Server(pipelined=False)
    pool = Pool(server, name="orders", max_size=2, max_connecting=1)
    monkeypatch.setattr(server, "open", _raise_alarm)
    with monkeypatch.context() as cleaning:
        cleaning.setattr(Sessions, "recover", _raise_alarm)
        with pytest.raises(Alarm):
            pool.getconn()
    monkeypatch.undo()
    assert pool.stats().connecting == 1

    eventually(lambda: pool.maintain() is None)

    assert pool.stats().connecting == 0
    assert pool.getconn(timeout=PATIENCE)


def _raise_alarm(*_: object) -> None:
    raise Alarm
