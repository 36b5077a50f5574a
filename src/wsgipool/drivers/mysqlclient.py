"""MySQL and MariaDB by mysqlclient, the MySQLdb module: `mysql+mysqlclient://user:password@host:3306/database`.

mysqlclient wraps the server's own C library. It takes less CPU than PyMySQL where many rows are read, and has to be
compiled (on Debian: gcc, pkg-config, python3-dev, libmariadb-dev). Such an extension module belongs in mod_wsgi's main
interpreter, `WSGIApplicationGroup %{GLOBAL}`.

The options of the URL are those of `mysql://`, with these differences, which are the library's:

- Timeouts are whole seconds; a fraction counts as a whole one, and none is shorter than 1 s, that of a connect neither.
- `ssl_mode=VERIFY_CA` is refused with MariaDB's library, which is Debian's: it verifies the server's name in any case.
  It takes PREFERRED for DISABLED. REQUIRED it takes for "if the server has it", and would send the password of MySQL's
  caching_sha2_password in clear text where the server has not: there such accounts need ssl_ca.
- There are no `program_name`, by which the server's list of sessions could show the pool, `bind_address` and
  `ssl_key_password`.
- A server that asks for the password itself (mysql_clear_password, dialog) gets it over verified TLS or a Unix socket
  only, and no file of this machine (LOAD DATA LOCAL).
- It does not tell whether a transaction is open, so a returned connection owes a ROLLBACK in any case. The answer is
  read at the next checkout.
- `ping()` never connects again, and the read timeout cannot be changed for one checkout.
- Where a holder has changed autocommit or the character set, by a method or by SQL, they are put back at the return,
  which takes two or three round trips. After change_user() or set_server_option() the connection is closed.
- A fork while another thread is in the middle of connecting leaves the child that thread's socket.
- It has no COM_RESET_CONNECTION. Cleaning all of a session takes a COM_CHANGE_USER to the same user, two to six round
  trips that are waited for at the return, for a second at most.
"""

from __future__ import annotations

import contextlib
import math
import ssl
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import MySQLdb
from MySQLdb.constants import CLIENT, CR

from wsgipool.config import DatabaseSettings, DatabaseURL
from wsgipool.drivers import (
    CLEANING_TIMEOUT,
    CLOSED_BY_POOL,
    LEAST_PATIENCE,
    PlainDriver,
    Reset,
    close_quietly,
    mysql_options,
)
from wsgipool.drivers.deadline import ended_after
from wsgipool.drivers.libmariadb import IS_MARIADBS
from wsgipool.drivers.mysql_options import MySQLOptions
from wsgipool.drivers.mysqlclient_connection import PooledConnection
from wsgipool.drivers.tls import TLS, Mode
from wsgipool.errors import ConfigError
from wsgipool.farewell import Farewell

SESSION_RESET_TIMEOUT = 1.0
"""Seconds that a return may wait for a session reset; then the connection is closed."""

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
    if mode is Mode.VERIFY_CA and IS_MARIADBS:
        raise ConfigError(
            f"{where}: ssl_mode=VERIFY_CA: MariaDB's client library, which mysqlclient uses here, verifies the name of "
            "the server in any case; write ssl_mode=VERIFY_IDENTITY, or use mysql://"
        )
    files = {"ca": tls.ca, "capath": tls.capath, "cert": tls.cert, "key": tls.key}
    if mode in (Mode.VERIFY_CA, Mode.VERIFY_IDENTITY) and not tls.ca and not tls.capath:
        system = ssl.get_default_verify_paths()
        if not system.cafile and not system.capath:
            raise ConfigError(f"{where}: this host has no certificates of authorities; name one, ssl_ca=/path/ca.pem")
        files |= {"ca": system.cafile, "capath": system.capath}
    named = {name: path for name, path in files.items() if path}
    return {"ssl_mode": mode.value, **({"ssl": named} if named else {})}


