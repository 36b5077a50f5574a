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
from pymysql.constants import CR, SERVER_STATUS
from pymysql.protocol import MysqlPacket

_PLAIN_OK = b"\x07\x00\x00\x01\x00\x00\x00"
"""How the packet begins by which the server says yes, no row was changed and no key made: then come its status flags
and the number of warnings, two bytes each (https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_ok_packet.html)."""
_OK_LENGTH = len(_PLAIN_OK) + 4

HEADER_LENGTH = 4
"""Bytes before each packet: three for the length of what follows, the least significant first, and one that counts the
packets of an answer (https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_packets.html)."""
ERROR = 0xFF
"""The first byte of a packet that tells of an error."""
_ERROR = bytes([ERROR])


_MOST_BYTES = 1 << 20
"""Read within a deadline at most: what a server says while it connects or cleans a session takes some hundred bytes."""


class ReadingConnection(Connection):
    """PyMySQL's connection, which can read within a deadline, too."""

    __slots__ = ("_bytes_left", "_deadline")

    _deadline: float | None
    """Until when `patience` waits, by `time.monotonic()`."""

    def __init__(self, **arguments: Any) -> None:
        self._deadline = None
        self._bytes_left = 0
        super().__init__(**arguments)

    def read_directly(self) -> None:
        """Read from the socket of a new session without PyMySQL's reader, in which nothing may lie."""
        ours: Any = self._sock
        self._rfile = io.BufferedReader(_Received(ours))

    @contextlib.contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        """Send and read for at most so long, all answers together, and read at most a megabyte.

        Whatever read_timeout and write_timeout are otherwise.
        """
        self._deadline = monotonic() + seconds
        self._bytes_left = _MOST_BYTES
        try:
            yield
        finally:
            self._deadline = None

    def reads_plain_ok(self) -> bool:
        """Wait for an answer and read it if it is a plain OK that nothing follows; else leave it.

        Most are, and PyMySQL takes three times as long to read one as it reads any packet.
        """
        reader: Any = self._rfile
        try:
            packet = reader.peek(_OK_LENGTH)
        except BaseException as error:
            self._fail(error)
        status = int.from_bytes(packet[len(_PLAIN_OK) :][:2], "little")
        is_alone = len(packet) == _OK_LENGTH and not status & SERVER_STATUS.SERVER_MORE_RESULTS_EXISTS
        if not packet.startswith(_PLAIN_OK) or not is_alone:
            return False
        reader.read(_OK_LENGTH)
        self.server_status = status
        return True

    def has_buffered(self) -> bool:
        """Return whether something was received that nobody has read."""
        reader: Any = self._rfile
        receive = reader.raw.readinto
        try:
            reader.raw.readinto = _receive_nothing
            ahead = reader.peek(1)
        finally:
            reader.raw.readinto = receive
        return bool(ahead)

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

            def received(data: bytes, encoding: str) -> Any:
                if data[:1] == _ERROR:
                    self._note_refusal(data)
                return packet_type(data, encoding)

            return Connection._read_packet(self, received)
        self.skip(end, (self._next_seq_id + 1) % 256)
        return packet_type(ahead[HEADER_LENGTH:end], self.encoding)

    def _note_refusal(self, packet: bytes) -> None:
        """Learn that an answer was read to its end, since it is an error: the packet, from its first byte."""

    def _fail(self, error: BaseException) -> NoReturn:
        """Close after an error while something was read, and raise what PyMySQL makes of it."""
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
            self._fail(OSError("the answer is longer than any that is due here"))
        self._bytes_left -= number
        reader: Any = self._rfile
        pieces = []
        while number:
            try:
                self._limit_socket()
                ahead = reader.peek(1)  # receives once at most, so a server that trickles gains no time
                piece = reader.read1(number) if ahead else b""
            except BaseException as error:
                self._fail(error)
            if not piece:
                self._fail(OSError("the server has closed it"))
            pieces.append(piece)
            number -= len(piece)
        return b"".join(pieces)

    def _write_bytes(self, data: bytes) -> None:
        if self._deadline is None:
            Connection._write_bytes(self, data)
            return
        ours: Any = self._sock
        try:
            self._limit_socket()
            ours.sendall(data)
        except BaseException as error:
            self._fail(error)

    def _limit_socket(self) -> None:
        """Let the socket wait until the deadline and no longer. Raises TimeoutError where it is over."""
        assert self._deadline is not None
        left = self._deadline - monotonic()
        if left <= 0.0:
            raise TimeoutError("timed out")
        ours: Any = self._sock
        ours.settimeout(left)
        self._current_timeout = left  # PyMySQL sets its own again where it differs


class _Received(io.RawIOBase):
    """What a socket receives: as socket.SocketIO, which is Python between one C function and another."""

    def __init__(self, ours: socket.socket) -> None:
        vars(self)["readinto"] = ours.recv_into

    def readable(self) -> bool:
        return True


def _receive_nothing(_buffer: object) -> None:
    return None
