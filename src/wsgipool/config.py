"""wsgipool.toml, or a mapping of the same shape, read into frozen, validated settings.

This module knows what a setting may be; it knows no driver, no server and no pool. Every complaint is one
`ConfigError` of one line that names the file, the key and what would do. A password never shows in a message or a repr.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any, Literal

from wsgipool import files, hints, showing
from wsgipool.database_url import DatabaseURL as DatabaseURL
from wsgipool.database_url import parse_url as parse_url
from wsgipool.errors import ConfigError
from wsgipool.permits import MOST_PERMITS
from wsgipool.showing import unknown_key as unknown_key
from wsgipool.sizing import DEFAULT_RESERVE, THREADS

MAX_FILE_SIZE = 1 << 20
"""Bytes of a wsgipool.toml."""

MAX_PASSWORD_SIZE = 1 << 16
"""Bytes of a password_file, and characters of a password."""

MAX_DATABASES = 1000
"""Tables [databases.NAME]: each costs a process a driver, and its TLS context some 15 ms."""

MAX_NAME = 100
"""Characters of the NAME in [databases.NAME]."""

MAX_COUNT = 1_000_000
"""The largest number of connections, requests or hosts: more than any site has."""

MAX_SECONDS = 86_400

_MAX_DOTS = 50
"""Dots in a line of a wsgipool.toml."""

_MAX_CODES = 1000

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


_TOP_KEYS = ("budget", "databases", "runtime_dir")
_BUDGET_KEYS = ("connections", "hosts", "reserve")
_BUDGET_HINTS = dict.fromkeys(("max_connections", "limit", "size", "max_size", "max"), "write connections")
_DATABASE_KEYS = (
    *("url", "password_file", "password_env", "max_size", "min_size", "timeout", "max_waiting", "max_connecting"),
    *("check_after", "max_idle", "max_lifetime", "reset", "pipeline", "close_on_errors", "debug"),
)


def load(
    source: str | os.PathLike[str] | Mapping[str, object], environment: Mapping[str, str] = os.environ
) -> Settings:
    """Return the settings of a wsgipool.toml, or of a mapping of the same shape.

    `environment` is where a `password_env` is looked up. Raises ConfigError where the file cannot be read, is not TOML,
    or says something that cannot be.
    """
    if isinstance(source, Mapping):
        document, origin = _copied(source), "the mapping given to configure()"
        return _settings(_Table(document, origin, ""), _absolute(Path()), environment)
    path = _path(source)
    return _settings(_Table(_document(path), str(path), ""), _absolute(path).parent, environment)


def _path(source: str | os.PathLike[str]) -> Path:
    try:
        name: object = os.fspath(source)
    except Exception:  # it is no path, or a path of another's making
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
        # What a key says may be of any length; the place stands at the end.
        reason = reason if len(reason) <= 200 else f"{reason[:100]}... {reason[-50:]}"
        raise ConfigError(f"{name} is not valid TOML: {reason}") from None
    except RecursionError:
        raise ConfigError(f"{name} has arrays or tables too deep in each other; no setting is so deep") from None
    except ValueError:
        raise ConfigError(f"{name} has a number with too many digits; no setting is so large") from None


def _copied(mapping: Mapping[Any, object], depth: int = 2) -> dict[Any, object]:
    """Return a mapping as a dictionary, so that nothing that it runs can fail later; likewise the tables in it."""
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


def _settings(table: _Table, directory: Path, environment: Mapping[str, str]) -> Settings:
    table.check_keys(_TOP_KEYS, _hint_at_the_top)
    databases = table.table("databases")
    if not databases.content:
        raise ConfigError(f"{showing.path(table.origin)}: no database; add a table [databases.NAME] with a url")
    if len(databases.content) > MAX_DATABASES:
        raise ConfigError(f"{databases.where()} has {len(databases.content)} tables; at most {MAX_DATABASES} can be")
    for name in databases.content:
        _check_name(name, databases)
    budget = _budget(table.table("budget")) if "budget" in table.content else None
    return Settings(
        databases=MappingProxyType(
            {name: _database(name, databases.table(name), budget, directory, environment) for name in databases.content}
        ),
        origin=table.origin,
        budget=budget,
        runtime_dir=_runtime_dir(table),
    )


def _hint_at_the_top(key: str, value: object) -> str | None:
    if isinstance(value, Mapping) and "url" in value:
        return f"write the table as [databases.{showing.name(key)}]"
    if key in _DATABASE_KEYS or (hints.hint(key) and not isinstance(value, Mapping)):
        return "what is said of a database stands in its table, [databases.NAME]"
    return None


def _check_name(name: object, databases: _Table) -> None:
    if not isinstance(name, str) or not name or len(name) > MAX_NAME or not name.isprintable() or name != name.strip():
        raise ConfigError(
            f"{databases.where()}: {showing.name(name)} cannot be the name of a database; the NAME in "
            f"[databases.NAME] has 1 to {MAX_NAME} visible characters"
        )


def _runtime_dir(table: _Table) -> Path | None:
    name, where = table.path_name("runtime_dir"), table.where("runtime_dir")
    if name is None:
        return None
    folder = Path(name)
    if not folder.is_absolute():
        raise ConfigError(f"{where} must be an absolute path, is {showing.shown(name)}")
    try:
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
    except (FileNotFoundError, PermissionError):
        is_folder = True  # it is made at first use, by the user of the processes, who may see more
    except OSError as error:
        raise ConfigError(f"{where}: {showing.path(name)}: {error.strerror}; name a folder") from None
    if not is_folder:
        raise ConfigError(f"{where}: {showing.path(name)} is not a folder; name one")
    return folder


def _budget(table: _Table) -> BudgetSettings:
    table.check_keys(_BUDGET_KEYS, lambda key, _: _BUDGET_HINTS.get(key.lower()))
    connections = table.content.get("connections")
    if isinstance(connections, str) and connections == "auto":
        return BudgetSettings(
            "auto", table.count("hosts", 1, least=1), table.count("reserve", DEFAULT_RESERVE, least=0)
        )
    if isinstance(connections, bool) or not isinstance(connections, int) or not 1 <= connections <= MOST_PERMITS:
        found = f", is {showing.shown(connections)}" if "connections" in table.content else ""
        raise ConfigError(
            f"{table.where('connections')} must be a number from 1 to {MOST_PERMITS}, less than the max_connections "
            f'of the server, or "auto"{found}'
        )
    for key in ("hosts", "reserve"):
        if key in table.content:
            raise ConfigError(
                f"{table.where(key)}: connections = {connections} is the number of this host already; {key} goes with "
                'connections = "auto"'
            )
    return BudgetSettings(connections)


def _database(
    name: str, table: _Table, budget: BudgetSettings | None, directory: Path, environment: Mapping[str, str]
) -> DatabaseSettings:
    table.check_keys(_DATABASE_KEYS, lambda key, _: hints.hint(key))
    url_text = table.string("url")
    if url_text is None:
        raise ConfigError(f'{table.where()}: no url; write url = "mysql://user@host/database"')
    password_file = table.path_name("password_file")
    url = _with_password(parse_url(url_text, table.where("url")), table, password_file, directory, environment)
    settings = DatabaseSettings(
        name=name,
        url=url,
        origin=table.where(),
        password_file=None if password_file is None else directory / password_file,
        password_env=table.string("password_env"),
        max_size=table.max_size(),
        min_size=table.count("min_size", 0, least=0),
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
    _refuse_contradictions(settings, table, budget)
    return settings


def _refuse_contradictions(settings: DatabaseSettings, table: _Table, budget: BudgetSettings | None) -> None:
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


def _with_password(
    url: DatabaseURL, table: _Table, file_name: str | None, directory: Path, environment: Mapping[str, str]
) -> DatabaseURL:
    variable = table.string("password_env")
    given = [
        source
        for source, value in (("url", url.password), ("password_file", file_name), ("password_env", variable))
        if value is not None
    ]
    if len(given) > 1:
        raise ConfigError(f"{table.where()}: the password stands in {' and in '.join(given)}; keep one")
    if file_name is not None:
        return replace(url, password=_password_in(directory / file_name, table.where("password_file")))
    if variable is not None:
        return replace(url, password=_password_of(variable, environment, table.where("password_env")))
    return url


def _password_in(path: Path, where: str) -> str:
    name = showing.path(path)
    try:
        text = files.read_text(path, MAX_PASSWORD_SIZE)
    except OSError as error:
        raise ConfigError(f"{where}: {name} cannot be read by user id {os.geteuid()}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{where}: {name} {error}") from None
    password = text.removesuffix("\n").removesuffix("\r")
    if "\n" in password or "\r" in password:
        raise ConfigError(f"{where}: {name} has more than one line; it must have the password and nothing else")
    _check_password(password, f"{where}: {name}")
    return password


def _password_of(variable: str, environment: Mapping[str, str], where: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", variable):
        # Not quoted: it may be the password itself.
        raise ConfigError(f"{where} must be the name of a variable of the environment, such as ORDERS_PASSWORD")
    try:
        password = environment[variable]
    except KeyError:
        raise ConfigError(
            f"{where}: the environment has no variable {variable}; SetEnv does not reach it, Debian's "
            "/etc/apache2/envvars and systemd's Environment= do"
        ) from None
    _check_password(password, f"{where}: the variable {variable}")
    return password


def _check_password(password: str, place: str) -> None:
    if not password:
        raise ConfigError(f"{place} is empty; write the password there, or leave the setting out if there is none")
    if "\0" in password:
        raise ConfigError(f"{place} has a NUL, which no password can have")
    if any("\ud800" <= character <= "\udfff" for character in password):
        raise ConfigError(f"{place} is not UTF-8")
    if len(password) > MAX_PASSWORD_SIZE:
        raise ConfigError(f"{place} is longer than {MAX_PASSWORD_SIZE} characters")


@dataclass(frozen=True)
class _Table:
    """A table of the document, with its place in it."""

    content: Mapping[str, object]
    origin: str
    path: str

    def where(self, key: object = "") -> str:
        parts = [self.path] if self.path else []
        parts += [] if key == "" else [showing.name(key)]
        return f"{showing.path(self.origin)}: {'.'.join(parts)}"

    def check_keys(self, known: Sequence[str], hint: Callable[[str, object], str | None]) -> None:
        for key, value in self.content.items():
            if not isinstance(key, str):
                raise ConfigError(f"{self.where()}: {showing.name(key)} is not a setting; the key must be a string")
            if key not in known:
                advice = hint(key, value) or unknown_key(key, known)
                raise ConfigError(f"{self.where(key)} is not a setting; {advice}")

    def table(self, key: str) -> _Table:
        value = self.content.get(key, {})
        if not isinstance(value, Mapping):
            header = f"{self.path}.{showing.name(key)}" if self.path else f"{key}..."
            raise ConfigError(f"{self.where(key)} must be a table, [{header}], is {showing.kind(value)}")
        name = showing.name(key)
        return _Table(value, self.origin, f"{self.path}.{name}" if self.path else name)

    def string(self, key: str) -> str | None:
        value = self.content.get(key)
        if value is None:
            return None
        if isinstance(value, str):
            return str.__str__(value)
        # Its kind alone: it may be a password.
        raise ConfigError(f"{self.where(key)} must be a string in quotes, is {showing.kind(value)}")

    def path_name(self, key: str) -> str | None:
        value = self.content.get(key)
        name = str(value) if isinstance(value, PurePath) else self.string(key)
        if name is not None and (not name.isprintable() or name != name.strip() or not name):
            raise ConfigError(f"{self.where(key)} must be a path: not empty, and without line ends or blanks around it")
        return name

    def seconds(self, key: str, default: float) -> float:
        value = self.content.get(key, default)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_SECONDS:
            return float(value) + 0.0  # -0.0 is 0.0
        raise self._wrong(key, f"a number of seconds from 0 to {MAX_SECONDS}", value)

    def count(self, key: str, default: int, *, least: int) -> int:
        value = self.content.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= MAX_COUNT:
            return value
        raise self._wrong(key, f"a whole number from {least} to {MAX_COUNT}", value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self.content.get(key, default)
        if isinstance(value, bool):
            return value
        raise self._wrong(key, "true or false", value)

    def reset(self) -> Literal["rollback", "session", "none"]:
        value = self.content.get("reset", "rollback")
        for known in ("rollback", "session", "none"):
            if isinstance(value, str) and value == known:
                return known
        raise self._wrong("reset", '"rollback", "session" or "none"', value)

    def codes(self, key: str) -> frozenset[int | str]:
        value = self.content.get(key, [])
        what = 'an array of error numbers and SQLSTATEs, such as [1290, "25006"]'
        if not isinstance(value, list | tuple | set | frozenset):
            raise self._wrong(key, what, value)
        if len(value) > _MAX_CODES:
            raise ConfigError(f"{self.where(key)} must be {what}, at most {_MAX_CODES} of them")
        for code in value:
            if not _is_code(code):
                raise ConfigError(f"{self.where(key)} must be {what}; {showing.shown(code)} is neither")
        return frozenset(value)

    def max_size(self) -> int | str:
        value = self.content.get("max_size", THREADS)
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_COUNT:
            return value
        if isinstance(value, str) and re.fullmatch(rf"{THREADS}(/[1-9][0-9]{{0,5}})?", value):
            return str.__str__(value)
        what = f'a whole number from 1 to {MAX_COUNT}, "threads" for as many as the process has threads, or "threads/2"'
        raise self._wrong("max_size", f"{what} for half as many", value)

    def _wrong(self, key: str, what: str, value: object) -> ConfigError:
        return ConfigError(f"{self.where(key)} must be {what}, is {showing.shown(value)}")


def _is_code(value: object) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"[0-9A-Z]{5}", value) is not None
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536
