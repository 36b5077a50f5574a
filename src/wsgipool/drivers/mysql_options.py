"""The meaning of a MySQL or MariaDB URL and of its option file, the same for PyMySQL and mysqlclient.

Everything is checked here, before the first connect. An option that one driver would ignore and the other refuse is
refused for both. Only the server knows whether it has a collation, for instance; it reports that at the connect.
"""

from __future__ import annotations

import codecs
import ipaddress
import os
import pwd
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pymysql.charset import charset_by_name

from wsgipool import showing
from wsgipool.config import DatabaseSettings, DatabaseURL
from wsgipool.drivers import DEFAULT_CONNECT_TIMEOUT, DEFAULT_READ_TIMEOUT, Endpoint, my_cnf, tls, url_hints
from wsgipool.drivers.my_cnf_options import from_file
from wsgipool.drivers.url_options import BOOLEAN, SECONDS, TEXT, Option, convert
from wsgipool.errors import ConfigError
from wsgipool.showing import shown

ROLLBACK = b"ROLLBACK AND NO CHAIN NO RELEASE"
"""The statement that ends a transaction and nothing else, whatever the session's completion_type is."""

DEFAULT_CHARSET = "utf8mb4"

DEFAULT_PORT = 3306

_MAX_SOCKET_PATH = 107
"""Bytes: Linux's limit."""

_MAX_PROGRAM_NAME = 128


