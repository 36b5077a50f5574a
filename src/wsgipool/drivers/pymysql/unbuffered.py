"""The rows of an SSCursor, which are read long after their statement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsgipool.drivers.pymysql.connection import PooledConnection


class UnbufferedReader:
    """A proxy of the connection in an unread result that lets only the holder read."""

    def __init__(self, connection: PooledConnection) -> None:
        """Take the result's connection."""
        self._connection = connection

    def _read_packet(self) -> Any:
        connection = self._connection
        connection.refuse_misuse()
        connection.awaits_answer = True
        packet = connection._read_packet()
        result = connection._result
        if result is not None and result._check_packet_is_eof(packet):
            # PyMySQL does this later. If an exception came before, the holder would wait for a packet that never comes.
            result.unbuffered_active = False
            packet.rewind()
        connection.awaits_answer = False
        return packet

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the connection."""
        return getattr(self._connection, name)
