"""The settings: wsgipool.toml, or a mapping of the same shape, read into frozen dataclasses.

Each field is documented here, with its default and unit; docs/reference/settings.md is made from that. This module
knows no driver, no server and no pool. Every error is a `ConfigError` of one line: the file, the key, the remedy.
A password appears in no message and no repr.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

from wsgipool import _passwords, files, hints, showing
from wsgipool._queries import Query, query_by
from wsgipool._values import (
    BOOLEAN,
    ERROR_CODES,
    MODULES,
    PATH_NAME,
    POOL_SIZE,
    SECONDS,
    STRING,
    Kind,
    Refused,
    Table,
    is_whole,
    kinds_of,
    one_of,
    whole_number,
)
from wsgipool.database_url import DatabaseURL as DatabaseURL
from wsgipool.database_url import parse_url as parse_url
from wsgipool.errors import ConfigError
from wsgipool.plan.sizing import DEFAULT_RESERVE, THREADS
from wsgipool.showing import unknown_key as unknown_key

MAX_FILE_SIZE = 1 << 20
"""Bytes of a wsgipool.toml."""

MAX_DATABASES = 1000
"""Maximum number of tables [databases.NAME]: each costs a process a driver, and its TLS context some 15 ms."""

MAX_NAME = 100
"""Characters of the NAME in [databases.NAME]."""

MAX_PERMITS = 16_384
"""The largest budget: each connection takes 8 bytes of a file that is read often."""

_MAX_DOTS = 50
"""Dots in a line of a wsgipool.toml."""

DEFAULT_TIMEOUT = 30.0
"""Less than the 60 s after which httpd's `Timeout` gives up on a request."""

DEFAULT_MAX_CONNECTING = 2
"""MongoDB's default of the same setting (https://www.mongodb.com/docs/manual/reference/connection-string-options/)."""

DEFAULT_MAX_IDLE = 600.0
"""psycopg_pool's default. It is below MariaDB's wait_timeout of 28800 s, and closes soon what a burst has opened."""

DEFAULT_MAX_LIFETIME = 3600.0
"""psycopg_pool's default. It bounds the memory that a session collects on the server."""

DEFAULT_CHECK_AFTER = 30.0
"""For networks that forget connections silently: a closed socket is seen at each checkout."""

DEFAULT_AUTH_CACHE = 60.0
"""Long enough for the requests of a page and of the next ones, and short for an administrator who removes a user."""


_Reset = Literal["rollback", "session", "none"]


def _permits(value: Any) -> int | str:
    if is_whole(value, 1, MAX_PERMITS):
        return int(value)
    if isinstance(value, str) and value == "auto":
        return "auto"
    raise Refused


_PERMITS = Kind(f'a number from 1 to {MAX_PERMITS}, less than the max_connections of the server, or "auto"', _permits)


