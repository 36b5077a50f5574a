"""mysqlclient's connection, as a pool needs it: with answers that are read later, and nothing left for the next holder.

It knows what its holders can change and what makes it unusable, and no pool and no settings. The library itself refuses
a command while rows of the last one are unread; what it does not see, an answer left by `send_query()` or one that
nobody has asked for, is refused here.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import weakref
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

import MySQLdb
from MySQLdb.connections import Connection
from MySQLdb.constants import CR

from wsgipool.drivers import CLEANING_TIMEOUT, CLOSED_BY_HOLDER, UNREAD, keep_forever
from wsgipool.drivers.deadline import ended_after
from wsgipool.drivers.libmariadb import has_whole_answer, read_ahead
from wsgipool.drivers.opening import Descriptor
from wsgipool.drivers.sockets import Question, is_readable
from wsgipool.errors import WrongThread

_MAX_RESULTS = 8
"""Of a CALL or of several statements, as many results without rows are read for a holder that has not read them."""


class PooledConnection(Connection):
    """MySQLdb's connection, with an answer that may be read later, and knowing its socket."""

    # Beside MySQLdb's own attributes, which are those that holders change.
    __slots__ = (
        *("answer_is_due", "sent_at", "closed_by", "descriptor", "is_out_of_service"),
        *("_altered_by", "_failure", "_has_input", "_is_asking", "_is_inherited", "_read_ahead"),
        *("_autocommit", "_character_set", "_collation", "_conversions", "_remembered", "_remembered_collation"),
    )

    answer_is_due: bool
    sent_at: float
    """When the command was sent whose answer is due."""
    closed_by: str
    """Why it is closed, once it is."""
    descriptor: Descriptor
    is_out_of_service: Callable[[BaseException], bool]
    """Whether an error says that the server can do no work; from the driver."""
    _is_asking: bool
    """Whether its holder has sent a query by `send_query()` and not read the answer."""
    _is_inherited: bool
    """Whether it is that of a fork's parent."""
    _altered_by: str | None
    """The method by which its holder has changed what is not restored."""
    _failure: Exception | None
    """Why it cannot be used again."""

    def __init__(self, *, is_out_of_service: Callable[[BaseException], bool], **arguments: Any) -> None:
        self.is_out_of_service = is_out_of_service
        self.answer_is_due = self._is_asking = self._is_inherited = False
        self.closed_by = CLOSED_BY_HOLDER
        self._failure = self._altered_by = None
        self._has_input: Question = bool
        self._read_ahead: Question = bool
        super().__init__(**arguments)
        number = self.fileno()
        # After an error the library has closed it, yet goes on naming its number, which may be another file's then.
        self.descriptor = Descriptor(number)
        self._has_input, self._read_ahead = is_readable(number), read_ahead(self)
        _every_connection.add(self)

    # --- what its holders may change ---------------------------------------------------------------------------------

    def remember(self) -> None:
        """Note what `restore` and `restore_session` restore."""
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
        """Return whether autocommit and the character set are what they were, as far as the library knows."""
        return (
            bool(self.get_autocommit() == self._autocommit)
            and self.character_set_name() == self._character_set
            and self._collation == self._remembered_collation
        )

    def restore_session(self) -> None:
        """Put autocommit and the character set back, which takes up to three round trips."""
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

    def renew(self, user: str, password: str, database: str) -> None:
        """Clean the whole session, by COM_CHANGE_USER to the same user."""
        self._ask(Connection.change_user, user, password, *([database] if database else []))
        self._altered_by = None

    # --- answers that are read later ---------------------------------------------------------------------------------

    def send(self, statement: bytes) -> None:
        """Send a statement that has no rows, and leave its answer to `read_answer`."""
        self.sent_at = monotonic()
        self.answer_is_due = True  # first: an exception may strike when it is sent
        super().send_query(statement)

    def read_answer(self, timeout: float) -> None:
        """Read the answer that is due. Raises the server's error, or MySQLdb's where none comes in time."""
        deadline = monotonic() + timeout
        if not self._read_ahead() and not _readable(self.descriptor.number(), timeout):
            raise MySQLdb.OperationalError(CR.SERVER_LOST, f"the server did not answer within {timeout:g} s")
        if has_whole_answer(self.descriptor.number()):
            super().read_query_result()
        else:  # the library would wait for the rest for as long as for a statement's
            with ended_after(deadline - monotonic(), self.descriptor):
                super().read_query_result()
        if self.field_count() or self.more_results():
            raise MySQLdb.OperationalError(CR.COMMANDS_OUT_OF_SYNC, "the server has answered with rows")
        self.answer_is_due = False

    # --- what makes it unusable --------------------------------------------------------------------------------------

    def refuse_unfinished(self) -> None:
        """Raise where an answer was not read to its end, the server can do no work, or the session is another's."""
        if not self.open:
            raise MySQLdb.OperationalError(CR.SERVER_GONE_ERROR, self.closed_by)
        self._note_error()
        if self._failure is not None:
            raise self._failure
        if self.answer_is_due or self._is_asking:
            raise _interrupted()
        self._read_rest()
        if self.has_ended():
            raise self._unasked()
        if self._altered_by is not None:
            raise MySQLdb.ProgrammingError(f"{self._altered_by}() was called")

    def has_ended(self) -> bool:
        """Return whether it is closed, or the server has sent what nobody has asked for: mostly that it ends."""
        return not self.open or self.descriptor.number() < 0 or bool(self._has_input()) or bool(self._read_ahead())

    def _read_rest(self) -> None:
        """Read results that have no rows, such as the last one of a CALL. Raises where there is more to read."""
        try:
            if self.more_results():
                with ended_after(CLEANING_TIMEOUT, self.descriptor):
                    for _ in range(_MAX_RESULTS):
                        if super().next_result() != 0 or self.field_count():
                            break
            # Where there is no more, next_result() reads nothing, and raises where the rows of this one were not read.
            is_read = not self.more_results() and super().next_result() == -1
        except MySQLdb.Error as error:
            raise MySQLdb.OperationalError(CR.COMMANDS_OUT_OF_SYNC, UNREAD) from error
        if not is_read:
            raise MySQLdb.OperationalError(CR.COMMANDS_OUT_OF_SYNC, UNREAD)

    def _note_error(self) -> None:
        """Note the last error if it says that the server can do no work. The library keeps it until the next command.

        That of rows which are read one by one is seen nowhere else.
        """
        if self._failure is None and (code := self.errno()):
            text = ""
            with contextlib.suppress(UnicodeDecodeError):  # it is in the session's character set
                text = self.error()
            error: Any = MySQLdb.OperationalError(code, text)
            error.sqlstate = self.sqlstate()
            if self.is_out_of_service(error):
                self._failure = error

    def abandon(self) -> None:
        """Let go of a connection that is the parent's, in the child of a fork."""
        self._is_inherited = True
        # The library may have been at work in another thread when the process forked: it is not called here any more.
        keep_forever(self)
        with contextlib.suppress(OSError):  # no descriptor is free for that: then it is refused to all, and kept
            self.descriptor.point_nowhere()

    # --- MySQLdb's own ways to the server ----------------------------------------------------------------------------

    def _ask(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a method of MySQLdb's that sends a command."""
        if self.open:
            self._refuse_what_was_not_asked_for()
        return self._call(method, *arguments, **options)

    def _call(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a method of MySQLdb's, and note and explain its error."""
        if self._is_inherited:
            raise WrongThread("the connection is that of this process's parent; get one of your own from the pool")
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
                error.args = (CR.COMMANDS_OUT_OF_SYNC, f"{error.args[1]}: {UNREAD}")
            raise

    def _refuse_what_was_not_asked_for(self) -> None:
        """Raise where the next command would be answered by something else than its own answer."""
        if self.answer_is_due or self._is_asking:
            raise _interrupted()
        if not (self._has_input() or self._read_ahead()):
            return
        # Unread rows or results are known to the library, which raises here, or says so.
        if self.more_results() or self._call(Connection.next_result) != -1:
            return
        raise self._unasked()

    def _unasked(self) -> Exception:
        self._failure = MySQLdb.OperationalError(
            CR.SERVER_GONE_ERROR, "the server has ended the session, or has sent what nobody had asked for"
        )
        return self._failure

    def send_query(self, *arguments: Any) -> None:
        if self.open:
            self._refuse_what_was_not_asked_for()
        self._is_asking = True  # first: an exception may strike when it is sent
        self._call(Connection.send_query, *arguments)

    def read_query_result(self) -> None:
        try:
            self._call(Connection.read_query_result)
        except BaseException:
            self._is_asking = not (self.open and self.errno())  # the library has read the server's error
            raise
        self._is_asking = False

    def commit(self) -> None:
        if self.open and not self._is_asking and self.more_results():
            self._read_rest()
        self._ask(Connection.commit)

    def ping(self, *_reconnect: Any) -> None:
        """As MySQLdb's, but it never connects again: that would be a session that the pool does not know."""
        self._ask(Connection.ping)

    def close(self) -> None:
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
        if hasattr(Connection, _name):  # not each version has all
            setattr(PooledConnection, _name, _through(_caller, _name))


def _interrupted() -> MySQLdb.OperationalError:
    return MySQLdb.OperationalError(
        CR.COMMANDS_OUT_OF_SYNC, "a command was interrupted before its answer was read to the end"
    )


def _readable(descriptor: int, timeout: float) -> bool:
    if descriptor < 0:
        return True  # it is closed, so reading does not wait
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def _copied(attributes: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a copy that a change of a list or dictionary in it does not reach."""
    return {name: value.copy() if isinstance(value, list | dict) else value for name, value in attributes.items()}


_every_connection: weakref.WeakSet[PooledConnection] = weakref.WeakSet()
"""Those too that no pool knows, or knows no more. A fork's child that kept their sockets would keep the sessions from
ending with its parent's death."""


def _after_fork_in_child() -> None:
    for connection in list(_every_connection):
        connection.abandon()
    _every_connection.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
