"""A pool of connections to one database, for the threads of one process.

Idle connections are checked out last in, first out, so that few stay busy and surplus ones grow old. Waiting threads
are served first come, first served; no thread overtakes them. One lock guards the state. It is held for decisions only,
never during I/O, a callback or a log call.

To follow a checkout, read this file and `_state`: `PoolState` decides, `Pool` carries out. Where no connection is idle,
`_wait_queue` goes on. The pool knows no server and no settings file, and works in any Python program.
"""

from __future__ import annotations

import itertools
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from threading import get_ident
from time import monotonic
from types import EllipsisType, FrameType
from typing import Any, Generic, TypeVar

from wsgipool import _runtime
from wsgipool._background import background
from wsgipool._wakeup import Wakeup
from wsgipool.budget.permits import Permits
from wsgipool.config import (
    DEFAULT_CHECK_AFTER,
    DEFAULT_MAX_CONNECTING,
    DEFAULT_MAX_IDLE,
    DEFAULT_MAX_LIFETIME,
    DEFAULT_TIMEOUT,
)
from wsgipool.drivers import MIN_ANSWER_TIMEOUT, C, CallableDriver, Driver, Reset
from wsgipool.pool._block import Block, is_asynchronous
from wsgipool.pool._connector import Connector, pause
from wsgipool.pool._errors import ErrorFactory, is_pool_error
from wsgipool.pool._exhaustion import Exhaustion
from wsgipool.pool._maintenance import Maintenance
from wsgipool.pool._sessions import Sessions
from wsgipool.pool._slot import (
    CHECKED_OUT,
    CLOSED,
    CONNECTING,
    IDLE,
    RETURNING,
    Slot,
    stack_of,
)
from wsgipool.pool._slow_checkouts import SlowCheckouts
from wsgipool.pool._state import PoolState
from wsgipool.pool._threads import current, live_threads
from wsgipool.pool._wait_queue import WaitQueue
from wsgipool.pool.holds import Hold
from wsgipool.pool.stats import Observation, Stats

T = TypeVar("T")

_MAX_FAILURE = 1000
"""Maximum characters of a failure on the scoreboard."""
_FIRST_PAUSE, _MAX_PAUSE = 0.01, 1.0
"""First and maximum seconds between the attempts of a transaction."""


