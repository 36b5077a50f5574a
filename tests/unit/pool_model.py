"""A model of a pool without threads: the expected outcome of each step of each actor, in the simplest terms.

The work of an actor is a generator. It yields while the actor sleeps in the queue or waits for a connect. So the steps
follow each other without locks, and their outcome is known.
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
from wsgipool.pool._slot import CloseReason

T = TypeVar("T")

Story = Generator[None, BaseException | None, T]
"""The work of an actor. It yields to wait, and is sent the outcome of its connect."""


@dataclass(frozen=True)
class Settings:
    """The settings of a pool that do not change."""

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


@dataclass(eq=False)
class Connection:
    """An opened connection."""

    number: int
    expires: float
    idle_since: float
    held_by: Actor | Block | None = None
    alive: bool = True
    answer_due: bool = False
    is_open: bool = True
    retired: CloseReason | None = None
    calls: list[str] = field(default_factory=list)
    faults: dict[str, BaseException] = field(default_factory=dict)

    @property
    def holder(self) -> Actor | None:
        return self.held_by.actor if isinstance(self.held_by, Block) else self.held_by

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
    holder: Actor | Block
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
    """The pool. `settle()` has its rules: which waiter is served next, and which connection is closed."""

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
        """Connects of the background that have not begun."""
        self.at_the_gate: set[Actor] = set()
        self.outcomes: dict[Actor, object] = {}
        self.waits = self.timeouts = self.refused = self.opened = self.connect_failures = self.checkouts = 0
        self.wait_seconds = 0.0
        self.closed: Counter[CloseReason] = Counter()
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
        """The time of the next connect, after failed ones."""
        return self._paused_until if self._failures else 0.0

    @property
    def is_paused(self) -> bool:
        return self.paused_until > self._clock()

    @property
    def has_room(self) -> bool:
        return self.size < self.max_size and len(self.connecting) < self.settings.max_connecting

    def held(self) -> list[Connection]:
        return [connection for connection in self.open if connection.held_by is not None]

    # --- stories -------------------------------------------------------------------------------------------------

    def begin(self, actor: Actor, story: Story[object]) -> None:
        """Run an actor's story until it ends or has to wait."""
        self._stories[actor] = story
        self._go_on(actor, None)

    def connect_ends(self, actor: Actor, error: BaseException | None) -> None:
        """Continue the story of an actor that connects."""
        self._go_on(actor, error)

    def wake(self) -> None:
        """Continue the stories of the woken actors."""
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

    # --- checkouts -----------------------------------------------------------------------------------------------

    def getconn(self, actor: Actor, timeout: float) -> Story[int]:
        connection = yield from self._check_out(actor, actor, timeout)
        return connection.number

    def enter(self, block: Block, timeout: float) -> Story[int]:
        block.connection = yield from self._check_out(block.actor, block, timeout)
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

    def _check_out(self, actor: Actor, holder: Actor | Block, timeout: float) -> Story[Connection]:
        turn = Turn(actor, holder, timeout, self._clock())
        if self.idle:
            self._assign(self.idle.pop(), turn)
        else:
            try:
                self._queue(turn)
            except PoolError:
                self.settle()  # an actor that leaves the queue serves the others
                raise
            if turn in self.waiting:
                turn.sleeps = True
                yield
        while (connection := turn.connection) is not None:
            if self._is_usable(connection):
                self.checkouts += 1
                return connection
            self._replace_dead(connection, turn)
        return (yield from self._connect(turn))

    def _queue(self, turn: Turn) -> None:
        self._reclaim_ended()
        self._check_may_wait(turn.actor)
        self.waiting.append(turn)
        self.settle()
        if turn in self.waiting and turn.timeout == 0:
            self.waiting.remove(turn)
            raise self._timed_out()

    def _check_may_wait(self, actor: Actor) -> None:
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
    def _assign(connection: Connection, turn: Turn) -> None:
        connection.held_by = turn.holder
        turn.connection = connection

    def _is_usable(self, connection: Connection) -> bool:
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
        """Replace a dead connection; its place stays with the actor that has found it."""
        self.end(connection, "broken")
        turn.connection = None
        if self.idle:
            self._assign(self.idle.pop(), turn)
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
        self._add(connection, turn)
        self._assign(connection, turn)
        self.checkouts += 1
        self.settle()
        return connection

    def _add(self, connection: Connection, opener: Turn | Opening) -> None:
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
            self._add(connection, opening)
            self.idle.append(connection)
        self.settle()

    # --- returns -------------------------------------------------------------------------------------------------

    def putconn(self, actor: Actor, connection: Connection | None) -> Story[None]:
        yield from ()
        if connection is None or connection.held_by is None or isinstance(connection.held_by, Block):
            raise ValueError
        if connection.held_by is not actor and connection.held_by.lives:
            raise WrongThread
        self._take_back(connection, self.settings.reset)

    def exit(self, block: Block, error: BaseException | None) -> Story[None]:
        yield from ()
        self.leave(block, error)

    def leave(self, block: Block, error: BaseException | None) -> None:
        connection = block.connection
        assert connection is not None
        if connection.held_by is not block:
            if error is None and not block.readonly:
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
            self._take_back(connection, "session" if self.settings.reset == "session" else None)

    def _undo(self, connection: Connection, error: BaseException) -> None:
        if isinstance(error, Exception):
            self._take_back(connection, self.settings.reset or "rollback")
        else:
            self.end(connection, connection.retired or "broken")
            self.settle()

    def _take_back(self, connection: Connection, how: Reset | None) -> None:
        connection.held_by = None
        try:
            if connection.retired:
                self.end(connection, connection.retired)
            else:
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

    # --- settle --------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Close surplus connections; serve waiters in order, with the connection that was returned last."""
        self._decide()
        if self.is_winding_down:
            self.wind_down()

    def _decide(self) -> None:
        for connection in self.idle.copy():
            if connection.retired:
                self.end(connection, connection.retired)
        while self.size > self.max_size and self.idle:
            self.end(self.idle[-1], "surplus")
        while self.waiting:
            turn = self.waiting[0]
            if self.idle:
                self._assign(self.idle.pop(), turn)
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

    def end(self, connection: Connection, ending: CloseReason) -> None:
        with contextlib.suppress(OSError):  # a driver's close never raises an Exception
            connection.call("close")
        connection.is_open = False
        connection.held_by = None
        self.open.remove(connection)
        if connection in self.idle:
            self.idle.remove(connection)
        self.closed[ending] += 1

    # --- requests, changes, maintenance --------------------------------------------------------------------------

    def reclaim(self, actor: Actor) -> int:
        leaked = [connection for connection in self.open if connection.holder is actor]
        for connection in leaked:
            self.end(connection, "leaked")
        self.settle()
        return len(leaked)

    def _reclaim_ended(self) -> None:
        """Take back the connections of ended threads."""
        leaked = [connection for connection in self.held() if connection.holder and not connection.holder.lives]
        for connection in leaked:
            self.end(connection, "leaked")
        if leaked:
            self.settle()

    def resize(self, min_size: int, max_size: int) -> None:
        self.min_size, self.max_size = min_size, max_size
        self.settle()

    def drain(self) -> None:
        for connection in self.open:
            connection.retired = connection.retired or "surplus"
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

    def maintain(self, actor: Actor) -> Story[float | None]:
        self._reclaim_ended()
        self._close_the_aged()
        self.settle()
        openings = self._begin_openings()
        pause = self._pause()
        for opening in openings:
            if self._background.can_run:
                self.recorded.append(opening)
            else:
                yield from self.background_connects(actor, opening)
        return pause

    def _pause(self) -> float | None:
        min_size = 0 if self.is_winding_down else self.min_size
        is_short = self.size < (self.max_size if self.waiting else min_size)
        if self.is_winding_down and not self.open:
            return None
        if is_short:
            return max(0.05, self.paused_until - self._clock())
        if not self.size:
            return None
        return min(max(0.05, min(self.settings.max_idle, self.settings.max_lifetime) / 10), 30.0)

    def _close_the_aged(self) -> None:
        now = self._clock()
        for connection in self.open.copy():
            if now < connection.expires or connection.retired is not None:
                continue
            if connection in self.idle:
                self.end(connection, "lifetime")
            else:
                connection.retired = "lifetime"
        for connection in self.idle.copy():
            if self.size > self.min_size and now - connection.idle_since >= self.settings.max_idle:
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
