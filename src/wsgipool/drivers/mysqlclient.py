"""MySQL and MariaDB by mysqlclient, the MySQLdb module: `mysql+mysqlclient://user:password@host:3306/database`.

mysqlclient wraps the server's own C library. It takes less CPU than PyMySQL where many rows are read, and has to be
compiled (on Debian: gcc, pkg-config, python3-dev, libmariadb-dev). Such an extension module belongs in mod_wsgi's main
interpreter, `WSGIApplicationGroup %{GLOBAL}`.

The options of the URL are those of `mysql://`, with these differences, which are the library's:

- Timeouts are whole seconds; a fraction counts as a whole one, and none is shorter than 1 s, that of a connect neither.
- TLS is asked for by `ssl_mode`, as of the mysql program: DISABLED, PREFERRED, REQUIRED, VERIFY_CA or VERIFY_IDENTITY;
  the default is VERIFY_CA with an `ssl_ca`, else PREFERRED. MariaDB's library, which is Debian's, takes PREFERRED for
  "no", and VERIFY_CA for VERIFY_IDENTITY.
- There is no `program_name`: the server's list of sessions does not show the pool.
- It does not tell whether a transaction is open, so a returned connection owes a ROLLBACK in any case. The answer is
  read at the next checkout.
- A fork while another thread is in the middle of connecting leaves the child that thread's socket.
- It has no COM_RESET_CONNECTION. Cleaning all of a session takes a COM_CHANGE_USER to the same user, two to six round
  trips that are waited for at the return, as long as a connect may take (`connect_timeout`) and no longer.
"""

from __future__ import annotations

import contextlib
import math
import os
import pwd
import select
import weakref
from collections.abc import Mapping
from typing import Any

import MySQLdb
from MySQLdb.connections import Connection
from MySQLdb.constants import CLIENT, CR

from wsgipool.config import DatabaseSettings, DatabaseURL
from wsgipool.drivers import LEAST_PATIENCE, PlainDriver, Reset, close_quietly, keep_forever
from wsgipool.drivers.deadline import ended_after
from wsgipool.drivers.opening import Descriptor
from wsgipool.drivers.options import BOOLEAN, SECONDS, TEXT, Option, convert, one_of
from wsgipool.errors import ConfigError
from wsgipool.farewell import Farewell

DEFAULT_CONNECT_TIMEOUT = 10.0
"""Seconds; MySQL's server-side connect_timeout."""

_OPTIONS: Mapping[str, Option] = {
    **dict.fromkeys(
        ("charset", "collation", "unix_socket", "init_command", "sql_mode", "ssl_ca", "ssl_cert", "ssl_key"), TEXT
    ),
    **dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), SECONDS),
    "autocommit": BOOLEAN,
    "ssl_mode": one_of("DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"),
}


def driver(settings: DatabaseSettings) -> MySQLClientDriver:
    """Return the driver for one `[databases.NAME]`. Raises ConfigError for an option that it does not have."""
    url, where = settings.url, f"{settings.origin}.url"
    options = convert(url, _OPTIONS, where)
    if "unix_socket" not in options and not url.host:
        raise ConfigError(
            f"{where}: no host; write {url.scheme}://user@host/database, or for a local server "
            f"{url.scheme}://user@/database?unix_socket=/run/mysqld/mysqld.sock"
        )
    return MySQLClientDriver(url, options)


class MySQLClientDriver(PlainDriver["PooledConnection"]):
    """Connects with mysqlclient; see `wsgipool.drivers.Driver`."""

    def __init__(self, url: DatabaseURL, options: Mapping[str, Any]) -> None:
        self.address = str(url)
        self._url = url
        # The library's own default character set depends on how it was built.
        self._options = {"charset": "utf8mb4", "connect_timeout": DEFAULT_CONNECT_TIMEOUT, **options}

    def connect(self, timeout: float, pipeline: bool = True) -> PooledConnection:
        arguments = dict(self._options)
        arguments["connect_timeout"] = max(1, int(min(timeout, arguments["connect_timeout"])))
        for name in ("read_timeout", "write_timeout"):
            if name in arguments:
                arguments[name] = math.ceil(arguments[name])
        for name, value in (("host", self._url.host), ("port", self._url.port), ("database", self._url.database)):
            if value:
                arguments[name] = value
        arguments = _with_tls(arguments)
        connection = PooledConnection(user=self._user(), password=self._url.password or "", **arguments)
        # MariaDB's library takes REQUIRED for "if the server has it".
        if arguments.get("ssl_mode") == "REQUIRED" and not connection.server_capabilities & CLIENT.SSL:
            self.close(connection)
            raise MySQLdb.OperationalError(CR.SSL_CONNECTION_ERROR, "TLS is required, and the server has none")
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

    def _user(self) -> str:
        # The library's own default, but known to us, too: _renew_session() has to name the user again.
        return self._url.user or pwd.getpwuid(os.geteuid()).pw_name

    def _renew_session(self, connection: PooledConnection) -> None:
        database = [self._url.database] if self._url.database else []
        connection.change_user(self._user(), self._url.password or "", *database)
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


def _with_tls(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return MySQLdb's arguments for the `ssl_` options."""
    files = {name: arguments.pop(f"ssl_{name}") for name in ("ca", "cert", "key") if f"ssl_{name}" in arguments}
    if files:
        # As the mysql program does. Without a mode the library would go on in plain text where the server has no TLS.
        arguments = {"ssl": files, "ssl_mode": "VERIFY_CA" if "ca" in files else "REQUIRED", **arguments}
    return arguments


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
