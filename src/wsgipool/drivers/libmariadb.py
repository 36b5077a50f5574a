"""What has arrived for MySQL's or MariaDB's client library, and what MariaDB's has read ahead of need.

An answer that nobody has asked for may lie there, where it would be taken for the answer to the next command. The two
structures that are looked into are part of the interface to the library's plugins, the same since its version 3.0.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import sys
import termios

from MySQLdb import get_client_info
from MySQLdb.connections import Connection

from wsgipool.drivers.sockets import Question


class _ReadAhead(ctypes.Structure):
    """The beginning of `struct st_ma_pvio` (ma_pvio.h)."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("cache", ctypes.c_void_p),
        ("position", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
    )


IS_MARIADBS = get_client_info().startswith("3.")
"""MySQL's own library has the server's version, from 5 up."""

_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype = ctypes.c_void_p
_pointer_of.argtypes = [ctypes.py_object, ctypes.c_char_p]


def read_ahead(connection: Connection) -> Question:
    """Return a function that returns how many bytes the library of an open connection has read ahead."""
    if not IS_MARIADBS:
        return bool
    address = _pointer_of(connection._get_native_connection(), b"_mysql.connection.native_connection")
    # `MYSQL` begins with a `NET`, and that with the pointer, which is null once the socket is closed.
    pointer = ctypes.POINTER(_ReadAhead).from_address(address)

    def unread() -> int:
        if not pointer:
            return 0
        ahead = pointer.contents
        return max(0, (ahead.cache or 0) + ahead.size - ahead.position) if ahead.position else 0

    return unread


_HEADER = 5
_TLS = b"\x17\x03"
"""How a TLS record of data begins."""
_peeked = ctypes.PyDLL(None).recv  # keeps the GIL, as nothing waits


def has_whole_answer(descriptor: int) -> bool:
    """Return whether the first packet that a socket has to read, or TLS record, has arrived to its end."""
    if descriptor < 0:
        return True  # it is closed, so reading does not wait
    header = ctypes.create_string_buffer(_HEADER)
    if _peeked(descriptor, header, _HEADER, socket.MSG_PEEK | socket.MSG_DONTWAIT) != _HEADER:
        return False
    arrived = int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)
    if header.raw.startswith(_TLS):
        return arrived >= 5 + int.from_bytes(header.raw[3:5], "big")
    return arrived >= 4 + int.from_bytes(header.raw[:3], "little")
