"""Whatever an exception from outside interrupts, no connection, no turn and no count is lost.

Each of many thousand times one operation of a thread is interrupted at one place, by chance, and its request ends as
it does under mod_wsgi, with `reclaim`. Then the pool has to be whole: everybody who waits is served, all that is open
is idle or with somebody who has it, and in step: no command on it has been interrupted.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import random
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from threading import get_ident
from typing import Any

import pytest

from unit.fakes import PATIENCE, Borrower, Task, eventually
from unit.interrupts import Alarm, Interrupt, Strikes, debris_ignored, interrupt_at_work
from wsgipool import ConnectFailed, Pool, PoolTimeout
from wsgipool.drivers import PlainDriver, Reset


class Session:
    """A connection to the fake server, which remembers that a command on it has not come to its end."""

    def __init__(self, server: Server) -> None:
        self.alive = True
        self.answer_due = False
        self.fails_at = ""
        self.in_command = False
        self.closed = False
        self._server = server
        server.sessions.add(self)

    def execute(self) -> None:
        self._command("execute")

    def commit(self) -> None:
        self._command("commit")

    def rollback(self) -> None:
        self._command("rollback")

    def close(self) -> None:
        self.closed = True
        self._server.sessions.discard(self)

    def _command(self, name: str) -> None:
        if self.in_command:
            self._server.misuses.append("a command on a connection that is out of step, or in use by another thread")
        if self.closed:
            self._server.misuses.append("a command on a closed connection")
        self.in_command = True
        self._read_answer()
        self.in_command = False
        if name == self.fails_at:
            raise OSError("gone")

    def _read_answer(self) -> None:
        """Where an interruption leaves the answer unread."""


class Server(PlainDriver[Session]):
    """A driver of fake sessions; they end when they are closed, or collected, as those of real drivers do."""

    address = "fake://server"

    def __init__(self, *, pipelined: bool) -> None:
        self.sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self.misuses: list[str] = []
        self.refuses = False
        self._pipelined = pipelined

    def open(self) -> Session:
        if self.refuses:
            raise OSError("refused")
        return Session(self)

    def connect(self, timeout: float, pipeline: bool = True) -> Session:  # noqa: ARG002 - it is quick
        return self.open()

    def check_out(self, connection: Session, thread_id: int, timeout: float) -> bool:  # noqa: ARG002
        if connection.answer_due:
            self.finish_reset(connection, timeout)
        return connection.alive

    def check_in(self, connection: Session, how: Reset | None, pipeline: bool = True) -> None:  # noqa: ARG002
        if connection.in_command:
            raise OSError("out of step")
        if how is not None:
            connection.rollback()  # both are a command
            connection.answer_due = self._pipelined

    def finish_reset(self, connection: Session, timeout: float) -> None:  # noqa: ARG002 - it is quick
        connection.execute()
        connection.answer_due = False

    def ping(self, connection: Session, timeout: float) -> None:  # noqa: ARG002 - it is quick
        connection.execute()


class Request:
    """Ends when it is dropped."""


class Site:
    """A pool of three connections, and the other threads that have some or wait for some."""

    def __init__(self, *, plain: bool, pipelined: bool = False, **settings: Any) -> None:
        self.server = Server(pipelined=pipelined)
        self.pool: Pool[Session] = Pool(
            self.server.open if plain else self.server, name="orders", max_size=3, timeout=3 * PATIENCE, **settings
        )
        # Housekeeping would mend, unseen, what the end of a request has to.
        self.pool.tend = lambda: None  # type: ignore[method-assign]
        self._is_watched = not plain
        self._requests: dict[int, Request] = {}
        self.pool.watch = self._watch
        self.waits = threading.Event()
        self.holders: list[Borrower[Session]] = []
        self.others: list[Task[Any]] = []

    def have_housekeeping(self) -> None:
        """Have the pool looked after, as it is elsewhere."""
        del self.pool.tend

    def have_idle(self, number: int) -> list[Session]:
        """Have so many connections open, all of them new and idle."""
        self.pool.resize(0, 3)
        self.pool.drain()
        # One at least, so that no failed connect of before is remembered.
        sessions = [self.pool.getconn() for _ in range(max(number, 1))]
        for session in sessions:
            self.pool.putconn(session)
        if not number:
            self.pool.drain()
        return sessions

    def have_only_one(self) -> None:
        """Have room for one connection, which is open, new and idle."""
        self.have_idle(1)
        self.pool.resize(0, 1)

    def hold(self, number: int) -> None:
        """Have other threads hold so many connections."""
        self.holders += [Borrower(self.pool.getconn, self.pool.putconn) for _ in range(number)]

    def have_waiting(self) -> None:
        """Have another thread wait for a connection."""
        already = self.pool.waiting
        self.others.append(Task(self._request))
        eventually(lambda: self.pool.waiting > already)

    def give_back_when_it_waits(self) -> None:
        """Have another thread give back when the operation waits for a connection, or has been interrupted before."""
        (holder,) = self.holders
        self.holders.clear()

        def give_back() -> None:
            assert self.waits.wait(PATIENCE), "it has neither waited nor come to an end"
            holder.give_back()

        self.others.append(Task(give_back))

    def line_up_when_it_waits(self) -> None:
        """Have another thread ask for a connection when the operation waits for one, so that it comes after that."""

        def request() -> None:
            assert self.waits.wait(PATIENCE), "it has neither waited nor come to an end"
            self._request()

        self.others.append(Task(request))

    def open_when_it_waits(self) -> None:
        """Have connections opened in the background when the operation waits for one."""

        def tend() -> None:
            assert self.waits.wait(PATIENCE), "it has neither waited nor come to an end"
            Pool.tend(self.pool)

        self.others.append(Task(tend))

    def let_others_go_on(self) -> None:
        """Have the others go as far as they can while this thread stands where it stands."""
        self.waits.set()
        for other in self.others:
            other.is_done_within(0.001)  # or it waits for this thread

    def end_request(self) -> None:
        """End the request of this thread."""
        self.waits.set()
        self.server.refuses = False
        if self._is_watched:
            self._requests.pop(get_ident(), None)
        else:
            self.pool.reclaim(get_ident())

    def assert_whole(self) -> None:
        """Assert that nothing is lost and nobody stranded."""
        for other in self.others:
            other.result()
        self.others.clear()
        if self.pool.stats().connecting:
            eventually(lambda: not self.pool.stats().connecting)
        if len(self.server.sessions) != self.pool.size:
            gc.collect()
        held = {holder.connection for holder in self.holders}
        assert (self.pool.waiting, self.pool.in_use) == (0, len(held))
        assert self.pool.size == self.pool.idle + self.pool.in_use == len(self.server.sessions)
        assert not any(session.in_command for session in self.server.sessions)
        stats = self.pool.stats()
        assert stats.opened == stats.size + sum(stats.closed.values())
        assert self.server.misuses == []
        for holder in self.holders:
            holder.give_back()
        self.holders.clear()
        self.waits.clear()

    def assert_usable(self) -> None:
        """Assert that there is room for as many as ever, each with a connection of its own that can be used."""
        sessions = [self.pool.getconn() for _ in range(self.pool.max_size)]
        assert set(sessions) == set(self.server.sessions)
        for session in sessions:
            session.execute()
            self.pool.putconn(session)

    def _watch(self) -> object:
        """As wsgipool.request does it: a request that owes nothing is not looked after."""
        thread_id = get_ident()
        return weakref.ref(
            self._requests.setdefault(thread_id, Request()), lambda _: self.pool.reclaim(thread_id) and None
        )

    def _request(self) -> None:
        with self.pool.connection() as session:
            session.execute()


# --- what is interrupted: from the `yield` on ------------------------------------------------------------------------

Operation = Callable[[Site], Iterator[None]]


def borrows_an_idle_one(site: Site) -> Iterator[None]:
    site.have_idle(2)
    yield
    site.pool.getconn().execute()


def opens_one(site: Site) -> Iterator[None]:
    site.have_idle(0)
    yield
    site.pool.getconn().execute()


def fails_to_open_one(site: Site) -> Iterator[None]:
    site.have_idle(0)
    site.server.refuses = True
    yield
    with contextlib.suppress(ConnectFailed):
        site.pool.getconn()


def waits_for_one_that_is_opened_in_the_background(site: Site) -> Iterator[None]:
    site.have_idle(1)
    site.hold(1)
    site.open_when_it_waits()
    yield
    site.pool.getconn().execute()


def waits_and_is_served(site: Site) -> Iterator[None]:
    site.have_idle(3)
    site.pool.resize(0, 1)
    site.hold(1)
    site.give_back_when_it_waits()
    yield
    site.pool.getconn().execute()


def waits_before_another(site: Site) -> Iterator[None]:
    site.have_only_one()
    site.hold(1)
    site.line_up_when_it_waits()
    site.give_back_when_it_waits()
    yield
    with site.pool.connection() as session:
        session.execute()


def waits_for_the_end_of_a_quick_queue(site: Site) -> Iterator[None]:
    site.have_only_one()
    site.hold(1)
    site.have_waiting()
    site.give_back_when_it_waits()
    site.pool._turn = 0.00001
    yield
    site.pool.getconn().execute()


def waits_in_vain(site: Site) -> Iterator[None]:
    site.have_only_one()
    site.hold(1)
    yield
    with contextlib.suppress(PoolTimeout):
        site.pool.getconn(timeout=0)


def waits_and_is_served_in_the_last_moment(site: Site) -> Iterator[None]:
    site.have_only_one()
    site.hold(1)
    site.give_back_when_it_waits()
    yield
    with contextlib.suppress(PoolTimeout):
        site.pool.getconn(timeout=0.0001)


def replaces_a_dead_one_by_another(site: Site) -> Iterator[None]:
    site.have_idle(2)[-1].alive = False
    yield
    site.pool.getconn().execute()


def replaces_a_dead_one_by_a_new_one(site: Site) -> Iterator[None]:
    for session in site.have_idle(2):
        session.alive = False
    yield
    with site.pool.connection() as session:
        session.execute()


def gives_back(site: Site) -> Iterator[None]:
    site.have_idle(1)
    session = site.pool.getconn()
    yield
    site.pool.putconn(session)


def gives_back_to_one_who_waits(site: Site) -> Iterator[None]:
    site.have_only_one()
    session = site.pool.getconn()
    site.have_waiting()
    yield
    site.pool.putconn(session)


def gives_back_what_cannot_be_reset(site: Site) -> Iterator[None]:
    site.have_idle(1)
    session = site.pool.getconn()
    session.fails_at = "rollback"
    yield
    site.pool.putconn(session)


def gives_back_what_cannot_be_reset_while_another_waits(site: Site) -> Iterator[None]:
    site.have_only_one()
    session = site.pool.getconn()
    session.fails_at = "rollback"
    site.have_waiting()
    yield
    site.pool.putconn(session)


def commits(site: Site) -> Iterator[None]:
    site.have_idle(1)
    yield
    with site.pool.connection() as session:
        session.execute()


def commits_while_another_waits(site: Site) -> Iterator[None]:
    site.have_only_one()
    block = site.pool.connection()
    with block as session:
        session.execute()
        site.have_waiting()
        yield


def cannot_commit(site: Site) -> Iterator[None]:
    site.have_idle(1)
    yield
    with contextlib.suppress(OSError), site.pool.connection() as session:
        session.fails_at = "commit"


def only_reads(site: Site) -> Iterator[None]:
    site.have_idle(1)
    yield
    with site.pool.connection(readonly=True) as session:
        session.execute()


def raises(site: Site) -> Iterator[None]:
    site.have_idle(1)
    yield
    with contextlib.suppress(KeyError), site.pool.connection() as session:
        session.execute()
        raise KeyError("no such book")


def borrows_within_a_borrow(site: Site) -> Iterator[None]:
    site.have_idle(1)
    yield
    with site.pool.connection() as outer, site.pool.connection(readonly=True) as inner:
        outer.execute()
        inner.execute()


def ends_a_request_that_has_kept_some(site: Site) -> Iterator[None]:
    site.have_idle(3)
    kept = [site.pool.getconn(), site.pool.getconn()]
    yield
    site.pool.reclaim(get_ident())
    kept.clear()


def ends_a_request_that_has_kept_what_another_waits_for(site: Site) -> Iterator[None]:
    site.have_only_one()
    site.pool.getconn()
    site.have_waiting()
    yield
    site.pool.reclaim(get_ident())


OPERATIONS: list[Operation] = [
    borrows_an_idle_one,
    opens_one,
    fails_to_open_one,
    waits_for_one_that_is_opened_in_the_background,
    waits_and_is_served,
    waits_before_another,
    waits_for_the_end_of_a_quick_queue,
    waits_in_vain,
    waits_and_is_served_in_the_last_moment,
    replaces_a_dead_one_by_another,
    replaces_a_dead_one_by_a_new_one,
    gives_back,
    gives_back_to_one_who_waits,
    gives_back_what_cannot_be_reset,
    gives_back_what_cannot_be_reset_while_another_waits,
    commits,
    commits_while_another_waits,
    cannot_commit,
    only_reads,
    raises,
    borrows_within_a_borrow,
    ends_a_request_that_has_kept_some,
    ends_a_request_that_has_kept_what_another_waits_for,
]

# --- interrupted -----------------------------------------------------------------------------------------------------

KINDS: dict[str, dict[str, Any]] = {
    "a driver": {"plain": False},
    "a driver that asks and reads later": {"plain": False, "pipelined": True, "check_after": -1.0, "reset": "session"},
    "a callable": {"plain": True},
    "a callable and no reset": {"plain": True, "reset": None},
    "a callable and its stacks": {"plain": True, "debug": True},
}
SEEDS = range(4)
STRIKES = {"a driver": 6500, "a callable and its stacks": 500}
"""How many with each seed; 6000 of the other kinds. They are 100,000 in all."""
MOMENTS = 300
"""How many of each kind that the interpreter itself delivers."""


@pytest.fixture(autouse=True)
def _silence(caplog: pytest.LogCaptureFixture) -> None:
    """Keep no log of a hundred thousand connections that were not given back."""
    caplog.set_level(logging.CRITICAL, logger="wsgipool")


@pytest.fixture
def _quick_switches() -> Iterator[None]:
    """Have the threads take turns so often that a moment is not always one in which they wait for each other."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    yield
    sys.setswitchinterval(before)


