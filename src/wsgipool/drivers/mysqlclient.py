"""MySQL and MariaDB by mysqlclient, the MySQLdb module: `mysql+mysqlclient://user:password@host:3306/database`.

mysqlclient wraps the server's own C library. It takes less CPU than PyMySQL where many rows are read, and has to be
compiled (on Debian: gcc, pkg-config, python3-dev, libmariadb-dev). Such an extension module belongs in mod_wsgi's main
interpreter, `WSGIApplicationGroup %{GLOBAL}`.

The options of the URL are those of `mysql://`, with these differences, which are the library's:

- Timeouts are whole seconds; a fraction counts as a whole one, and none is shorter than 1 s, that of a connect neither.
- `ssl_mode=VERIFY_CA` is refused with MariaDB's library, which is Debian's: it verifies the server's name in any case.
  Where TLS is required and the server has none, that library notices it when it has logged in.
- There are no `program_name`, by which the server's list of sessions could show the pool, `bind_address` and
  `ssl_key_password`.
- It does not tell whether a transaction is open, so a returned connection owes a ROLLBACK in any case. The answer is
  read at the next checkout.
- A fork while another thread is in the middle of connecting leaves the child that thread's socket.
- It has no COM_RESET_CONNECTION. Cleaning all of a session takes a COM_CHANGE_USER to the same user, two to six round
  trips that are waited for at the return, as long as a connect may take (`connect_timeout`) and no longer.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import select
import ssl
import weakref
from collections.abc import Mapping
from typing import Any

import MySQLdb
from MySQLdb.connections import Connection
from MySQLdb.constants import CLIENT, CR

from wsgipool.config import DatabaseSettings, DatabaseURL
from wsgipool.drivers import LEAST_PATIENCE, PlainDriver, Reset, close_quietly, keep_forever, mysql_options
from wsgipool.drivers.deadline import ended_after
from wsgipool.drivers.mysql_options import MySQLOptions
from wsgipool.drivers.opening import Descriptor
from wsgipool.drivers.tls import TLS, Mode
from wsgipool.errors import ConfigError
from wsgipool.farewell import Farewell

_LACKING = {
    "bind_address": "mysqlclient cannot choose it; leave it out, or use mysql://",
    "program_name": "mysqlclient does not send it; leave it out, or use mysql://",
    "ssl_key_password": "mysqlclient cannot give it; remove it from the key with `openssl pkey`, or use mysql://",
}


def driver(settings: DatabaseSettings) -> MySQLClientDriver:
    """Return the driver for one `[databases.NAME]`. Raises ConfigError."""
    options = mysql_options.read(settings, _LACKING)
    where = f"{settings.origin}.url"
    return MySQLClientDriver(settings.url, arguments(options, where), requires_tls=options.tls.is_required)


def arguments(options: MySQLOptions, where: str) -> dict[str, Any]:
    """Return MySQLdb's arguments. Raises ConfigError for what its client library cannot do; `where` begins it."""
    given: dict[str, Any] = {
        "host": _host(options.host),
        "port": options.port,
        "unix_socket": options.unix_socket,
        "user": options.user,
        "password": options.password or "",
        "database": options.database or None,
        "charset": options.charset,
        "collation": options.collation,
        "connect_timeout": options.connect_timeout,
        "read_timeout": options.read_timeout,
        "write_timeout": options.write_timeout,
        "autocommit": options.autocommit,
        "init_command": options.init_command,
        "sql_mode": options.sql_mode,
        "local_infile": 0,
        **_tls(options.tls, where),
    }
    return {name: value for name, value in given.items() if value is not None}


def _host(name: str | None) -> str | None:
    if name is None:
        return None
    # Its library takes 'localhost', in small letters alone, for a socket that the URL does not name.
    return "LOCALHOST" if name.lower() == "localhost" else name.encode("idna").decode()


def _tls(tls: TLS, where: str) -> dict[str, Any]:
    """Return MySQLdb's arguments for TLS: MySQL's library does what the modes say, MariaDB's something else."""
    mode = tls.mode
    if _is_of_mariadb():
        if mode is Mode.VERIFY_CA:
            raise ConfigError(
                f"{where}: ssl_mode=VERIFY_CA: MariaDB's client library, which mysqlclient uses here, verifies the "
                "name of the server in any case; write ssl_mode=VERIFY_IDENTITY, or use mysql://"
            )
        if mode is Mode.PREFERRED:
            mode = Mode.REQUIRED  # which it takes for PREFERRED; and PREFERRED for DISABLED
    files = {"ca": tls.ca, "capath": tls.capath, "cert": tls.cert, "key": tls.key}
    if mode in (Mode.VERIFY_CA, Mode.VERIFY_IDENTITY) and not tls.ca and not tls.capath:
        system = ssl.get_default_verify_paths()
        if not system.cafile and not system.capath:
            raise ConfigError(f"{where}: this host has no certificates of authorities; name one, ssl_ca=/path/ca.pem")
        files |= {"ca": system.cafile, "capath": system.capath}
    named = {name: path for name, path in files.items() if path}
    return {"ssl_mode": mode.value, **({"ssl": named} if named else {})}


