"""PyMySQL's connection, as a pool needs it: with answers that are read later, and used by nobody but its borrower.

It knows who may use it and what of the protocol is still to be read, and no pool and no settings. Whoever else uses it
gets WrongThread before anything is sent or read; whoever goes on after an interruption in the middle of an answer gets
an error, not the rest of that answer. How packets are read is in `pymysql_reading`, how rows in `pymysql_result`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from threading import get_ident
from time import monotonic
from typing import Any

import pymysql
from pymysql.connections import MAX_PACKET_LEN, Connection
from pymysql.constants import COMMAND, CR

from wsgipool.drivers import keep_forever
from wsgipool.drivers.opening import Descriptor, connect_tcp, connect_unix
from wsgipool.drivers.pymysql_reading import ReadingConnection
from wsgipool.drivers.pymysql_result import Result
from wsgipool.drivers.sockets import is_readable, state_of
from wsgipool.errors import WrongThread
from wsgipool.farewell import Farewell

# Not in pymysql.constants.COMMAND; MySQL 5.7 and MariaDB 10.2 have it.
_COM_RESET_CONNECTION = 0x1F

_packed_command = struct.Struct("<iB").pack
"""A command's length, which counts the byte that names the command, the 0 of the first packet, and that byte."""

IN_THE_POOL = 0
"""The `lent_to` of a connection that lies in the pool: no thread has this number, nor the next one."""
ENDED = -1
"""The `lent_to` of one that the pool has closed or left to a fork's parent: connected again, nobody would count it."""