@dataclass(frozen=True)
class DatabaseSettings:
    """A table `[databases.NAME]`: the settings of one database."""

    name: str
    """The NAME, by which the program asks for connections."""
    url: Annotated[DatabaseURL, STRING]
    """Address of the database, as `scheme://user:password@host:port/database?option=value`. The scheme names the
    driver. Required."""
    origin: str
    """Place of the table, for messages: `/etc/wsgipool.toml: databases.orders`."""
    password_file: Annotated[Path | None, PATH_NAME] = None
    """File whose only line is the password. A relative path begins at the folder of `wsgipool.toml`. Give the password
    in one place: in the URL, in this file, or in the variable of `password_env`."""
    password_env: Annotated[str | None, STRING] = None
    """Variable of the process's environment that has the password. Debian's `/etc/apache2/envvars` and systemd's
    `Environment=` set such variables; `SetEnv` does not."""
    max_size: Annotated[int | str, POOL_SIZE] = THREADS
    """Maximum number of connections of one process: a number, `"threads"` for one a thread, or `"threads/2"` for one to
    two threads. A number above the threads of the process is cut to it. Outside httpd the threads are not known:
    `"threads"` is 10 then, and a number is not cut. Connections are opened only as needed."""
    min_size: Annotated[int, whole_number(0)] = 0
    """Number of connections that a process keeps open, even unused. At most `max_size`. They are opened in the
    background."""
    timeout: Annotated[float, SECONDS] = DEFAULT_TIMEOUT
    """How long a request waits for a connection, in seconds, before `PoolTimeout`. With 0 it takes an idle connection
    or fails."""
    max_waiting: Annotated[int, whole_number(0)] = 0
    """Maximum number of requests of one process that wait at once. One more gets `TooManyRequests` at once. 0 means no
    limit."""
    max_connecting: Annotated[int, whole_number(1)] = DEFAULT_MAX_CONNECTING
    """Maximum number of connections that a process opens at the same time. Further requests wait for the first free
    connection, new or returned."""
    check_after: Annotated[float, SECONDS] = DEFAULT_CHECK_AFTER
    """Idle time, in seconds, after which the pool pings the server before a checkout. Whether the socket is open is
    checked at every checkout, independent of this setting."""
    max_idle: Annotated[float, SECONDS] = DEFAULT_MAX_IDLE
    """Idle time, in seconds, after which a connection is closed."""
    max_lifetime: Annotated[float, SECONDS] = DEFAULT_MAX_LIFETIME
    """Age, in seconds, at which a connection is closed even if it is often used, minus up to a tenth at random. A
    connection in use is closed when it is returned."""
    reset: Annotated[_Reset, one_of(*get_args(_Reset))] = "rollback"
    """How a returned connection is cleaned. `"rollback"` ends its transaction. `"session"` also resets the session:
    user variables, `SET`, temporary tables, locks, `USE`. `"none"` does neither, for programs that only read in
    autocommit mode."""
    pipeline: Annotated[bool, BOOLEAN] = True
    """Whether the answer to the cleaning is read at the next checkout. With `false`, each command waits for the answer
    to the previous one, as some proxies require."""
    close_returns: Annotated[bool, BOOLEAN] = False
    """Whether `close()` of a connection returns it to the pool, rolled back, for programs written without a pool. With
    `false` it closes the connection, and its place is free at once."""
    close_on_errors: Annotated[frozenset[int | str], ERROR_CODES] = frozenset()
    """Further error numbers and SQLSTATEs after which a connection is closed, such as `[1205, "55P03"]`. PostgreSQL has
    SQLSTATEs only."""
    debug: Annotated[bool, BOOLEAN] = False
    """Whether the stack of each checkout is recorded, for the messages about deadlocks and leaks."""
    log_slow: Annotated[float, SECONDS] = 0.0
    """A checkout that waited, or connected, for longer than this many seconds is logged, with its place in the program
    and that of the holder for which it waited. 0 logs none."""


@dataclass(frozen=True)
class BudgetSettings:
    """The table `[budget]`: the connections of this host to one database server."""

    connections: Annotated[int | Literal["auto"], _PERMITS]
    """Maximum number of connections of this host to a database server, all its processes together. `"auto"` is what the
    server allows, minus `reserve`, divided by `hosts`. Required."""
    hosts: Annotated[int, whole_number(1)] = 1
    """Number of hosts that share the server. Only with `connections = "auto"`."""
    reserve: Annotated[int, whole_number(0)] = DEFAULT_RESERVE
    """Number of connections left to others: backups, monitoring, an administrator. Only with `connections = "auto"`."""


