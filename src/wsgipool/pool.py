"""A pool of connections to one database, for the threads of one process.

Every open connection has a slot. A slot is idle, or lent to one thread. Lending an idle connection and taking it back
are a pop and an append of a deque, which are atomic (on free-threaded Python too), so they take no lock. The lock is
for growing, shrinking and waiting; it is held for decisions only, never over I/O, a callback or a log call. Sizes are
counted from what is there and kept nowhere else. Idle connections are lent last in, first out, so that few are kept
busy and the rest grow old; those who wait are served first come, first served, and nobody overtakes them.

No wake-up is lost: who gives back appends to the idle ones and then looks whether anybody waits; who has to wait enters
the queue and then looks once more for an idle one. Whoever finds both brings them together, under the lock.

This module knows no server and no configuration. It works in any Python program.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from threading import get_ident
from time import monotonic
from types import FrameType
from typing import Any, Generic, TypeVar

from wsgipool.connector import Connector, pause
from wsgipool.drivers import C, Driver, Reset
from wsgipool.errors import PoolClosed, PoolDeadlock, PoolTimeout, TooManyRequests
from wsgipool.loan import Slot, Waiter, describe

logger = logging.getLogger("wsgipool")

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 1.0
"""Seconds between the tries of a transaction."""


class Pool(Generic[C]):
    """At most `max_size` connections, each with one thread at a time, opened as needed.

    `connect` is any callable that returns a DB-API connection, or a `wsgipool.drivers.Driver`.

    `timeout`: seconds that a borrower waits for a connection; 0 takes one that is idle and waits for nothing.
    `max_waiting`: borrowers that may wait at once; one more gets TooManyRequests. 0 is no limit.
    `max_connecting`: connections that may be opening at once; further borrowers wait, and take what comes first, a
    new connection or one that is given back. So a burst opens a few and not one a thread.
    `check_after`: seconds that a connection may have been idle and still be lent without asking the server for a sign
    of life. That its socket is still open is checked each time, where the driver can.
    `max_idle`: seconds after which a connection that nobody needed is closed. `max_lifetime`: seconds after which one
    is closed however busy it is, less up to a tenth by chance, so that not all are renewed at once. Both are looked at
    when a connection is given back: there is no thread in the background.
    `configure`: called with each new connection before it is lent for the first time.
    `reset`: how a returned connection is cleaned: "rollback" ends its transaction, "session" also all that a session
    keeps (variables, temporary tables, locks), None neither.
    `pipeline`: with True, what cleaning sends to the server is sent at the return and its answer read at the next
    checkout, where the driver can; with False it is waited for.

    After a fork the child's copy of the pool is empty.
    """

    def __init__(
        self,
        connect: Callable[[], C] | Driver[C],
        *,
        name: str,
        max_size: int,
        timeout: float = 30.0,
        max_waiting: int = 0,
        max_connecting: int = 2,
        check_after: float = 30.0,
        max_idle: float = 600.0,
        max_lifetime: float = 3600.0,
        configure: Callable[[C], object] | None = None,
        reset: Reset | None = "rollback",
        pipeline: bool = True,
    ) -> None:
        if max_size < 1:
            raise ValueError(f"max_size = {max_size}: a pool needs room for one connection at least")
        if max_connecting < 1:
            raise ValueError(f"max_connecting = {max_connecting}: a pool that opens no connection has none to lend")
        self.name = name
        self.max_size = max_size
        self.timeout = timeout
        self.max_waiting = max_waiting
        self.max_connecting = max_connecting
        self.max_idle = max_idle
        self._reset = reset
        self._connector = Connector(
            connect,
            name=name,
            check_after=check_after,
            max_lifetime=max_lifetime,
            configure=configure,
            pipeline=pipeline,
        )
        self._driver = self._connector.driver
        self._closed = False
        self._winding_down = False
        self._start_empty()
        _every_pool.add(self)

    def _start_empty(self) -> None:
        self._lock = threading.RLock()  # never entered twice, but it knows whether this thread is in it: _settle()
        self._slots: dict[int, Slot[C]] = {}  # by id() of the connection; a driver's may be unhashable
        self._idle: deque[Slot[C]] = deque()
        self._gone: deque[Slot[C]] = deque()  # closed, and still to be struck off the slots
        self._connecting: set[Waiter[C]] = set()
        self._waiting: deque[Waiter[C]] = deque()

    @property
    def idle(self) -> int:
        """Connections that are open and free."""
        return len(self._idle)

    @property
    def in_use(self) -> int:
        """Connections that a borrower holds."""
        return len(self._slots) - len(self._gone) - len(self._idle)

    @property
    def waiting(self) -> int:
        """Borrowers that wait for a connection."""
        return len(self._waiting)

    @property
    def size(self) -> int:
        """Connections that are open or being opened; never more than `max_size`."""
        return len(self._slots) - len(self._gone) + len(self._connecting)

    def __repr__(self) -> str:
        return f"<Pool {self.name!r}: {self._counts()}>"

    def connection(self, timeout: float | None = None, readonly: bool = False) -> AbstractContextManager[C]:
        """Lend a connection to a `with` block: committed at its end, rolled back when it raises.

        With `readonly=True` the block always ends in a rollback. Raises PoolTimeout, ConnectFailed, TooManyRequests,
        PoolDeadlock or PoolClosed, all of them a PoolError.
        """
        return _Block(self, timeout, readonly)

    def transaction(self, function: Callable[[C], T], *, retry: int = 0, timeout: float | None = None) -> T:
        """Call `function` with a connection, commit, and return what it returned; roll back when it raises.

        It is called again, at most `retry` times, when the database ended the transaction for the sake of others: a
        deadlock (MySQL's error 1213) or a lock that took too long (1205). So it must do nothing that a rollback does
        not undo. Between the tries it waits, longer each time, without holding a connection.
        """
        for attempt in itertools.count():
            try:
                with self.connection(timeout) as connection:
                    return function(connection)
            except Exception as error:
                if attempt >= retry or not self._driver.can_run_again(error):
                    raise
            # Those who met in a deadlock should not meet again.
            time.sleep(pause(attempt, _FIRST_PAUSE, _LONGEST_PAUSE))
        raise AssertionError("unreachable")

    def getconn(self, timeout: float | None = None) -> C:
        """Borrow a connection; `putconn` must follow. `connection()` is the safer way.

        Waits at most `timeout` seconds (default: the pool's), for a free connection or for a new one to open.
        Raises PoolTimeout, ConnectFailed, TooManyRequests, PoolDeadlock or PoolClosed.
        """
        return self._borrow(timeout, sys._getframe(1)).connection

    def putconn(self, connection: C) -> None:
        """Give a connection back; it is cleaned as the pool's `reset` says.

        Raises ValueError for a connection that is not lent out by this pool.
        """
        slot = self._slots.get(id(connection))
        if slot is None:
            raise self._not_lent()
        self._give_back(slot, slot.loan, self._reset)

    def close(self) -> None:
        """Close the idle connections, and those in use when they come back. From now on `getconn` raises PoolClosed."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, deque()
            for waiter in waiting:
                waiter.wake()
        self.wind_down()

    def wind_down(self) -> None:
        """Close the idle connections and keep none from now on, yet go on lending: the process is about to end.

        Takes no lock and writes no log. Under prefork, mod_wsgi calls this from a signal handler on top of whatever
        the thread was doing, and that may be holding our lock.
        """
        self._winding_down = True
        while (slot := self._pop_idle()) is not None:
            self._driver.close(slot.connection)
            self._gone.append(slot)

    def reclaim(self, thread_id: int) -> int:
        """Take back what a thread has borrowed and not returned, and return how many connections that were.

        For the end of a request. They are closed, since whoever leaked one may still hold it; a line in the log says
        where it was borrowed.
        """
        if not (self.in_use or self._connecting or self._waiting):
            return 0
        with self._lock:
            leaked = [slot for slot in self._slots.values() if slot.is_lent_to(thread_id) and slot.claim()]
            lost = self._lost()
            # An asynchronous exception can strike before, or in, the code that would have undone these.
            self._connecting = {waiter for waiter in self._connecting if waiter.thread_id != thread_id}
            self._waiting = deque(waiter for waiter in self._waiting if waiter.thread_id != thread_id)
        self._settle()
        for slot in lost:
            self._close_slot(slot)
        for slot in leaked:
            self._close_slot(slot)
            logger.warning(
                "a connection of pool %r was not given back by the end of the request and has been closed; it was "
                "borrowed at %s %.1f s ago",
                self.name,
                slot.place,
                monotonic() - slot.since,
            )
        return len(leaked)

    def _borrow(self, timeout: float | None, frame: FrameType) -> Slot[C]:
        if not self._waiting:
            try:
                slot = self._idle.pop()
            except IndexError:
                pass
            else:
                slot.loan = [get_ident()]
                if not self._connector.driver_asks:
                    slot.borrowed_at(frame)
                    return slot
                return self._make_usable(Waiter(self._limit(timeout), slot), frame)
        waiter: Waiter[C] = Waiter(self._limit(timeout), None)
        try:
            with self._lock:
                self._refuse_the_hopeless(waiter)
                self._waiting.append(waiter)
                self._serve_the_waiting()
                served = not self._waiting or self._waiting[-1] is not waiter
                if not served:
                    waiter.fall_asleep()
            self._settle()
            if not served and not waiter.wait():
                self._stop_waiting(waiter)
        except BaseException:
            self._withdraw(waiter)
            raise
        return self._make_usable(waiter, frame)

    def _limit(self, timeout: float | None) -> float:
        return self.timeout if timeout is None else timeout

    def _make_usable(self, waiter: Waiter[C], frame: FrameType) -> Slot[C]:
        """Return the slot that the waiter has got, or if its connection is dead another, or a new one."""
        try:
            while (slot := waiter.slot) is not None:
                slot.borrowed_at(frame)
                if not self._connector.driver_asks:
                    return slot
                waiter.touched = True
                if self._connector.is_usable(slot, waiter.thread_id, waiter.remaining()):
                    return slot
                self._replace_dead(waiter)
            return self._connect(waiter, frame)
        except BaseException:
            self._withdraw(waiter)
            raise

    def _refuse_the_hopeless(self, waiter: Waiter[C]) -> None:
        if self._closed:
            raise PoolClosed(f"pool {self.name!r} is closed")
        held = [slot for slot in self._slots.values() if slot.loan]
        if len(held) >= self.max_size and self._all_wait_for_each_other(held, waiter.thread_id):
            raise PoolDeadlock(
                f"all {self.max_size} connections of pool {self.name!r} are held by this thread and others that wait "
                f"for one more (borrowed at {', '.join(slot.place for slot in held)}), so it would never come; pass "
                "the connection on instead of borrowing again"
            )
        if self.max_waiting and len(self._waiting) >= self.max_waiting:
            raise TooManyRequests(
                f"{len(self._waiting)} requests wait for pool {self.name!r} already, as many as max_waiting allows: "
                f"{self._counts()}"
            )

    def _all_wait_for_each_other(self, held: list[Slot[C]], thread_id: int) -> bool:
        waiting = {waiter.thread_id for waiter in self._waiting} | {thread_id}
        return all(any(slot.is_lent_to(waiter) for waiter in waiting) for slot in held) and any(
            slot.is_lent_to(thread_id) for slot in held
        )

    def _serve_the_waiting(self) -> None:
        """Give the oldest waiters what there is: an idle connection, or the room to open one. Under the lock.

        Each is recorded as served, then woken, then taken from the queue, so that an exception between any two of these
        lines strands nobody: the next to come by goes on from there.
        """
        while self._gone:
            slot = self._gone[0]
            self._slots.pop(id(slot.connection), None)
            self._gone.popleft()
        while self._waiting:
            waiter = self._waiting[0]
            if waiter.slot is None and waiter not in self._connecting:
                idle = self._pop_idle()
                if idle is not None:
                    waiter.slot = idle
                    idle.loan = [waiter.thread_id]
                elif self.size < self.max_size and len(self._connecting) < self.max_connecting:
                    self._connecting.add(waiter)
                else:
                    return
            waiter.wake()
            self._waiting.popleft()

    def _settle(self) -> None:
        """Bring together what has been given back or closed with those who wait.

        The garbage collector ends the block of a forgotten generator, and it runs wherever something is allocated: in
        this very thread while it holds the lock, too. Then this is left to the end of that.
        """
        while (self._gone or (self._waiting and self._idle)) and not self._lock._is_owned():  # type: ignore[attr-defined]
            with self._lock:
                self._serve_the_waiting()

    def _pop_idle(self) -> Slot[C] | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _lost(self) -> list[Slot[C]]:
        """Return the slots that are neither idle nor lent nor in anybody's hands. Under the lock.

        An asynchronous exception between a pop and the next step drops what was popped. A slot on its way between two
        places is held by the thread that carries it; a lost one only by our dictionary.
        """
        (alone,) = _references({0: object()}.values())
        counts = _references(self._slots.values())
        return [
            slot for slot, count in zip(self._slots.values(), counts, strict=True) if not slot.loan and count == alone
        ]

    def _stop_waiting(self, waiter: Waiter[C]) -> None:
        with self._lock:
            if waiter in self._waiting:
                raise PoolTimeout(self._busy(waiter))
        # Served in the last moment.

    def _replace_dead(self, waiter: Waiter[C]) -> None:
        """Swap a dead connection for another idle one, or for the room to open one: the turn stays the waiter's."""
        dead = waiter.slot
        assert dead is not None
        self._driver.close(dead.connection)
        with self._lock:
            self._slots.pop(id(dead.connection), None)
            waiter.slot = idle = self._pop_idle()
            if idle is None:
                self._connecting.add(waiter)
            else:
                idle.loan = [waiter.thread_id]
        self._settle()

    def _connect(self, waiter: Waiter[C], frame: FrameType) -> Slot[C]:
        if self._closed:
            raise PoolClosed(f"pool {self.name!r} was closed while this request waited for it")
        remaining = waiter.remaining()
        if remaining <= 0:
            raise PoolTimeout(self._busy(waiter))
        slot = self._connector.open(remaining, waiter.thread_id)
        slot.loan = [waiter.thread_id]
        slot.borrowed_at(frame)
        waiter.touched = True
        with self._lock:
            waiter.slot = slot
            self._slots[id(slot.connection)] = slot
            self._connecting.discard(waiter)
            self._serve_the_waiting()  # the next may connect
        self._settle()
        return slot

    def _withdraw(self, waiter: Waiter[C]) -> None:
        """Undo what a waiter has got that leaves without a connection, and pass its turn on."""
        with self._lock:
            self._connecting.discard(waiter)
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            slot = waiter.slot
            untouched = slot is not None and not waiter.touched and slot.claim()
            if slot is not None and untouched:
                self._idle.append(slot)
            self._serve_the_waiting()
        self._settle()
        if slot is not None and not untouched and slot.claim():
            # Interrupted in the middle of an answer, perhaps: it may be out of step.
            self._close_slot(slot)
        if self._winding_down:
            self.wind_down()

    def _give_back(self, slot: Slot[C], loan: list[int], how: Reset | None, *, keep: bool = True) -> None:
        try:
            loan.pop()
        except IndexError:
            raise self._not_lent() from None
        kept = False
        try:
            kept = keep and self._connector.clean(slot, how)
        except Exception as error:
            logger.info("a connection of pool %r is closed, it cannot be used again: %s", self.name, describe(error))
        finally:
            if not kept or self._winding_down:
                self._close_slot(slot)
            else:
                self._idle.append(slot)
        if self._waiting:
            self._settle()
        self._close_one_idle_for_too_long()
        if self._winding_down:
            # wind_down() may have passed by while the connection was on its way to the idle ones.
            self.wind_down()

    def _close_one_idle_for_too_long(self) -> None:
        try:
            oldest = self._idle[0]
            if monotonic() - oldest.idle_since <= self.max_idle:
                return
            oldest = self._idle.popleft()
        except IndexError:
            return
        # Another one perhaps than we looked at; closing it does no harm.
        self._close_slot(oldest)

    def _close_slot(self, slot: Slot[C]) -> None:
        try:
            # Before its place is free: the server never sees one connection more than max_size.
            self._driver.close(slot.connection)
        finally:
            self._gone.append(slot)
            self._settle()

    def _not_lent(self) -> ValueError:
        return ValueError(
            f"this connection is not lent out by pool {self.name!r}: it was given back before, taken back at the end "
            "of its request, or belongs to another pool"
        )

    def _busy(self, waiter: Waiter[C]) -> str:
        longest = min((slot for slot in self._slots.values() if slot.loan), key=lambda slot: slot.since, default=None)
        held = f"; the longest is held for {monotonic() - longest.since:.1f} s, from {longest.place}" if longest else ""
        return (
            f"no connection of pool {self.name!r} became free within {waiter.limit:g} s: {self._counts()}{held}. "
            "Hold connections for less time, raise max_size, or wait longer with timeout"
        )

    def _counts(self) -> str:
        return (
            f"{self.in_use} in use, {len(self._connecting)} connecting, {self.idle} idle of max_size {self.max_size}, "
            f"{self.waiting} waiting"
        )

    def _abandon_all(self) -> None:
        """Empty the pool in the child of a fork, without a word to the server: the sessions are the parent's."""
        inherited = [slot.connection for slot in self._slots.values()]
        self._start_empty()
        for connection in inherited:
            self._driver.abandon(connection)


class _Block(AbstractContextManager[C]):
    """A `with` block that borrows, and gives back as it ends."""

    __slots__ = ("_loan", "_pool", "_readonly", "_slot", "_timeout")

    def __init__(self, pool: Pool[C], timeout: float | None, readonly: bool) -> None:
        self._pool = pool
        self._timeout = timeout
        self._readonly = readonly

    def __enter__(self) -> C:
        self._slot = slot = self._pool._borrow(self._timeout, sys._getframe(1))
        self._loan = slot.loan
        return slot.connection

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        pool = self._pool
        if kind is None and not self._readonly:
            try:
                self._slot.connection.commit()
            except BaseException as error:
                self._undo(type(error))
                raise
            # The COMMIT has just ended the transaction.
            pool._give_back(self._slot, self._loan, "session" if pool._reset == "session" else None)
        else:
            self._undo(kind)

    def _undo(self, kind: type[BaseException] | None) -> None:
        pool = self._pool
        if kind is None:
            pool._give_back(self._slot, self._loan, pool._reset or "rollback")
            return
        # It may have been given back already: by the end of the request, when this is a generator that was dropped in
        # the middle of its block, or by a mistake of which the block's own error tells more.
        with contextlib.suppress(ValueError):
            if issubclass(kind, Exception | GeneratorExit):
                pool._give_back(self._slot, self._loan, pool._reset or "rollback")
            else:
                # mod_wsgi's RequestTimeout and its like strike anywhere, in the middle of reading an answer too. Such a
                # connection looks healthy and gives the next borrower this one's rows.
                pool._give_back(self._slot, self._loan, None, keep=False)


def _references(slots: Iterable[object]) -> list[int]:
    return [sys.getrefcount(slot) for slot in slots]


_every_pool: weakref.WeakSet[Pool[Any]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for pool in list(_every_pool):
        pool._abandon_all()


os.register_at_fork(after_in_child=_after_fork_in_child)