class PooledConnection(ReadingConnection):
    """PyMySQL's connection, used by one thread at a time, with one TLS context a process and setting."""

    # What a loan touches lies side by side: it is cold in the processor's cache then.
    __slots__ = ("answers_due", "is_asking", "lent_to", "socket_state")

    lent_to: int | None
    """The thread that may use it, `IN_THE_POOL` or `ENDED`; None before it has been lent for the first time."""
    is_asking: bool
    """Whether its borrower has sent a command whose answer was not read to its end."""
    answers_due: int
    """Commands sent whose answers have not been read."""
    sent_at = 0.0
    """When the last of them was sent, by `time.monotonic()`."""
    socket_state: Callable[[], bytes]
    """Tells without waiting whether it is still `OPEN`. Of each `connect()` its own, as the next one."""
    has_something_to_read: Callable[[], object]
    """Tells without waiting whether the server has sent something, or closed the socket."""
    descriptor: Descriptor | None = None
    """That of its socket, from the moment when there is one."""
    server_thread_id: tuple[int, ...] = (0,)
    """The server's number of its session; 0 before there is one."""
    farewell: Farewell | None = None
    """After its end, whether by `close()` or by an error: what the server makes of that."""

    def __init__(self, **arguments: Any) -> None:
        self.lent_to = None
        self.is_asking = False
        self.answers_due = 0
        super().__init__(**arguments)

    def send(self, command: int, payload: str | bytes) -> None:
        """Send a command and leave its answer, an OK packet, to `read_answers`."""
        Connection._execute_command(self, command, payload)
        self.answers_due += 1
        self.sent_at = monotonic()

    def connect(self, sock: socket.socket | None = None) -> None:
        """As PyMySQL's, but a fork's child knows the socket from the first, and all addresses share one timeout.

        Its borrower may call it again, after an error or by `ping(reconnect=True)`: that is another session.
        """
        self._refuse_other_threads()
        _every_connection.add(self)
        if self._sock is not None:
            self._force_close()
        self.forget_result()
        self.answers_due = 0
        self.is_asking = False
        if sock is None:
            try:
                sock = self._connect_socket()
            except OSError as error:
                raise pymysql.OperationalError(
                    CR.CR_CONN_HOST_ERROR, f"Can't connect to MySQL server on {self.host!r} ({error})"
                ) from error
        super().connect(sock)
        self.read_answers()
        self.read_directly()
        ours: Any = self._sock
        self.socket_state, self.has_something_to_read = state_of(ours), is_readable(ours.fileno())

    def _connect_socket(self) -> socket.socket:
        def note(descriptor: Descriptor) -> None:
            self.descriptor = descriptor

        timeout: Any = self.connect_timeout
        if self.unix_socket:
            self.host_info = "Localhost via UNIX socket"
            self._secure = True  # PyMySQL sends a password as it is only over such a connection
            return connect_unix(self.unix_socket, timeout, note)
        self.host_info = f"socket {self.host}:{self.port}"
        return connect_tcp(self.host, self.port, self.bind_address, timeout, note)

    def set_character_set(self, charset: str, collation: str | None = None) -> None:
        """As PyMySQL's, but within `connect()` it waits for no answer: that comes with the next one, or after it."""
        if self.lent_to is None:
            self.send(COMMAND.COM_QUERY, _set_names(charset, collation))
        else:
            with self._answer_read():
                super().set_character_set(charset, collation)

    def next_result(self, unbuffered: bool = False) -> int:
        self._refuse_misuse()
        self.is_asking = True
        rows: int = super().next_result(unbuffered)
        return rows

    def show_warnings(self) -> Any:
        with self._answer_read():
            return super().show_warnings()

    def remember_session(self) -> None:
        """Note what `connect()` has set, for `send_session_reset`."""
        self._session = {name: getattr(self, name) for name in ("charset", "collation", "encoding", "autocommit_mode")}
        commands: list[tuple[int, str | bytes | None]] = [
            (_COM_RESET_CONNECTION, b""),
            # The reset puts back the server's defaults, which are not ours, and leaves the database as it is.
            (COMMAND.COM_INIT_DB, self.db),
            (COMMAND.COM_QUERY, _set_names(self.charset, self.collation)),
            (COMMAND.COM_QUERY, self.sql_mode and f"SET sql_mode={self.escape(self.sql_mode)}"),
            (COMMAND.COM_QUERY, self.init_command),
        ]
        if self.autocommit_mode is not None:
            commands.append((COMMAND.COM_QUERY, f"SET AUTOCOMMIT = {self.autocommit_mode:d}"))
        self._session_commands = [(command, payload) for command, payload in commands if payload is not None]

    def send_session_reset(self) -> None:
        """Send COM_RESET_CONNECTION, and again what `connect()` sets."""
        vars(self).update(self._session)
        for command, payload in self._session_commands:
            self.send(command, payload)

    def read_answers(self) -> None:
        """Read the answers that are due. Raises the server's error, or PyMySQL's; then the connection is closed."""
        try:
            while self.answers_due:
                self._next_seq_id = 1
                Connection._read_query_result(self)
                self.answers_due -= 1
        except BaseException:
            # It is not clean, and another answer may follow that nobody will read.
            self._force_close()
            raise
        self._result = None

    def forget_result(self) -> None:
        """Forget the last result: no reading on, which its destructor would do, of what another session may answer."""
        if self._result is not None:
            self._result.unbuffered_active = False
            self._result = None

    def close(self) -> None:
        self._refuse_other_threads()
        super().close()

    def abandon(self) -> None:
        """Let go of a socket that is the parent's, in the child of a fork."""
        # close() would send COM_QUIT through the socket shared with the parent and end the parent's session. Even the
        # reader on top of the socket is not closed: a thread that the child does not have may have been in it.
        if self.descriptor is not None:
            self.descriptor.point_nowhere()
        if self._rfile is not None:
            keep_forever(self._rfile)
        self._sock = self._rfile = None
        self.forget_result()
        self.lent_to = ENDED

    def _force_close(self) -> None:
        farewell = None if self._sock is None else Farewell(self._sock.fileno())
        super()._force_close()
        if farewell is not None:
            farewell.hang_up()
            self.farewell = farewell

    def _execute_command(self, command: int, sql: Any) -> None:
        if self.is_asking or self.lent_to != get_ident():
            self._refuse_misuse()
        last = self._result
        if last is not None and (last.unbuffered_active or last.has_next):
            self._read_rest(last)
        self.is_asking = True
        if isinstance(sql, str):
            sql = sql.encode(self.encoding)
        if self._sock is None or len(sql) + 1 >= MAX_PACKET_LEN:
            Connection._execute_command(self, command, sql)
        else:
            self._result = None
            self._write_bytes(_packed_command(len(sql) + 1, command) + sql)
            self._next_seq_id = 1
        if self.answers_due:
            # They come before that of this command, which waits for the server as long as read_timeout says.
            self._read_answers_first()
            self._next_seq_id = 1

    def _read_rest(self, result: Any) -> None:
        # As PyMySQL's, which would do it when the next command counts as sent.
        if result.unbuffered_active:
            warnings.warn("Previous unbuffered result was left incomplete", stacklevel=4)
            result._finish_unbuffered_query()
        while result is not None and result.has_next:
            self.next_result()
            result = self._result

    def _read_answers_first(self) -> None:
        is_one = self.answers_due == 1 and self._current_timeout == self._read_timeout
        if is_one and self.reads_plain_ok(alone=False):
            self.answers_due = 0
        else:
            self.read_answers()

    def _read_query_result(self, unbuffered: bool = False) -> Any:
        try:
            if unbuffered:
                rows = Connection._read_query_result(self, True)
            else:
                # As PyMySQL's, but for the kind of the result.
                self._result = None
                result = Result(self)
                result.read()
                self._result = result
                if result.server_status is not None:
                    self.server_status = result.server_status
                rows = result.affected_rows
        except pymysql.MySQLError:
            self.is_asking = False  # by an error; without an answer the socket is closed now
            raise
        self.is_asking = False
        if unbuffered:
            unread: Any = self._result
            if unread.connection is not None:
                # SSCursor reads rows long after the command.
                unread.connection = _ReaderForBorrower(self)
        return rows

    def _read_ok_packet(self) -> Any:
        with self._answer_read():
            return Connection._read_ok_packet(self)

    @contextlib.contextmanager
    def _answer_read(self) -> Iterator[None]:
        """Note that what is done in the block has read the answer to the last command."""
        try:
            yield
        except pymysql.MySQLError:
            self.is_asking = False  # by an error; without an answer the socket is closed now
            raise
        self.is_asking = False

    def _refuse_misuse(self) -> None:
        self._refuse_other_threads()
        if self.is_asking:
            # It was interrupted before. What is asked now, be it for a COMMIT, would be answered by what is left of the
            # last answer, or wait for ever.
            self._force_close()
            self.forget_result()
            raise out_of_step()

    def _refuse_other_threads(self) -> None:
        if self.lent_to is not None and self.lent_to != get_ident():
            raise WrongThread(
                f"connection {self.server_thread_id[0]} was used by thread {get_ident()} and may be used "
                f"{_borrower(self.lent_to)}; borrow one in each thread, and keep none after its return"
            )

    def _create_ssl_ctx(self, sslp: Any) -> ssl.SSLContext:
        if isinstance(sslp, ssl.SSLContext):
            return sslp
        return _tls_context(tuple(sorted(sslp.items())), super()._create_ssl_ctx)