@dataclass(frozen=True)
class AuthSettings:
    """The table `[auth]`: the users and groups that Apache asks for; see `handlers/auth.py`.

    A query may write a parameter by its name or as `%s`, and writes `%%` for a percent sign, for every driver.
    """

    database: Annotated[str, STRING]
    """NAME of the database with the users. Required."""
    password_query: Annotated[Query | None, query_by("user")] = None
    """Query that returns the stored password of a user, for `AuthType Basic`: one row with one column, no row for an
    unknown user. Example: `"SELECT password FROM users WHERE name = %s"`."""
    realm_query: Annotated[Query | None, query_by("user", "realm")] = None
    """Query that returns the MD5 of `user:realm:password` in hexadecimal digits, as `htdigest` writes it, for
    `AuthType Digest`."""
    group_query: Annotated[Query | None, query_by("user")] = None
    """Query that returns the groups of a user, for `Require wsgi-group`: a row with one column for each."""
    cache_seconds: Annotated[float, SECONDS] = DEFAULT_AUTH_CACHE
    """How long a process remembers an accepted password, a digest or the groups of a user, in seconds, and asks neither
    the database nor calculates again. So a changed password, or a removed user, is accepted that much longer. Refusals
    are not remembered. 0 remembers nothing."""


@dataclass(frozen=True)
class Settings:
    """A whole wsgipool.toml; these settings stand above all tables."""

    databases: Mapping[str, DatabaseSettings]
    origin: str
    budget: BudgetSettings | None = None
    auth: AuthSettings | None = None
    install: Annotated[tuple[str, ...], MODULES] = ()
    """Modules whose `connect()` is pooled without a change of the program: `["pymysql"]`, `["MySQLdb"]` or both. The
    settings must be loaded before the program connects, so let `Define WSGIPOOL_CONFIG` name the file."""
    runtime_dir: Annotated[Path | None, PATH_NAME] = None
    """Folder for the files that the processes of a host share: budgets, locks, and the invalidations of caches. An
    absolute path. It must belong to the user of the processes, with mode 0700. Without it the folder is
    `/run/wsgipool-UID` if that exists, else `wsgipool-UID` in the folder of temporary files."""


_TABLES = ("auth", "budget", "databases")
_QUERIES = ("password_query", "realm_query", "group_query")
_AUTH_HINTS = {"query": "write password_query", "user_query": "write password_query", "cache": "write cache_seconds"}
_BUDGET_HINTS = dict.fromkeys(("max_connections", "limit", "size", "max_size", "max"), "write connections")


def load(
    source: str | os.PathLike[str] | Mapping[str, object], environment: Mapping[str, str] = os.environ
) -> Settings:
    """Return the settings of a wsgipool.toml, or of a mapping of the same shape.

    Args:
        source: The file, or the mapping.
        environment: Where a `password_env` is looked up.

    Raises:
        ConfigError: The file cannot be read, is not TOML, or has a wrong setting.
    """
    if isinstance(source, Mapping):
        return _settings(Table(_copied(source), "the mapping given to configure()"), _absolute(Path()), environment)
    path = _path(source)
    return _settings(Table(_document(path), str(path)), _absolute(path).parent, environment)


# --- From tables to settings -----------------------------------------------------------------------------------------


def _settings(table: Table, directory: Path, environment: Mapping[str, str]) -> Settings:
    table.check_keys(dict.fromkeys((*_TABLES, *kinds_of(Settings))), _hint_at_the_top)
    databases = table.table("databases")
    if not databases.content and not table.content.keys() & {"budget", "install"}:
        raise ConfigError(
            f"{showing.path(table.origin)}: no database; add a table [databases.NAME] with a url, or [budget] if the "
            "program gives its databases"
        )
    if len(databases.content) > MAX_DATABASES:
        raise ConfigError(f"{databases.where()} has {len(databases.content)} tables; at most {MAX_DATABASES} can be")
    for name in databases.content:
        _check_name(name, databases)
    budget = _budget(table.table("budget")) if "budget" in table.content else None
    auth = _auth(table.table("auth"), databases) if "auth" in table.content else None
    return Settings(
        databases=MappingProxyType(
            {name: _database(name, databases.table(name), budget, directory, environment) for name in databases.content}
        ),
        origin=table.origin,
        budget=budget,
        auth=auth,
        install=table.read(Settings).get("install", ()),
        runtime_dir=_runtime_dir(table),
    )


