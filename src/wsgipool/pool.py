"""A pool of connections to one database, for the threads of one process.

All state is four collections: idle connections, borrowers that connect, borrowers that hold a connection, and
borrowers that wait. Sizes are counted from them and kept nowhere else. One lock guards them; it is held for
decisions only, never over I/O, a callback or a log call. Idle connections are lent last in, first out, so that few
are kept busy and the rest grow old; borrowers are served first come, first served, so that nobody overtakes.

This module knows no server and no configuration. It works in any Python program.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic
from types import CodeType
from typing import Any, Generic

from wsgipool.drivers import C, CallableDriver, Driver
from wsgipool.errors import ConnectFailed, PoolClosed, PoolDeadlock, PoolTimeout

logger = logging.getLogger("wsgipool")


class Pool(Generic[C]):
    """At most `max_size` connections, each with one thread at a time.

    `connect` is any callable that returns a DB-API connection, or a `wsgipool.drivers.Driver`. `timeout` is the time
    in seconds that a borrower waits for a connection; 0 takes one that is idle and waits for nothing.

    Connections are opened as needed. After a fork the child's copy of the pool is empty.
    """

    def __init__(
        self,
        connect: Callable[[], C] | Driver[C],
        *,
        name: str,
        max_size: int,
        timeout: float = 30.0,
    ) -> None:
        if max_size < 1:
            raise ValueError(f"max_size = {max_size}: a pool needs room for one connection at least")
        self.name = name
        self.max_size = max_size
        self.timeout = timeout
        self._driver: Driver[C] = CallableDriver(connect) if callable(connect) else connect
        self._closed = False
        self._winding_down = False
        self._connect_is_failing = False
        self._start_empty()
        _every_pool.add(self)

    def _start_empty(self) -> None:
        self._lock = threading.RLock()  # never entered twice, but it knows whether this thread is in it: _settle()
        self._idle: deque[C] = deque()
        self._connecting: set[_Borrower[C]] = set()
        self._in_use: dict[int, _Borrower[C]] = {}  # by id() of the connection; a driver's may be unhashable
        self._waiting: deque[_Borrower[C]] = deque()
        self._ended: deque[tuple[_Borrower[C], bool]] = deque()  # given back, not yet counted as such; and "keep it"

    @property
    def idle(self) -> int:
        """Connections that are open and free."""
        return len(self._idle)

    @property
    def in_use(self) -> int:
        """Connections that a borrower holds."""
        return len(self._in_use)

    @property
    def waiting(self) -> int:
        """Borrowers that wait for a connection."""
        return len(self._waiting)

    @property
    def size(self) -> int:
        """Connections that are open or being opened; never more than `max_size`."""
        return len(self._idle) + len(self._connecting) + len(self._in_use)

    def __repr__(self) -> str:
        return f"<Pool {self.name!r}: {self._counts()}>"

    @contextlib.contextmanager
    def connection(self, timeout: float | None = None, readonly: bool = False) -> Iterator[C]:
        """Lend a connection to a `with` block: committed at its end, rolled back when it raises.

        With `readonly=True` the block always ends in a rollback. Raises PoolTimeout, ConnectFailed, PoolDeadlock or
        PoolClosed, all of them a PoolError.
        """
        connection = self.getconn(timeout)
        try:
            yield connection
            if not readonly:
                connection.commit()
        except Exception:
            self._give_back(connection, reset=True)
            raise
        except GeneratorExit:
            # A generator that was dropped in the middle of its block; perhaps so late that the end of the request has
            # taken the connection back already.
            with contextlib.suppress(ValueError):
                self._give_back(connection, reset=True)
            raise
        except BaseException:
            # mod_wsgi's RequestTimeout and its like strike anywhere, in the middle of reading an answer too. Such a
            # connection looks healthy and gives the next borrower this one's rows.
            self._give_back(connection, keep=False)
            raise
        else:
            # A COMMIT has just ended the transaction; only a block that did not commit owes a rollback.
            self._give_back(connection, reset=readonly)

    def getconn(self, timeout: float | None = None) -> C:
        """Borrow a connection; `putconn` must follow. `connection()` is the safer way.

        Waits at most `timeout` seconds (default: the pool's), for a free connection or for a new one to open.
        Raises PoolTimeout, ConnectFailed, PoolDeadlock or PoolClosed.
        """
        limit = self.timeout if timeout is None else timeout
        borrower: _Borrower[C] = _Borrower(limit)
        try:
            with self._lock:
                self._refuse_the_hopeless(borrower)
                self._waiting.append(borrower)
                self._serve_the_waiting()
            self._settle()
            if not borrower.wait():
                self._stop_waiting(borrower)
            while borrower.connection is not None:
                if self._is_alive(borrower.connection):
                    return borrower.connection
                self._replace_dead(borrower)
            return self._connect(borrower)
        except BaseException:
            self._withdraw(borrower)
            raise

    def putconn(self, connection: C) -> None:
        """Give a connection back; its open transaction is rolled back.

        Raises ValueError for a connection that is not lent out by this pool.
        """
        self._give_back(connection, reset=True)

    def close(self) -> None:
        """Close the idle connections, and those in use when they come back. From now on `getconn` raises PoolClosed."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, deque()
            for borrower in waiting:
                borrower.wake()
        self._settle()
        self.wind_down()

    def wind_down(self) -> None:
        """Close the idle connections and keep none from now on, yet go on lending: the process is about to end.

        Takes no lock and writes no log. Under prefork, mod_wsgi calls this from a signal handler on top of whatever
        the thread was doing, and that may be holding our lock.
        """
        self._winding_down = True
        while (connection := self._pop_idle()) is not None:
            self._driver.close(connection)

    def reclaim(self, thread_id: int) -> int:
        """Take back what a thread has borrowed and not returned, and return how many connections that were.

        For the end of a request. They are closed, since whoever leaked one may still hold it; a line in the log says
        where it was borrowed.
        """
        if not (self._in_use or self._connecting or self._waiting):
            return 0
        self._settle()
        with self._lock:
            leaked = [
                borrower for borrower in self._in_use.values() if borrower.thread_id == thread_id and borrower.claim()
            ]
            # An asynchronous exception can strike before, or in, the code that would have undone these.
            self._connecting = {borrower for borrower in self._connecting if borrower.thread_id != thread_id}
            self._waiting = deque(borrower for borrower in self._waiting if borrower.thread_id != thread_id)
            self._serve_the_waiting()
        self._settle()
        for borrower in leaked:
            self._end(borrower, keep=False)
            logger.warning(
                "a connection of pool %r was not given back by the end of the request and has been closed; it was "
                "borrowed at %s %.1f s ago",
                self.name,
                borrower.place,
                monotonic() - borrower.since,
            )
        return len(leaked)

    def _settle(self) -> None:
        """Count as returned what has been given back, and serve the waiting with it.

        The garbage collector ends the block of a forgotten generator, and it runs wherever something is allocated: in
        this very thread while it holds the lock, too. Then this is left to the end of that.
        """
        while self._ended and not self._lock._is_owned():  # type: ignore[attr-defined]  # as threading.Condition does
            with self._lock:
                while self._ended:
                    borrower, keep = self._ended.popleft()
                    connection = borrower.connection
                    if self._in_use.pop(id(connection), None) is not None and connection is not None and keep:
                        self._idle.append(connection)
                self._serve_the_waiting()

    def _is_alive(self, connection: C) -> bool:
        try:
            return self._driver.is_alive(connection)
        except Exception:
            return False  # whatever its driver trips over, nobody could work with it

    def _refuse_the_hopeless(self, borrower: _Borrower[C]) -> None:
        if self._closed:
            raise PoolClosed(f"pool {self.name!r} is closed")
        held = [
            holder
            for holder in self._in_use.values()
            if holder.thread_id == borrower.thread_id and not holder.returning
        ]
        if len(held) >= self.max_size:
            raise PoolDeadlock(
                f"this thread already holds all {self.max_size} connections of pool {self.name!r} (borrowed at "
                f"{', '.join(holder.place for holder in held)}), so one more would never come; pass the connection "
                "on instead of borrowing again"
            )

    def _serve_the_waiting(self) -> None:
        """Give the oldest borrowers what there is: an idle connection, or the room to open one. Under the lock.

        Each is recorded as served, then woken, then taken from the queue, so that an exception between any two of these
        lines strands nobody: the next to come by goes on from there.
        """
        while self._waiting:
            borrower = self._waiting[0]
            if borrower.connection is None and borrower not in self._connecting:
                connection = self._pop_idle()
                if connection is not None:
                    self._lend(connection, borrower)
                elif self.size < self.max_size:
                    self._connecting.add(borrower)
                else:
                    return
            borrower.wake()
            self._waiting.popleft()

    def _lend(self, connection: C, borrower: _Borrower[C]) -> None:
        borrower.connection = connection
        borrower.since = monotonic()
        self._in_use[id(connection)] = borrower

    def _pop_idle(self) -> C | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _stop_waiting(self, borrower: _Borrower[C]) -> None:
        with self._lock:
            if borrower in self._waiting:
                raise PoolTimeout(self._busy(borrower))
        # Served in the last moment.
        self._settle()

    def _replace_dead(self, borrower: _Borrower[C]) -> None:
        """Swap a dead connection for another idle one, or for the room to open one: the turn stays the borrower's."""
        dead = borrower.connection
        assert dead is not None
        self._driver.close(dead)
        with self._lock:
            self._in_use.pop(id(dead), None)
            borrower.connection = None
            connection = self._pop_idle()
            if connection is None:
                self._connecting.add(borrower)
            else:
                self._lend(connection, borrower)
        self._settle()

    def _connect(self, borrower: _Borrower[C]) -> C:
        if self._closed:
            raise PoolClosed(f"pool {self.name!r} was closed while this request waited for it")
        remaining = borrower.deadline - monotonic()
        if remaining <= 0:
            raise PoolTimeout(self._busy(borrower))
        try:
            connection = self._driver.connect(remaining)
        except Exception as error:
            first, self._connect_is_failing = not self._connect_is_failing, True
            message = f"cannot connect pool {self.name!r} to {self._driver.address}: {describe(error)}"
            if first:
                logger.error("%s", message)
            raise ConnectFailed(message) from error
        with self._lock:
            self._lend(connection, borrower)
            self._connecting.discard(borrower)
        self._settle()
        if self._connect_is_failing:
            self._connect_is_failing = False
            logger.warning("pool %r is connected to %s again", self.name, self._driver.address)
        return connection

    def _withdraw(self, borrower: _Borrower[C]) -> None:
        """Undo what a borrower has got that leaves without a connection, and pass its turn on."""
        with self._lock:
            connection = borrower.connection
            if connection is not None and self._in_use.pop(id(connection), None) is not None:
                # Lent but never seen by its borrower, so it is as clean as it was.
                self._idle.append(connection)
            self._connecting.discard(borrower)
            if borrower in self._waiting:
                self._waiting.remove(borrower)
            self._serve_the_waiting()
        self._settle()
        if self._winding_down:
            self.wind_down()

    def _give_back(self, connection: C, *, reset: bool = False, keep: bool = True) -> None:
        borrower = self._in_use.get(id(connection))
        if borrower is None or not borrower.claim():
            raise ValueError(
                f"this connection is not lent out by pool {self.name!r}: it was given back before, taken back at the "
                "end of its request, or belongs to another pool"
            )
        usable = False
        try:
            if keep and reset:
                self._driver.reset(connection)
            usable = keep
        except Exception as error:
            logger.info("a connection of pool %r is closed, it cannot be used again: %s", self.name, describe(error))
        finally:
            self._end(borrower, keep=usable)

    def _end(self, borrower: _Borrower[C], *, keep: bool) -> None:
        connection = borrower.connection
        assert connection is not None
        keep = keep and not self._winding_down
        try:
            if not keep:
                # Before its place is free: the server never sees one connection more than max_size.
                self._driver.close(connection)
        finally:
            self._ended.append((borrower, keep))
            self._settle()
        if self._winding_down:
            # wind_down() may have passed by while the connection was on its way to the idle ones.
            self.wind_down()

    def _busy(self, borrower: _Borrower[C]) -> str:
        longest = min(self._in_use.values(), key=lambda holder: holder.since, default=None)
        held = f"; the longest is held for {monotonic() - longest.since:.1f} s, from {longest.place}" if longest else ""
        return (
            f"no connection of pool {self.name!r} became free within {borrower.limit:g} s: {self._counts()}{held}. "
            "Hold connections for less time, raise max_size, or wait longer with timeout"
        )

    def _counts(self) -> str:
        return (
            f"{self.in_use} in use, {len(self._connecting)} connecting, {self.idle} idle of max_size {self.max_size}, "
            f"{self.waiting} waiting"
        )

    def _abandon_all(self) -> None:
        """Empty the pool in the child of a fork, without a word to the server: the sessions are the parent's."""
        inherited = [*self._idle, *(b.connection for b in self._in_use.values() if b.connection is not None)]
        self._start_empty()
        for connection in inherited:
            self._driver.abandon(connection)


class _Borrower(Generic[C]):
    """Someone who wants a connection: waits, perhaps connects, holds it, gives it back."""

    __slots__ = (
        "_asleep",
        "_caller",
        "_returned_by",
        "connection",
        "deadline",
        "limit",
        "since",
        "thread_id",
    )

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.since = monotonic()
        self.deadline = self.since + min(limit, threading.TIMEOUT_MAX)
        self.thread_id = threading.get_ident()
        self.connection: C | None = None
        self._asleep = threading.Lock()
        self._asleep.acquire()
        self._returned_by: dict[str, int] = {}
        self._caller = _caller()

    def wait(self) -> bool:
        """Wait until woken, and tell whether that was before the deadline."""
        return self._asleep.acquire(timeout=max(0.0, self.deadline - monotonic()))

    def wake(self) -> None:
        """End the wait; once more does nothing."""
        with contextlib.suppress(RuntimeError):  # it was released before
            self._asleep.release()

    @property
    def returning(self) -> bool:
        """Whether some thread is about to give the connection back."""
        return bool(self._returned_by)

    def claim(self) -> bool:
        """Take it upon this thread to give the connection back; False if another thread has done so.

        One atomic step, so that an exception at any point leaves it either free or with a thread that can be asked.
        """
        thread_id = threading.get_ident()
        return self._returned_by.setdefault("thread", thread_id) == thread_id

    @property
    def place(self) -> str:
        """Where in the program it was borrowed."""
        code, line = self._caller
        return f"{code.co_filename}:{line} in {code.co_name}"


def describe(error: BaseException) -> str:
    """Return an error's type and text in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


_PASSED_OVER = {__name__, "contextlib", "wsgipool.process"}


def _caller() -> tuple[CodeType, int]:
    frame = sys._getframe(1)
    while frame.f_globals.get("__name__") in _PASSED_OVER and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code, frame.f_lineno


_every_pool: weakref.WeakSet[Pool[Any]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for pool in list(_every_pool):
        pool._abandon_all()


os.register_at_fork(after_in_child=_after_fork_in_child)