def _is_of_mariadb() -> bool:
    return hasattr(ctypes.CDLL(MySQLdb._mysql.__file__), "mariadb_connection")


class MySQLClientDriver(PlainDriver["PooledConnection"]):
    """Connects with mysqlclient; see `wsgipool.drivers.Driver`."""

    def __init__(self, url: DatabaseURL, options: Mapping[str, Any], requires_tls: bool = False) -> None:
        self.address = str(url)
        self._options = dict(options)
        self._requires_tls = requires_tls

    def connect(self, timeout: float, pipeline: bool = True) -> PooledConnection:
        arguments = dict(self._options)
        arguments["connect_timeout"] = max(1, int(min(timeout, arguments["connect_timeout"])))
        for name in ("read_timeout", "write_timeout"):
            arguments[name] = math.ceil(arguments[name])
        connection = PooledConnection(**arguments)
        # MariaDB's library takes REQUIRED for "if the server has it".
        if self._requires_tls and not connection.server_capabilities & CLIENT.SSL:
            self.close(connection)
            raise MySQLdb.OperationalError(CR.SSL_CONNECTION_ERROR, "TLS is required, and the server has none")
        if arguments.get("sql_mode") == "":
            connection.set_sql_mode("")  # MySQLdb takes it for none given
        return connection

    def check_out(self, connection: PooledConnection, thread_id: int, timeout: float) -> bool:  # noqa: ARG002
        """Tell whether the socket is open and quiet: the server speaks only when asked, or to say that it is gone."""
        if connection.answer_is_due:
            self.finish_reset(connection, max(timeout, LEAST_PATIENCE))
        return bool(connection.open) and not _readable(connection, 0)

    def check_in(self, connection: PooledConnection, how: Reset | None) -> bool:
        if how is None:
            return False
        # Where there is no more, next_result() reads nothing, and raises where the rows of this one were not read.
        if connection.more_results() or connection.next_result() != -1:
            # To read what was left may take for ever; a new connection is cheaper.
            raise MySQLdb.OperationalError(CR.COMMANDS_OUT_OF_SYNC, "a result was not read to its end")
        if how == "session":
            with ended_after(self._options["connect_timeout"], connection.descriptor):
                self._renew_session(connection)
        else:
            connection.send(b"ROLLBACK")
        return connection.answer_is_due

    def finish_reset(self, connection: PooledConnection, timeout: float) -> None:
        connection.read_answer(timeout)

    def ping(self, connection: PooledConnection, timeout: float) -> None:
        # The library's ping() would wait for read_timeout, by default for ever.
        connection.send(b"DO 0")
        connection.read_answer(timeout)

    def close(self, connection: PooledConnection) -> Farewell:
        # A socket closed with an unread answer in it resets the connection, which may overtake our goodbye.
        with contextlib.suppress(Exception):
            if connection.answer_is_due and _readable(connection, 0):
                connection.read_answer(0)
        farewell = Farewell(connection.descriptor.number())
        close_quietly(connection)
        farewell.hang_up()
        return farewell

    def abandon(self, connection: PooledConnection) -> None:
        connection.descriptor.point_nowhere()
        # The library may have been at work in another thread when the process forked: it is not called here any more.
        keep_forever(connection)

    def _renew_session(self, connection: PooledConnection) -> None:
        database = [self._options["database"]] if "database" in self._options else []
        connection.change_user(self._options["user"], self._options["password"], *database)
        # What the connection's constructor does, in its order. COM_CHANGE_USER puts back the server's defaults.
        if "init_command" in self._options:
            connection.query(self._options["init_command"])
            connection.store_result()
        connection.set_character_set(self._options["charset"], self._options.get("collation"))
        if "sql_mode" in self._options:
            connection.set_sql_mode(self._options["sql_mode"])
        connection.autocommit(self._options.get("autocommit", False))


class PooledConnection(Connection):
    """MySQLdb's connection, with an answer that may be read later, and knowing its socket."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.answer_is_due = False
        # After an error the library has closed it, yet goes on naming its number, which may be another file's then.
        self.descriptor = Descriptor(self.fileno())
        _every_connection.add(self)

    def send(self, statement: bytes) -> None:
        """Send a statement that has no rows, and leave its answer to `read_answer`."""
        self.send_query(statement)
        self.answer_is_due = True

    def read_answer(self, timeout: float) -> None:
        """Read the answer that is due. Raises the server's error, or MySQLdb's where none comes in time."""
        if not _readable(self, timeout):
            raise MySQLdb.OperationalError(CR.SERVER_LOST, f"the server did not answer within {timeout:g} s")
        self.read_query_result()
        self.answer_is_due = False


def _readable(connection: Connection, timeout: float) -> bool:
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(timeout * 1000))


_every_connection: weakref.WeakSet[PooledConnection] = weakref.WeakSet()
"""Those too that no pool knows, or knows no more. A fork's child that kept their sockets would keep the sessions from
ending with its parent's death."""


def _after_fork_in_child() -> None:
    for connection in list(_every_connection):
        connection.descriptor.point_nowhere()
        keep_forever(connection)
    _every_connection.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