def _hint_at_the_top(key: str, value: object) -> str | None:
    if isinstance(value, Mapping) and "url" in value:
        return f"write the table as [databases.{showing.name(key)}]"
    if key in kinds_of(DatabaseSettings) or (hints.hint(key) and not isinstance(value, Mapping)):
        return "the settings of a database stand in its table, [databases.NAME]"
    return None


def _check_name(name: object, databases: Table) -> None:
    if not isinstance(name, str) or not name or len(name) > MAX_NAME or not name.isprintable() or name != name.strip():
        raise ConfigError(
            f"{databases.where()}: {showing.name(name)} cannot be the name of a database; the NAME in "
            f"[databases.NAME] has 1 to {MAX_NAME} visible characters"
        )


def _database(
    name: str, table: Table, budget: BudgetSettings | None, directory: Path, environment: Mapping[str, str]
) -> DatabaseSettings:
    table.check_keys(kinds_of(DatabaseSettings), lambda key, _: hints.hint(key))
    given = table.read(DatabaseSettings)
    if "url" not in given:
        raise ConfigError(f'{table.where()}: no url; write url = "mysql://user@host/database"')
    given["url"] = parse_url(given["url"], table.where("url"))
    if "password_file" in given:
        given["password_file"] = directory / given["password_file"]
    _add_password(given, table, environment)
    settings = DatabaseSettings(name=name, origin=table.where(), **given)
    refuse_contradictions(settings, table, budget)
    return settings


def _add_password(given: dict[str, Any], table: Table, environment: Mapping[str, str]) -> None:
    """Put the password into the URL, from the one place that has it."""
    url: DatabaseURL = given["url"]
    places = ["url"] if url.password is not None else []
    places += [key for key in ("password_file", "password_env") if key in given]
    if len(places) > 1:
        raise ConfigError(f"{table.where()}: the password stands in {' and in '.join(places)}; keep one")
    if places == ["password_file"]:
        password = _passwords.from_file(given["password_file"], table.where("password_file"))
        given["url"] = replace(url, password=password)
    elif places == ["password_env"]:
        password = _passwords.from_variable(given["password_env"], environment, table.where("password_env"))
        given["url"] = replace(url, password=password)


def refuse_contradictions(settings: DatabaseSettings, table: Table, budget: BudgetSettings | None) -> None:
    """Raise ConfigError for settings of a database that are right alone and wrong together, or with the budget."""
    for limit, name in (
        (settings.max_size, "max_size"),
        (budget.connections if budget else None, "budget.connections"),
    ):
        if isinstance(limit, int) and settings.min_size > limit:
            raise ConfigError(f"{table.where('min_size')} = {settings.min_size} is more than {name}, which is {limit}")
    numbers = [code for code in settings.close_on_errors if isinstance(code, int)]
    if settings.url.scheme.startswith("postgresql") and numbers:
        raise ConfigError(
            f"{table.where('close_on_errors')}: PostgreSQL has no error {numbers[0]}; write an SQLSTATE, in quotes: "
            f'"{numbers[0]:05}"'
        )


def _budget(table: Table) -> BudgetSettings:
    table.check_keys(kinds_of(BudgetSettings), lambda key, _: _BUDGET_HINTS.get(key.lower()))
    given = table.read(BudgetSettings)
    if "connections" not in given:
        raise ConfigError(f"{table.where('connections')} must be {_PERMITS.what}")
    connections = given["connections"]
    for key in ("hosts", "reserve"):
        if key in given and connections != "auto":
            raise ConfigError(
                f"{table.where(key)}: connections = {connections} is the number of this host already; {key} goes with "
                'connections = "auto"'
            )
    return BudgetSettings(**given)


