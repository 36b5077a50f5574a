"""psycopg's connection with what a pool needs: answers that are read later, and restored state.

It knows what its holders can change and what makes it unusable. It knows no pool and no settings.
"""

from __future__ import annotations

import select
import traceback
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import pq
from psycopg._queries import PostgresQuery
from psycopg.adapt import AdaptersMap

from wsgipool.drivers import CLOSED_BY_HOLDER, DEFAULT_READ_TIMEOUT, MIN_ANSWER_TIMEOUT, Holder, delete_attributes
from wsgipool.drivers.polling import is_readable

if TYPE_CHECKING:
    from psycopg.abc import AdaptContext, PQGen
    from psycopg.pq.abc import PGconn

_Value = TypeVar("_Value")

_INTERVAL = 0.1
"""Seconds after which a wait checks for its timeout and for Ctrl-C; psycopg's default."""


class PooledConnection(psycopg.Connection[Any]):
    """A psycopg connection that reads answers later, limits its waits and notices the session's end."""

    is_out_of_service: Callable[[BaseException], bool]
    """The driver's check whether an error shows that the server can do no work."""

    def __init__(self, pgconn: PGconn, *arguments: Any, **options: Any) -> None:
        """Take a connected `PGconn`."""
        super().__init__(pgconn, *arguments, **options)
        self.holder = Holder()
        self.answer_is_due = False
        self.sent_at = 0.0
        self.read_timeout = DEFAULT_READ_TIMEOUT
        self._own_adapters: AdaptersMap | None = None
        self._failure = ""
        self._is_out_of_step = False
        self._out_of_service: psycopg.Error | None = None
        self._end_notices = _EndNotices()
        self.add_notice_handler(self._end_notices)
        self._has_input = is_readable(pgconn.socket)
        self._names: frozenset[str] = frozenset()

    # --- state that holders can change -------------------------------------------------------------------------------

    @property
    def adapters(self) -> AdaptersMap:
        """The adapters registered before `remember`, and those of the holder."""
        if self._own_adapters is None:
            self._own_adapters = AdaptersMap(self._remembered_adapters)
        return self._own_adapters

    _remembered_adapters: AdaptersMap = psycopg.adapters

    def use_adapters(self, context: AdaptContext) -> None:
        """Adapt values as another context does, for instance a connection."""
        self._own_adapters = AdaptersMap(context.adapters)

    def remember(self) -> None:
        """Note the state for `restore`."""
        self._remembered_adapters, self._own_adapters = self.adapters, None
        self._remembered = {name: getattr(self, name) for name in _SETTINGS}
        every: tuple[list[Any], ...] = (self._notice_handlers, self._notify_handlers)
        self._remembered_handlers = [(handlers, list(handlers)) for handlers in every]
        self._remembered_encoding = self.pgconn.parameter_status(b"client_encoding")
        self._remembered_hooks = self.pgconn.notice_handler, self.pgconn.notify_handler
        self._names = frozenset(vars(self)) | {"_names"}

    def commands_to_restore(self) -> list[bytes]:
        """Return the SQL that restores the session's part of this object's state."""
        encoding = self._remembered_encoding
        if encoding is None or self.pgconn.parameter_status(b"client_encoding") == encoding:
            return []
        return [b"SET client_encoding TO '" + encoding + b"'"]

    def restore(self) -> None:
        """Restore the state that a holder can change. In a transaction psycopg refuses some of it."""
        if self.pgconn.transaction_status == pq.TransactionStatus.IDLE:
            self.refuse_open_blocks()
        delete_attributes(self, but=self._names)
        self._own_adapters = None
        for name, value in self._remembered.items():
            if getattr(self, name) != value:
                setattr(self, name, value)
        for handlers, remembered in self._remembered_handlers:
            if handlers != remembered:
                handlers[:] = remembered
        self.pgconn.notice_handler, self.pgconn.notify_handler = self._remembered_hooks
        self.pgconn.nonblocking = 1
        self.pgconn.untrace()
        if self._notifies_backlog:
            self._notifies_backlog.clear()

    # --- answers that are read later ---------------------------------------------------------------------------------

    def send(self, statement: bytes) -> None:
        """Send statements that have no rows, and leave their answer to `read_answer`."""
        # psycopg's rollback() does the same: a prepared statement may refer to a changed or dropped table.
        self._prepared.clear()
        self.answer_is_due = True  # before sending, which an asynchronous exception may interrupt
        self.sent_at = monotonic()
        self.pgconn.send_query(statement)
        if self.pgconn.flush():
            raise psycopg.OperationalError("the server takes no more commands")

    def read_answer(self, timeout: float) -> None:
        """Read the due answer. Raise if it is an error or does not arrive in time."""
        deadline = monotonic() + timeout
        while True:
            while self.pgconn.is_busy():
                remaining = deadline - monotonic()
                # The socket of a server that sends an endless answer is always ready.
                if remaining <= -MIN_ANSWER_TIMEOUT or not ready(self.pgconn.socket, select.POLLIN, remaining):
                    raise psycopg.OperationalError(f"the server did not answer within {timeout:g} s")
                self.pgconn.consume_input()
            result = self.pgconn.get_result()
            if result is None:
                break
            if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY):
                raise psycopg.OperationalError(pq.error_message(result))
        self.answer_is_due = False

    # --- states in which it cannot be used ---------------------------------------------------------------------------

    def refuse_unfinished(self) -> None:
        """Raise if an answer is not read to its end, or the server can do no work."""
        self._refuse_failed()
        if self._out_of_service is not None:
            raise self._out_of_service
        self._check_connection_ok()
        if self.lock.locked():
            raise psycopg.OperationalError("a stream() or notifies() was not read to its end")
        if self.answer_is_due or self._is_busy() or self.pgconn.pipeline_status != pq.PipelineStatus.OFF:
            raise psycopg.OperationalError("an answer was not read to its end, or a pipeline was left open")
        self._refuse_ended()

    def refuse_open_blocks(self) -> None:
        """Raise if a `transaction()` block or a two-phase commit is open.

        Call it outside a transaction: then it costs no round trip.
        """
        self.rollback()

    def fail(self, why: str) -> None:
        """Make the next use of the connection raise this message."""
        self._failure = self._failure or why

    @property
    def broken(self) -> bool:
        """Whether it cannot be used any more, though nobody has closed it: SQLAlchemy asks after an error."""
        return bool(self._failure) or super().broken

    def has_ended(self) -> bool:
        """Process unexpected input, and return whether it ends the session or is an answer."""
        try:
            if self.pgconn.status != pq.ConnStatus.OK:
                return True
            if self._has_input():
                self.pgconn.consume_input()  # raises at the end of file
            # psycopg does this after each answer, but not for input that libpq has read already. PQnotifies also calls
            # the handler of notices.
            while notification := self.pgconn.notifies():
                if self.pgconn.notify_handler:
                    self.pgconn.notify_handler(notification)
        except psycopg.Error:
            return True
        # The reason arrives before the end of file.
        return self._end_notices.has_ended

    def close(self) -> None:
        self.holder.close(self.end)

    def end(self) -> None:
        """End the session without calling the hook."""
        self.fail(CLOSED_BY_HOLDER)
        super().close()

    # --- psycopg's methods -------------------------------------------------------------------------------------------

    def wait(self, gen: Any, interval: float = _INTERVAL, timeout: float | None = None) -> Any:
        """As psycopg's, through which all commands pass, with a limit to the server's silence."""
        self._refuse_failed()
        # Only their order relates a pipeline's answers to its commands. The order is safe after success or an answer.
        self._is_out_of_step = self._pipeline is not None
        try:
            value = super().wait(self._limited(gen), interval, timeout)
        except BaseException as error:
            if isinstance(error, psycopg.Error) and self.is_out_of_service(error):
                self._out_of_service = error
            if self._is_busy() and gen.gi_frame is not None:  # an asynchronous exception: the generator is not finished
                self.fail("a statement was interrupted before its answer was read to its end")
            if _keeps_pipeline_in_step(error):
                self._is_out_of_step = False
            raise
        self._is_out_of_step = False
        return value

    def _refuse_failed(self) -> None:
        if self._is_out_of_step:
            self.fail("an exception came between the commands of a pipeline and their answers")
        self._refuse_failure()

    def _refuse_failure(self) -> None:
        if self._failure:
            raise psycopg.OperationalError(self._failure)

    def _limited(self, work: PQGen[_Value]) -> PQGen[_Value]:
        """Run one of psycopg's generators; fail if the server is silent for `read_timeout`."""
        try:
            wanted = next(work)
            heard_at = monotonic()
            while True:
                ready = yield wanted  # 0 after each interval in which the server is silent
                if ready:
                    heard_at = monotonic()
                elif monotonic() - heard_at >= self.read_timeout and self._is_busy():
                    self.fail(
                        f"the server was silent for {self.read_timeout:g} s; a statement that takes longer needs "
                        "a longer read_timeout"
                    )
                    raise psycopg.OperationalError(self._failure)
                wanted = work.send(ready)
        except StopIteration as end:
            value: _Value = end.value
            return value

    def _is_busy(self) -> bool:
        """Return whether a statement is running; a wait for notifications has none, and no read timeout."""
        return self.pgconn.transaction_status == pq.TransactionStatus.ACTIVE

    def _check_connection_ok(self) -> None:
        self._refuse_failure()  # also within a wait, so without the check of the pipeline's order
        super()._check_connection_ok()

    # Before each command, refuse unexpected input: it would be taken for the answer to the command.

    def _start_query(self) -> PQGen[None]:
        self._refuse_ended()
        return super()._start_query()

    def _exec_command(self, *arguments: Any, **options: Any) -> Any:
        self._refuse_ended()
        return super()._exec_command(*arguments, **options)

    def _refuse_ended(self) -> None:
        if self._pipeline is None and not self._is_busy() and self.has_ended():
            self.fail("the server has ended the session, or has sent unexpected input")
            self._refuse_failed()


