"""psycopg's connection, as a pool needs it: with answers that are read later, and nothing left for the next holder.

It knows what its holders can change and what makes it unusable, and no pool and no settings.
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

from wsgipool.drivers import CLOSED_BY_HOLDER, DEFAULT_READ_TIMEOUT, LEAST_PATIENCE, delete_attributes
from wsgipool.drivers.sockets import is_readable

if TYPE_CHECKING:
    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn

_Value = TypeVar("_Value")

_INTERVAL = 0.1
"""Seconds between two looks of a wait at whether it takes too long, or Ctrl-C was pressed; psycopg's own default."""


class PooledConnection(psycopg.Connection[Any]):
    """psycopg's connection, with an answer that may be read later, a limit to its waits, and an ear for the end."""

    is_out_of_service: Callable[[BaseException], bool]
    """Whether an error says that the server can do no work; from the driver."""

    def __init__(self, pgconn: PGconn, *arguments: Any, **options: Any) -> None:
        super().__init__(pgconn, *arguments, **options)
        self.answer_is_due = False
        self.sent_at = 0.0
        self.read_timeout = DEFAULT_READ_TIMEOUT
        self._own_adapters: AdaptersMap | None = None
        self._failure = ""
        self._is_out_of_step = False
        self._out_of_service: psycopg.Error | None = None
        self._last_words = _LastWords()
        self.add_notice_handler(self._last_words)
        self._has_input = is_readable(pgconn.socket)
        self._names: frozenset[str] = frozenset()

    # --- what its holders may change ---------------------------------------------------------------------------------

    @property
    def adapters(self) -> AdaptersMap:
        """This holder's: what was registered before `remember`, and by the holder."""
        if self._own_adapters is None:
            self._own_adapters = AdaptersMap(self._remembered_adapters)
        return self._own_adapters

    _remembered_adapters: AdaptersMap = psycopg.adapters

    def remember(self) -> None:
        """Note what `restore` restores."""
        self._remembered_adapters, self._own_adapters = self.adapters, None
        self._remembered = {name: getattr(self, name) for name in _SETTINGS}
        every: tuple[list[Any], ...] = (self._notice_handlers, self._notify_handlers)
        self._remembered_handlers = [(handlers, list(handlers)) for handlers in every]
        self._remembered_encoding = self.pgconn.parameter_status(b"client_encoding")
        self._remembered_hooks = self.pgconn.notice_handler, self.pgconn.notify_handler
        self._names = frozenset(vars(self)) | {"_names"}

    def commands_to_restore(self) -> list[bytes]:
        """Return the SQL that restores what the server does for this object."""
        encoding = self._remembered_encoding
        if encoding is None or self.pgconn.parameter_status(b"client_encoding") == encoding:
            return []
        return [b"SET client_encoding TO '" + encoding + b"'"]

    def restore(self) -> None:
        """Restore what a holder can change on this object. In a transaction psycopg refuses some of it."""
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
        # As psycopg's own rollback() does: what it has prepared may refer to a table that is gone or has changed.
        self._prepared.clear()
        self.answer_is_due = True  # first: an exception may strike when it is sent
        self.sent_at = monotonic()
        self.pgconn.send_query(statement)
        if self.pgconn.flush():
            raise psycopg.OperationalError("the server takes no more commands")

    def read_answer(self, timeout: float) -> None:
        """Read the answer that is due. Raises where it is an error, or does not come in time."""
        deadline = monotonic() + timeout
        while True:
            while self.pgconn.is_busy():
                left = deadline - monotonic()
                # A server that goes on with an endless answer is always ready.
                if left <= -LEAST_PATIENCE or not ready(self.pgconn.socket, select.POLLIN, left):
                    raise psycopg.OperationalError(f"the server did not answer within {timeout:g} s")
                self.pgconn.consume_input()
            result = self.pgconn.get_result()
            if result is None:
                break
            if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY):
                raise psycopg.OperationalError(pq.error_message(result))
        self.answer_is_due = False

    # --- what makes it unusable --------------------------------------------------------------------------------------

    def refuse_unfinished(self) -> None:
        """Raise where the connection came back in the middle of something, or its server can do no work."""
        self._refuse_failed()
        if self._out_of_service is not None:
            raise self._out_of_service
        self._check_connection_ok()
        if self.lock.locked():
            raise psycopg.OperationalError("a stream() or notifies() was not read to its end")
        if self.answer_is_due or self._is_busy() or self.pgconn.pipeline_status != pq.PipelineStatus.OFF:
            raise psycopg.OperationalError("a command was not read to its end, or a pipeline left open")
        self._refuse_ended()

    def refuse_open_blocks(self) -> None:
        """Raise where the connection came back from within a `transaction()` or a two-phase commit.

        To be called outside a transaction, where it costs no round trip.
        """
        self.rollback()

    def fail(self, why: str) -> None:
        """Note why the connection cannot be used any more: whoever uses it is told."""
        self._failure = self._failure or why

    def has_ended(self) -> bool:
        """Take in what the server has said unasked, and return whether it ends the session, or was an answer."""
        try:
            if self.pgconn.status != pq.ConnStatus.OK:
                return True
            if self._has_input():
                self.pgconn.consume_input()  # raises at the end of file
            # As psycopg does after each answer; it would not look for what libpq has taken in already. Asking for
            # notifications hands on the notices, too.
            while notification := self.pgconn.notifies():
                if self.pgconn.notify_handler:
                    self.pgconn.notify_handler(notification)
        except psycopg.Error:
            return True
        # The end of file comes a moment after the reason.
        return self._last_words.heard

    def close(self) -> None:
        self.fail(CLOSED_BY_HOLDER)
        super().close()

    # --- psycopg's own ways to the server ----------------------------------------------------------------------------

    def wait(self, gen: Any, interval: float = _INTERVAL, timeout: float | None = None) -> Any:
        """As psycopg's, which all of its commands pass, but it ends where the server says nothing for too long."""
        self._refuse_failed()
        # A pipeline's answers are told apart by their order alone. In step is what has ended well, or by an answer.
        self._is_out_of_step = self._pipeline is not None
        try:
            value = super().wait(self._limited(gen), interval, timeout)
        except BaseException as error:
            if isinstance(error, psycopg.Error) and self.is_out_of_service(error):
                self._out_of_service = error
            if self._is_busy() and gen.gi_frame is not None:  # it is in the middle of its work, so this is not its own
                self.fail("a statement was interrupted before its answer was read to its end")
            if _leaves_in_step(error):
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
        """Do the work of one of psycopg's generators while the server says something within `read_timeout`."""
        try:
            wanted = next(work)
            heard_at = monotonic()
            while True:
                ready = yield wanted  # nothing is ready now and then, while the server is silent
                if ready:
                    heard_at = monotonic()
                elif monotonic() - heard_at >= self.read_timeout and self._is_busy():
                    self.fail(
                        f"the server has said nothing for {self.read_timeout:g} s; a statement that takes longer needs "
                        "a longer read_timeout"
                    )
                    raise psycopg.OperationalError(self._failure)
                wanted = work.send(ready)
        except StopIteration as end:
            value: _Value = end.value
            return value

    def _is_busy(self) -> bool:
        """Return whether a statement is under way: notifications are waited for without one, as long as it takes."""
        return self.pgconn.transaction_status == pq.TransactionStatus.ACTIVE

    def _check_connection_ok(self) -> None:
        self._refuse_failure()  # within a wait, too, whose end says whether it is in step
        super()._check_connection_ok()

    # Before each command. An answer that nobody has asked for would be taken for that to the command.

    def _start_query(self) -> PQGen[None]:
        self._refuse_ended()
        return super()._start_query()

    def _exec_command(self, *arguments: Any, **options: Any) -> Any:
        self._refuse_ended()
        return super()._exec_command(*arguments, **options)

    def _refuse_ended(self) -> None:
        if self._pipeline is None and not self._is_busy() and self.has_ended():
            self.fail("the server has ended the session, or has sent what nobody had asked for")
            self._refuse_failed()


_SETTINGS = (
    *("autocommit", "isolation_level", "read_only", "deferrable", "prepare_threshold", "prepared_max"),
    *("row_factory", "cursor_factory", "server_cursor_factory", "read_timeout"),
)


def _leaves_in_step(error: BaseException) -> bool:
    """Return whether a pipeline has as many commands as answers to come after an exception.

    So it is after an answer that is an error, and before a command, while its parameters were converted. A signal's
    handler may raise anywhere, a program's row factory after an answer was read and before that was noted.
    """
    if isinstance(error, psycopg.errors.PipelineAborted) or getattr(error, "pgresult", None) is not None:
        return True
    return any(frame.f_code in _CONVERTING for frame, _ in traceback.walk_tb(error.__traceback__))


_CONVERTING = (psycopg.Cursor._convert_query.__code__, PostgresQuery.dump.__code__)


class _LastWords:
    """A handler of notices: the reason why a session ends comes as one where no answer is waited for.

    So does an answer that nobody has asked for. libpq makes the notice itself then; the server's have a code.
    """

    heard = False

    def __call__(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized in ("FATAL", "PANIC") or notice.sqlstate is None:
            self.heard = True


def ready(descriptor: int, event: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(max(0.0, timeout) * 1000))
