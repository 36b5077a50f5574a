"""mysqlclient with pooled connections: ``import wsgipool.MySQLdb as MySQLdb``.

``connect()`` takes mysqlclient's arguments and returns a connection that behaves like mysqlclient's. It belongs to a
pool: one for each set of arguments, up to four connections for each thread, cleaned by ``reset="session"``.
``close()``, the end of a ``with`` block and the end of the request return it. All other names are those of the module
``MySQLdb``.
"""

from __future__ import annotations

from typing import Any, NoReturn

import MySQLdb as _mysqldb  # noqa: N813
import MySQLdb.constants.CLIENT
import MySQLdb.constants.CR
import MySQLdb.constants.ER
import MySQLdb.constants.FLAG
import MySQLdb.converters
import MySQLdb.cursors
from MySQLdb.connections import Connection as _Stock

from wsgipool import _stand_in
from wsgipool._connection_proxy import ConnectionProxy, copied, with_methods_of

__all__ = _mysqldb.__all__

_POSITIONS = ("host", "user", "password", "database", "port", "unix_socket")


@with_methods_of(_Stock)
class Connection(ConnectionProxy):
    """A pooled connection with the interface of ``MySQLdb.connections.Connection``.

    Each thread that uses it has a connection of its own, until ``close()``, the end of the ``with`` block, or the end
    of the request. Then the next use takes another one. A lost connection fails, as mysqlclient's does, until
    ``ping(True)``, ``close()`` or the end of the request.

    Args:
        *args: Positional arguments of ``MySQLdb.connect()``: host, user, password, database, port, unix_socket.
        **arguments: Its other arguments. ``user`` is required. ``connect_timeout`` is 10 s, ``read_timeout`` 60 s and
            ``charset`` utf8mb4 by default; ``local_infile`` is off.

    Raises:
        MySQLdb.Error: The server refuses the connection, or all connections are in use; then the code is 1040.
        ConfigError: The settings or an argument are wrong.
    """

    _module = "MySQLdb"

    def _normalized(self, *args: Any, **arguments: Any) -> dict[str, Any]:
        if len(args) > len(_POSITIONS):
            raise TypeError(f"connect() takes at most {len(_POSITIONS)} positional arguments, was given {len(args)}")
        given = {"db": "database", "passwd": "password"}
        named = {given.get(name, name): value for name, value in arguments.items()}
        for name, value in zip(_POSITIONS, args, strict=False):
            if name in named:
                raise TypeError(f"connect() got multiple values for argument {name!r}")
            named[name] = value
        unset = {name for name, value in named.items() if value is None} - {"autocommit"}  # None is a mode
        return copied({name: value for name, value in named.items() if name not in unset})

    def _ended(self) -> Any:
        return _Ended(self._arguments.get("cursorclass", self._stock.default_cursor))

    def next_result(self) -> int:
        """Read the next result of a statement; see MySQLdb."""
        if self._held() is None and not self._closed:
            return -1  # a cursor is closed after the end of its request
        result: int = self._real().next_result()
        return result


class _Ended:
    """A closed connection of mysqlclient: its methods raise."""

    open = 0
    encoding = "utf8"

    def __init__(self, cursorclass: type) -> None:
        self.cursorclass = cursorclass

    def __getattr__(self, name: str) -> Any:
        if not hasattr(_Stock, name):
            raise AttributeError(name)

        def method(*_args: Any, **_options: Any) -> NoReturn:
            raise _mysqldb.OperationalError(_mysqldb.constants.CR.SERVER_GONE_ERROR, "")

        return method


Connect = connect = Connection


def install() -> None:
    """Make ``MySQLdb.connect`` pooled, for a program that is not to be changed.

    It replaces ``connect``, ``Connect`` and ``Connection`` of the module ``MySQLdb``, not the class in
    ``MySQLdb.connections``. Call it before the program imports one of them by ``from MySQLdb import connect``. The
    setting ``install = ["MySQLdb"]`` in ``wsgipool.toml`` calls it when the settings are loaded. Further calls do
    nothing.

    Raises:
        ConfigError: The program has connected already, or a module has imported one of them already.
    """
    _stand_in.install(_mysqldb, ("connect", "Connect", "Connection"), Connection, _Stock)


def __getattr__(name: str) -> Any:
    return getattr(_mysqldb, name)


def __dir__() -> list[str]:
    return dir(_mysqldb)


_stand_in.alias_submodules("MySQLdb", __name__)
