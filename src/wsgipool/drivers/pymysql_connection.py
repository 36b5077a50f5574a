"""PyMySQL's connection, as a pool needs it: with a reset whose answers are read later, and used by its holder only.

It knows who may use it, what of the protocol is still to be read, and what it was like before its first holder; it
knows no pool and no settings. Another thread gets WrongThread before anything is sent or read. A holder that goes on
after an exception in the middle of an answer gets an error, not the rest of that answer: whether the last packet of an
answer was read decides, and never the class of an exception, which may be the program's. How packets are read is in
`pymysql_reading`, how rows in `pymysql_result`.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
import warnings
import weakref
from collections.abc import Callable, Mapping
from threading import get_ident
from time import monotonic
from typing import Any, NamedTuple

import pymysql
from pymysql.charset import charset_by_name
from pymysql.connections import MAX_PACKET_LEN, Connection
from pymysql.constants import COMMAND, CR, SERVER_STATUS
from pymysql.protocol import MysqlPacket

from wsgipool.drivers import Reset, keep_forever
from wsgipool.drivers.codes import Codes, is_out_of_service
from wsgipool.drivers.opening import Descriptor, connect_tcp, connect_unix
from wsgipool.drivers.pymysql_reading import ERROR, HEADER_LENGTH, ReadingConnection
from wsgipool.drivers.pymysql_result import Result
from wsgipool.drivers.sockets import is_readable
from wsgipool.errors import WrongThread
from wsgipool.farewell import Farewell

_COM_RESET_CONNECTION = 0x1F
"""Not in pymysql.constants.COMMAND; MySQL 5.7 and MariaDB 10.2 have it."""

_AUTOCOMMIT = SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT
_AUTOCOMMIT_OR_IN_TRANSACTION = _AUTOCOMMIT | SERVER_STATUS.SERVER_STATUS_IN_TRANS

_FAILS_WITH_A_DATABASE = b"SET @_ = (SELECT 1 FROM (SELECT 1 UNION SELECT 2) AS two WHERE DATABASE() IS NOT NULL)"
"""A statement whose subquery has one row too many, error 1242, where the session has selected a database. The reset
that follows ends its variable."""

_CLEAR_TEXT_PLUGINS = (b"mysql_clear_password", b"dialog")
"""Ways to authenticate that send the password itself."""

_FAREWELL_OF_SERVER = bytes([0, ERROR])
"""The number and the first byte of the packet in which a server says unasked why it ends a session."""

_CHANGES_BY_ITSELF = frozenset({
    "_affected_rows", "_auth_plugin_name", "_closed", "_current_timeout", "_next_seq_id", "_result", "_rfile", "_sock",
    "farewell", "pipeline", "sent_at", "server_status",
})  # fmt: skip
"""Attributes of a connection that are not a setting of its holder's."""

_packed_command = struct.Struct("<iB").pack
"""A command's length, which counts the byte that names the command, the 0 of the first packet, and that byte."""


class _Command(NamedTuple):
    """A command of ours, answered by an OK packet or, `may_have_rows`, whatever the program's statement gives."""

    number: int
    payload: bytes
    may_have_rows: bool = False
    meaning: str = ""
    """What it means when the server refuses it, where its error does not say so."""


class _Remembered(NamedTuple):
    """What a connection was like before its first holder."""

    state: dict[str, Any]
    decoders: dict[int, Any]
    encoders: dict[Any, Any]
    autocommit: int
    """That flag of the server's status, or 0."""
    size: int


IN_THE_POOL = 0
"""The `lent_to` of a connection that lies in the pool: no thread has this number, nor the next one."""
ENDED = -1
"""The `lent_to` of one that the pool has closed or left to a fork's parent: connected again, nobody would count it."""


