"""PyMySQL with pooled connections: ``import wsgipool.pymysql as pymysql``.

``connect()`` takes PyMySQL's arguments and returns a connection that behaves like PyMySQL's. It belongs to a pool: one
for each set of arguments, up to four connections for each thread, cleaned by ``reset="session"``. ``close()``, the end
of a ``with`` block and the end of the request return it. All other names are PyMySQL's.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

import pymysql as _pymysql
import pymysql.constants.CR
import pymysql.constants.ER
from pymysql.connections import Connection as _Stock

from wsgipool import _stand_in, drivers
from wsgipool._connection_proxy import ConnectionProxy, copied, with_methods_of

__all__ = _pymysql.__all__


@with_methods_of(_Stock)
class Connection(ConnectionProxy):
    """A pooled connection with the interface of ``pymysql.connections.Connection``.

    Each thread that uses it has a connection of its own, until ``close()``, the end of the ``with`` block, or the end
    of the request. Then the next use takes another one. A lost connection fails, as PyMySQL's does, until
    ``ping(reconnect=True)``, ``connect()``, ``close()`` or the end of the request.

    Args:
        **arguments: The arguments of ``pymysql.connect()``. With ``defer_connect=True`` the result is a connection of
            PyMySQL itself, without a pool. ``connect_timeout`` is 10 s and ``read_timeout`` 60 s by default.
            ``fast_reading=False`` lets PyMySQL itself read the rows.

    Raises:
        pymysql.Error: The server refuses the connection, or all connections are in use; then the code is 1040.
        ConfigError: The settings or an argument are wrong.
    """

    _module = "pymysql"

    def __new__(cls, *args: Any, defer_connect: bool = False, **arguments: Any) -> Any:
        """Return a connection of PyMySQL itself if it is to be connected later."""
        if defer_connect:
            return cls._stock(*args, **arguments, defer_connect=True)
        return super().__new__(cls)

    def _normalized(self, *args: Any, defer_connect: bool = False, **arguments: Any) -> dict[str, Any]:  # noqa: ARG002
        if args:
            self._stock(*args, **arguments)  # raises TypeError
        for alias, name in (("db", "database"), ("passwd", "password")):
            given = arguments.pop(alias, None)
            if given is not None and not arguments.get(name):
                arguments[name] = given
        return copied(arguments)

    def _driver(self) -> drivers.Driver[Any]:
        arguments = dict(self._arguments)
        arguments.pop("fast_reading", None)
        inspect.signature(self._stock).bind(**arguments)  # PyMySQL's TypeError
        return super()._driver()

    def _ended(self) -> Any:
        arguments = {**self._arguments, "ssl_disabled": True, "defer_connect": True}
        arguments.pop("fast_reading", None)
        connection: Any = self._stock(**arguments)
        connection.server_status = 0  # which escape() reads
        connection.close()
        return connection

    def connect(self) -> None:
        """Replace the connection of this thread by another one of the pool."""
        self._reconnect()

    @property
    def _result(self) -> Any:
        # The destructor of an SSCursor reads this, on any thread.
        checkout = self._held()
        return None if checkout is None else checkout.connection._result


Connect = connect = Connection


def install() -> None:
    """Make ``pymysql.connect`` pooled, for a program that is not to be changed.

    It replaces ``connect``, ``Connect`` and ``Connection`` of the module ``pymysql``, not the class in
    ``pymysql.connections``. Call it before the program imports one of them by ``from pymysql import connect``. The
    setting ``install = ["pymysql"]`` in ``wsgipool.toml`` calls it when the settings are loaded. Further calls do
    nothing.

    Raises:
        ConfigError: The program has connected already, or a module has imported one of them already.
    """
    _stand_in.install(_pymysql, ("connect", "Connect", "Connection"), Connection, _Stock)


def install_as_MySQLdb() -> None:  # noqa: N802 - PyMySQL's name
    """Make ``import MySQLdb`` import this module."""
    sys.modules["MySQLdb"] = sys.modules[__name__]
    _stand_in.alias_submodules("pymysql", "MySQLdb")


def __getattr__(name: str) -> Any:
    return getattr(_pymysql, name)


def __dir__() -> list[str]:
    return dir(_pymysql)


_stand_in.alias_submodules("pymysql", __name__)