class MySQLClientDriver(PlainDriver[PooledConnection]):
    """Connects with mysqlclient; see `wsgipool.drivers.Driver`."""

    def __init__(self, url: DatabaseURL, options: Mapping[str, Any], requires_tls: bool = False) -> None:
        self.address = str(url)
        self._options = dict(options)
        self._requires_tls = requires_tls

    def connect(self, timeout: float, pipeline: bool = True) -> PooledConnection:  # noqa: ARG002 - the library waits for each answer
        arguments = dict(self._options)
        arguments["connect_timeout"] = max(1, int(min(timeout, arguments["connect_timeout"])))
        for name in ("read_timeout", "write_timeout"):
            arguments[name] = math.ceil(arguments[name])
        if IS_MARIADBS and "unix_socket" not in arguments and arguments["ssl_mode"] not in _VERIFIED:
            group = "wsgipool-tls-required" if self._requires_tls else "wsgipool"
            arguments.update(read_default_file=str(_RESTRICTED), read_default_group=group)
        try:
            connection = PooledConnection(is_out_of_service=self.is_out_of_service, **arguments)
        except MySQLdb.OperationalError as error:
            if error.args[0] == _PLUGIN_NOT_ALLOWED:
                raise MySQLdb.OperationalError(CR.AUTH_PLUGIN_CANNOT_LOAD, _REFUSAL) from None
            raise
        # MariaDB's library takes REQUIRED for "if the server has it".
        if self._requires_tls and not connection.server_capabilities & CLIENT.SSL:
            self.close(connection)
            raise MySQLdb.OperationalError(CR.SSL_CONNECTION_ERROR, "TLS is required, and the server has none")
        if arguments.get("sql_mode") == "":
            connection.set_sql_mode("")  # MySQLdb takes it for none given
        connection.remember()
        return connection

    def remember(self, connection: PooledConnection) -> None:
        connection.remember()

    def check_out(self, connection: PooledConnection, thread_id: int, timeout: float) -> bool:  # noqa: ARG002
        """Return whether the socket is open and quiet: the server speaks only when asked, or to say that it ends."""
        if connection.answer_is_due:
            patience = connection.sent_at + CLEANING_TIMEOUT - monotonic()
            connection.read_answer(max(min(patience, timeout), LEAST_PATIENCE))
        return not connection.has_ended()

    def check_in(self, connection: PooledConnection, how: Reset | None, pipeline: bool = True) -> None:
        connection.refuse_unfinished()
        if how == "session":
            with ended_after(min(SESSION_RESET_TIMEOUT, self._options["connect_timeout"]), connection.descriptor):
                self._renew_session(connection)
                connection.restore_session()
            connection.restore()
            return
        if not connection.is_session_restored():
            with ended_after(CLEANING_TIMEOUT, connection.descriptor):
                if how is not None:
                    connection.rollback()
                connection.restore_session()
            how = None
        connection.restore()
        if how is not None:
            connection.send(b"ROLLBACK")
            if not pipeline:
                connection.read_answer(CLEANING_TIMEOUT)

    def begin(self, connection: PooledConnection) -> None:
        if connection.get_autocommit():
            connection.query(b"START TRANSACTION")

    def set_read_timeout(self, connection: PooledConnection, seconds: float) -> None:  # noqa: ARG002
        raise ConfigError(
            f"read_timeout: mysqlclient knows it only when it connects, to {self.address}; for statements that take "
            "long use a database of its own in the settings, its url with ?read_timeout=600"
        )

    def ping(self, connection: PooledConnection, timeout: float) -> None:
        # The library's ping() would wait for read_timeout.
        connection.send(b"DO 0")
        connection.read_answer(timeout)

    def close(self, connection: PooledConnection) -> Farewell:
        # A socket closed with an unread answer in it resets the connection, which may overtake our goodbye.
        with contextlib.suppress(Exception):
            if connection.answer_is_due:
                connection.read_answer(0)
        farewell = Farewell(connection.descriptor.number())
        connection.closed_by = CLOSED_BY_POOL
        close_quietly(connection)
        farewell.hang_up()
        return farewell

    def abandon(self, connection: PooledConnection) -> None:
        connection.abandon()

    def _renew_session(self, connection: PooledConnection) -> None:
        options = self._options
        connection.renew(options["user"], options["password"], options.get("database", ""))
        # What the connection's constructor does, in its order. COM_CHANGE_USER puts back the server's defaults.
        if "init_command" in self._options:
            connection.query(self._options["init_command"])
            connection.discard_result()
            while connection.next_result() == 0:
                connection.discard_result()
        connection.set_character_set(self._options["charset"], self._options.get("collation"))
        if "sql_mode" in self._options:
            connection.set_sql_mode(self._options["sql_mode"])
        connection.autocommit(self._options.get("autocommit", False))


_RESTRICTED = Path(__file__).with_name("mysqlclient.cnf")
"""An option file for MariaDB's library, the only way to tell it that a server may not ask for the password itself.
MySQL's library does not send it unless it is told to."""
_VERIFIED = ("VERIFY_CA", "VERIFY_IDENTITY")
_PLUGIN_NOT_ALLOWED = 5010
"""MariaDB's CR_PLUGIN_NOT_ALLOWED. Its text is not to be looked at: it may not be there at all."""
_REFUSAL = (
    "the server asks for the password in clear text (by mysql_clear_password, dialog or the like; where TLS is "
    "required, also by caching_sha2_password, since MariaDB's client library does not see that TLS is missing), which "
    "is sent over verified TLS or a Unix socket only: give ssl_ca, use mysql://, or let the account use another plugin"
)