@dataclass(frozen=True)
class MySQLOptions:
    """The settings of a connection: either `host` and `port`, or `unix_socket`. Timeouts are in seconds."""

    host: str | None
    port: int | None
    unix_socket: str | None
    user: str
    password: str | None = field(repr=False)
    database: str
    charset: str
    collation: str | None
    connect_timeout: float
    read_timeout: float
    write_timeout: float
    autocommit: bool
    init_command: str | None
    sql_mode: str | None
    bind_address: str | None
    program_name: str
    fast_reading: bool
    tls: tls.TLS

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that PyMySQL and mysqlclient have in common, without those that are None."""
        names = (
            *("host", "port", "unix_socket", "user", "database", "charset", "collation", "connect_timeout"),
            *("read_timeout", "write_timeout", "autocommit", "init_command", "sql_mode"),
        )
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None and (name, value) != ("database", "")}


def _mode(text: str) -> str:
    # The words of the mysql program, or of libpq.
    words = {"DISABLE": "DISABLED", "PREFER": "PREFERRED", "REQUIRE": "REQUIRED", "VERIFY_FULL": "VERIFY_IDENTITY"}
    word = text.upper().replace("-", "_")
    return tls.Mode(words.get(word, word)).value


def _charset(text: str) -> str:
    # PyMySQL knows the character sets for clients. The servers refuse others, such as UTF-16.
    name = text.lower()
    known = charset_by_name(name) if re.fullmatch("[a-z0-9_]+", name) else None
    if known is None or known.is_binary:
        raise ValueError(text)
    try:
        codecs.lookup(known.encoding)
    except LookupError:
        raise ValueError(text) from None
    return name


def _name(text: str) -> str:
    # The name goes into a statement without quotes.
    if not re.fullmatch("[a-z0-9_]{1,64}", text.lower()):
        raise ValueError(text)
    return text.lower()


def _sql_mode(text: str) -> str:
    if not re.fullmatch("[A-Za-z0-9_, ]*", text):
        raise ValueError(text)
    return text


def _statement(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise ValueError(text)
    return text


def _address(text: str) -> str:
    return str(ipaddress.ip_address(text))


def _program_name(text: str) -> str:
    if not (text.isascii() and text.isprintable() and text.strip() and len(text) <= _MAX_PROGRAM_NAME):
        raise ValueError(text)
    return text


def _file(text: str) -> str:
    if not text:
        raise ValueError(text)
    return text


_FILE: Option = (_file, "the absolute path of a file")

_OPTIONS: Mapping[str, Option] = MappingProxyType({
    "charset": (_charset, "a character set for clients, such as utf8mb4"),
    "collation": (_name, "the name of a collation, such as utf8mb4_unicode_ci"),
    "unix_socket": (_file, "the absolute path of a socket, such as /run/mysqld/mysqld.sock"),
    "bind_address": (_address, "an IP address of this host"),
    "init_command": (_statement, "an SQL statement"),
    "sql_mode": (_sql_mode, "the names of SQL modes, with commas between them"),
    "program_name": (_program_name, f"1 to {_MAX_PROGRAM_NAME} printable characters of ASCII"),
    "read_default_file": _FILE,
    "read_default_group": (_file, "the name of a group in read_default_file"),
    "ssl_ca": _FILE,
    "ssl_capath": (_file, "the absolute path of a folder"),
    "ssl_cert": _FILE,
    "ssl_key": _FILE,
    "ssl_key_password": TEXT,
    "ssl_mode": (_mode, "DISABLED, PREFERRED, REQUIRED, VERIFY_CA or VERIFY_IDENTITY"),
    **dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), SECONDS),
    **dict.fromkeys(("autocommit", "fast_reading", "ssl_disabled", "ssl_verify_cert", "ssl_verify_identity"), BOOLEAN),
})  # fmt: skip

_ALIASES = MappingProxyType({"sslmode": "ssl_mode", "sslMode": "ssl_mode"})


def read(settings: DatabaseSettings, lacking: Mapping[str, str] = MappingProxyType({})) -> MySQLOptions:
    """Return the connection settings for a database.

    Args:
        settings: The database's table of the settings.
        lacking: Options that the driver does not have, each with the reason.

    Raises:
        ConfigError: An option is wrong, contradicts another, or names a file that cannot be used.
    """
    where = f"{settings.origin}.url"
    given, wheres = _given(settings.url, where)
    for name, reason in lacking.items():
        if name in given:
            raise ConfigError(f"{wheres[name]}: {name} is not an option of {settings.url.scheme}://: {reason}")
    _refuse_nul(given, wheres)
    endpoint = _endpoint(given, wheres, settings.url, where)
    charset = given.get("charset", DEFAULT_CHARSET)
    _check_collation(charset, given.get("collation"), wheres)
    tls_settings = tls.read(given, wheres)
    if endpoint.socket and tls_settings.mode is tls.Mode.VERIFY_IDENTITY:
        name = next(name for name in tls.OPTIONS if name in given)
        raise ConfigError(
            f"{wheres[name]}: a socket of this host, {shown(endpoint.socket)}, has no name that a certificate "
            f"could prove; leave {name} out, or have the chain verified alone, with ssl_mode=VERIFY_CA"
        )
    return MySQLOptions(
        host=endpoint.host,
        port=endpoint.port,
        unix_socket=endpoint.socket,
        user=given.get("user") or _name_of_this_user(where),
        password=given.get("password"),
        database=given.get("database", ""),
        charset=charset,
        collation=given.get("collation"),
        connect_timeout=given.get("connect_timeout", DEFAULT_CONNECT_TIMEOUT),
        read_timeout=given.get("read_timeout", DEFAULT_READ_TIMEOUT),
        write_timeout=given.get("write_timeout", given.get("read_timeout", DEFAULT_READ_TIMEOUT)),
        autocommit=given.get("autocommit", False),
        init_command=given.get("init_command"),
        sql_mode=given.get("sql_mode"),
        bind_address=given.get("bind_address"),
        # performance_schema.session_connect_attrs shows it beside the process id.
        program_name=given.get("program_name", f"wsgipool:{settings.name}"),
        fast_reading=given.get("fast_reading", True),
        tls=tls_settings,
    )


def endpoint_of(url: DatabaseURL, where: str) -> Endpoint:
    """Return the place to which a URL and its option file lead. Raise ConfigError."""
    given, wheres = _given(url, where)
    return _endpoint(given, wheres, url, where)


def _given(url: DatabaseURL, where: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the options of the URL, completed from its option file, and the place where each is written."""
    given = convert(url_hints.known_options(url, _OPTIONS, _ALIASES, url_hints.MYSQL, where), _OPTIONS, where)
    for name, value in (
        ("user", url.user or None), ("password", url.password), ("host", url.host or None), ("port", url.port),
        ("database", url.database or None),
    ):  # fmt: skip
        if value is not None:
            given[name] = value
    wheres = dict.fromkeys(given, where)
    group = given.get("read_default_group")
    if "read_default_file" not in given:
        if group is not None:
            raise ConfigError(f"{where}: read_default_group without read_default_file; name the file")
        return given, wheres
    entries = my_cnf.read(given["read_default_file"], group, where)
    for name, text, place in from_file(entries, given):
        if name in _OPTIONS:
            text = convert(DatabaseURL(url.scheme, options={name: text}), _OPTIONS, place)[name]
        given[name], wheres[name] = text, place
    return given, wheres