class PooledConnection(ReadingConnection):
    """PyMySQL's connection, used by one thread at a time, with one TLS context a process and setting."""

    # What a checkout touches lies side by side: it is cold in the processor's cache then.
    __slots__ = ("_remembered", "answers_due", "has_asked", "has_something_to_read", "is_asking", "lent_to", "unusable")

    lent_to: int | None
    """The thread that may use it, `IN_THE_POOL` or `ENDED`; None before it has been lent for the first time."""
    has_asked: bool
    """Whether its holder has sent a command."""
    is_asking: bool
    """Whether its holder has sent a command whose answer was not read to its end."""
    answers_due: list[_Command]
    """Commands of a reset that were sent and whose answers have not been read."""
    unusable: pymysql.MySQLError | None
    """Why it must not be handed out again, although it is open and in step."""
    has_something_to_read: Callable[[], object]
    """Returns without waiting whether the server has sent something, or closed the socket. Each `connect()` sets it."""

    def __init__(self, **arguments: Any) -> None:
        self.lent_to = None
        self.has_asked = False
        self.is_asking = False
        self.answers_due = []
        self.unusable = None
        self._remembered: _Remembered | None = None
        self.pipeline = True
        """Whether commands of ours are sent before the answer to the one before them was read."""
        self.closing_codes: Codes = frozenset()
        """Further error codes after which it is not handed out again."""
        self.sent_at = 0.0
        """When the last command of a reset was sent, by `time.monotonic()`."""
        self.descriptor: Descriptor | None = None
        """That of its socket, from the moment when there is one."""
        self.server_thread_id: tuple[int, ...] = (0,)
        """The server's number of its session; 0 before there is one."""
        self.farewell: Farewell | None = None
        """After its end, whether by `close()` or by an error: what the server makes of that."""
        super().__init__(**arguments)

    # --- the session: opened, remembered, reset ---------------------------------------------------------------------

    def connect(self, sock: socket.socket | None = None) -> None:
        """As PyMySQL's, but a fork's child knows the socket from the first, and all addresses share one timeout.

        Its holder may call it again, after an error or by `ping(reconnect=True)`: that is another session, which is not
        the pool's.
        """
        self._refuse_other_threads()
        _every_connection.add(self)
        if self._sock is not None:
            self._force_close()
        self.forget_result()
        self.answers_due = []
        self.is_asking = False
        self._closed = False
        if self._remembered is not None:
            self.unusable = pymysql.InterfaceError(0, "its holder has connected it again")
        try:
            self._sock = sock or self._connect_socket()
            ours: Any = self._sock
            self._current_timeout = ours.gettimeout()
            self._rfile = ours.makefile("rb")
            self._next_seq_id = 0
            self._get_server_information()
            self._request_authentication()
            self.read_directly()
            self.has_something_to_read = is_readable(ours.fileno())
            self.send(self._session())
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
        state = {name: value for name, value in vars(self).items() if name not in _CHANGES_BY_ITSELF}
        self._remembered = _Remembered(
            state, dict(self.decoders), dict(self.encoders), self.server_status & _AUTOCOMMIT, len(vars(self))
        )

    def reset(self, how: Reset | None) -> None:
        """Put the Python object back as `remember` has found it, and send what the session needs.

        That is its end of a transaction or of all its state, and what a holder has set by the methods of this object.
        """
        assert self._remembered is not None
        fresh, decoders, encoders, autocommit, size = self._remembered
        state = vars(self)
        charset = state["charset"], state["collation"]
        state.update(fresh)
        if len(state) != size:
            for name in state.keys() - fresh.keys() - _CHANGES_BY_ITSELF:
                del state[name]
        if state["decoders"] != decoders:
            state["decoders"] = fresh["decoders"] = dict(decoders)
        if state["encoders"] != encoders:
            state["encoders"] = fresh["encoders"] = dict(encoders)
        if how == "session":
            self.send([*self._database(), _Command(_COM_RESET_CONNECTION, b""), *self._session(is_reset=True)])
            return
        status = self.server_status
        commands = []
        if how is not None and self.has_asked and status & _AUTOCOMMIT_OR_IN_TRANSACTION != _AUTOCOMMIT:
            # A transaction may be open. With autocommit off the server's flags do not tell: PyMySQL drops those
            # that end a result set.
            commands.append(_Command(COMMAND.COM_QUERY, b"ROLLBACK"))
        if status & _AUTOCOMMIT != autocommit:
            commands.append(_set_autocommit(bool(autocommit)))
        if charset != (state["charset"], state["collation"]):
            commands.append(_set_names(self.charset, self.collation))
        if commands:
            self.send(commands)

    def _session(self, is_reset: bool = False) -> list[_Command]:
        """Return what a new session needs; after a reset it has the server's defaults, which are not ours."""
        commands = [_set_names(self.charset, self.collation)]
        if self.sql_mode is not None:
            commands.append(_Command(COMMAND.COM_QUERY, f"SET sql_mode={self.escape(self.sql_mode)}".encode()))
        if self.init_command:
            commands.append(_Command(COMMAND.COM_QUERY, self.init_command.encode(self.encoding), may_have_rows=True))
        if self.autocommit_mode is not None and (is_reset or self.autocommit_mode != self.get_autocommit()):
            commands.append(_set_autocommit(self.autocommit_mode))
        return commands

    def _database(self) -> list[_Command]:
        """Return what a session needs before its reset, which leaves the selected database as it is."""
        if self.db:
            return [_Command(COMMAND.COM_INIT_DB, self.db if isinstance(self.db, bytes) else self.db.encode())]
        # No command selects none: the session has to be closed if its holder has selected one.
        return [
            _Command(COMMAND.COM_QUERY, _FAILS_WITH_A_DATABASE, meaning="a database was selected; the URL names none")
        ]

    def send(self, commands: list[_Command]) -> None:
        """Send commands and leave their answers to `read_answers`; without `pipeline` they are read here."""
        for group in [commands] if self.pipeline else [[command] for command in commands]:
            self._write_bytes(b"".join(_packed_command(len(c.payload) + 1, c.number) + c.payload for c in group))
            self.sent_at = monotonic()
            self.answers_due += group
            if not self.pipeline:
                self.read_answers()

    def read_answers(self) -> None:
        """Read the answers that are due. Raises the server's error, or PyMySQL's; then the connection is closed."""
        try:
            while self.answers_due:
                self._next_seq_id = 1
                self._read_answer(self.answers_due[0])
                del self.answers_due[0]
            if self.has_unread():
                self._refuse_unasked()
        except BaseException:
            # It is not clean, and another answer may follow that nobody will read.
            self._force_close()
            raise
        self._result = None

    def has_unread(self) -> bool:
        """Return whether there is something to read, be it the end, although no command waits for an answer."""
        return bool(self.has_something_to_read()) or self.has_buffered()

    def _read_answer(self, command: _Command) -> None:
        try:
            self._read_answer_as_it_comes(command)
        except pymysql.MySQLError as error:
            if command.meaning and self._sock is not None:
                raise pymysql.OperationalError(command.meaning) from error
            raise

    def _read_answer_as_it_comes(self, command: _Command) -> None:
        if command.may_have_rows:
            has_more = True
            while has_more:
                ReadingConnection._read_query_result(self)
                result = self._result
                has_more = result is not None and bool(result.has_next)
        elif self._read_ok_packet().has_next:
            raise unasked_answer()

    def reads_cleaning_at_once(self) -> bool:
        """Read the answers that are due if they are one plain OK that has arrived; return whether they were."""
        if len(self.answers_due) == 1 and self.has_something_to_read() and self.reads_plain_ok():
            self.answers_due = []
            return True
        return False

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

    def _process_auth(self, plugin_name: bytes, auth_packet: Any, handler: Any = None) -> Any:
        if plugin_name in _CLEAR_TEXT_PLUGINS and not self._is_private():
            raise pymysql.OperationalError(
                CR.CR_AUTH_PLUGIN_ERR,
                f"the server asks for the password in clear text ({plugin_name.decode()}); it is sent only over a Unix "
                "socket or a TLS connection whose certificate is verified: give an ssl_ca, or have the account use "
                "another authentication plugin",
            )
        return super()._process_auth(plugin_name, auth_packet, handler)

    def _is_private(self) -> bool:
        """Return whether nobody but the server that is meant can read what is sent."""
        if isinstance(self._sock, ssl.SSLSocket):
            context = self._sock.context
            return context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname
        return bool(self.unix_socket)

    def _create_ssl_ctx(self, sslp: Any) -> ssl.SSLContext:
        if isinstance(sslp, ssl.SSLContext):
            return sslp
        return _tls_context(tuple(sorted(sslp.items())), super()._create_ssl_ctx)

    # --- commands of its holder -------------------------------------------------------------------------------------

    def _execute_command(self, command: int, sql: Any) -> None:
        if self.is_asking or self.lent_to != get_ident() or self._sock is None:
            self._refuse_misuse()
        last = self._result
        if last is not None and (last.unbuffered_active or last.has_next):
            self._read_rest(last)
        if self.has_unread():
            self._refuse_unasked()
        self.has_asked = self.is_asking = True
        if isinstance(sql, str):
            sql = sql.encode(self.encoding)
        if len(sql) + 1 >= MAX_PACKET_LEN:
            Connection._execute_command(self, command, sql)
        else:
            self._result = None
            self._write_bytes(_packed_command(len(sql) + 1, command) + sql)
            self._next_seq_id = 1

    def _read_rest(self, result: Any) -> None:
        # As PyMySQL's, which would do it when the next command counts as sent.
        if result.unbuffered_active:
            warnings.warn("Previous unbuffered result was left incomplete", stacklevel=4)
            result._finish_unbuffered_query()
        while result is not None and result.has_next:
            self.next_result()
            result = self._result

    def _read_query_result(self, unbuffered: bool = False) -> Any:
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
        self.is_asking = False
        if unbuffered:
            unread: Any = self._result
            if unread.connection is not None:
                # SSCursor reads rows long after the command.
                unread.connection = _ReaderForHolder(self)
        return rows

    def next_result(self, unbuffered: bool = False) -> int:
        self._refuse_misuse()
        self.is_asking = True
        rows: int = super().next_result(unbuffered)
        return rows

    def show_warnings(self) -> Any:
        rows = super().show_warnings()
        self.is_asking = False
        return rows

    def set_character_set(self, charset: str, collation: str | None = None) -> None:
        encoding = charset_by_name(charset).encoding
        command = _set_names(charset, collation)
        self._execute_command(command.number, command.payload)
        self._read_ok_packet()
        self.charset, self.collation, self.encoding = charset, collation, encoding

    def _read_ok_packet(self) -> Any:
        packet = super()._read_ok_packet()
        self.is_asking = False
        return packet

    def _note_refusal(self, packet: bytes) -> None:
        # An error is the end of an answer. Nothing else says so: an exception may be the program's.
        self.is_asking = False
        code = int.from_bytes(packet[1:3], "little")
        state = packet[4:9].decode("ascii", "replace") if packet[3:4] == b"#" else ""
        message = packet[9 if state else 3 :].decode("utf-8", "replace")
        error = pymysql.OperationalError(code, message, sqlstate=state)
        if is_out_of_service(error, self.closing_codes):
            self.unusable = error

    # --- who may use it ---------------------------------------------------------------------------------------------

    def _refuse_misuse(self) -> None:
        self._refuse_other_threads()
        if self._sock is None:
            self.forget_result()
            raise self.closed_error()
        if self.is_asking:
            # It was interrupted before. What is asked now, be it for a COMMIT, would be answered by what is left of the
            # last answer, or wait for ever.
            self._force_close()
            self.forget_result()
            raise out_of_step()

    def _refuse_unasked(self) -> None:
        """Close, since the server has said something or closed the session, and raise what it means."""
        reader: Any = self._rfile
        ours: Any = self._sock
        try:
            ours.settimeout(0.0)
            self._current_timeout = 0.0  # PyMySQL sets its own again
            ahead = reader.peek()
        except (BlockingIOError, ssl.SSLWantReadError):
            return  # TLS had something to say to itself
        except BaseException as error:
            self._fail(error)
        self._force_close()
        self.forget_result()
        if not ahead:
            raise pymysql.OperationalError(CR.CR_SERVER_GONE_ERROR, "MySQL server has gone away: it closed the session")
        if ahead[3:5] == _FAREWELL_OF_SERVER:
            MysqlPacket(ahead[HEADER_LENGTH:], self.encoding).raise_for_error()
        raise unasked_answer()

    def closed_error(self) -> pymysql.MySQLError:
        """Return the error for a connection that is used after its end."""
        if self._closed:
            return pymysql.InterfaceError(
                0,
                "this connection was closed by close(). A connection of a pool is given back instead: at the end of "
                "its `with` block, or by putconn()",
            )
        return pymysql.OperationalError(
            CR.CR_SERVER_GONE_ERROR,
            "this connection has ended with an earlier error, which says why. Leave the `with` block or call "
            "putconn(), and take another from the pool",
        )

    def _refuse_other_threads(self) -> None:
        if self.lent_to is not None and self.lent_to != get_ident():
            raise WrongThread(
                f"connection {self.server_thread_id[0]} was used by thread {get_ident()} and may be used "
                f"{_holder(self.lent_to)}; take one from the pool in each thread, and keep none after its return"
            )

    # --- its end ----------------------------------------------------------------------------------------------------

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
        self.lent_to = ENDED  # first: nothing else has to go well for a query to be refused
        # close() would send COM_QUIT through the socket shared with the parent and end the parent's session. Even the
        # reader on top of the socket is not closed: a thread that the child does not have may have been in it.
        if self._rfile is not None:
            keep_forever(self._rfile)
        self._sock = self._rfile = None
        self.forget_result()
        if self.descriptor is not None:
            self.descriptor.point_nowhere()

    def _force_close(self) -> None:
        farewell = None if self._sock is None else Farewell(self._sock.fileno())
        super()._force_close()
        if farewell is not None:
            farewell.hang_up()
            self.farewell = farewell


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


def unasked_answer() -> pymysql.OperationalError:
    return pymysql.OperationalError(
        CR.CR_COMMANDS_OUT_OF_SYNC, "the server has sent an answer that nobody asked for, so none could be trusted"
    )


def _set_names(charset: str, collation: str | None) -> _Command:
    collate = f" COLLATE {collation}" if collation else ""
    return _Command(COMMAND.COM_QUERY, f"SET NAMES {charset}{collate}".encode())


def _set_autocommit(mode: bool) -> _Command:
    return _Command(COMMAND.COM_QUERY, f"SET AUTOCOMMIT = {mode:d}".encode())


def _holder(thread_id: int) -> str:
    if thread_id == IN_THE_POOL:
        return "by nobody, since it lies in the pool"
    if thread_id == ENDED:
        return "by nobody, since its pool has ended it"
    return f"by thread {thread_id}, which holds it"


class _ReaderForHolder:
    """What an unread result has in place of its connection: it reads for the connection's holder only."""

    def __init__(self, connection: PooledConnection) -> None:
        self._connection = connection

    def _read_packet(self) -> Any:
        connection = self._connection
        connection._refuse_misuse()
        connection.is_asking = True
        packet = connection._read_packet()
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
