"""wsgipool.toml, or a mapping of the same shape, read into frozen, validated settings.

This module knows what a setting may be; it knows no driver, no server and no pool. Every complaint is one
`ConfigError` that names the file, the key and what would do. A password never shows in a message or a repr.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from wsgipool.database_url import DatabaseURL as DatabaseURL
from wsgipool.database_url import parse_url as parse_url
from wsgipool.errors import ConfigError
from wsgipool.permits import MOST_PERMITS
from wsgipool.showing import unknown_key as unknown_key
from wsgipool.sizing import DEFAULT_RESERVE, THREADS

DEFAULT_TIMEOUT = 30.0
"""Seconds a request waits for a connection: less than the 60 s after which httpd's `Timeout` gives up on it."""


DEFAULT_MAX_CONNECTING = 2
"""MongoDB's default of the same setting (https://www.mongodb.com/docs/manual/reference/connection-string-options/)."""

DEFAULT_MAX_IDLE = 600.0
"""Seconds, psycopg_pool's default: below MariaDB's wait_timeout of 28800, and what a burst opened is soon gone."""

DEFAULT_MAX_LIFETIME = 3600.0
"""Seconds, psycopg_pool's default: a session's memory on the server does not grow for ever."""

DEFAULT_CHECK_AFTER = 30.0
"""Seconds; a socket that was closed is seen in any case, so this is for networks that forget connections silently."""


@dataclass(frozen=True)
class DatabaseSettings:
    """One `[databases.NAME]` table."""

    name: str
    url: DatabaseURL
    origin: str
    """Where the table stands, for messages: `/etc/wsgipool.toml: databases.orders`."""
    password_file: Path | None = None
    """Where the URL's password was read from, if not from the URL or the environment."""
    password_env: str | None = None
    """The variable of the environment that it was read from, if so."""
    max_size: int | str = THREADS
    """Connections a process may have open at once: a number, "threads" or "threads/N"."""
    min_size: int = 0
    """Connections that a process keeps open even if nobody needs them; never more than its max_size."""
    timeout: float = DEFAULT_TIMEOUT
    """Seconds to wait for a connection before `PoolTimeout`."""
    max_waiting: int = 0
    """Requests of a process that may wait at once; one more gets `TooManyRequests`. 0 is no limit."""
    max_connecting: int = DEFAULT_MAX_CONNECTING
    """Connections that a process may be opening at once."""
    check_after: float = DEFAULT_CHECK_AFTER
    """Seconds of idleness after which the server is asked for a sign of life before a connection is lent."""
    max_idle: float = DEFAULT_MAX_IDLE
    """Seconds after which a connection that nobody needed is closed."""
    max_lifetime: float = DEFAULT_MAX_LIFETIME
    """Seconds after which a connection is closed however busy it is."""
    reset: Literal["rollback", "session", "none"] = "rollback"
    """How a returned connection is cleaned: its transaction ended, all of its session, or not at all."""
    pipeline: bool = True
    """Whether the server's answer to the cleaning is left to the next checkout."""
    close_on_errors: frozenset[int | str] = frozenset()
    """Further error numbers and SQLSTATEs after which a connection is closed rather than lent again."""
    debug: bool = False
    """Whether the stack is noted at each loan, for the messages of deadlocks and leaks."""


@dataclass(frozen=True)
class BudgetSettings:
    """The `[budget]` table."""

    connections: int | Literal["auto"]
    """Connections of this host to a database server, all its processes together; "auto" asks the server."""
    hosts: int = 1
    """With "auto": the hosts that share the server."""
    reserve: int = DEFAULT_RESERVE
    """With "auto": connections left to others."""


@dataclass(frozen=True)
class Settings:
    """A whole wsgipool.toml."""

    databases: Mapping[str, DatabaseSettings]
    origin: str
    budget: BudgetSettings | None = None
    runtime_dir: Path | None = None
    """The folder for what the processes of one host share."""