def prepared(operation: Operation, site: Site) -> Callable[[], None]:
    steps = operation(site)
    next(steps)
    return lambda: next(steps, None)


def places_of(operation: Operation, site: Site, strikes: Strikes) -> int:
    places = strikes.places(prepared(operation, site))
    site.end_request()
    site.assert_whole()
    return places


@pytest.mark.skipif(sys.version_info[:2] == (3, 12), reason="it does not trace all instructions while threads begin")
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_operation_that_is_interrupted_at_any_place_loses_nothing(kind: str, seed: int, effort: int) -> None:
    site = Site(**KINDS[kind])
    # Of a callable's connections nobody can know that an ordinary exception has left them in the middle of an answer.
    exception = Interrupt if KINDS[kind]["plain"] or seed % 2 == 0 else Alarm
    strikes = Strikes(__file__, site.waits.set, exception)
    numbers = random.Random(f"{kind} {seed}" if effort == 1 else None)
    places = {operation: places_of(operation, site, strikes) for operation in OPERATIONS}

    done = 0
    with debris_ignored():
        while done < effort * STRIKES.get(kind, 6000):
            operation = numbers.choice(OPERATIONS)
            place = numbers.randint(1, places[operation])
            try:
                others = site.let_others_go_on if numbers.random() < 0.1 else None
                done += strikes.at(place, prepared(operation, site), others)
                site.end_request()
                site.assert_whole()
                if done % 20 == 0:
                    site.assert_usable()
            except Exception as error:
                error.add_note(f"{operation.__name__} was interrupted at place {place} of {places[operation]}")
                raise


