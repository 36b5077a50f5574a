"""PyMySQL's connection with a quicker way to read: it knows packets, and nothing of pools and borrowers.

Most of the Python functions that a lookup by key calls in PyMySQL read its answer. Here what it does for each packet is
done in another way, in `pymysql_result` what it does for each column and row; what is rare is left to it.
"""

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

from wsgipool.drivers.opening import LEAST_TIMEOUT

_PLAIN_OK = b"\x07\x00\x00\x01\x00\x00\x00"
"""How the packet begins by which the server says yes, no row was changed and no key made: then come its status flags
and the number of warnings, two bytes each (https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_ok_packet.html)."""
_OK_LENGTH = len(_PLAIN_OK) + 4

HEADER_LENGTH = 4
"""Bytes before each packet: three for the length of what follows, the least significant first, and one that counts the
packets of an answer (https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_packets.html)."""
ERROR = 0xFF
"""The first byte of a packet that tells of an error."""


class ReadingConnection(Connection):
    """PyMySQL's connection, which can read within a deadline, too."""

    __slots__ = ("_deadline",)

    _deadline: float | None
    """Until when `patience` waits, by `time.monotonic()`."""

    def __init__(self, **arguments: Any) -> None:
        self._deadline = None
        super().__init__(**arguments)

    def read_directly(self) -> None:
        """Read from the socket of a new session without PyMySQL's reader, in which nothing may lie."""
        ours: Any = self._sock
        self._rfile = io.BufferedReader(_Received(ours))

    @contextlib.contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        """Wait at most so long for all answers together, whatever read_timeout and write_timeout are otherwise."""
        write_timeout = self._write_timeout
        self._deadline = monotonic() + seconds
        self._write_timeout = min(seconds, write_timeout or seconds)
        try:
            yield
        finally:
            self._deadline = None
            self._write_timeout = write_timeout

    def reads_plain_ok(self, *, alone: bool) -> bool:
        """Wait for an answer, and read it if it is a plain OK; else leave it.

        Most are, and PyMySQL takes three times as long to read one as it reads any packet. `alone`: nothing may follow.
        """
        reader: Any = self._rfile
        try:
            packet = reader.peek(_OK_LENGTH)
        except BaseException as error:
            self._fail(error)
        if not packet.startswith(_PLAIN_OK) or len(packet) < _OK_LENGTH or (alone and len(packet) > _OK_LENGTH):
            return False
        reader.read(_OK_LENGTH)
        self.server_status = int.from_bytes(packet[len(_PLAIN_OK) :][:2], "little")
        return True

    def peek(self) -> bytes:
        """Return what can be read of an answer at once, after waiting for some; nothing if each read has a deadline."""
        if self._deadline is not None or self._current_timeout != self._read_timeout:
            return b""
        reader: Any = self._rfile
        try:
            ahead: bytes = reader.peek()
        except BaseException as error:
            self._fail(error)
        return ahead

    def skip(self, length: int, next_packet: int) -> None:
        """Count as read that many bytes of what `peek` has returned; the next packet has this number."""
        reader: Any = self._rfile
        reader.read(length)
        self._next_seq_id = next_packet

    def _read_packet(self, packet_type: Any = MysqlPacket) -> Any:
        """As PyMySQL's, but what lies in the reader's buffer already is taken in one piece."""
        ahead = self.peek()
        end = HEADER_LENGTH + int.from_bytes(ahead[:3], "little")
        # The rest is PyMySQL's: what is longer, an error, what does not belong here or has ended.
        if not HEADER_LENGTH < end <= len(ahead) or ahead[3] != self._next_seq_id or ahead[HEADER_LENGTH] == ERROR:
            return Connection._read_packet(self, packet_type)
        self.skip(end, (self._next_seq_id + 1) % 256)
        return packet_type(ahead[HEADER_LENGTH:end], self.encoding)

    def _fail(self, error: BaseException) -> NoReturn:
        """Close after an error while something was read, and raise what PyMySQL makes of it."""
        self._force_close()
        if isinstance(error, OSError):
            message = f"Lost connection to MySQL server during query ({error})"
            raise pymysql.OperationalError(CR.CR_SERVER_LOST, message) from None
        raise error

    def _read_bytes(self, number: int) -> bytes:
        if self._deadline is not None:
            left = max(self._deadline - monotonic(), LEAST_TIMEOUT)
            self._current_timeout = min(left, self._read_timeout or left)
            ours: Any = self._sock
            ours.settimeout(self._current_timeout)
        data: bytes = Connection._read_bytes(self, number)
        return data


class _Received(io.RawIOBase):
    """What a socket receives: as socket.SocketIO, which is Python between one C function and another."""

    def __init__(self, ours: socket.socket) -> None:
        vars(self)["readinto"] = ours.recv_into

    def readable(self) -> bool:
        return True
