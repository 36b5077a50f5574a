"""A pool of three connections to a fake server, and the other threads that hold some or wait for some."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref
from threading import get_ident
from typing import Any

from unit.fakes import PATIENCE, HolderThread, Task, eventually
from wsgipool import Pool, WrongThread
from wsgipool.drivers import BaseDriver, Reset
from wsgipool.drivers.base import ENDED, IN_THE_POOL, Holder, Hook
from wsgipool.drivers.session_end import SessionEnd
from wsgipool.pool._maintenance import Maintenance


class Session:
    """A connection to the fake server, which records whether a command on it has not ended."""

    def __init__(self, server: Server) -> None:
        self.alive = True
        self.answer_due = False
        self.fails_at = ""
        self.in_command = False
        self.closed = False
        self.holder = Holder()
        self._server = server
        server.sessions.add(self)

    def execute(self) -> None:
        self._command("execute")

    def commit(self) -> None:
        self._command("commit")

    def rollback(self) -> None:
        self._command("rollback")

    def close(self) -> None:
        self.holder.close(self.end)

    def end(self) -> None:
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
        """Stand for the place at which an asynchronous exception leaves the answer unread."""


class Server(BaseDriver[Session]):
    """A driver of fake sessions. They end when they are closed or collected, like those of real drivers."""

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

    def set_close_hook(self, connection: Session, hook: Hook) -> bool:
        connection.holder.hook = hook
        return True

    def adopt(self, connection: Session, thread_id: int) -> None:
        connection.holder.thread_id = thread_id

    def check_out(self, connection: Session, thread_id: int, timeout: float) -> bool:
        if connection.answer_due:
            self.finish_reset(connection, timeout)
        connection.holder.thread_id = thread_id
        return connection.alive

    def check_in(self, connection: Session, how: Reset | None, pipeline: bool = True) -> None:  # noqa: ARG002
        if connection.in_command:
            raise OSError("out of step")
        if how is not None:
            connection.rollback()  # both are a command
            connection.answer_due = self._pipelined
        connection.holder.thread_id = IN_THE_POOL

    def close(self, connection: Session) -> SessionEnd:
        connection.holder.thread_id = ENDED
        connection.end()
        return SessionEnd(assumed_after=0.0)

    def finish_reset(self, connection: Session, timeout: float) -> None:  # noqa: ARG002 - it is quick
        connection.execute()
        connection.answer_due = False

    def ping(self, connection: Session, timeout: float) -> None:  # noqa: ARG002 - it is quick
        connection.execute()


class Request:
    """A request, which ends when this object is dropped."""


class Site:
    """A pool of three connections, and the other threads that hold some or wait for some."""

    def __init__(self, *, plain: bool, pipelined: bool = False, **settings: Any) -> None:
        self.server = Server(pipelined=pipelined)
        self.pool: Pool[Session] = Pool(
            self.server.open if plain else self.server, name="orders", max_size=3, timeout=3 * PATIENCE, **settings
        )
        # Without maintenance in the background, which would hide an incomplete end of a request.
        self.pool._maintenance.maintain = lambda: None  # type: ignore[method-assign]
        self._has_tokens = not plain
        self._requests: dict[int, Request] = {}
        self.pool.request_token = self._token
        self.waits = threading.Event()
        self.holders: list[HolderThread[Session]] = []
        self.others: list[Task[Any]] = []
        self._former_holders: list[HolderThread[Session]] = []

    def have_maintenance(self) -> None:
        """Have the pool maintained in the background."""
        del self.pool._maintenance.maintain

    def maintain(self) -> None:
        """Do the maintenance that is due."""
        Maintenance.maintain(self.pool._maintenance)

    def have_idle(self, number: int) -> list[Session]:
        """Have this number of connections open, all new and idle."""
        self.pool.resize(0, 3)
        self.pool.drain()
        # At least one, so that an earlier failed connect is forgotten.
        sessions = [self.pool.getconn() for _ in range(max(number, 1))]
        for session in sessions:
            self.pool.putconn(session)
        if not number:
            self.pool.drain()
        return sessions

    def have_only_one(self) -> None:
        """Have room for one connection only, and have it open, new and idle."""
        self.have_idle(1)
        self.pool.resize(0, 1)

    def hold(self, number: int) -> None:
        """Have other threads hold this number of connections."""
        self.holders += [HolderThread(self.pool.getconn, self.pool.putconn) for _ in range(number)]

    def held_by_another(self) -> Session:
        """Return a connection that another thread holds until the request ends, or until this thread takes it over."""

        def give_back(session: Session) -> None:
            with contextlib.suppress(ValueError, WrongThread):
                self.pool.putconn(session)

        holder = HolderThread(self.pool.getconn, give_back)
        self._former_holders.append(holder)
        return holder.connection

    def have_waiting(self) -> None:
        """Have another thread wait for a connection."""
        already = self.pool.waiting
        self.others.append(Task(self._request))
        eventually(lambda: self.pool.waiting > already)

    def return_when_it_waits(self) -> None:
        """Have another thread return its connection when the operation waits, or has been interrupted before."""
        (holder,) = self.holders
        self.holders.clear()

        def give_back() -> None:
            assert self.waits.wait(PATIENCE), "the operation has neither waited nor ended"
            holder.give_back()

        self.others.append(Task(give_back))

    def queue_up_when_it_waits(self) -> None:
        """Have another thread queue up behind the operation when that waits for a connection."""

        def request() -> None:
            assert self.waits.wait(PATIENCE), "the operation has neither waited nor ended"
            self._request()

        self.others.append(Task(request))

    def open_when_it_waits(self) -> None:
        """Have connections opened in the background when the operation waits for one."""

        def maintain() -> None:
            assert self.waits.wait(PATIENCE), "the operation has neither waited nor ended"
            self.maintain()

        self.others.append(Task(maintain))

    def let_others_go_on(self) -> None:
        """Let the other threads go on as far as they can while this thread stands still."""
        self.waits.set()
        for other in self.others:
            other.is_done_within(0.001)  # unless it waits for this thread

    def end_request(self) -> None:
        """End the request of this thread."""
        self.waits.set()
        self.server.refuses = False
        while self._former_holders:
            self._former_holders.pop().give_back()
        if self._has_tokens:
            self._requests.pop(get_ident(), None)
        else:
            self.pool.reclaim(get_ident())

    def assert_complete(self) -> None:
        """Assert that no connection has leaked, and that every waiter was served."""
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
        """Assert that max_size connections can be checked out and used."""
        sessions = [self.pool.getconn() for _ in range(self.pool.max_size)]
        assert set(sessions) == set(self.server.sessions)
        for session in sessions:
            session.execute()
            self.pool.putconn(session)

    def _token(self) -> object:
        """Return a token that reclaims at the end of the request, as wsgipool.request does."""
        thread_id = get_ident()
        return weakref.ref(
            self._requests.setdefault(thread_id, Request()), lambda _: self.pool.reclaim(thread_id) and None
        )

    def _request(self) -> None:
        with self.pool.connection() as session:
            session.execute()
