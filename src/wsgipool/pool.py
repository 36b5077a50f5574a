"""A pool of connections to one database, for the threads of one process.

Lending an idle connection and taking it back take no lock: a pop and an append of a deque. The lock is for growing,
shrinking and waiting; it is held for decisions only, never over I/O, a callback or a log call. Idle connections are
lent last in, first out, so that few are kept busy and the rest grow old; those who wait are served first come, first
served, and nobody overtakes them.

Four layers: `wsgipool.ledger` knows who has what, `wsgipool.returning` and `wsgipool.lending` do what follows from it,
and this is what a program calls. None knows a server or a configuration; they work in any Python program.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from sys import exception
from threading import get_ident
from typing import Any, TypeVar

from wsgipool.block import Block, is_interruption
from wsgipool.connector import Connector, pause
from wsgipool.drivers import C, Driver, Reset
from wsgipool.errors import WrongThread
from wsgipool.housekeeping import housekeeping
from wsgipool.lending import Lending
from wsgipool.loan import Slot, Waiter
from wsgipool.permits import Permits
from wsgipool.stats import Stats

logger = logging.getLogger("wsgipool")

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 1.0
"""Seconds between the tries of a transaction."""


class Pool(Lending[C]):
    """At most `max_size` connections, each with one thread at a time, opened as needed.

    `connect` is any callable that returns a DB-API connection, or a `wsgipool.drivers.Driver`.

    `min_size`: connections that are kept open even if nobody needs them, opened in the background.
    `timeout`: seconds that a borrower waits for a connection; 0 takes one that is idle and waits for nothing.
    `max_waiting`: borrowers that may wait at once; one more gets TooManyRequests. 0 is no limit.
    `max_connecting`: connections that may be opening at once; further borrowers wait, and take what comes first, a
    new connection or one that is given back. So a burst opens a few and not one a thread.
    `check_after`: seconds that a connection may have been idle and still be lent without asking the server for a sign
    of life. That its socket is still open is checked each time, where the driver can.
    `max_idle`: seconds after which a connection that nobody needed is closed. `max_lifetime`: seconds after which one
    is closed however busy it is, less up to a tenth by chance, so that not all are renewed at once. Both are exact to a
    tenth of the shorter, at most half a minute.
    `check`: called with each connection before it is lent; when it raises, another connection is taken.
    `configure`: called with each new connection before it is lent for the first time, and again after each reset of
    its session. What it sets on the connection object, such as the class of its cursors, is restored at each return.
    `reset`: how a returned connection is cleaned: "rollback" ends its transaction, "session" also all that a session
    keeps (variables, temporary tables, locks), None neither.
    `pipeline`: with True, what cleaning sends to the server is sent at the return and its answer read at the next
    checkout, where the driver can; with False no command is sent before the answer to the last one was read, here
    and at connect.
    `debug`: note the stack at each loan, for the messages of PoolDeadlock and of leaks.
    `permits`: this pool's part in a budget that it shares with other processes; `wsgipool.process` sets it.

    After a fork the child's copy of the pool is empty.
    """

    __slots__ = ("_reset",)

    def __init__(
        self,
        connect: Callable[[], C] | Driver[C],
        *,
        name: str,
        max_size: int,
        min_size: int = 0,
        timeout: float = 30.0,
        max_waiting: int = 0,
        max_connecting: int = 2,
        check_after: float = 30.0,
        max_idle: float = 600.0,
        max_lifetime: float = 3600.0,
        check: Callable[[C], object] | None = None,
        configure: Callable[[C], object] | None = None,
        reset: Reset | None = "rollback",
        pipeline: bool = True,
        debug: bool = False,
        permits: Permits | None = None,
    ) -> None:
        if max_connecting < 1:
            raise ValueError(f"max_connecting = {max_connecting}: a pool that opens no connection has none to lend")
        _check_sizes(min_size, max_size)
        super().__init__(
            Connector(
                connect,
                name=name,
                check_after=check_after,
                max_lifetime=max_lifetime,
                check=check,
                configure=configure,
                reset=reset,
                pipeline=pipeline,
            ),
            name=name,
            min_size=min_size,
            max_size=max_size,
            timeout=timeout,
            max_waiting=max_waiting,
            max_connecting=max_connecting,
            max_idle=max_idle,
            max_lifetime=max_lifetime,
            debug=debug,
            permits=permits,
        )
        self._reset = reset
        self._returns_as_is = self._is_plain and reset is None
        _every_pool.add(self)
        if min_size:
            housekeeping.watch(self)

    def __repr__(self) -> str:
        return f"<Pool {self.name!r}: {self._counts()}>"

    def connection(
        self, timeout: float | None = None, readonly: bool = False, read_timeout: float | None = None
    ) -> AbstractContextManager[C]:
        """Check a connection out for a `with` block: committed at its end, rolled back when it raises.

        With `readonly=True` the block always ends in a rollback. `read_timeout`: seconds that its statements may take
        in place of the URL's read_timeout, for those that are known to be long; ConfigError where the driver cannot
        change that. Raises PoolTimeout, ConnectFailed, TooManyRequests, PoolDeadlock or PoolClosed, all of them a
        PoolError.
        """
        block: Block[C] = Block()
        block.pool = self
        block.timeout = timeout
        block.readonly = readonly
        block.read_timeout = read_timeout
        return block

    def transaction(
        self,
        function: Callable[[C], T],
        *,
        retry: int = 0,
        timeout: float | None = None,
        read_timeout: float | None = None,
    ) -> T:
        """Call `function` with a connection, commit, and return what it returned; roll back when it raises.

        A connection that commits each statement by itself (autocommit) is given a transaction first.

        It is called again, at most `retry` times, when the database ended the transaction for the sake of others: a
        deadlock (MySQL's error 1213), a lock that took too long (1205), with PostgreSQL a serialization failure, too
        (SQLSTATEs 40P01, 55P03, 40001), with SQLite a lock that took too long. Where `connect` is a callable, the code
        is looked for where the DB-API modules of MySQL and PostgreSQL have it: the first argument of the error, its
        `sqlstate` or `pgcode`. So it must do nothing that a rollback does not undo. Between the tries it waits,
        longer each time, without holding a connection.
        """
        for attempt in itertools.count():
            try:
                with self.connection(timeout, read_timeout=read_timeout) as connection:
                    self._driver.begin(connection)
                    return function(connection)
            except Exception as error:
                if attempt >= retry or not self._driver.can_run_again(error):
                    raise
            # Those who met in a deadlock should not meet again.
            time.sleep(pause(attempt, _FIRST_PAUSE, _LONGEST_PAUSE))
        raise AssertionError("unreachable")

    def getconn(self, timeout: float | None = None) -> C:
        """Borrow a connection; `putconn` must follow, on the same thread. `connection()` is the safer way.

        Waits at most `timeout` seconds (default: the pool's), for a free connection or for a new one to open.
        Raises PoolTimeout, ConnectFailed, TooManyRequests, PoolDeadlock or PoolClosed.
        """
        thread_id = get_ident()
        if self._lends_as_is:
            try:
                slot = self._free.pop()
            except IndexError:
                pass
            else:
                slot.used = True
                slot.borrower = thread_id
                return slot.connection
        return self._borrow(thread_id, thread_id, timeout, sys._getframe(1)).connection

    def putconn(self, connection: C) -> None:
        """Give a connection back; it is cleaned as the pool's `reset` says.

        Raises ValueError for a connection that is not lent out by this pool, and WrongThread where another thread has
        borrowed it and is still there.
        """
        try:
            slot = self._slots[connection]
        except (KeyError, TypeError):
            slot = self._slot_by_id(connection)
        if slot.borrower != get_ident():
            self._refuse_what_others_have(slot)
        if self._returns_as_is and exception() is None:
            slot.borrower = 0
            try:
                self._idle.append(slot)
                if self._by_lock:
                    self._hand_over()
            except BaseException:
                self._settle()  # what an interruption has left undone
                raise
        else:
            # As in a block: one that is given back on the way of an interruption may be in the middle of an answer.
            self._take_back(slot, self._reset, keep=not is_interruption(exception()))

    def stats(self) -> Stats:
        """Return the counts, and what has been done so far."""
        with self._lock:
            idle, opened = self.idle, len(self._slots) - len(self._gone)  # each once: lending takes no lock
            return Stats(
                name=self.name,
                min_size=self.min_size,
                max_size=self.max_size,
                size=opened + len(self._connecting),
                idle=idle,
                in_use=opened - idle,
                connecting=len(self._connecting),
                waiting=self.waiting,
                loans=None if self._lends_as_is else self._loans_so_far(),
                waits=self._waits,
                wait_seconds=self._wait_seconds,
                timeouts=self._timeouts,
                refused=self._refused,
                opened=self._opened,
                connect_failures=self._connect_failures,
                closed={ending: count for ending, count in self._endings.items() if count},
            )

    def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Change the sizes. What is too many is closed when it is idle; those who wait get what is new."""
        _check_sizes(min_size, self.max_size if max_size is None else max_size)
        with self._lock:
            self.min_size = min_size
            self.max_size = self.max_size if max_size is None else max_size
            self._retiring = True
            self._lend_by_lock(True)
        self._settle()
        housekeeping.watch(self)
        housekeeping.call()

    def drain(self) -> None:
        """Close all connections, those in use when they come back; new ones take their place as they are needed.

        For when what they have learnt at their beginning is no longer true: another password, another primary.
        """
        with self._lock:
            for slot in self._slots.values():
                self._retire(slot, "surplus")
            for opener in self._connecting:
                opener.is_outdated = True  # it may have begun with what is no longer true
        self._settle()
        housekeeping.call()

    def close(self, timeout: float = 0.0) -> bool:
        """Close the idle connections, and those in use when they come back. From now on `getconn` raises PoolClosed.

        Waits at most `timeout` seconds for those in use, and tells whether all are closed.
        """
        closer: Waiter[C] = Waiter(get_ident(), timeout)
        with self._lock:
            self._closed = True
            self._closers.append(closer)
            waiting, self._waiting = self._waiting, deque()
            for waiter in waiting:
                waiter.wake()
        self.wind_down()
        self._settle()
        closer.wait()
        return not self.size

    def reclaim(self, thread_id: int) -> int:
        """Take back what a thread has borrowed and not returned, and return how many connections that were.

        For the end of a request. They are closed, since whoever leaked one may still hold it; a line in the log says
        where it was borrowed.
        """
        was_interrupted = self._interrupted.pop(thread_id, None) is not None
        if not (
            was_interrupted
            or self._by_lock
            or self._connecting
            or self._is_unsettled()
            or any(slot.thread_id == thread_id for slot in list(self._slots.values()))
            or self._missing()
        ):
            return 0
        leaked: list[Slot[C]] = []
        try:
            with self._lock:
                leaked += [slot for slot in self._slots.values() if slot.thread_id == thread_id]
                for slot in leaked:
                    slot.borrower = 0
                    self._doom(slot, "leaked")
                self._forget_thread(thread_id)
            leaked += self._find_the_lost()
        except BaseException:
            leaked.clear()
            self.reclaim(thread_id)  # what an interruption has left undone
            raise
        self._tell_of_leaks(leaked, "by the end of the request and has been closed")
        return len(leaked)

    def _slot_by_id(self, connection: C) -> Slot[C]:
        slot = self._slots.get(id(connection))
        if slot is None:
            raise self._not_lent() from None
        return slot

    def _refuse_what_others_have(self, slot: Slot[C]) -> None:
        """Raise if a thread that lives has this; what one that has ended has left behind may be given back for it."""
        with self._lock:
            if not slot.borrower:
                raise self._not_lent()
            if slot.borrower != slot.thread_id:
                raise ValueError(
                    f"this connection of pool {self.name!r} belongs to a `with` block, which gives it back itself"
                )
            if slot.borrower in sys._current_frames():
                raise WrongThread(
                    f"a connection of pool {self.name!r} was given back by thread {get_ident()}, but thread "
                    f"{slot.borrower} has borrowed it; give back what you have borrowed, once"
                )
            slot.borrower = get_ident()

    def _abandon_all(self) -> None:
        """Empty the pool in the child of a fork, without a word to the server: the sessions are the parent's."""
        inherited = [slot.connection for slot in self._slots.values()]
        for slot in self._slots.values():
            slot.borrower = 0  # a block that the child ends gives nothing back
        self._start_empty()
        self._connector.start_anew()
        for connection in inherited:
            self._driver.abandon(connection)


def _check_sizes(min_size: int, max_size: int) -> None:
    if max_size < 1:
        raise ValueError(f"max_size = {max_size}: a pool needs room for one connection at least")
    if not 0 <= min_size <= max_size:
        raise ValueError(f"min_size = {min_size}: it is from 0 to max_size, which is {max_size}")


_every_pool: weakref.WeakSet[Pool[Any]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for pool in list(_every_pool):
        pool._abandon_all()


os.register_at_fork(after_in_child=_after_fork_in_child)