_every_connection: weakref.WeakSet[PooledConnection] = weakref.WeakSet()
"""Those too that a thread is just opening or closing, which no pool knows. A fork's child that kept their sockets would
keep the sessions from ending with its parent's death, while their places in a budget go to others."""


def _after_fork_in_child() -> None:
    for connection in list(_every_connection):
        connection.abandon()
    _every_connection.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


def out_of_step() -> pymysql.OperationalError:
    """Return the error for a connection whose last answer was not read to its end."""
    return pymysql.OperationalError(
        CR.CR_COMMANDS_OUT_OF_SYNC, "a command was interrupted before its answer was read to the end"
    )


def _set_names(charset: str, collation: str | None) -> str:
    return f"SET NAMES {charset} COLLATE {collation}" if collation else f"SET NAMES {charset}"


def _borrower(thread_id: int) -> str:
    if thread_id == IN_THE_POOL:
        return "by nobody, since it lies in the pool"
    if thread_id == ENDED:
        return "by nobody, since its pool has ended it"
    return f"by thread {thread_id}, which borrowed it"


class _ReaderForBorrower:
    """What an unread result has in place of its connection: it reads for the connection's borrower only."""

    def __init__(self, connection: PooledConnection) -> None:
        self._connection = connection

    def _read_packet(self) -> Any:
        connection = self._connection
        connection._refuse_misuse()
        connection.is_asking = True
        try:
            packet = connection._read_packet()
        except pymysql.MySQLError:
            connection.is_asking = False
            raise
        result = connection._result
        if result is not None and result._check_packet_is_eof(packet):
            # PyMySQL will note it, too. Who is interrupted before would wait for one more packet, which never comes.
            result.unbuffered_active = False
            packet.rewind()
        connection.is_asking = False
        return packet

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def _tls_context(
    options: tuple[tuple[str, Any], ...], create: Callable[[Mapping[str, Any]], ssl.SSLContext]
) -> ssl.SSLContext:
    context = _tls_contexts.get(options)
    if context is None:
        # Two threads may both build one; either serves.
        context = _tls_contexts[options] = create(dict(options))
    return context


_tls_contexts: dict[tuple[tuple[str, Any], ...], ssl.SSLContext] = {}