class Pool(Generic[C]):
    """A pool of at most ``max_size`` connections, opened as needed and used by one thread at a time.

    After a fork, the child's copy of the pool is empty.

    Args:
        connect: A ``wsgipool.drivers.Driver``, or any callable that returns a DB-API connection. Connections of a
            callable are pinged by their ``ping()`` or by ``SELECT 1``, and cleaned by a rollback alone. The pool cannot
            keep other threads from using them.
        name: Name of the pool, for messages and statistics.
        max_size: Maximum number of open connections; at least 1.
        min_size: Number of connections that are kept open, even unused. The background opens them. Default 0.
        timeout: Seconds that a thread waits for a connection. 0 takes an idle connection or fails. Default 30.
        max_waiting: Maximum number of waiting threads; one more gets ``TooManyRequests``. Default 0, no limit.
        max_connecting: Maximum number of connections that are opened at the same time, so that a burst does not open
            one for each thread. Further threads wait for a new or a returned connection. Default 2.
        check_after: Seconds of idleness after which a connection is pinged before its checkout. Default 30. The socket
            is checked at each checkout, if the driver can.
        max_idle: Seconds after which an unused connection is closed. Default 600.
        max_lifetime: Seconds after which a connection is closed even if it is often used, minus up to a tenth at
            random. A connection in use is closed when it is returned. Default 3600. Both ages are exact to a tenth of
            the shorter one, at most 30 seconds.
        check: Called with each connection before its checkout. If it raises an error, another connection is taken.
        configure: Called with each new connection before its first checkout, and again after each reset of its
            session. Attributes that it sets on the connection, such as the cursor class, are restored at each return.
        reset: Cleaning of a returned connection. ``"rollback"`` (the default) ends the transaction. ``"session"`` also
            removes variables, temporary tables and locks. ``None`` does neither.
        pipeline: Whether the answer to the cleaning is read at the next checkout, if the driver can. With ``False``,
            each command waits for its answer, also during connects. Default ``True``.
        close_returns: Whether ``close()`` of a checked out connection returns it, rolled back. Default ``False``:
            ``close()`` ends the session and frees the place. With ``True``, each connect fails if the driver does not
            support it.
        on_connect: Called once with each new connection.
        on_close: Called with each connection before the pool closes it. At the end of a process the caller may be a
            signal handler.
        debug: Whether the stack of each checkout is recorded, for the messages of ``PoolDeadlock`` and of leaks.
            Default ``False``.
        log_slow: Seconds; a checkout that waited or connected for longer is logged, with its place and that of the
            holder for which it waited. Default 0, which logs none.
        permits: The pool's part in a budget that is shared with other processes; ``wsgipool.pools`` sets it.

    Raises:
        ValueError: A size is out of range.
    """

    request_token: Callable[[], object] | None = None
    """Called at each checkout, on its thread.

    Its result is kept until the connection has been returned, so that a request knows whether it still holds one.
    ``wsgipool.request`` sets it.
    """

    def __init__(
        self,
        connect: Callable[[], C] | Driver[C],
        *,
        name: str,
        max_size: int,
        min_size: int = 0,
        timeout: float = DEFAULT_TIMEOUT,
        max_waiting: int = 0,
        max_connecting: int = DEFAULT_MAX_CONNECTING,
        check_after: float = DEFAULT_CHECK_AFTER,
        max_idle: float = DEFAULT_MAX_IDLE,
        max_lifetime: float = DEFAULT_MAX_LIFETIME,
        check: Callable[[C], object] | None = None,
        configure: Callable[[C], object] | None = None,
        reset: Reset | None = "rollback",
        pipeline: bool = True,
        close_returns: bool = False,
        on_connect: Callable[[C], object] | None = None,
        on_close: Callable[[C], object] | None = None,
        debug: bool = False,
        log_slow: float = 0.0,
        permits: Permits | None = None,
    ) -> None:
        self.name = name
        self.timeout = timeout
        self.max_waiting = max_waiting
        self.max_connecting = max_connecting
        self.max_idle = max_idle
        self.max_lifetime = max_lifetime
        self.permits = permits
        self._reset = reset
        self._close_returns = close_returns
        self._debug = debug
        self._driver: Driver[C] = CallableDriver(connect) if callable(connect) else connect
        self._connector = Connector(
            self._driver,
            name=name,
            check_after=check_after,
            check=check,
            configure=configure,
            on_connect=on_connect,
            on_close=on_close,
            closes=weakref.WeakMethod(self._holder_closes),
            close_returns=close_returns,
            reset=reset,
            pipeline=pipeline,
        )
        self._state: PoolState[C] = PoolState(
            min_size=min_size,
            max_size=max_size,
            max_connecting=max_connecting,
            max_idle=max_idle,
            needs_permits=permits is not None,
            has_background=lambda: background.is_running,
        )
        self._sessions = Sessions(self._state, self._connector, permits, max_lifetime)
        self._errors = ErrorFactory(name, self._state, self._connector, permits)
        self._exhaustion = Exhaustion(name, self._state, self._errors)
        self._slow_checkouts = SlowCheckouts(name, self._state, permits, log_slow)
        self._maintenance = Maintenance(name, self._state, self._sessions, self._connector, permits, max_lifetime)
        self._queue = WaitQueue(
            name,
            self._state,
            self._sessions,
            self._maintenance,
            self._errors,
            self._exhaustion,
            self._slow_checkouts,
            permits,
            max_waiting,
        )
        self._closed_by_holder: weakref.WeakValueDictionary[int, C] = weakref.WeakValueDictionary()
        _every_pool.add(self)
        if min_size:
            self._maintenance.begin()

    def __repr__(self) -> str:
        return f"<Pool {self.name!r}: {self._errors.counts()}>"

    # --- check out --------------------------------------------------------------------------------------------------

    def connection(
        self,
        timeout: float | None = None,
        readonly: bool = False,
        read_timeout: float | None = None,
        *,
        stacklevel: int = 1,
    ) -> AbstractContextManager[C]:
        """Check a connection out for a ``with`` block, which commits at its end or rolls back if it raises.

        Args:
            timeout: Maximum seconds to wait for a connection. Default: the pool's ``timeout``.
            readonly: Whether the block always ends in a rollback. Default ``False``.
            read_timeout: Maximum seconds of a statement in this block, instead of the URL's ``read_timeout``.
            stacklevel: The frame that messages name as the place of the checkout; see ``getconn``.

        Returns:
            A context manager, which returns the connection to the ``with`` statement.

        Raises:
            PoolError: No connection can be had: ``PoolTimeout``, ``ConnectFailed``, ``TooManyRequests``,
                ``PoolDeadlock`` or ``PoolClosed``.
            ConfigError: The driver cannot change ``read_timeout``.
        """
        return Block(
            self._check_out,
            self._check_in,
            self._connector,
            self._errors.not_checked_out,
            self._reset,
            timeout,
            readonly,
            read_timeout,
            stacklevel,
        )

    def transaction(
        self,
        function: Callable[[C], T],
        *,
        retry: int = 0,
        timeout: float | None = None,
        read_timeout: float | None = None,
    ) -> T:
        """Call ``function`` with a connection in a transaction, commit, and return its result.

        The transaction is rolled back if ``function`` raises an error. With autocommit, a transaction is begun first.

        The call is repeated if the transaction failed because of a conflict with another one, such as a deadlock or a
        lock timeout. The page about errors lists the codes. If ``connect`` is a callable, the code is taken from the
        error's first argument, its ``sqlstate`` or its ``pgcode``. Before each further attempt the thread waits without
        a connection, longer each time.

        Args:
            function: Called with the connection. A rollback must undo all its effects if ``retry`` is not 0.
            retry: Maximum number of further attempts. Default 0.
            timeout: Maximum seconds to wait for a connection. Default: the pool's ``timeout``.
            read_timeout: Maximum seconds of a statement, instead of the URL's ``read_timeout``.

        Returns:
            The result of ``function``.

        Raises:
            PoolError: No connection can be had; see ``connection``.
            ConfigError: The driver cannot change ``read_timeout``.
        """
        for attempt in itertools.count():
            try:
                with self.connection(timeout, read_timeout=read_timeout) as connection:
                    self._driver.begin(connection)
                    return function(connection)
            except Exception as error:
                if attempt >= retry or not self._driver.can_run_again(error):
                    raise
            # A random pause, so that the same transactions do not deadlock again.
            time.sleep(pause(attempt, _FIRST_PAUSE, _MAX_PAUSE))
        raise AssertionError("unreachable")

    def getconn(self, timeout: float | None = None, *, stacklevel: int = 1) -> C:
        """Check a connection out; the same thread must return it by ``putconn``.

        ``connection()`` is safer, because its block always returns the connection.

        Args:
            timeout: Maximum seconds to wait for a free or a new connection. Default: the pool's ``timeout``.
            stacklevel: The frame that messages name as the place of the checkout: 1 (the default) is the caller, 2 the
                caller's caller.

        Returns:
            The connection.

        Raises:
            PoolTimeout: No connection became free within the timeout.
            ConnectFailed: A new connection could not be opened.
            TooManyRequests: ``max_waiting`` threads wait already.
            PoolDeadlock: Only the waiting threads themselves could return a connection.
            PoolClosed: The pool is closed.
        """
        return self._check_out(timeout, sys._getframe(stacklevel)).connection

    def _check_out(self, timeout: float | None, frame: FrameType, *, in_block: bool = False) -> Slot[C]:
        """Take an idle slot, wait for one, or open one."""
        thread = live_threads.get(get_ident()) or current()
        token = None if self.request_token is None else self.request_token()
        state = self._state
        limit = self.timeout if timeout is None else timeout
        asked = monotonic()
        slot: Slot[C] | None = None
        try:
            with state.lock:
                slot = state.take_idle(thread)
            if slot is None:
                slot = self._queue.wait_for_slot(thread, limit, asked, frame)
            while True:
                slot.token = token
                slot.since = now = monotonic()
                slot.code = frame.f_code
                slot.instruction = frame.f_lasti
                if self._debug:
                    slot.stack = stack_of(frame)
                if slot.state is CONNECTING:
                    self._connect(slot, limit, asked)
                elif not self._connector.prepare(
                    slot.connection, thread.ident, now - slot.idle_since, asked + limit - now
                ):
                    slot = self._sessions.replace(slot, asked + limit)
                    continue
                slot.checkouts += 1
                slot.in_block = in_block
                slot.state = CHECKED_OUT
                return slot
        except BaseException as error:
            if is_pool_error(error):
                self._sessions.recover_slot(slot)
            else:
                # An error of any class: a signal handler may raise anything at any place.
                self._sessions.recover(thread)
            raise

    def _connect(self, slot: Slot[C], limit: float, asked: float) -> None:
        """Open the connection of a slot. Raises PoolTimeout, PoolClosed or ConnectFailed."""
        deadline = asked + limit
        pause_left = self._connector.out_of_service_pause_left()
        if pause_left > 0:
            # The last servers were out of service. A balancer needs a moment to notice.
            time.sleep(max(0.0, min(pause_left, deadline - monotonic())))
        if self._state.is_closed:
            raise self._errors.closed_while_waiting()
        if monotonic() >= deadline:
            raise self._queue.timed_out(limit)
        self._maintenance.begin()  # so that the scoreboard shows a connect that takes long, or fails
        began = monotonic()
        self._sessions.open(slot, deadline - began)
        seconds = monotonic() - began
        self._sessions.settle()  # the next thread may connect
        self._slow_checkouts.log_connect(slot, seconds, self._driver.address)

    # --- check in ---------------------------------------------------------------------------------------------------

    def putconn(self, connection: C, *, discard: bool = False, reset: Reset | EllipsisType | None = ...) -> None:
        """Return a connection to the pool, cleaned.

        A connection that its holder has closed is ignored.

        Args:
            connection: The connection, checked out by this thread or by a thread that has ended.
            discard: Whether the connection is closed instead. Any thread may do that. Default ``False``.
            reset: Cleaning of this connection, ``"rollback"``, ``"session"`` or ``None``; ``None`` is for callers that
                have rolled back. Default: the pool's ``reset``.

        Raises:
            ValueError: The connection is not checked out of this pool, or a ``with`` block holds it.
            WrongThread: Another live thread holds the connection.
        """
        slot = self._state.slot_of(connection)
        if slot is None or slot.state is not CHECKED_OUT:
            if self._closed_by_holder.pop(id(connection), None) is connection:
                return
            raise self._errors.not_checked_out()
        if slot.in_block:
            raise self._errors.held_by_block()
        if slot.thread.ident != get_ident() or slot.thread.has_ended:
            self._take_over(slot, from_live_thread=discard)
        # During an asynchronous exception the connection may be in the middle of an answer.
        error = sys.exception()
        keep = not discard and (error is None or not is_asynchronous(error))
        self._check_in(slot, self._reset if reset is ... else reset, keep=keep)

    def ping(self, timeout: float) -> None:
        """Check a connection out, ask the server for an answer, and return the connection.

        Args:
            timeout: Maximum seconds to wait for a connection, and again for the answer.

        Raises:
            PoolError: No connection can be had; see ``getconn``.
            Exception: The server does not answer; the driver's own error. The connection is closed.
        """
        connection = self.getconn(timeout, stacklevel=2)
        try:
            self._driver.ping(connection, max(timeout, MIN_ANSWER_TIMEOUT))
        except BaseException:
            self.putconn(connection, discard=True)
            raise
        self.putconn(connection, reset=None)

    def adopt(self, connection: C, *, share: bool = False) -> None:
        """Make the calling thread the holder of a connection that another thread has checked out.

        Args:
            connection: The connection. The other thread must not use it any more.
            share: Whether the other thread stays the one that must return the connection. The two threads may then
                use it in turns, if each adopts it first. Default ``False``.

        Raises:
            ValueError: The connection is not checked out of this pool.
        """
        slot = self._state.slot_of(connection)
        if slot is None:
            raise self._errors.not_checked_out()
        self._take_over(slot, from_live_thread=True, share=share)

    def _take_over(self, slot: Slot[C], *, from_live_thread: bool, share: bool = False) -> None:
        """Make this thread the holder of a slot that another thread has checked out."""
        thread = current()
        token = None if self.request_token is None else self.request_token()
        with self._state.lock:
            if slot.state is not CHECKED_OUT:
                raise self._errors.not_checked_out()
            if not (from_live_thread or slot.thread.has_ended):
                raise self._errors.wrong_thread(slot)
            self._driver.adopt(slot.connection, thread.ident)
            if not share:
                slot.token = token
                slot.thread = thread

    def _check_in(self, slot: Slot[C], how: Reset | None, *, keep: bool = True) -> None:
        """Clean a connection and make it idle, or close it if it must not be used again."""
        state, permit = self._state, slot.permit
        thread = live_threads.get(get_ident()) or current()
        # No other thread runs between the check and the move: a concurrent discard comes before, or too late.
        if slot.state is not CHECKED_OUT:
            raise self._errors.not_checked_out()
        try:
            slot.thread = thread  # a block, such as that of a generator, may end on another thread
            slot.state = RETURNING
            state.use_time.add(monotonic() - slot.since)
            if slot.is_outdated or not keep:
                self._sessions.close(slot, slot.close_reason)
                return
            if permit is not None and self.permits is not None and self.permits.must_yield(permit, monotonic()):
                self._sessions.close(slot, "budget")
                return
            try:
                self._connector.check_in(slot.connection, how)
            except Exception as error:
                self._connector.log_closing(error, "it could not be cleaned")
                state.reset_failures += 1
                self._sessions.close(slot, "broken")
                return
            with state.lock:
                state.check_in(slot, monotonic())
            if state.to_close:
                self._sessions.settle()
        except BaseException:
            self._sessions.recover(thread)
            raise

    def _holder_closes(self, connection: C) -> None:
        """Handle `close()` of a connection that is checked out."""
        slot = self._state.slot_of(connection)
        if slot is not None and slot.state is CHECKED_OUT:
            if not (self._close_returns or slot.in_block):
                self._closed_by_holder[id(connection)] = connection
            keep = self._close_returns and not is_asynchronous(sys.exception())
            self._check_in(slot, self._reset or "rollback", keep=keep)

    # --- the whole pool ---------------------------------------------------------------------------------------------

    @property
    def min_size(self) -> int:
        """Number of connections that are kept open, even unused."""
        return self._state.min_size

    @property
    def max_size(self) -> int:
        """Maximum number of open connections."""
        return self._state.max_size

    @property
    def size(self) -> int:
        """Number of connections that are open or being opened; never more than ``max_size``."""
        return len(self._state.slots)

    @property
    def idle(self) -> int:
        """Number of connections that are open and free."""
        return len(self._state.idle)

    @property
    def in_use(self) -> int:
        """Number of connections that are checked out, on their way out or in, or being closed."""
        with self._state.lock:
            return self.size - self.idle - self._state.connecting

    @property
    def waiting(self) -> int:
        """Number of threads that wait for a connection."""
        return len(self._state.waiting)

    def stats(self) -> Stats:
        """Return the current numbers of the pool and its counters.

        Returns:
            The statistics, all of one moment.
        """
        state = self._state
        with state.lock:
            idle, size, connecting = len(state.idle), len(state.slots), state.connecting
            return Stats(
                name=self.name,
                min_size=state.min_size,
                max_size=state.max_size,
                size=size,
                idle=idle,
                in_use=size - idle - connecting,
                connecting=connecting,
                waiting=len(state.waiting),
                checkouts=state.checkouts,
                waits=state.waits,
                wait_seconds=state.wait_time.seconds,
                timeouts=self._queue.timeouts,
                refused=self._queue.refused,
                opened=state.opened,
                connect_failures=self._sessions.connect_failures,
                reset_failures=state.reset_failures,
                max_in_use=state.max_in_use,
                max_waiting=state.max_waiting,
                closed={reason: count for reason, count in state.closed.items() if count},
            )

    def observe(self) -> Observation:
        """Return what the scoreboard shows of the pool. Takes no lock: a signal handler may call this.

        Returns:
            The numbers, which other threads may change in the meantime.
        """
        state = self._state
        slots = tuple(state.slots)
        checkouts, without_wait = state.count_checkouts()
        return Observation(
            idle=sum(slot.state is IDLE for slot in slots),
            in_use=sum(slot.state not in (IDLE, CONNECTING, CLOSED) for slot in slots),
            connecting=sum(slot.state is CONNECTING for slot in slots),
            max_in_use=state.max_in_use,
            max_waiting=state.max_waiting,
            checkouts=checkouts,
            without_wait=without_wait,
            waits=state.waits,
            timeouts=self._queue.timeouts,
            refused=self._queue.refused,
            opened=state.opened,
            connect_failures=self._sessions.connect_failures,
            reset_failures=state.reset_failures,
            closed={reason: count for reason, count in state.closed.items() if count},
            wait_time=state.wait_time,
            use_time=state.use_time,
            create_time=state.create_time,
            holders=[slot.hold() for slot in slots if slot.state is CHECKED_OUT],
            waiters=[Hold(waiter.thread.ident, waiter.asked, None, 0) for waiter in tuple(state.waiting)],
            address=self._driver.address,
            failure=self._failure(),
        )

    def _failure(self) -> str:
        failure = self._connector.describe_failure()
        if failure and isinstance(self._driver, CallableDriver):
            return "the last connect failed; see the log"  # an unknown program may name a password
        return failure[:_MAX_FAILURE]

    def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Change the sizes.

        Surplus connections are closed as soon as they are idle. Waiting threads use new room at once.

        Args:
            min_size: Number of connections that are kept open.
            max_size: Maximum number of open connections. Default: unchanged.

        Raises:
            ValueError: A size is out of range.
        """
        with self._state.lock:
            self._state.resize(min_size, self.max_size if max_size is None else max_size)
        self._sessions.settle()
        self._maintenance.begin()

    def drain(self) -> None:
        """Close all connections, those in use when they are returned, and open new ones as needed.

        Use this after a change that new connections must see, such as a new certificate or another primary server. The
        driver reads its files again.
        """
        self._driver.reload()
        with self._state.lock:
            for slot in tuple(self._state.slots):
                self._state.retire(slot, "surplus")
        self._sessions.settle()
        background.wake()

    def close(self, timeout: float = 0.0) -> bool:
        """Close the pool: idle connections now, those in use when they are returned.

        From now on, checkouts raise ``PoolClosed``.

        Args:
            timeout: Maximum seconds to wait for connections in use. Default 0.

        Returns:
            Whether all connections are closed.
        """
        closer = Wakeup()
        with self._state.lock:
            self._state.closers.append(closer)
            self._state.close()
        self.wind_down()
        self._sessions.settle()
        if self.size:
            closer.wait(timeout)
        return not self.size

    def wind_down(self) -> None:
        """Close the idle connections and keep none from now on, but go on serving: the process is about to end.

        Does not log, and does not wait for the interrupted thread. Under prefork, mod_wsgi calls this in a signal
        handler, whose thread may hold the lock.
        """
        self._state.is_ending = True
        self._sessions.settle_anywhere()

    def reclaim(self, thread_id: int) -> int:
        """Take back the connections that a thread has not returned, at the end of its request.

        The connections are closed, because the code may still refer to them. A warning in the log names the place of
        each checkout.

        Args:
            thread_id: Identifier of the thread, as returned by ``threading.get_ident()``.

        Returns:
            Number of connections taken back.
        """
        return self._maintenance.reclaim(thread_id)

    def maintain(self) -> float | None:
        """Do the maintenance that is due; the background thread calls this.

        Returns:
            Seconds until the next call, ``None`` if none is due.
        """
        return self._maintenance.maintain()

    def _after_fork(self) -> None:
        """Empty the pool in the child of a fork, without sending anything: the sessions belong to the parent."""
        inherited = tuple(self._state.slots)
        for slot in inherited:
            slot.state = CLOSED  # so that a block in the child returns nothing
        self._state.reset()
        self._queue.reset_counts()
        self._sessions.connect_failures = 0
        self._connector.reset()
        self._exhaustion.reset()
        for slot in inherited:
            if slot.connection is not None:
                self._driver.after_fork(slot.connection)


_every_pool: weakref.WeakSet[Pool[Any]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for pool in list(_every_pool):
        pool._after_fork()


_runtime.after_fork(_after_fork_in_child)
