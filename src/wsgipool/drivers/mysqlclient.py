"""MySQL and MariaDB by mysqlclient, the MySQLdb module: `mysql+mysqlclient://user:password@host:3306/database`.

mysqlclient wraps the C client library. It takes less CPU than PyMySQL if many rows are read. It has to be compiled (on
Debian: gcc, pkg-config, python3-dev, libmariadb-dev). Like any such extension module it belongs in mod_wsgi's main
interpreter, `WSGIApplicationGroup %{GLOBAL}`.

The options of the URL are those of `mysql://`. The library makes these differences:

- Timeouts are whole seconds, rounded up, and at least 1 s, also for the connect.
- MariaDB's library, which is Debian's, always verifies the server's name. So `ssl_mode=VERIFY_CA` is refused with it.
- MariaDB's library takes PREFERRED for DISABLED, and REQUIRED for "if the server has TLS". Without TLS it would send
  the password of a caching_sha2_password account in clear text. Such accounts need ssl_ca.
- There are no `program_name`, `bind_address` and `ssl_key_password`.
- A server that asks for the password itself (mysql_clear_password, dialog) gets it only over verified TLS or a Unix
  socket. A server gets no file of this machine (LOAD DATA LOCAL).
- The library does not report whether a transaction is open. So each return sends a ROLLBACK, and the next checkout
  reads the answer.
- `ping()` never reconnects, and the read timeout cannot be changed for one checkout.
- If a holder has changed autocommit or the character set, the return restores them in two or three round trips. After
  change_user() or set_server_option() the connection is closed.
- If the process forks while another thread connects, the child inherits that thread's socket.
- There is no COM_RESET_CONNECTION. Cleaning a whole session takes a COM_CHANGE_USER to the same user, with two to six
  round trips at the return, for at most a second.
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
    DEFAULT_CONNECT_TIMEOUT,
    DEFAULT_READ_TIMEOUT,
    IN_THE_POOL,
    MIN_ANSWER_TIMEOUT,
    HolderDriver,
    Reset,
    mysql_options,
)
from wsgipool.drivers.deadline import shut_down_after
from wsgipool.drivers.libmariadb import IS_MARIADB_LIBRARY
from wsgipool.drivers.mysql_options import (
    DEFAULT_CHARSET,
    DEFAULT_PORT,
    ROLLBACK,
    MySQLOptions,
)
from wsgipool.drivers.mysqlclient_connection import ERRORS, PooledConnection
from wsgipool.drivers.session_end import SessionEnd
from wsgipool.drivers.tls import TLS, Mode
from wsgipool.drivers.url_options import check_arguments
from wsgipool.errors import ConfigError

SESSION_RESET_TIMEOUT = 1.0
"""Maximum seconds that a return waits for a session reset before it closes the connection."""

_ARGUMENTS = frozenset({
    "host", "user", "password", "passwd", "database", "db", "port", "unix_socket", "conv", "connect_timeout",
    "compress", "named_pipe", "init_command", "read_default_file", "read_default_group", "cursorclass", "use_unicode",
    "charset", "collation", "auth_plugin", "sql_mode", "client_flag", "multi_statements", "executemany_fallback",
    "ssl_mode", "ssl", "server_public_key_path", "local_infile", "local_infile_dir", "autocommit", "binary_prefix",
    "read_timeout", "write_timeout",
})  # fmt: skip
"""The arguments of MySQLdb.connect. Its signature does not name them."""

_LACKING = {
    "bind_address": "mysqlclient cannot choose it; leave it out, or use mysql://",
    "fast_reading": "it belongs to PyMySQL, mysql://; leave it out",
    "program_name": "mysqlclient does not send it; leave it out, or use mysql://",
    "ssl_key_password": "mysqlclient has no such argument; remove it from the key with `openssl pkey`, or use mysql://",
}


def driver(settings: DatabaseSettings, **more: Any) -> MySQLClientDriver:
    """Return the driver for one `[databases.NAME]`, with more arguments for MySQLdb. Raise ConfigError."""
    options = mysql_options.read(settings, _LACKING)
    where = f"{settings.origin}.url"
    given = arguments(options, where) | more
    return MySQLClientDriver(str(settings.url), given, requires_tls=options.tls.is_required)


def from_arguments(**arguments: Any) -> tuple[MySQLClientDriver, DatabaseURL]:
    """Return a driver that connects as `MySQLdb.connect(**arguments)` does, and its URL without secrets.

    Defaults: `connect_timeout` 10 s, `read_timeout` 60 s, `write_timeout` equal to it, `charset` utf8mb4,
    `local_infile` off. `user` is required, because cleaning a session logs in again.

    With MariaDB's library, a `read_default_file` replaces wsgipool's own, which keeps the password from a server that
    asks for it in clear text.

    Raises:
        ConfigError: There is no user, or mysqlclient has no such argument.
    """
    check_arguments("mysqlclient", arguments, _ARGUMENTS)
    given = {
        "password": arguments.pop("passwd", ""),
        "database": arguments.pop("db", ""),
        "connect_timeout": DEFAULT_CONNECT_TIMEOUT,
        "read_timeout": DEFAULT_READ_TIMEOUT,
        "charset": DEFAULT_CHARSET,
        "local_infile": 0,
        **arguments,
    }
    given.setdefault("write_timeout", given["read_timeout"])
    given["connect_timeout"] = given["connect_timeout"] or math.inf  # 0 means as long as the pool waits
    if not given.get("user"):
        raise ConfigError("mysqlclient: no user; give user=NAME")
    socket = given.get("unix_socket")
    url = DatabaseURL(
        "mysql+mysqlclient",
        user=given["user"],
        host=None if socket else given.get("host", "localhost"),
        port=None if socket else given.get("port", DEFAULT_PORT),
        database=given["database"],
        options={"unix_socket": socket} if socket else {},
    )
    return MySQLClientDriver(str(url), given, requires_tls=given.get("ssl_mode") in ("REQUIRED", *_VERIFIED)), url


def arguments(options: MySQLOptions, where: str) -> dict[str, Any]:
    """Return MySQLdb's arguments. Raise ConfigError, beginning with `where`, if its library cannot follow them."""
    given = options.arguments() | {"password": options.password or "", "local_infile": 0} | _tls(options.tls, where)
    return given if options.host is None else given | {"host": _host(options.host)}