def _refuse_nul(given: Mapping[str, Any], wheres: Mapping[str, str]) -> None:
    for name, value in given.items():
        if isinstance(value, str) and "\0" in value:
            raise ConfigError(f"{wheres[name]}: the {name} has a NUL character (%00); leave it out")


# --- the endpoint ----------------------------------------------------------------------------------------------------


def _endpoint(given: Mapping[str, Any], wheres: Mapping[str, str], url: DatabaseURL, where: str) -> Endpoint:
    """Return the host or the socket. The URL takes precedence over the file."""
    host, port, socket = given.get("host"), given.get("port"), given.get("unix_socket")
    if port is not None and not 1 <= port <= 65535:
        raise ConfigError(f"{wheres['port']}: the port is {port}; it is a number from 1 to 65535, of MySQL 3306")
    if socket is not None:
        if host is not None and host.lower() != "localhost":
            raise ConfigError(
                f"{wheres['unix_socket']}: the host {shown(host)} and unix_socket={shown(socket)}; keep one"
            )
        if port is not None:
            raise ConfigError(f"{wheres['unix_socket']}: the port {port} and unix_socket={shown(socket)}; keep one")
        _check_socket(socket, f"{wheres['unix_socket']}: unix_socket")
        return Endpoint(None, None, socket)
    if host is None:
        file = given.get("read_default_file")
        raise ConfigError(
            f"{where}: no host{f', here or in {shown(file)}' if file else ''}; write "
            f"{url.scheme}://user@host/database, or for a local server {url.scheme}://user@/database?unix_socket=/run/mysqld/mysqld.sock"
        )
    check_host(host, wheres["host"])
    return Endpoint(host, port or DEFAULT_PORT, None)


def check_host(host: str, where: str) -> None:
    """Raise ConfigError unless the text can be the name or the address of a host."""
    if host.startswith("/"):
        raise ConfigError(f"{where}: {shown(host)} is no host; for a socket write ?unix_socket={showing.path(host)}")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        try:
            name = host.encode("idna").decode()
        except UnicodeError:
            name = ""
        if not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?", name) or len(name) > 253:
            raise ConfigError(f"{where}: {shown(host)} is neither the name of a host nor an address") from None


def _check_socket(path: str, where: str) -> None:
    if not path.startswith("/"):
        raise ConfigError(f"{where}: {shown(path)} is not an absolute path; write it whole, from /")
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise ConfigError(f"{where}: {shown(path)} is too long for a socket: at most {_MAX_SOCKET_PATH} bytes")
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)  # noqa: PTH116 - a NUL character was refused before
    except OSError:
        return  # the server creates it at its start
    if not is_socket:
        raise ConfigError(f"{where}: {shown(path)} is not a socket; MySQL's is often /run/mysqld/mysqld.sock")


def _name_of_this_user(where: str) -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise ConfigError(
            f"{where}: no user, and user id {os.geteuid()} has no name; write it before the '@'"
        ) from None


# --- character sets --------------------------------------------------------------------------------------------------


def _check_collation(charset: str, collation: str | None, wheres: Mapping[str, str]) -> None:
    if collation is None:
        return
    # In MariaDB the names of the newest collations may omit the character set.
    families = {"utf8": ("utf8", "utf8mb3"), "utf8mb3": ("utf8", "utf8mb3")}.get(charset, (charset,))
    if not collation.startswith((*(f"{family}_" for family in families), "uca1400_")):
        raise ConfigError(
            f"{wheres['collation']}: the collation {collation} does not belong to the character set {charset}; "
            f"write charset={collation.partition('_')[0]}, or another collation"
        )
