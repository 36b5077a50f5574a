"""A faster version of PyMySQL's result.

Two things make it faster. A repeated query describes its columns in the same bytes each time; they are parsed once.
Rows are parsed in the reader's buffer, without an object for each packet. Rare cases are left to PyMySQL: results that
are fetched row by row (SSCursor), errors, and packets that are not completely in the buffer.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from pymysql.connections import MySQLResult
from pymysql.constants import SERVER_STATUS
from pymysql.converters import through
from pymysql.protocol import MysqlPacket

from wsgipool.drivers.pymysql.reading import HEADER_LENGTH

if TYPE_CHECKING:
    from wsgipool.drivers.pymysql.fast_reading import FastConnection

_NULL, _TWO_BYTES = 0xFB, 0xFC
"""The first byte of a value that is NULL, or whose length is in the next two bytes. Otherwise it is the length.

The buffer has no longer values (https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_dt_integers.html).
"""

_EOF = 0xFE
"""The first byte of the packets that end the columns and the rows. The first byte of a row is less."""
_EOF_LENGTH = 5
"""Bytes of such a packet: the first byte, two for the number of warnings, two for the server's status flags.

See https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_eof_packet.html.
"""

_KINDS_OF_RESULTS = 256
"""Maximum number of cached results in a process, with a kilobyte for each column."""


class Result(MySQLResult):
    """PyMySQL's result with cached columns."""

    def read(self) -> None:
        """Read the answer to a query."""
        connection: FastConnection = self.connection
        ahead = connection.peek()
        try:
            end = _end_of_columns(ahead, connection._next_seq_id)
            columns = _columns(ahead[:end], connection.encoding, connection.use_unicode) if end else None
            if columns is None or not columns.are_in_order:
                super().read()
                return
            self.fields, self.description = columns.fields, columns.description
            self.field_count = len(columns.fields)
            decoders = connection.decoders
            self.converters = [
                (encoding, None if (decoder := decoders.get(kind)) is through else decoder)
                for kind, encoding in columns.kinds
            ]
            self._read_rows(connection, ahead, end + HEADER_LENGTH + _EOF_LENGTH, (ahead[end + 3] + 1) % 256)
        finally:
            self.connection = None

    def _read_rows(self, connection: FastConnection, ahead: bytes, at: int, number: int) -> None:
        """Read the packets of rows; the first has this number and begins at this index."""
        rows = []
        while True:
            start = at + HEADER_LENGTH
            end = start + int.from_bytes(ahead[at : at + 3], "little")
            is_here = start < end <= len(ahead) and ahead[at + 3] == number
            if is_here and ahead[start] < _EOF:
                rows.append(self._row(ahead[start:end]))
                at, number = end, (number + 1) % 256
            elif is_here and ahead[start] == _EOF and end == start + _EOF_LENGTH:
                self.warning_count = int.from_bytes(ahead[start + 1 : start + 3], "little")
                self.has_next = ahead[start + 3] & SERVER_STATUS.SERVER_MORE_RESULTS_EXISTS
                connection.skip(end, (number + 1) % 256)
                break
            else:
                connection.skip(at, number)
                packet = connection._read_packet()
                if self._check_packet_is_eof(packet):
                    break
                rows.append(self._read_row_from_packet(packet))
                ahead, at, number = connection.peek(), 0, connection._next_seq_id
        self.affected_rows = len(rows)
        self.rows = tuple(rows)

    def _row(self, packet: bytes) -> tuple[Any, ...]:
        row: list[Any] = []
        at = 0
        for encoding, decoder in self.converters:
            try:
                length = packet[at]
            except IndexError:
                break
            at += 1
            if length >= _NULL:
                if length == _NULL:
                    row.append(None)
                    continue
                if length != _TWO_BYTES:
                    at = 0
                    break
                length = int.from_bytes(packet[at : at + 2], "little")
                at += 2
            value: Any = packet[at : at + length]
            at += length
            if encoding is not None:
                value = value.decode(encoding)
            row.append(value if decoder is None else decoder(value))
        if at != len(packet):
            # PyMySQL handles values without a column, incomplete values, and other encodings of a length.
            row = self._read_row_from_packet(MysqlPacket(packet, ""))
        return tuple(row)


class _Columns:
    """Columns, parsed by PyMySQL, which reads their packets from this object as from a connection."""

    decoders: ClassVar[dict[int, Any]] = {}
    """Empty: each result uses the decoders of its connection."""

    def __init__(self, described: bytes, encoding: str, use_unicode: bool) -> None:
        self.encoding = encoding
        self.use_unicode = use_unicode
        self._unread = described[HEADER_LENGTH + 1 :]
        self._number = described[3]
        self.are_in_order = True  # by the numbers of their packets
        result = MySQLResult(self)
        result.field_count = described[HEADER_LENGTH]
        result._get_descriptions()
        self.fields, self.description = result.fields, result.description
        self.kinds = [
            (field.type_code, found) for field, (found, _) in zip(result.fields, result.converters, strict=True)
        ]

    def _read_packet(self, packet_type: Any = MysqlPacket) -> Any:
        if not self._unread:
            return MysqlPacket(bytes([_EOF]).ljust(_EOF_LENGTH, b"\0"), self.encoding)
        end = HEADER_LENGTH + int.from_bytes(self._unread[:3], "little")
        self._number = (self._number + 1) % 256
        self.are_in_order &= self._unread[3] == self._number
        packet, self._unread = self._unread[HEADER_LENGTH:end], self._unread[end:]
        return packet_type(packet, self.encoding)


_columns = lru_cache(_KINDS_OF_RESULTS)(_Columns)


def _end_of_columns(ahead: bytes, number: int) -> int:
    """Return the index at which the descriptions of columns end; 0 if the buffer does not hold all of them.

    The first packet, with this number, is the count of columns. PyMySQL reads counts of more than one byte.
    """
    if ahead[:3] != b"\x01\x00\x00" or len(ahead) <= HEADER_LENGTH:
        return 0
    columns = ahead[HEADER_LENGTH]
    end = HEADER_LENGTH + 1
    for _ in range(columns):
        end += HEADER_LENGTH + int.from_bytes(ahead[end : end + 3], "little")
    start = end + HEADER_LENGTH
    is_here = len(ahead) >= start + _EOF_LENGTH
    begins = b"%c\x00\x00%c%c" % (_EOF_LENGTH, (number + 1 + columns) % 256, _EOF)
    return end if is_here and ahead[end : start + 1] == begins else 0
