"""A pool as it should be, without threads: what each actor would get, and what would be left, in the simplest terms.

What an actor does is a generator that yields where it sleeps in the queue or waits for a connect to end. So one thing
happens after another, nothing needs a lock, and what must come out can be read off.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from unit.conftest import Clock
from unit.stage import Actor, Background
from wsgipool import ConnectFailed, PoolClosed, PoolDeadlock, PoolError, PoolTimeout, TooManyRequests, WrongThread
from wsgipool.drivers import Reset
from wsgipool.loan import Ending

T = TypeVar("T")

Story = Generator[None, BaseException | None, T]
"""What an actor does: yields where it has to wait, is sent what its connect comes to."""


@dataclass(frozen=True)
class Settings:
    """The settings of a pool that stay as they are."""

    has_driver: bool
    reset: Reset | None
    pipelined: bool
    pipeline: bool
    checks: bool
    debug: bool
    max_waiting: int
    max_connecting: int
    check_after: float
    max_idle: float
    max_lifetime: float

    @property
    def is_plain(self) -> bool:
        return not self.has_driver and not self.checks

    @property
    def lends_as_is(self) -> bool:
        return self.is_plain and not self.debug


@dataclass(eq=False)
class Connection:
    """One that has been opened."""

    number: int
    expires: float
    idle_since: float
    borrower: Actor | Block | None = None
    quiet_since: float = 0.0
    used: bool = True
    alive: bool = True
    answer_due: bool = False
    is_open: bool = True
    retired: Ending | None = None
    calls: list[str] = field(default_factory=list)
    faults: dict[str, BaseException] = field(default_factory=dict)

    @property
    def holder(self) -> Actor | None:
        return self.borrower.actor if isinstance(self.borrower, Block) else self.borrower

    def call(self, name: str) -> None:
        if name in self.faults:
            raise self.faults.pop(name)
        self.calls.append(name)


@dataclass(eq=False)
class Block:
    """A `with` block of an actor."""

    actor: Actor
    readonly: bool = False
    connection: Connection | None = None


@dataclass(eq=False)
class Turn:
    """An actor that wants a connection."""

    actor: Actor
    borrower: Actor | Block
    timeout: float
    asked: float
    connection: Connection | None = None
    sleeps: bool = False
    is_outdated: bool = False


@dataclass(eq=False)
class Opening:
    """A connect of the background."""

    is_outdated: bool = False


class Model:
    """The pool. `settle()` has its rules: who is served next, and what is closed."""

    def __init__(self, settings: Settings, min_size: int, max_size: int, clock: Clock, background: Background) -> None:
        self.settings = settings
        self.min_size = min_size
        self.max_size = max_size
        self.is_closed = False
        self.is_winding_down = False
        self.ever_opened: list[Connection] = []
        self.open: list[Connection] = []
        self.idle: list[Connection] = []
        self.waiting: deque[Turn] = deque()
        self.connecting: list[Turn | Opening] = []
        self.recorded: list[Opening] = []
        """Those of the background that have not begun."""
        self.at_the_gate: set[Actor] = set()
        self.outcomes: dict[Actor, object] = {}
        self.waits = self.timeouts = self.refused = self.opened = self.connect_failures = self.loans = 0
        self.wait_seconds = 0.0
        self.closed: Counter[Ending] = Counter()
        self._stories: dict[Actor, Story[object]] = {}
        self._woken: deque[Actor] = deque()
        self._clock = clock
        self._background = background
        self._failures = self._refusals = 0
        self._connected_at = self._paused_until = 0.0

    @property
    def size(self) -> int:
        return len(self.open) + len(self.connecting)

    @property
    def paused_until(self) -> float:
        """When the next connect may be tried, since the last ones have failed."""
        return self._paused_until if self._failures else 0.0

    @property
    def is_paused(self) -> bool:
        return self.paused_until > self._clock()

    @property
    def has_room(self) -> bool:
        return self.size < self.max_size and len(self.connecting) < self.settings.max_connecting

    def held(self) -> list[Connection]:
        return [connection for connection in self.open if connection.borrower is not None]

    # --- stories -------------------------------------------------------------------------------------------------

    def begin(self, actor: Actor, story: Story[object]) -> None:
        """Tell an actor's story up to where it ends or has to wait."""
        self._stories[actor] = story
        self._go_on(actor, None)

    def connect_ends(self, actor: Actor, error: BaseException | None) -> None:
        """Go on with the story of an actor that connects."""
        self._go_on(actor, error)

    def wake(self) -> None:
        """Go on with the stories of those who have been woken."""
        while self._woken:
            self._go_on(self._woken.popleft(), None)

    def _go_on(self, actor: Actor, error: BaseException | None) -> None:
        try:
            self._stories[actor].send(error)
        except StopIteration as end:
            self.outcomes[actor] = end.value
        except BaseException as raised:
            self.outcomes[actor] = raised
        self.wake()

    # --- borrowing -----------------------------------------------------------------------------------------------

    def getconn(self, actor: Actor, timeout: float) -> Story[int]:
        connection = yield from self._borrow(actor, actor, timeout)
        return connection.number

    def enter(self, block: Block, timeout: float) -> Story[int]:
        block.connection = yield from self._borrow(block.actor, block, timeout)
        return block.connection.number

    def transaction(self, actor: Actor, outcomes: Sequence[Exception | None], timeout: float) -> Story[int]:
        for error in outcomes:
            block = Block(actor)
            number = yield from self.enter(block, timeout)
            self.leave(block, error)
            if error is None:
                return number
            if str(error) != "deadlock" or not self.settings.has_driver:
                break
        assert error is not None
        raise error

    def _borrow(self, actor: Actor, borrower: Actor | Block, timeout: float) -> Story[Connection]:
        turn = Turn(actor, borrower, timeout, self._clock())
        if self.idle:
            self._lend(self.idle.pop(), turn)
        else:
            try:
                self._queue(turn)
            except PoolError:
                self.settle()  # who leaves lets the others have a look
                raise
            if turn in self.waiting:
                turn.sleeps = True
                yield
        while (connection := turn.connection) is not None:
            if self._is_usable(connection):
                return connection
            self._replace_dead(connection, turn)
        return (yield from self._connect(turn))

    def _queue(self, turn: Turn) -> None:
        self._refuse_the_hopeless(turn.actor)
        self.waiting.append(turn)
        self.settle()
        if turn in self.waiting and turn.timeout == 0:
            self.waiting.remove(turn)
            raise self._timed_out()

    def _refuse_the_hopeless(self, actor: Actor) -> None:
        if self.is_closed:
            raise PoolClosed
        holding = {connection.holder for connection in self.open}
        waiting = {turn.actor for turn in self.waiting} | {actor}
        if len(self.open) >= self.max_size and actor in holding and holding <= waiting:
            raise PoolDeadlock
        if self.settings.max_waiting and len(self.waiting) >= self.settings.max_waiting:
            self.refused += 1
            raise TooManyRequests

    def _timed_out(self) -> PoolTimeout:
        self.timeouts += 1
        return PoolTimeout()

    @staticmethod
    def _lend(connection: Connection, turn: Turn) -> None:
        connection.borrower = turn.borrower
        turn.connection = connection

    def _is_usable(self, connection: Connection) -> bool:
        self.loans += 1
        connection.used = True
        if self.settings.lends_as_is:
            return True
        try:
            if self.settings.has_driver:
                if connection.answer_due:
                    connection.call("read_answer")
                    connection.answer_due = False
                if not connection.alive:
                    return False
                if self._clock() - connection.idle_since > self.settings.check_after:
                    connection.call("ping")
            if self.settings.checks:
                connection.call("execute")
        except Exception:
            return False
        except BaseException:
            self.end(connection, "broken")
            self.settle()
            raise
        return True

    def _replace_dead(self, connection: Connection, turn: Turn) -> None:
        """The place of a dead connection stays with who has found it."""
        self.end(connection, "broken")
        turn.connection = None
        if self.idle:
            self._lend(self.idle.pop(), turn)
        else:
            self.connecting.append(turn)
        self.settle()

    def _connect(self, turn: Turn) -> Story[Connection]:
        try:
            connection = yield from self._opened_for(turn)
        except BaseException:
            if turn in self.connecting:
                self.connecting.remove(turn)
            self.settle()
            raise
        self._enter(connection, turn)
        self._lend(connection, turn)
        self.loans += 1
        self.settle()
        return connection

    def _enter(self, connection: Connection, opener: Turn | Opening) -> None:
        self.connecting.remove(opener)
        self.open.append(connection)
        if opener.is_outdated:
            connection.retired = "surplus"

    def _opened_for(self, turn: Turn) -> Story[Connection]:
        if self.is_closed:
            raise PoolClosed
        if turn.timeout == 0:
            raise self._timed_out()
        return (yield from self._opened_by(turn.actor))

    # --- connecting ----------------------------------------------------------------------------------------------

    def _opened_by(self, actor: Actor) -> Story[Connection]:
        if self.is_paused:
            raise ConnectFailed
        started = self._clock()
        self.at_the_gate.add(actor)
        error = yield
        self.at_the_gate.remove(actor)
        if isinstance(error, Exception):
            self.connect_failures += 1
            self._note_failure(error, started)
            raise ConnectFailed
        if error is not None:
            raise error
        now = self._connected_at = self._clock()
        self._failures = self._refusals = 0
        connection = Connection(len(self.ever_opened), now + self.settings.max_lifetime, now)
        self.ever_opened.append(connection)
        self.opened += 1
        return connection

    def _note_failure(self, error: Exception, started: float) -> None:
        if started < self._connected_at:
            return
        if isinstance(error, PermissionError) and self.settings.has_driver:
            seconds = min(2.0**self._refusals, 30.0)
            self._refusals += 1
        else:
            seconds = min(0.05 * 2.0 ** (self._failures - 1), 1.0) if self._failures else 0.0
        self._paused_until = self._clock() + seconds
        self._failures += 1

    def background_connects(self, actor: Actor, opening: Opening) -> Story[None]:
        try:
            connection = yield from self._opened_by(actor)
        except ConnectFailed:
            self.connecting.remove(opening)
        else:
            self._enter(connection, opening)
            self.idle.append(connection)
            self._decide()  # even when it winds down, this is for those who wait
        self.settle()

    # --- giving back ---------------------------------------------------------------------------------------------

    def putconn(self, actor: Actor, connection: Connection | None) -> Story[None]:
        yield from ()
        if connection is None or connection.borrower is None or isinstance(connection.borrower, Block):
            raise ValueError
        if connection.borrower is not actor and connection.borrower.lives:
            raise WrongThread
        self._take_back(connection, self.settings.reset)

    def exit(self, block: Block, error: BaseException | None) -> Story[None]:
        yield from ()
        self.leave(block, error)

    def leave(self, block: Block, error: BaseException | None) -> None:
        connection = block.connection
        assert connection is not None
        if connection.borrower is not block:
            if error is None:
                raise ValueError
        elif error is not None:
            self._undo(connection, error)
        elif block.readonly:
            self._take_back(connection, self.settings.reset or "rollback")
        else:
            try:
                connection.call("commit")
            except BaseException as raised:
                self._undo(connection, raised)
                raise
            self._take_back(connection, "session" if self.settings.reset == "session" else None, is_committed=True)

    def _undo(self, connection: Connection, error: BaseException) -> None:
        if isinstance(error, Exception):
            self._take_back(connection, self.settings.reset or "rollback")
        else:
            self.end(connection, connection.retired or "broken")
            self.settle()

    def _take_back(self, connection: Connection, how: Reset | None, *, is_committed: bool = False) -> None:
        connection.borrower = None
        try:
            if connection.retired:
                self.end(connection, connection.retired)
            elif not (is_committed and self.settings.is_plain):
                self._clean(connection, how)
        except BaseException as error:
            self.end(connection, "broken")
            if not isinstance(error, Exception):
                raise
        else:
            if connection.is_open:
                self.idle.append(connection)
        finally:
            self.settle()

    def _clean(self, connection: Connection, how: Reset | None) -> None:
        if how is not None:
            connection.call("reset_session" if how == "session" and self.settings.has_driver else "rollback")
            connection.answer_due = self.settings.has_driver and self.settings.pipelined
            if connection.answer_due and not self.settings.pipeline:
                connection.call("read_answer")
                connection.answer_due = False
        connection.idle_since = self._clock()

    # --- bringing together ---------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Close what shall not be kept; serve those who wait, first come, first served, last in, first out."""
        if self.is_winding_down:
            self.wind_down()
        self._decide()

    def _decide(self) -> None:
        for connection in self.idle.copy():
            if connection.retired:
                self.end(connection, connection.retired)
        while self.size > self.max_size and self.idle:
            self.end(self.idle[-1], "surplus")
        while self.waiting:
            turn = self.waiting[0]
            if self.idle:
                self._lend(self.idle.pop(), turn)
            elif self._may_connect_itself():
                self.connecting.append(turn)
            else:
                break
            self.waiting.popleft()
            if turn.sleeps:
                self.waits += 1
                self.wait_seconds += self._clock() - turn.asked
                self._woken.append(turn.actor)

    def _may_connect_itself(self) -> bool:
        if not self.has_room or any(isinstance(one, Opening) for one in self.connecting):
            return False
        waiting = {turn.actor for turn in self.waiting}
        return not self._background.is_running or all(connection.holder in waiting for connection in self.open)

    def end(self, connection: Connection, ending: Ending) -> None:
        with contextlib.suppress(OSError):  # a driver's close never raises an Exception
            connection.call("close")
        connection.is_open = False
        connection.borrower = None
        self.open.remove(connection)
        if connection in self.idle:
            self.idle.remove(connection)
        self.closed[ending] += 1

    # --- what others do ------------------------------------------------------------------------------------------

    def reclaim(self, actor: Actor) -> int:
        leaked = [connection for connection in self.open if connection.holder is actor]
        for connection in leaked:
            self.end(connection, "leaked")
        self.settle()
        return len(leaked)

    def resize(self, min_size: int, max_size: int) -> None:
        self.min_size, self.max_size = min_size, max_size
        self.settle()

    def drain(self) -> None:
        for connection in self.open:
            connection.retired = "surplus"
        for opener in self.connecting:
            opener.is_outdated = True
        self.settle()

    def wind_down(self) -> None:
        self.is_winding_down = True
        for connection in self.idle.copy():
            self.end(connection, connection.retired or "surplus")

    def close(self) -> bool:
        self.is_closed = self.is_winding_down = True
        self._woken.extend(turn.actor for turn in self.waiting)
        self.waiting.clear()
        self.settle()
        return not self.size

    def tend(self, actor: Actor) -> Story[float | None]:
        self._close_the_aged()
        self.settle()
        openings = self._begin_openings()
        is_short = self.size < (self.max_size if self.waiting else self.min_size)
        for opening in openings:
            if self._background.can_run:
                self.recorded.append(opening)
            else:
                yield from self.background_connects(actor, opening)
        if self.is_winding_down and not self.open:
            return None
        if is_short:
            return max(0.05, self.paused_until - self._clock())
        if not self.size:
            return None
        return min(max(0.05, min(self.settings.max_idle, self.settings.max_lifetime) / 10), 30.0)

    def _close_the_aged(self) -> None:
        now = self._clock()
        for connection in self.open:
            if now >= connection.expires and connection.retired is None:
                connection.retired = "lifetime"
            if connection.borrower is not None or connection.used:
                connection.used = False
                connection.quiet_since = now
        for connection in self.idle.copy():
            if self.size > self.min_size and now - connection.quiet_since >= self.settings.max_idle:
                self.end(connection, "idle")

    def _begin_openings(self) -> list[Opening]:
        if self.is_closed or self.is_paused:
            return []
        wanted = len(self.waiting) - sum(isinstance(one, Opening) for one in self.connecting)
        if not self.is_winding_down:
            wanted = max(wanted, self.min_size - self.size)
        room = min(wanted, self.max_size - self.size, self.settings.max_connecting - len(self.connecting))
        openings = [Opening() for _ in range(room)]
        self.connecting.extend(openings)
        return openings
