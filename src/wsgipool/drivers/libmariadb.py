"""Input for the C client library: in the socket, and in the buffer into which MariaDB's library reads ahead.

Unexpected input would be taken for the answer to the next command. The two structures read here are part of the
interface to the library's plugins, unchanged since version 3.0.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import sys
import termios

from MySQLdb import get_client_info
from MySQLdb.connections import Connection

from wsgipool.drivers.polling import Predicate


class _ReadAhead(ctypes.Structure):
    """The beginning of `struct st_ma_pvio` (ma_pvio.h)."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("cache", ctypes.c_void_p),
        ("position", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
    )


IS_MARIADB_LIBRARY = get_client_info().startswith("3.")
"""Whether the library is MariaDB's Connector/C. MySQL's library has the server's version, 5 or higher."""

_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype = ctypes.c_void_p
_pointer_of.argtypes = [ctypes.py_object, ctypes.c_char_p]


def read_ahead(connection: Connection) -> Predicate:
    """Return a function that counts the bytes that the library has read ahead on an open connection."""
    if not IS_MARIADB_LIBRARY:
        return bool
    address = _pointer_of(connection._get_native_connection(), b"_mysql.connection.native_connection")
    # `MYSQL` begins with a `NET`, which begins with this pointer. It is null once the socket is closed.
    pointer = ctypes.POINTER(_ReadAhead).from_address(address)

    def unread() -> int:
        if not pointer:
            return 0
        ahead = pointer.contents
        return max(0, (ahead.cache or 0) + ahead.size - ahead.position) if ahead.position else 0

    return unread


_HEADER = 5
_TLS = b"\x17\x03"
"""The first bytes of a TLS record with data."""
_peeked = ctypes.PyDLL(None).recv  # PyDLL keeps the GIL: the call does not wait


def has_whole_answer(descriptor: int) -> bool:
    """Return whether the first packet or TLS record in a socket has arrived completely."""
    if descriptor < 0:
        return True  # reading from a closed socket does not wait
    header = ctypes.create_string_buffer(_HEADER)
    if _peeked(descriptor, header, _HEADER, socket.MSG_PEEK | socket.MSG_DONTWAIT) != _HEADER:
        return False
    arrived = int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)
    if header.raw.startswith(_TLS):
        return arrived >= 5 + int.from_bytes(header.raw[3:5], "big")
    return arrived >= 4 + int.from_bytes(header.raw[:3], "little")