def load(
    source: str | os.PathLike[str] | Mapping[str, object], environment: Mapping[str, str] = os.environ
) -> Settings:
    """Return the settings of a wsgipool.toml, or of a mapping of the same shape.

    `environment` is where a `password_env` is looked up. Raises ConfigError where the file cannot be read, is not TOML,
    or says something that cannot be.
    """
    if isinstance(source, Mapping):
        return _settings(_Table(source, "the mapping given to configure()", ""), Path.cwd(), environment)
    path = Path(source)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist; `wsgipool apache show wsgipool.toml` prints one to start from"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read by user id {os.geteuid()}: {error.strerror}; give the Apache user's group "
            "read access (chgrp www-data, chmod 640)"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    return _settings(_Table(document, str(path), ""), path.absolute().parent, environment)


def _settings(table: _Table, directory: Path, environment: Mapping[str, str]) -> Settings:
    table.check_keys("budget", "databases", "runtime_dir")
    databases = table.table("databases")
    if not databases.content:
        raise ConfigError(f"{table.origin}: no database; add a table [databases.NAME] with a url")
    runtime_dir = table.string("runtime_dir")
    if runtime_dir is not None and not Path(runtime_dir).is_absolute():
        raise ConfigError(f"{table.where('runtime_dir')}: {runtime_dir!r} is not an absolute path")
    return Settings(
        databases=MappingProxyType(
            {name: _database(name, databases.table(name), directory, environment) for name in databases.content}
        ),
        origin=table.origin,
        budget=_budget(table.table("budget")) if "budget" in table.content else None,
        runtime_dir=None if runtime_dir is None else Path(runtime_dir),
    )


def _budget(table: _Table) -> BudgetSettings:
    table.check_keys("connections", "hosts", "reserve")
    connections = table.content.get("connections")
    if connections == "auto":
        return BudgetSettings(
            "auto", table.count("hosts", 1, least=1), table.count("reserve", DEFAULT_RESERVE, least=0)
        )
    if isinstance(connections, bool) or not isinstance(connections, int) or not 1 <= connections <= MOST_PERMITS:
        raise ConfigError(
            f"{table.where('connections')} = {connections!r}: it is a number from 1 to {MOST_PERMITS}, less than "
            'the max_connections of the server, or "auto"'
        )
    for key in ("hosts", "reserve"):
        if key in table.content:
            raise ConfigError(
                f"{table.where(key)}: connections = {connections} is the number of this host already; {key} goes with "
                'connections = "auto"'
            )
    return BudgetSettings(connections)


def _database(name: str, table: _Table, directory: Path, environment: Mapping[str, str]) -> DatabaseSettings:
    table.check_keys(
        "url", "password_file", "password_env", "max_size", "min_size", "timeout", "max_waiting", "max_connecting",
        "check_after", "max_idle", "max_lifetime", "reset", "pipeline", "close_on_errors", "debug",
    )  # fmt: skip
    url_text = table.string("url")
    if url_text is None:
        raise ConfigError(f'{table.where()}: no url; write url = "mysql://user@host/database"')
    url = _with_password(parse_url(url_text, table.where("url")), table, directory, environment)
    max_size, min_size = table.max_size(), table.count("min_size", 0, least=0)
    if isinstance(max_size, int) and min_size > max_size:
        raise ConfigError(f"{table.where('min_size')} = {min_size}: it is more than max_size, which is {max_size}")
    return DatabaseSettings(
        name=name,
        url=url,
        origin=table.where(),
        password_file=None if table.string("password_file") is None else directory / str(table.string("password_file")),
        password_env=table.string("password_env"),
        max_size=max_size,
        min_size=min_size,
        timeout=table.seconds("timeout", DEFAULT_TIMEOUT),
        max_waiting=table.count("max_waiting", 0, least=0),
        max_connecting=table.count("max_connecting", DEFAULT_MAX_CONNECTING, least=1),
        check_after=table.seconds("check_after", DEFAULT_CHECK_AFTER),
        max_idle=table.seconds("max_idle", DEFAULT_MAX_IDLE),
        max_lifetime=table.seconds("max_lifetime", DEFAULT_MAX_LIFETIME),
        reset=table.reset(),
        pipeline=table.boolean("pipeline", True),
        close_on_errors=table.codes("close_on_errors"),
        debug=table.boolean("debug", False),
    )