def _host(name: str) -> str:
    # The library takes 'localhost', in lower case only, for a socket that the URL does not name.
    return "LOCALHOST" if name.lower() == "localhost" else name.encode("idna").decode()


def _tls(tls: TLS, where: str) -> dict[str, Any]:
    """Return MySQLdb's arguments for TLS. Refuse a mode that MariaDB's library takes for another."""
    mode = tls.mode
    if mode is Mode.VERIFY_CA and IS_MARIADB_LIBRARY:
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


class MySQLClientDriver(HolderDriver[PooledConnection]):
    """The driver for mysqlclient; see `wsgipool.drivers.Driver`."""

    errors = ERRORS

    def __init__(self, address: str, options: Mapping[str, Any], requires_tls: bool = False) -> None:
        """Take MySQLdb's arguments; with `requires_tls` refuse a server that has no TLS."""
        self.address = address
        self._options = dict(options)
        self._requires_tls = requires_tls

    def connect(self, timeout: float, pipeline: bool = True) -> PooledConnection:  # noqa: ARG002 - the library waits for each answer
        arguments = dict(self._options)
        arguments["connect_timeout"] = max(1, int(min(timeout, arguments["connect_timeout"])))
        for name in ("read_timeout", "write_timeout"):
            arguments[name] = math.ceil(arguments[name])
        is_private = "unix_socket" in arguments or arguments.get("ssl_mode") in _VERIFIED
        if IS_MARIADB_LIBRARY and not is_private and "read_default_file" not in arguments:
            group = "wsgipool-tls-required" if self._requires_tls else "wsgipool"
            arguments.update(read_default_file=str(_RESTRICTED), read_default_group=group)
        try:
            connection = PooledConnection(is_out_of_service=self.is_out_of_service, **arguments)
        except MySQLdb.OperationalError as error:
            if error.args[0] == _PLUGIN_NOT_ALLOWED:
                raise MySQLdb.OperationalError(CR.AUTH_PLUGIN_CANNOT_LOAD, _REFUSAL) from None
            raise
        # MariaDB's library takes REQUIRED for "if the server has TLS".
        if self._requires_tls and not connection.server_capabilities & CLIENT.SSL:
            self.close(connection)
            raise MySQLdb.OperationalError(CR.SSL_CONNECTION_ERROR, "TLS is required, and the server has none")
        if arguments.get("sql_mode") == "":
            connection.set_sql_mode("")  # MySQLdb ignores an empty argument
        connection.remember()
        return connection

    def check_out(self, connection: PooledConnection, thread_id: int, timeout: float) -> bool:
        """Return whether the socket is open and has no input, which would be the end of the session."""
        connection.holder.thread_id = thread_id
        if connection.answer_is_due:
            remaining = connection.sent_at + CLEANING_TIMEOUT - monotonic()
            connection.read_answer(max(min(remaining, timeout), MIN_ANSWER_TIMEOUT))
        return not connection.has_ended()

    def check_in(self, connection: PooledConnection, how: Reset | None, pipeline: bool = True) -> None:
        self._clean(connection, how, pipeline)
        connection.holder.thread_id = IN_THE_POOL

    def _clean(self, connection: PooledConnection, how: Reset | None, pipeline: bool) -> None:
        connection.refuse_unfinished()
        if how == "session":
            with shut_down_after(min(SESSION_RESET_TIMEOUT, self._options["connect_timeout"]), connection.descriptor):
                self._reset_session(connection)
                connection.restore_session()
            connection.restore()
            return
        if not connection.is_session_restored():
            with shut_down_after(CLEANING_TIMEOUT, connection.descriptor):
                if how is not None:
                    connection.query(ROLLBACK)
                connection.restore_session()
            how = None
        connection.restore()
        if how is not None:
            connection.send(ROLLBACK)
            if not pipeline:
                connection.read_answer(CLEANING_TIMEOUT)

    def begin(self, connection: PooledConnection) -> None:
        if connection.get_autocommit():
            connection.query(b"START TRANSACTION")

    def set_read_timeout(self, connection: PooledConnection, seconds: float) -> None:  # noqa: ARG002
        raise ConfigError(
            f"read_timeout: mysqlclient takes it only at the connect, to {self.address}; for long statements add "
            "another database to the settings, whose url has ?read_timeout=600"
        )

    def ping(self, connection: PooledConnection, timeout: float) -> None:
        # The library's ping() would wait for read_timeout.
        connection.send(b"DO 0")
        connection.read_answer(timeout)

    def close(self, connection: PooledConnection) -> SessionEnd:
        # Closing a socket with an unread answer sends a TCP reset, which may overtake COM_QUIT.
        with contextlib.suppress(Exception):
            if connection.answer_is_due:
                connection.read_answer(0)
        session_end = SessionEnd(connection.descriptor.number())
        connection.closed_by = CLOSED_BY_POOL
        super().close(connection)
        session_end.shut_down_writing()
        return session_end

    def after_fork(self, connection: PooledConnection) -> None:
        connection.after_fork()

    def _reset_session(self, connection: PooledConnection) -> None:
        options = self._options
        connection.reset_session(options["user"], options["password"], options.get("database", ""))
        # COM_CHANGE_USER restores the server's defaults. Repeat what the connection's constructor does, in its order.
        if "init_command" in options:
            connection.query(options["init_command"])
            connection.discard_result()
            while connection.next_result() == 0:
                connection.discard_result()
        connection.set_character_set(options["charset"], options.get("collation"))
        if "sql_mode" in options:
            connection.set_sql_mode(options["sql_mode"])
        connection.autocommit(options.get("autocommit", False))


_RESTRICTED = Path(__file__).with_name("mysqlclient.cnf")
"""An option file for MariaDB's library, which makes it refuse a server that asks for the password itself.

MySQL's library does so by default.
"""
_VERIFIED = ("VERIFY_CA", "VERIFY_IDENTITY")
_PLUGIN_NOT_ALLOWED = 5010
"""MariaDB's CR_PLUGIN_NOT_ALLOWED. Its text may be missing."""
_REFUSAL = (
    "the server asks for the password in clear text, by mysql_clear_password, dialog or, if TLS is required, "
    "caching_sha2_password: MariaDB's client library does not notice missing TLS. Such a password is sent only over "
    "verified TLS or a Unix socket: give ssl_ca, use mysql://, or give the account another plugin"
)