@pytest.mark.usefixtures("_quick_switches")
@pytest.mark.parametrize("has_requests", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_requests_that_are_interrupted_at_any_moment_lose_nothing(kind: str, has_requests: bool, effort: int) -> None:
    """Where nobody tells of the end of a request, housekeeping finds what is lost."""
    site = Site(**KINDS[kind])
    if not has_requests:
        # It has to come when those who wait call it: this thread cannot while the interrupted one waits, too.
        site.have_housekeeping()
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

    # One more than there are connections, with the one that is interrupted.
    others = [Task(requests) for _ in range(3)]
    work = itertools.count()
    with debris_ignored():
        for _ in range(effort * MOMENTS):
            thread_id = interrupt_at_work(lambda: request(next(work)), numbers.random() / 1000)
            if has_requests:
                site.pool.reclaim(thread_id)
            else:
                Pool.tend(site.pool)
    ended.set()
    for other in others:
        other.result()
    if not has_requests:
        gc.collect()
        Pool.tend(site.pool)

    site.assert_whole()
    site.assert_usable()


def test_who_waits_for_what_was_lost_gets_another() -> None:
    """Nobody comes by: there is no request's end, and this is not the time for a round of housekeeping."""
    pool = Pool(Server(pipelined=False), name="orders", max_size=1)
    with pool.connection():
        pass
    pool._idle.pop()

    assert Task(lambda: pool.getconn(timeout=PATIENCE)).result()


def test_housekeeping_goes_on_looking_for_what_somebody_has_hold_of() -> None:
    pool = Pool(Server(pipelined=False), name="orders", max_size=1)
    with pool.connection():
        pass
    held = [pool._idle.pop()]
    waiting = Task(lambda: pool.getconn(timeout=PATIENCE))
    eventually(lambda: pool.waiting == 1)
    assert not waiting.is_done_within(0.5), "somebody may still bring it back"

    held.clear()

    assert waiting.result()


def test_a_waiter_whose_clean_up_was_struck_too_is_forgotten_by_housekeeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record would count as a connect that never ends: no other could connect."""
    server = Server(pipelined=False)
    pool = Pool(server, name="orders", max_size=2, max_connecting=1)
    monkeypatch.setattr(server, "open", _struck)
    with monkeypatch.context() as cleaning:
        for name in ("_withdraw", "_forget_thread"):
            cleaning.setattr(Pool, name, _struck)
        with pytest.raises(Alarm):
            pool.getconn()
    monkeypatch.undo()
    assert pool.stats().connecting == 1

    eventually(lambda: pool.tend() is None)

    assert pool.stats().connecting == 0
    assert pool.getconn(timeout=PATIENCE)


def _struck(*_: object) -> None:
    raise Alarm