_SETTINGS = (
    *("autocommit", "isolation_level", "read_only", "deferrable", "prepare_threshold", "prepared_max"),
    *("row_factory", "cursor_factory", "server_cursor_factory", "read_timeout"),
)


def _keeps_pipeline_in_step(error: BaseException) -> bool:
    """Return whether each command of a pipeline still has its own answer after an exception.

    That is so after an answer that is an error, and during the conversion of parameters, before a command. A signal
    handler may raise anywhere. A row factory may raise after an answer was read and before psycopg counts it.
    """
    if isinstance(error, psycopg.errors.PipelineAborted) or getattr(error, "pgresult", None) is not None:
        return True
    return any(frame.f_code in _CONVERTING for frame, _ in traceback.walk_tb(error.__traceback__))


_CONVERTING = (psycopg.Cursor._convert_query.__code__, PostgresQuery.dump.__code__)


class _EndNotices:
    """A notice handler that detects the end of the session, which arrives as a notice between commands.

    For an unexpected answer libpq itself makes a notice, which has no SQLSTATE.
    """

    has_ended = False

    def __call__(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized in ("FATAL", "PANIC") or notice.sqlstate is None:
            self.has_ended = True


def ready(descriptor: int, event: int, timeout: float) -> bool:
    """Return whether a descriptor becomes ready for an event within `timeout` seconds."""
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(max(0.0, timeout) * 1000))