def _auth(table: Table, databases: Table) -> AuthSettings:
    table.check_keys(kinds_of(AuthSettings), lambda key, _: _AUTH_HINTS.get(key.lower()))
    given = table.read(AuthSettings)
    if "database" not in given:
        raise ConfigError(f"{table.where('database')} must be the NAME of a table [databases.NAME]")
    if given["database"] not in databases.content:
        hint = showing.unknown_key(given["database"], databases.content)
        raise ConfigError(
            f"{table.where('database')}: there is no [databases.{showing.name(given['database'])}]; {hint}"
        )
    if not given.keys() & set(_QUERIES):
        raise ConfigError(f"{table.where()} has no query; write {', '.join(_QUERIES[:-1])} or {_QUERIES[-1]}")
    return AuthSettings(**given)


def _runtime_dir(table: Table) -> Path | None:
    given = table.read(Settings)
    if "runtime_dir" not in given:
        return None
    name, where = given["runtime_dir"], table.where("runtime_dir")
    folder = Path(name)
    if not folder.is_absolute():
        raise ConfigError(f"{where} must be an absolute path, is {showing.shown(name)}")
    try:
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
    except (FileNotFoundError, PermissionError):
        is_folder = True  # the user of the processes creates it at first use, and may see more
    except OSError as error:
        raise ConfigError(f"{where}: {showing.path(name)}: {error.strerror}; name a folder") from None
    if not is_folder:
        raise ConfigError(f"{where}: {showing.path(name)} is not a folder; name one")
    return folder


# --- From a source to tables -----------------------------------------------------------------------------------------


def _path(source: str | os.PathLike[str]) -> Path:
    try:
        name: object = os.fspath(source)
    except Exception:  # not a path, or a foreign class whose __fspath__ raises
        name = source
    if not isinstance(name, str) or not name:
        found = "an empty string" if isinstance(name, str) else showing.kind(name)
        raise ConfigError(f"the settings are {found}; give the name of a wsgipool.toml, or a mapping of the same shape")
    return Path(name)


def _absolute(path: Path) -> Path:
    try:
        return path.absolute()
    except OSError:  # the working directory was removed
        return path


def _document(path: Path) -> dict[str, object]:
    name = showing.path(path)
    try:
        text = files.read_text(path, MAX_FILE_SIZE)
    except FileNotFoundError:
        raise ConfigError(
            f"{name} does not exist; `wsgipool apache show wsgipool.toml` prints one to start from"
        ) from None
    except PermissionError as error:
        raise ConfigError(
            f"{name} cannot be read by user id {os.geteuid()}: {error.strerror}; give the Apache user's group "
            "read access (chgrp www-data, chmod 640)"
        ) from None
    except OSError as error:
        raise ConfigError(f"{name} cannot be read by user id {os.geteuid()}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{name} {error}") from None
    for number, line in enumerate(text.split("\n"), 1):
        # tomllib takes a time that grows with the square of a key's parts: a minute for 50,000 of them.
        if line.count(".") > _MAX_DOTS and not line.lstrip().startswith("#"):
            raise ConfigError(f"{name}: line {number} has more than {_MAX_DOTS} dots; no setting has so many")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason = str(error)
        # The reason may repeat a key of any length; the place in the file stands at its end.
        reason = reason if len(reason) <= 200 else f"{reason[:100]}... {reason[-50:]}"
        raise ConfigError(f"{name} is not valid TOML: {reason}") from None
    except RecursionError:
        raise ConfigError(f"{name} has arrays or tables too deep in each other; no setting is so deep") from None
    except ValueError:
        raise ConfigError(f"{name} has a number with too many digits; no setting is so large") from None


def _copied(mapping: Mapping[Any, object], depth: int = 2) -> dict[Any, object]:
    """Return a mapping, and the tables in it, as dictionaries: no foreign code runs after this."""
    try:
        items = list(mapping.items())
    except Exception as error:
        reason = showing.name(type(error).__name__)
        raise ConfigError(f"the mapping given to configure() cannot be read: {reason}; give a dictionary") from None
    return {
        str.__str__(key) if isinstance(key, str) else key: (
            _copied(value, depth - 1) if depth and isinstance(value, Mapping) else value
        )
        for key, value in items
    }
