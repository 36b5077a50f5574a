"""The errors that a pool raises, with what happened, the numbers, and what to do."""

from __future__ import annotations

from threading import get_ident
from time import monotonic
from typing import Generic, NamedTuple

from wsgipool.budget.permits import Permits
from wsgipool.drivers import C
from wsgipool.errors import PoolError, WrongThread
from wsgipool.pool._connector import Connector
from wsgipool.pool._slot import Slot, describe_holders, describe_stacks
from wsgipool.pool._state import PoolState


class Counts(NamedTuple):
    """The number of connections in each state, and of waiters."""

    in_use: int
    connecting: int
    idle: int
    max_size: int
    waiting: int

    def __str__(self) -> str:
        return (
            f"{self.in_use} in use, {self.connecting} connecting, {self.idle} idle of max_size {self.max_size}, "
            f"{self.waiting} waiting"
        )


class ErrorFactory(Generic[C]):
    """Creates the errors of one pool, as subclasses of the driver's errors; see `wsgipool.errors`."""

    def __init__(self, name: str, state: PoolState[C], connector: Connector[C], permits: Permits | None) -> None:
        self._name = name
        self._state = state
        self._connector = connector
        self._driver = connector.driver
        self._permits = permits

    def counts(self) -> Counts:
        """Return the number of connections in each state, for messages."""
        state = self._state
        with state.lock:
            size, idle, connecting, waiting = len(state.slots), len(state.idle), state.connecting, len(state.waiting)
            max_size = state.max_size
        return Counts(size - idle - connecting, connecting, idle, max_size, waiting)

    def reasons(self) -> str:
        """Return the known reasons why no further connection can be opened, each after a semicolon."""
        failure = self._connector.describe_failure()
        budget = self._permits.describe() if self._permits is not None and self._permits.is_starved else ""
        return "".join(f"; {reason}" for reason in (failure, budget) if reason)

    def closed(self) -> PoolError:
        return self._driver.errors.PoolClosed(f"pool {self._name!r} is closed")

    def closed_while_waiting(self) -> PoolError:
        return self._driver.errors.PoolClosed(f"pool {self._name!r} was closed while this request waited for it")

    def reentered(self) -> PoolError:
        """Return the error for a signal handler or destructor that runs while its thread holds the lock."""
        return self._driver.errors.PoolDeadlock(
            f"a signal handler or a destructor asked pool {self._name!r} for a connection while its thread was "
            "checking one out or in; it cannot wait, because that thread would have to continue first"
        )

    def reentered_while_waiting(self) -> PoolError:
        """Return the error for a signal handler or destructor that runs while its thread waits or connects."""
        return self._driver.errors.PoolDeadlock(
            f"a signal handler or a destructor asked pool {self._name!r} for a connection while its thread was waiting "
            "for one; it cannot wait, because that thread is served first"
        )

    def reentered_while_logging(self) -> PoolError:
        """Return the error for a logging handler that would have to wait while it writes a line of this pool."""
        return self._driver.errors.PoolDeadlock(
            f"a logging handler asked pool {self._name!r} for a connection while it handled a line of that pool, and "
            "none was idle; it cannot wait, because the thread under it may have to go on first; write to the database "
            "on another thread, by logging.handlers.QueueHandler"
        )

    def deadlock(self) -> PoolError:
        held = self._state.held()
        return self._driver.errors.PoolDeadlock(
            f"all {self._state.max_size} connections of pool {self._name!r} are held by this thread and others that "
            f"wait for one more ({describe_holders(held, monotonic())}), so none would ever become free; return a "
            f"connection before you check out another, or pass it on{describe_stacks(held)}"
        )

    def too_many(self) -> PoolError:
        return self._driver.errors.TooManyRequests(
            f"{len(self._state.waiting)} requests already wait for pool {self._name!r}, as many as max_waiting allows: "
            f"{self.counts()}"
        )

    def timed_out(self, limit: float) -> PoolError:
        held = self._state.held()
        holders = f"; held: {describe_holders(held, monotonic())}" if held else ""
        is_budget = self._permits is not None and self._permits.is_starved
        return self._driver.errors.PoolTimeout(
            f"no connection of pool {self._name!r} became free within {limit:g} s: {self.counts()}{holders}"
            f"{self.reasons()}. "
            f"Hold connections for less time, {'' if is_budget else 'raise max_size, '}or wait longer with timeout"
        )

    def not_checked_out(self) -> ValueError:
        return ValueError(
            f"this connection is not checked out of pool {self._name!r}: it was returned, or closed by close(), or "
            "taken back at the end of its request, or belongs to another pool. Do not close it: leave the `with` "
            "block, or return it once by putconn"
        )

    def held_by_block(self) -> ValueError:
        return ValueError(f"this connection of pool {self._name!r} belongs to a `with` block, which returns it")

    def wrong_thread(self, slot: Slot[C]) -> WrongThread:
        return self._driver.errors.WrongThread(
            f"a connection of pool {self._name!r} was returned by thread {get_ident()}, but thread "
            f"{slot.thread.ident} holds it; return your own connections once, or take this one over by adopt()"
        )


def is_pool_error(error: BaseException) -> bool:
    """Return whether this is a PoolError of this checkout, and not of a signal handler that ran on top of it.

    The error of a handler's own `getconn` ends the checkout under it at any place, like an asynchronous exception. The
    traceback then has a frame outside this package.
    """
    trace = error.__traceback__
    while trace is not None:
        if not trace.tb_frame.f_globals.get("__name__", "").startswith("wsgipool."):
            return False
        trace = trace.tb_next
    return isinstance(error, PoolError)
