"""An optional layer over the pool's connection that reads rows faster than PyMySQL.

For a lookup by key, PyMySQL spends most of its time on reading the answer. This module reads packets faster, and
`result` reads columns and rows faster. Rare cases are left to PyMySQL. The class below this layer checks the holder,
deadlines and unread answers, and does not depend on it.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import pymysql
from pymysql.constants import SERVER_STATUS
from pymysql.protocol import MysqlPacket

from wsgipool.drivers.pymysql.connection import PooledConnection
from wsgipool.drivers.pymysql.reading import ERROR, HEADER_LENGTH
from wsgipool.drivers.pymysql.result import Result

logger = logging.getLogger("wsgipool")

NEWEST_TESTED = (1, 2, 4)
"""The newest PyMySQL with which this layer has passed PyMySQL's own tests (`make compat`)."""

_PLAIN_OK = b"\x07\x00\x00\x01\x00\x00\x00"
"""The beginning of an OK packet without a changed row and a new key.

The status flags and the number of warnings follow, two bytes each
(https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_ok_packet.html).
"""
_OK_LENGTH = len(_PLAIN_OK) + 4


def connection_class(is_wanted: bool) -> type[PooledConnection]:
    """Return the class of connections, with the layer if it is wanted and tested with the installed PyMySQL."""
    return FastConnection if is_wanted and _fits(pymysql.VERSION) else PooledConnection


@cache
def _fits(version: tuple[Any, ...]) -> bool:
    if version[:3] <= NEWEST_TESTED:
        return True
    logger.warning(
        "PyMySQL %s is newer than %s, the newest with which fast_reading was tested. PyMySQL itself reads the rows, "
        "which takes about twice the CPU; a newer wsgipool may support this PyMySQL",
        ".".join(map(str, version[:3])),
        ".".join(map(str, NEWEST_TESTED)),
    )
    return False


class FastConnection(PooledConnection):
    """A pooled connection that reads packets directly from the reader's buffer."""

    __slots__ = ()

    def read_plain_ok(self) -> bool:
        """Wait for an answer and read it if it is a plain OK and the last; return whether it was read.

        Most answers are.
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

    def peek(self) -> bytes:
        """Wait for input and return what can be read at once; return nothing if a deadline is set."""
        if self._deadline is not None or self._current_timeout != self._read_timeout:
            return b""
        reader: Any = self._rfile
        try:
            ahead: bytes = reader.peek()
        except BaseException as error:
            self._fail(error)
        return ahead

    def skip(self, length: int, next_packet: int) -> None:
        """Skip bytes that `peek` has returned, and set the number of the next packet."""
        reader: Any = self._rfile
        reader.read(length)
        self._next_seq_id = next_packet

    def _read_packet(self, packet_type: Any = MysqlPacket) -> Any:
        """As PyMySQL's, but take a packet from the reader's buffer in one piece."""
        ahead = self.peek()
        end = HEADER_LENGTH + int.from_bytes(ahead[:3], "little")
        # PyMySQL reads longer packets, errors, packets out of order and the end of the session.
        if not HEADER_LENGTH < end <= len(ahead) or ahead[3] != self._next_seq_id or ahead[HEADER_LENGTH] == ERROR:
            return super()._read_packet(packet_type)
        self.skip(end, (self._next_seq_id + 1) % 256)
        return packet_type(ahead[HEADER_LENGTH:end], self.encoding)

    def _read_query_result(self, unbuffered: bool = False) -> Any:
        if unbuffered:
            return super()._read_query_result(True)
        # As PyMySQL's, with another class for the result.
        self._result = None
        result = Result(self)
        try:
            result.read()
        except pymysql.OperationalError as error:
            self._note_missing_file(error)
            raise
        self._result = result
        if result.server_status is not None:
            self.server_status = result.server_status
        self.awaits_answer = False
        return result.affected_rows

    def read_answers_at_once(self) -> bool:
        """Read the due answers if they are one plain OK that has arrived; return whether they were read."""
        if len(self.answers_due) == 1 and self.has_input() and self.read_plain_ok():
            self.answers_due = []
            return True
        return False
