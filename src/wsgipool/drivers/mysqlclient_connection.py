"""mysqlclient's connection with what a pool needs: answers that are read later, and restored state.

It knows what its holders can change and what makes it unusable. It knows no pool and no settings. The library refuses a
command while rows are unread. It does not notice an answer that `send_query()` left, or unexpected input; these are
refused here.
"""

from __future__ import annotations

import contextlib
import functools
import select
import weakref
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

import MySQLdb
from MySQLdb.connections import Connection
from MySQLdb.constants import CR

from wsgipool import _runtime
from wsgipool.drivers import CLEANING_TIMEOUT, CLOSED_BY_HOLDER, ENDED, UNREAD_RESULT, Holder, keep_forever
from wsgipool.drivers.connecting import Descriptor
from wsgipool.drivers.deadline import shut_down_after
from wsgipool.drivers.libmariadb import has_whole_answer, read_ahead
from wsgipool.drivers.polling import Predicate, is_readable
from wsgipool.errors import errors_of

ERRORS = errors_of(MySQLdb.OperationalError, MySQLdb.InterfaceError)

_MAX_RESULTS = 8
"""Maximum number of results without rows, such as those of a CALL, that a return reads for the holder."""


class PooledConnection(Connection):
    """A MySQLdb connection that knows its socket and may have an answer to read later."""

    # Slots: the instance's dictionary has only MySQLdb's attributes, which holders change.
    __slots__ = (
        *("answer_is_due", "sent_at", "closed_by", "descriptor", "holder", "is_out_of_service"),
        *("_altered_by", "_failure", "_has_input", "_awaits_answer", "_is_inherited", "_read_ahead"),
        *("_autocommit", "_character_set", "_collation", "_conversions", "_remembered", "_remembered_collation"),
    )

    answer_is_due: bool
    sent_at: float
    """The time when the command with the due answer was sent, by `time.monotonic()`."""
    closed_by: str
    """The error message for the use of a closed connection."""
    descriptor: Descriptor
    holder: Holder
    is_out_of_service: Callable[[BaseException], bool]
    """The driver's check whether an error shows that the server can do no work."""
    _awaits_answer: bool
    """Whether the holder has sent a query by `send_query()` and not read the answer."""
    _is_inherited: bool
    """Whether this is the child of a fork and the connection its parent's."""
    _altered_by: str | None
    """The called method whose effect cannot be restored."""
    _failure: Exception | None
    """The error that forbids to use the connection again."""

    def __init__(self, *, is_out_of_service: Callable[[BaseException], bool], **arguments: Any) -> None:
        """Connect with MySQLdb's arguments."""
        self.is_out_of_service = is_out_of_service
        self.answer_is_due = self._awaits_answer = self._is_inherited = False
        self.closed_by = CLOSED_BY_HOLDER
        self.holder = Holder()
        self._failure = self._altered_by = None
        self._has_input: Predicate = bool
        self._read_ahead: Predicate = bool
        super().__init__(**arguments)
        number = self.fileno()
        # After an error the library closes the socket and still reports its number, which another file may have then.
        self.descriptor = Descriptor(number)
        self._has_input, self._read_ahead = is_readable(number), read_ahead(self)
        _every_connection.add(self)

    # --- state that holders can change -------------------------------------------------------------------------------

    def remember(self) -> None:
        """Note the state for `restore` and `restore_session`."""
        self._remembered = _copied(vars(self))
        self._conversions = _copied(self.converter)
        self._autocommit = self.get_autocommit()
        self._character_set = self.character_set_name()
        self._remembered_collation = self._collation
        self._altered_by = None

    def restore(self) -> None:
        """Restore the attributes."""
        if vars(self) != self._remembered:
            vars(self).clear()
            vars(self).update(_copied(self._remembered))
        if self.converter != self._conversions:
            self.converter = _copied(self._conversions)

    def is_session_restored(self) -> bool:
        """Return whether autocommit and the character set are unchanged, as far as the library knows."""
        return (
            bool(self.get_autocommit() == self._autocommit)
            and self.character_set_name() == self._character_set
            and self._collation == self._remembered_collation
        )

    def restore_session(self) -> None:
        """Restore autocommit and the character set in up to three round trips."""
        if self.get_autocommit() != self._autocommit:
            self.autocommit(self._autocommit)
        if not self.is_session_restored():
            self.set_character_set(self._character_set, self._remembered_collation)

    def set_character_set(self, charset: str, collation: str | None = None) -> None:
        self._collation = collation or None
        self._call(Connection.set_character_set, charset, collation)

    def change_user(self, *arguments: Any, **options: Any) -> None:
        self._altered_by = "change_user"
        self._ask(Connection.change_user, *arguments, **options)

    def set_server_option(self, *arguments: Any) -> Any:
        self._altered_by = "set_server_option"
        return self._ask(Connection.set_server_option, *arguments)

    def reset_session(self, user: str, password: str, database: str) -> None:
        """Clean the whole session, by COM_CHANGE_USER to the same user."""
        self._ask(Connection.change_user, user, password, *([database] if database else []))
        self._altered_by = None

    # --- answers that are read later ---------------------------------------------------------------------------------

    def send(self, statement: bytes) -> None:
        """Send a statement that has no rows, and leave its answer to `read_answer`."""
        self.sent_at = monotonic()
        self.answer_is_due = True  # before sending, which an asynchronous exception may interrupt
        super().send_query(statement)

    def read_answer(self, timeout: float) -> None:
        """Read the due answer. Raise the server's error, or MySQLdb's if no answer arrives in time."""
        deadline = monotonic() + timeout
        if not self._read_ahead() and not _readable(self.descriptor.number(), timeout):
            raise MySQLdb.OperationalError(CR.SERVER_LOST, f"the server did not answer within {timeout:g} s")
        if has_whole_answer(self.descriptor.number()):
            super().read_query_result()
        else:  # the library would wait for the rest of the answer for the whole read_timeout
            with shut_down_after(deadline - monotonic(), self.descriptor):
                super().read_query_result()
        if self.field_count() or self.more_results():
            raise MySQLdb.OperationalError(CR.COMMANDS_OUT_OF_SYNC, "the server has answered with rows")
        self.answer_is_due = False

    # --- states in which it cannot be used ---------------------------------------------------------------------------

    def refuse_unfinished(self) -> None:
        """Raise if an answer is not read to its end, the server can do no work, or a change cannot be undone."""
        if not self.open:
            raise MySQLdb.OperationalError(CR.SERVER_GONE_ERROR, self.closed_by)
        self._note_error()
        if self._failure is not None:
            raise self._failure
        if self.answer_is_due or self._awaits_answer:
            raise _unfinished_command()
        self._read_rest()
        if self.has_ended():
            raise self._unexpected_input()
        if self._altered_by is not None:
            raise MySQLdb.ProgrammingError(f"{self._altered_by}() was called")

    def has_ended(self) -> bool:
        """Return whether the connection is closed or has unexpected input, usually the end of the session."""
        return not self.open or self.descriptor.number() < 0 or bool(self._has_input()) or bool(self._read_ahead())

    def _read_rest(self) -> None:
        """Read results without rows, such as the last one of a CALL. Raise if there is more to read."""
        try:
            if self.more_results():
                with shut_down_after(CLEANING_TIMEOUT, self.descriptor):
                    for _ in range(_MAX_RESULTS):
                        if super().next_result() != 0 or self.field_count():
                            break
            # With no more results, next_result() reads nothing. It raises if rows of the last result are unread.
            is_read = not self.more_results() and super().next_result() == -1
        except MySQLdb.Error as error:
            raise MySQLdb.OperationalError(CR.COMMANDS_OUT_OF_SYNC, UNREAD_RESULT) from error
        if not is_read:
            raise MySQLdb.OperationalError(CR.COMMANDS_OUT_OF_SYNC, UNREAD_RESULT)

    def _note_error(self) -> None:
        """Note the last error if it shows that the server can do no work.

        The library keeps the error until the next command. An error while rows are read one by one appears only here.
        """
        if self._failure is None and (code := self.errno()):
            text = ""
            with contextlib.suppress(UnicodeDecodeError):  # the text is in the session's character set
                text = self.error()
            error: Any = MySQLdb.OperationalError(code, text)
            error.sqlstate = self.sqlstate()
            if self.is_out_of_service(error):
                self._failure = error

    def after_fork(self) -> None:
        """Release the parent's connection in the child of a fork."""
        self._is_inherited = True
        self.holder.thread_id = ENDED
        # Do not call the library: another thread may have been inside it at the fork.
        keep_forever(self)
        with contextlib.suppress(OSError):  # no descriptor is free; all threads are refused anyway
            self.descriptor.redirect_to_devnull()

    # --- MySQLdb's methods -------------------------------------------------------------------------------------------

    def _ask(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a MySQLdb method that sends a command."""
        if self.open:
            self._refuse_unexpected_input()
        return self._call(method, *arguments, **options)

    def _call(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a MySQLdb method; note and explain its error."""
        if self._is_inherited:
            raise ERRORS.WrongThread("the connection belongs to this process's parent; get another one from the pool")
        if self.open:
            self._note_error()
        try:
            return method(self, *arguments, **options)
        except MySQLdb.Error as error:
            if not self.open:
                error.args = (CR.SERVER_GONE_ERROR, self.closed_by)
                raise
            self._note_error()
            vars(error)["sqlstate"] = self.sqlstate()
            if error.args[0] == CR.COMMANDS_OUT_OF_SYNC:
                error.args = (CR.COMMANDS_OUT_OF_SYNC, f"{error.args[1]}: {UNREAD_RESULT}")
            raise

    def _refuse_unexpected_input(self) -> None:
        """Raise if the next command would read something else than its own answer."""
        if self.answer_is_due or self._awaits_answer:
            raise _unfinished_command()
        if not (self._has_input() or self._read_ahead()):
            return
        # The library knows of unread rows or results: it raises here, or returns another value than -1.
        if self.more_results() or self._call(Connection.next_result) != -1:
            return
        raise self._unexpected_input()

    def _unexpected_input(self) -> Exception:
        self._failure = MySQLdb.OperationalError(
            CR.SERVER_GONE_ERROR, "the server has ended the session, or has sent unexpected input"
        )
        return self._failure

    def send_query(self, *arguments: Any) -> None:
        if self.open:
            self._refuse_unexpected_input()
        self._awaits_answer = True  # before sending, which an asynchronous exception may interrupt
        self._call(Connection.send_query, *arguments)

    def read_query_result(self) -> None:
        try:
            self._call(Connection.read_query_result)
        except BaseException:
            self._awaits_answer = not (self.open and self.errno())  # a server's error is a complete answer
            raise
        self._awaits_answer = False

    def commit(self) -> None:
        if self.open and not self._awaits_answer and self.more_results():
            self._read_rest()
        self._ask(Connection.commit)

    def ping(self, *_reconnect: Any) -> None:
        """As MySQLdb's, but never reconnect: the pool would not know the new session."""
        self._ask(Connection.ping)

    def close(self) -> None:
        self.holder.close(self.end)

    def end(self) -> None:
        """End the session without calling the hook."""
        self._call(Connection.close)


def _through(caller: Callable[..., Any], name: str) -> Callable[..., Any]:
    method = getattr(Connection, name)

    @functools.wraps(method)
    def call(connection: PooledConnection, *arguments: Any, **options: Any) -> Any:
        return caller(connection, method, *arguments, **options)

    return call


for _caller, _names in (
    (PooledConnection._ask, ("query", "rollback", "autocommit", "select_db", "kill", "stat", "shutdown")),
    (PooledConnection._call, ("next_result", "store_result", "use_result", "discard_result")),
):
    for _name in _names:
        if hasattr(Connection, _name):  # depends on the version
            setattr(PooledConnection, _name, _through(_caller, _name))


def _unfinished_command() -> MySQLdb.OperationalError:
    return MySQLdb.OperationalError(
        CR.COMMANDS_OUT_OF_SYNC, "a command was interrupted before its answer was read to the end"
    )


def _readable(descriptor: int, timeout: float) -> bool:
    if descriptor < 0:
        return True  # reading from a closed socket does not wait
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def _copied(attributes: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a copy with copies of the lists and dictionaries in it."""
    return {name: value.copy() if isinstance(value, list | dict) else value for name, value in attributes.items()}


_every_connection: weakref.WeakSet[PooledConnection] = weakref.WeakSet()
"""All connections, known to a pool or not.

If a fork's child kept their sockets, the sessions would outlive the parent.
"""


def _after_fork_in_child() -> None:
    for connection in list(_every_connection):
        connection.after_fork()
    _every_connection.clear()


_runtime.after_fork(_after_fork_in_child)
