"""PyMySQL's connection with what a pool needs: answers that are read later, restored state, and a single holder.

It knows its holder, the answers that are still to be read, and its state before the first holder. It knows no pool and
no settings. Another thread gets WrongThread before anything is sent or read. If an exception interrupts the reading of
an answer, the next command fails: it must not read the rest of that answer. To notice this, the connection records
whether the last packet of an answer was read. The class of an exception says nothing, since it may be the program's.
`reading` reads packets, and `fast_reading` does so faster.
"""

from __future__ import annotations

import socket
import ssl
import warnings
import weakref
from collections.abc import Callable
from threading import get_ident
from time import monotonic
from typing import Any, NoReturn

import pymysql
from pymysql.charset import charset_by_name
from pymysql.connections import MAX_PACKET_LEN, Connection
from pymysql.constants import CLIENT, CR, ER, SERVER_STATUS
from pymysql.protocol import MysqlPacket

from wsgipool import _runtime
from wsgipool.drivers import ENDED, IN_THE_POOL, Hook, Reset, keep_forever
from wsgipool.drivers.codes import Codes, is_out_of_service
from wsgipool.drivers.connecting import Descriptor
from wsgipool.drivers.polling import is_readable
from wsgipool.drivers.pymysql import commands, login, misuse
from wsgipool.drivers.pymysql.commands import Command, packet
from wsgipool.drivers.pymysql.reading import ERROR, HEADER_LENGTH, ReadingConnection, server_error
from wsgipool.drivers.pymysql.saved_state import AUTOCOMMIT, SavedState
from wsgipool.drivers.pymysql.unbuffered import UnbufferedReader
from wsgipool.drivers.session_end import SessionEnd

_AUTOCOMMIT_OR_IN_TRANSACTION = AUTOCOMMIT | SERVER_STATUS.SERVER_STATUS_IN_TRANS

_CLOSING_BY_SERVER = bytes([0, ERROR])
"""The number and the first byte of the packet with the server's reason for ending a session."""