def _with_password(url: DatabaseURL, table: _Table, directory: Path, environment: Mapping[str, str]) -> DatabaseURL:
    file_name, variable = table.string("password_file"), table.string("password_env")
    given = [
        source
        for source, value in (("url", url.password), ("password_file", file_name), ("password_env", variable))
        if value is not None
    ]
    if len(given) > 1:
        raise ConfigError(f"{table.where()}: the password stands in {' and in '.join(given)}; keep one")
    if file_name is not None:
        path = directory / file_name
        try:
            password = path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigError(
                f"{table.where('password_file')}: {path} cannot be read by user id {os.geteuid()}: {reason}"
            ) from None
    elif variable is not None:
        try:
            password = environment[variable]
        except KeyError:
            raise ConfigError(
                f"{table.where('password_env')}: the environment has no variable {variable}; SetEnv does not reach "
                "it, Debian's /etc/apache2/envvars and systemd's Environment= do"
            ) from None
    else:
        return url
    return DatabaseURL(url.scheme, url.user, password, url.host, url.port, url.database, url.options)


@dataclass(frozen=True)
class _Table:
    """A table of the document, with its place in it."""

    content: Mapping[str, object]
    origin: str
    path: str

    def where(self, key: str = "") -> str:
        return f"{self.origin}: {'.'.join(part for part in (self.path, key) if part)}"

    def check_keys(self, *known: str) -> None:
        for key in self.content:
            if key not in known:
                raise ConfigError(f"{self.where(key)} is not a setting; {unknown_key(key, known)}")

    def table(self, key: str) -> _Table:
        value = self.content.get(key, {})
        if not isinstance(value, Mapping):
            raise ConfigError(f"{self.where(key)} is {_kind(value)}; it is a table, [{self.path or key}...]")
        return _Table(value, self.origin, f"{self.path}.{key}" if self.path else key)

    def string(self, key: str) -> str | None:
        value = self.content.get(key)
        if value is None or isinstance(value, str):
            return value
        raise ConfigError(f"{self.where(key)} is {_kind(value)}; write a string in quotes")

    def seconds(self, key: str, default: float) -> float:
        value = self.content.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{self.where(key)} is {_kind(value)}; write a number of seconds, such as {default:g}")
        if not 0 <= value <= 86_400:
            raise ConfigError(f"{self.where(key)} = {value}: it is a number of seconds from 0 to 86400")
        return float(value)

    def count(self, key: str, default: int, *, least: int) -> int:
        value = self.content.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return value
        raise ConfigError(f"{self.where(key)} = {value!r}: it is a number from {least}")

    def boolean(self, key: str, default: bool) -> bool:
        value = self.content.get(key, default)
        if isinstance(value, bool):
            return value
        raise ConfigError(f"{self.where(key)} is {_kind(value)}; write true or false")

    def reset(self) -> Literal["rollback", "session", "none"]:
        value = self.content.get("reset", "rollback")
        if value == "rollback" or value == "session" or value == "none":
            return value
        raise ConfigError(f'{self.where("reset")} = {value!r}: it is "rollback", "session" or "none"')

    def codes(self, key: str) -> frozenset[int | str]:
        value = self.content.get(key, [])
        if not isinstance(value, list | tuple | set | frozenset) or not all(map(_is_code, value)):
            raise ConfigError(
                f'{self.where(key)} = {value!r}: it is an array of error numbers and SQLSTATEs, such as [1290, "25006"]'
            )
        return frozenset(value)

    def max_size(self) -> int | str:
        value = self.content.get("max_size", THREADS)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return value
        if isinstance(value, str) and re.fullmatch(rf"{THREADS}(/[1-9][0-9]*)?", value):
            return value
        raise ConfigError(
            f'{self.where("max_size")} = {value!r}: it is a number from 1, "threads" for as many as the process '
            'has threads, or "threads/2" for half as many'
        )


def _is_code(value: object) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"[0-9A-Z]{5}", value) is not None
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536


def _kind(value: object) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "a table" if isinstance(value, Mapping) else f"a {type(value).__name__}")
