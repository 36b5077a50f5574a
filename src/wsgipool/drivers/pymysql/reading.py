"""PyMySQL's connection with deadlines for sending and reading. It knows packets, no pool and no holder."""

from __future__ import annotations

import contextlib
import io
import socket
from collections.abc import Iterator
from time import monotonic
from typing import Any, NoReturn

import pymysql
from pymysql.connections import Connection
from pymysql.constants import CR
from pymysql.protocol import MysqlPacket

HEADER_LENGTH = 4
"""Bytes before each packet: three for its length, little-endian, and one that counts the packets of an answer.

See https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_packets.html.
"""
ERROR = 0xFF
"""The first byte of an error packet."""
_ERROR = bytes([ERROR])

_MAX_BYTES = 1 << 20
"""Maximum bytes read within a deadline. The answers to a connect or a cleaning take some hundred bytes."""


class ReadingConnection(Connection):
    """A PyMySQL connection with deadlines."""

    __slots__ = ("_bytes_left", "_deadline")

    _deadline: float | None
    """The end of the current `deadline` block, by `time.monotonic()`."""

    def __init__(self, **arguments: Any) -> None:
        """Take PyMySQL's arguments."""
        self._deadline = None
        self._bytes_left = 0
        super().__init__(**arguments)

    def read_directly(self) -> None:
        """Replace PyMySQL's reader, whose buffer must be empty, by a faster one."""
        sock: Any = self._sock
        self._rfile = io.BufferedReader(_SocketReader(sock))

    @contextlib.contextmanager
    def deadline(self, seconds: float) -> Iterator[None]:
        """Limit the block: it sends and reads for at most `seconds`, and reads at most a megabyte.

        Within the block, read_timeout and write_timeout have no effect.
        """
        self._deadline = monotonic() + seconds
        self._bytes_left = _MAX_BYTES
        try:
            yield
        finally:
            self._deadline = None

    def has_buffered(self) -> bool:
        """Return whether the reader's buffer has unread input."""
        reader: Any = self._rfile
        receive = reader.raw.readinto
        try:
            reader.raw.readinto = _read_nothing
            ahead = reader.peek(1)
        finally:
            reader.raw.readinto = receive
        return bool(ahead)

    def _read_packet(self, packet_type: Any = MysqlPacket) -> Any:
        def received(data: bytes, encoding: str) -> Any:
            if data[:1] == _ERROR:
                self._note_error(data)
            return packet_type(data, encoding)

        return super()._read_packet(received)

    def _note_error(self, packet: bytes) -> None:
        """Note that an answer was read to its end: it is an error, whose packet is given from its first byte."""

    def _fail(self, error: BaseException) -> NoReturn:
        """Close the connection after an error of the reader, and raise PyMySQL's error for it."""
        self._force_close()
        if isinstance(error, OSError):
            message = f"Lost connection to MySQL server during query ({error})"
            raise pymysql.OperationalError(CR.CR_SERVER_LOST, message) from None
        raise error

    def _read_bytes(self, number: int) -> bytes:
        if self._deadline is None:
            data: bytes = Connection._read_bytes(self, number)
            return data
        if number > self._bytes_left:
            self._fail(OSError("the answer is longer than any expected here"))
        self._bytes_left -= number
        reader: Any = self._rfile
        pieces = []
        while number:
            try:
                self._limit_socket()
                ahead = reader.peek(1)  # receives at most once, so the deadline also holds for a slow sender
                piece = reader.read1(number) if ahead else b""
            except BaseException as error:
                self._fail(error)
            if not piece:
                self._fail(OSError("the server has closed the connection"))
            pieces.append(piece)
            number -= len(piece)
        return b"".join(pieces)

    def _write_bytes(self, data: bytes) -> None:
        if self._deadline is None:
            Connection._write_bytes(self, data)
            return
        sock: Any = self._sock
        try:
            self._limit_socket()
            sock.sendall(data)
        except BaseException as error:
            self._fail(error)

    def _limit_socket(self) -> None:
        """Set the socket's timeout to the rest of the deadline. Raise TimeoutError if it is over."""
        assert self._deadline is not None
        remaining = self._deadline - monotonic()
        if remaining <= 0.0:
            raise TimeoutError("timed out")
        sock: Any = self._sock
        sock.settimeout(remaining)
        self._current_timeout = remaining  # PyMySQL compares it with its own timeout and sets that again


def server_error(packet: bytes) -> pymysql.OperationalError:
    """Return an error packet as an exception, with its number, text and SQLSTATE."""
    code = int.from_bytes(packet[1:3], "little")
    state = packet[4:9].decode("ascii", "replace") if packet[3:4] == b"#" else ""
    message = packet[9 if state else 3 :].decode("utf-8", "replace")
    return pymysql.OperationalError(code, message, sqlstate=state)


class _SocketReader(io.RawIOBase):
    """A raw reader of a socket, like socket.SocketIO but with one Python function fewer."""

    def __init__(self, sock: socket.socket) -> None:
        vars(self)["readinto"] = sock.recv_into

    def readable(self) -> bool:
        return True


def _read_nothing(_buffer: object) -> None:
    return None