class PooledConnection(ReadingConnection):
    """A PyMySQL connection for one thread at a time, with a TLS context that connections share."""

    # Slots lie side by side in memory. A checkout reads all of them, usually from outside the processor's cache.
    __slots__ = (
        *("_saved_state", "answers_due", "awaits_answer", "close_hook", "has_input", "has_sent_command", "holder_id"),
        *("may_have_transaction", "unusable"),
    )

    holder_id: int | None
    """The thread that holds it, `IN_THE_POOL` or `ENDED`; None before the first checkout."""
    close_hook: Hook | None
    """The callback for the holder's `close()`."""
    has_sent_command: bool
    """Whether the holder has sent a command."""
    may_have_transaction: bool
    """Whether a command was sent since the last `commit()` or `rollback()`."""
    awaits_answer: bool
    """Whether the holder has sent a command whose answer is not read to its end."""
    answers_due: list[Command]
    """Commands of a reset that were sent and whose answers are unread."""
    unusable: pymysql.MySQLError | None
    """The error that forbids another checkout of an open connection with no unread answer."""
    has_input: Callable[[], object]
    """The check whether the server has sent something or closed the socket, without waiting; set by `connect()`."""

    def __init__(self, **arguments: Any) -> None:
        """Take PyMySQL's arguments."""
        self.holder_id = None
        self.close_hook = None
        self.has_sent_command = False
        self.may_have_transaction = False
        self.awaits_answer = False
        self.answers_due = []
        self.unusable = None
        self._saved_state: SavedState | None = None
        self.pipeline = True
        """Whether the driver's commands may be sent before earlier ones are answered."""
        self.closing_codes: Codes = frozenset()
        """Additional error codes after which the connection is not used again."""
        self.sent_at = 0.0
        """The time when the last command of a reset was sent, by `time.monotonic()`."""
        self.descriptor: Descriptor | None = None
        """The file descriptor of the socket, as soon as there is a socket."""
        self.server_thread_id: tuple[int, ...] = (0,)
        """The server's number of the session; 0 before it begins."""
        self.session_end: SessionEnd | None = None
        """The observed end of the session, after a `close()` or an error."""
        super().__init__(**arguments)

    # --- connect and reset ------------------------------------------------------------------------------------------

    def connect(self, sock: socket.socket | None = None) -> None:
        """As PyMySQL's, but the child of a fork can release the socket, and all addresses share one timeout.

        A holder may call it again, after an error or by `ping(reconnect=True)`. The pool does not use the new session.
        """
        self._refuse_other_threads()
        _every_connection.add(self)
        if self._sock is not None:
            self._force_close()
        self.forget_result()
        self.answers_due = []
        self.awaits_answer = False
        self._closed = False
        if self._saved_state is not None:
            self.unusable = pymysql.InterfaceError(0, "the holder has reconnected it")
        try:
            self._sock = sock or login.connect_socket(self)
            connected: Any = self._sock
            self._current_timeout = connected.gettimeout()
            self._rfile = connected.makefile("rb")
            self._next_seq_id = 0
            self._get_server_information()
            self._request_authentication()
            self.read_directly()
            self.has_input = is_readable(connected.fileno())
            self.send(commands.new_session(self))
            self.read_answers()
        except BaseException as error:
            self._force_close()
            if isinstance(error, OSError):
                raise pymysql.OperationalError(
                    CR.CR_CONN_HOST_ERROR, f"Can't connect to MySQL server on {self.host!r} ({error})"
                ) from error
            raise

    def remember(self) -> None:
        """Note the state of the Python object, for `reset`."""
        self._saved_state = SavedState(self)

    def reset(self, how: Reset | None) -> None:
        """Restore the Python state, and send the commands that clean the session.

        They end a transaction or the whole state of the session, and undo the holder's changes by methods of this
        object.
        """
        remembered = self._saved_state
        assert remembered is not None
        charset_changed = not remembered.is_unchanged(self) and remembered.restore(self)
        if how == "session":
            self.send(commands.session_reset(self))
            return
        status = self.server_status
        due = []
        is_used = self.has_sent_command and self.may_have_transaction
        if how is not None and is_used and status & _AUTOCOMMIT_OR_IN_TRANSACTION != AUTOCOMMIT:
            # A transaction may be open. With autocommit off the flags do not show it: PyMySQL drops those at the end of
            # a result set.
            due.append(commands.ROLLBACK)
        if status & AUTOCOMMIT != remembered.autocommit:
            due.append(commands.set_autocommit(bool(remembered.autocommit)))
        if charset_changed:
            due.append(commands.set_names(self.charset, self.collation))
        if due:
            self.send(due)

    def send(self, due: list[Command]) -> None:
        """Send commands and leave their answers to `read_answers`; without `pipeline`, read them here."""
        for group in [due] if self.pipeline else [[command] for command in due]:
            self._write_bytes(b"".join(command.packet() for command in group))
            self.sent_at = monotonic()
            self.answers_due += group
            if not self.pipeline:
                self.read_answers()

    def read_answers(self) -> None:
        """Read the due answers. On an error, close the connection and raise the server's error or PyMySQL's."""
        try:
            while self.answers_due:
                self._next_seq_id = 1
                self._read_answer(self.answers_due[0])
                del self.answers_due[0]
            if self.has_unread():
                self._refuse_unexpected_input()
        except BaseException:
            # The session is not clean, and unread answers may follow.
            self._force_close()
            raise
        self._result = None

    def has_unread(self) -> bool:
        """Return whether there is unexpected input or the end of the session."""
        return bool(self.has_input()) or self.has_buffered()

    def _read_answer(self, command: Command) -> None:
        try:
            self._read_answer_packets(command)
        except pymysql.MySQLError as error:
            if command.meaning and self._sock is not None:
                raise pymysql.OperationalError(command.meaning) from error
            raise

    def _read_answer_packets(self, command: Command) -> None:
        if command.may_have_rows:
            has_more = True
            while has_more:
                ReadingConnection._read_query_result(self)
                result = self._result
                has_more = result is not None and bool(result.has_next)
        elif self._read_ok_packet().has_next:
            raise misuse.unexpected_answer()

    def read_answers_at_once(self) -> bool:
        """Read the due answers if that needs no waiting; return whether they were read."""
        return False

    def _process_auth(self, plugin_name: bytes, auth_packet: Any, handler: Any = None) -> Any:
        login.refuse_clear_text(self, plugin_name)
        return super()._process_auth(plugin_name, auth_packet, handler)

    def _create_ssl_ctx(self, sslp: Any) -> ssl.SSLContext:
        if isinstance(sslp, ssl.SSLContext):
            return sslp
        return login.tls_context(tuple(sorted(sslp.items())), super()._create_ssl_ctx)

    # --- commands of the holder -------------------------------------------------------------------------------------

    def _execute_command(self, command: int, sql: Any) -> None:
        if self.awaits_answer or self.holder_id != get_ident() or self._sock is None:
            self.refuse_misuse()
        last = self._result
        if last is not None and (last.unbuffered_active or last.has_next):
            self._read_rest(last)
        if self.has_unread():
            self._refuse_unexpected_input()
        self.has_sent_command = self.may_have_transaction = self.awaits_answer = True
        if isinstance(sql, str):
            sql = sql.encode(self.encoding)
        if len(sql) + 1 >= MAX_PACKET_LEN:
            Connection._execute_command(self, command, sql)
        else:
            self._result = None
            self._write_bytes(packet(command, sql))
            self._next_seq_id = 1

    def _read_rest(self, result: Any) -> None:
        # PyMySQL would do the same only after the next command counts as sent.
        if result.unbuffered_active:
            warnings.warn("Previous unbuffered result was left incomplete", stacklevel=4)
            result._finish_unbuffered_query()
        while result is not None and result.has_next:
            self.next_result()
            result = self._result

    def _read_query_result(self, unbuffered: bool = False) -> Any:
        try:
            rows = super()._read_query_result(unbuffered)
        except pymysql.OperationalError as error:
            self._note_missing_file(error)
            raise
        self.awaits_answer = False
        if unbuffered:
            unread: Any = self._result
            if unread.connection is not None:
                # An SSCursor reads rows long after the command.
                unread.connection = UnbufferedReader(self)
        return rows

    def _note_missing_file(self, error: pymysql.OperationalError) -> None:
        """Note that the answer was read to its end, if LOAD DATA LOCAL failed because this machine has no such file."""
        if error.args[0] == ER.FILE_NOT_FOUND and not self.client_flag & CLIENT.MULTI_STATEMENTS:
            # PyMySQL has sent an empty file, and has read the answer to it. The answers to further statements, if the
            # holder could send some, would still be unread.
            self.awaits_answer = False

    def next_result(self, unbuffered: bool = False) -> int:
        self.refuse_misuse()
        self.awaits_answer = True
        rows: int = super().next_result(unbuffered)
        return rows

    def show_warnings(self) -> Any:
        rows = super().show_warnings()
        self.awaits_answer = False
        return rows

    def set_character_set(self, charset: str, collation: str | None = None) -> None:
        encoding = charset_by_name(charset).encoding
        command = commands.set_names(charset, collation)
        self._execute_command(command.number, command.payload)
        self._read_ok_packet()
        self.charset, self.collation, self.encoding = charset, collation, encoding

    def commit(self) -> None:
        super().commit()
        self._note_transaction()

    def rollback(self) -> None:
        super().rollback()
        self._note_transaction()

    def _note_transaction(self) -> None:
        # The server begins another one at once if `completion_type` is CHAIN.
        self.may_have_transaction = bool(self.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS)

    def _read_ok_packet(self) -> Any:
        packet = super()._read_ok_packet()
        self.awaits_answer = False
        return packet

    def _note_error(self, packet: bytes) -> None:
        # An error is the end of an answer. This must be noted here: a later exception may be the program's.
        self.awaits_answer = False
        error = server_error(packet)
        if is_out_of_service(error, self.closing_codes):
            self.unusable = error

    # --- refusal of misuse ------------------------------------------------------------------------------------------

    def refuse_misuse(self) -> None:
        self._refuse_other_threads()
        if self._sock is None:
            self.forget_result()
            raise self.closed_error()
        if self.awaits_answer:
            # An exception has interrupted the last command. The next one, perhaps a COMMIT, would read the rest of the
            # last answer, or wait for ever.
            self._force_close()
            self.forget_result()
            raise misuse.unread_answer()

    def _refuse_unexpected_input(self) -> None:
        """Close the connection because of unexpected input or the end of the session, and raise the reason."""
        reader: Any = self._rfile
        sock: Any = self._sock
        try:
            sock.settimeout(0.0)
            self._current_timeout = 0.0  # PyMySQL sets its own again
            ahead = reader.peek()
        except (BlockingIOError, ssl.SSLWantReadError):
            return  # the input was TLS's own
        except BaseException as error:
            self._fail(error)
        self._force_close()
        self.forget_result()
        if not ahead:
            raise pymysql.OperationalError(CR.CR_SERVER_GONE_ERROR, "MySQL server has gone away: it closed the session")
        if ahead[3:5] == _CLOSING_BY_SERVER:
            MysqlPacket(ahead[HEADER_LENGTH:], self.encoding).raise_for_error()
        raise misuse.unexpected_answer()

    def closed_error(self) -> pymysql.MySQLError:
        """Return the error for the use of a closed connection."""
        return misuse.closed_by_holder() if self._closed else misuse.ended_before()

    def _refuse_other_threads(self) -> None:
        if self.holder_id is not None and self.holder_id != get_ident():
            raise misuse.wrong_thread(self.server_thread_id[0], self.holder_id)

    # --- the end of the session -------------------------------------------------------------------------------------

    def forget_result(self) -> None:
        """Forget the last result, so that its destructor does not read from another session."""
        last: Any = self._result
        if last is not None and last.unbuffered_active:
            last.unbuffered_active = False
            # PyMySQL would return None, as if the rows read so far were all.
            last._read_rowdata_packet_unbuffered = self._refuse_rows
        self._result = None

    def _refuse_rows(self) -> NoReturn:
        raise self.closed_error()

    @property
    def open(self) -> bool:
        """Whether the holder can use it: False after its return."""
        return self._sock is not None and self.holder_id not in (IN_THE_POOL, ENDED)

    def close(self) -> None:
        """Call the hook, or end the session if there is none."""
        if self.holder_id in (IN_THE_POOL, ENDED):
            raise pymysql.err.Error("Already closed")  # PyMySQL's error for a second close()
        self._refuse_other_threads()
        if self.close_hook is None:
            self.end()
        else:
            self.close_hook()

    def end(self) -> None:
        """End the session without calling the hook."""
        super().close()

    def after_fork(self) -> None:
        """Release the parent's connection in the child of a fork."""
        self.holder_id = ENDED  # first, so that queries are refused whatever happens below
        # close() would send COM_QUIT and end the parent's session. Do not close the reader either: another thread may
        # have been inside it at the fork.
        if self._rfile is not None:
            keep_forever(self._rfile)
        self._sock = self._rfile = None
        self.forget_result()
        if self.descriptor is not None:
            self.descriptor.redirect_to_devnull()

    def _force_close(self) -> None:
        session_end = None if self._sock is None else SessionEnd(self._sock.fileno())
        super()._force_close()
        if session_end is not None:
            session_end.shut_down_writing()
            self.session_end = session_end


_every_connection: weakref.WeakSet[PooledConnection] = weakref.WeakSet()
"""All connections, also those that a thread is opening or closing and no pool knows.

If a fork's child kept their sockets, the sessions would outlive the parent. The budget would already have given their
permits to other processes.
"""


def _after_fork_in_child() -> None:
    for connection in list(_every_connection):
        connection.after_fork()
    _every_connection.clear()


_runtime.after_fork(_after_fork_in_child)
