"""The values that settings can have, and the tables that they stand in.

A `Kind` says in words which values it accepts, for messages and for the documentation, and converts them. A dataclass
of settings annotates each with its kind, `Annotated[float, SECONDS]`; `Table.read` reads a table into the arguments of
that class.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any, get_origin, get_type_hints

from wsgipool import showing
from wsgipool.errors import ConfigError
from wsgipool.plan.sizing import THREADS

MAX_COUNT = 1_000_000
"""Maximum number of connections, requests or hosts: more than any site has."""

MAX_SECONDS = 86_400
"""Maximum of a setting or an option in seconds: a day."""

_MAX_CODES = 1000


class Refused(Exception):
    """A value that a setting cannot have; the message, if there is one, continues after the name of the setting."""


@dataclass(frozen=True)
class Kind:
    """A kind of values."""

    what: str
    """The values in words: `timeout must be ...`."""
    convert: Callable[[Any], Any]
    """Return the value as the settings have it. Raises Refused."""
    may_be_none: bool = False
    """Whether None means that the setting is not given."""


@functools.cache
def kinds_of(settings: type) -> Mapping[str, Kind]:
    """Return the kind of each setting that a dataclass declares, by name."""
    hints = get_type_hints(settings, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items() if get_origin(hint) is Annotated}


# --- Kinds -----------------------------------------------------------------------------------------------------------


def whole_number(minimum: int, maximum: int = MAX_COUNT) -> Kind:
    """Return the kind of whole numbers in a range."""

    def convert(value: Any) -> int:
        if is_whole(value, minimum, maximum):
            return int(value)
        raise Refused

    return Kind(f"a whole number from {minimum} to {maximum}", convert)


def one_of(*values: str) -> Kind:
    """Return the kind of a choice between strings."""

    def convert(value: Any) -> str:
        for known in values:
            if isinstance(value, str) and value == known:
                return known
        raise Refused

    quoted = [f'"{value}"' for value in values]
    return Kind(f"{', '.join(quoted[:-1])} or {quoted[-1]}", convert)


def is_whole(value: object, minimum: int, maximum: int) -> bool:
    """Return whether a value is a whole number in a range; a boolean is none."""
    return isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum


def _seconds(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_SECONDS:
        return float(value) + 0.0  # -0.0 is 0.0
    raise Refused


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise Refused


def _string(value: Any) -> str:
    if isinstance(value, str):
        return str.__str__(value)
    # The message does not repeat the value: it may be a password.
    raise Refused(f"must be {STRING.what}, is {showing.kind(value)}")


def _path_name(value: Any) -> str:
    name = str(value) if isinstance(value, PurePath) else _string(value)
    if not name.isprintable() or name != name.strip() or not name:
        raise Refused("must be a path: not empty, and without line ends or blanks around it")
    return name


def _pool_size(value: Any) -> int | str:
    if is_whole(value, 1, MAX_COUNT):
        return int(value)
    if isinstance(value, str) and re.fullmatch(rf"{THREADS}(/[1-9][0-9]{{0,5}})?", value):
        return str.__str__(value)
    raise Refused


def _error_codes(value: Any) -> frozenset[int | str]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise Refused
    if len(value) > _MAX_CODES:
        raise Refused(f"must be {ERROR_CODES.what}, at most {_MAX_CODES} of them")
    for code in value:
        if not (is_whole(code, 1, 65535) or (isinstance(code, str) and re.fullmatch(r"[0-9A-Z]{5}", code))):
            raise Refused(f"must be {ERROR_CODES.what}; {showing.shown(code)} is neither")
    return frozenset(value)


def _modules(value: Any) -> tuple[str, ...]:
    if isinstance(value, list | tuple) and all(isinstance(name, str) and name in _MODULES for name in value):
        return tuple(dict.fromkeys(map(str.__str__, value)))
    raise Refused


_MODULES = ("pymysql", "MySQLdb")

SECONDS = Kind(f"a number of seconds from 0 to {MAX_SECONDS}", _seconds)
BOOLEAN = Kind("true or false", _boolean)
STRING = Kind("a string in quotes", _string, may_be_none=True)
PATH_NAME = Kind("a path", _path_name, may_be_none=True)
ERROR_CODES = Kind('an array of error numbers and SQLSTATEs, such as [1290, "25006"]', _error_codes)
MODULES = Kind('an array of modules: "pymysql", "MySQLdb"', _modules)
POOL_SIZE = Kind(
    f'a whole number from 1 to {MAX_COUNT}, "{THREADS}" for as many as the process has threads, or '
    f'"{THREADS}/2" for half as many',
    _pool_size,
)


# --- Tables ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A table of a document, with its place in it."""

    content: Mapping[str, object]
    origin: str
    path: str = ""

    def where(self, key: object = "") -> str:
        """Return the place of a key, for messages: `/etc/wsgipool.toml: databases.orders.timeout`."""
        parts = [self.path] if self.path else []
        parts += [] if key == "" else [showing.name(key)]
        return f"{showing.path(self.origin)}: {'.'.join(parts)}"

    def table(self, key: str) -> Table:
        """Return the table that a key has, which is empty if the key is not there. Raises ConfigError."""
        value = self.content.get(key, {})
        if not isinstance(value, Mapping):
            header = f"{self.path}.{showing.name(key)}" if self.path else f"{key}..."
            raise ConfigError(f"{self.where(key)} must be a table, [{header}], is {showing.kind(value)}")
        name = showing.name(key)
        return Table(value, self.origin, f"{self.path}.{name}" if self.path else name)

    def check_keys(self, known: Mapping[str, object], hint: Callable[[str, object], str | None]) -> None:
        """Refuse keys that are not known, with a hint or the key that was perhaps meant. Raises ConfigError."""
        for key, value in self.content.items():
            if not isinstance(key, str):
                raise ConfigError(f"{self.where()}: {showing.name(key)} is not a setting; the key must be a string")
            if key not in known:
                advice = hint(key, value) or showing.unknown_key(key, known)
                raise ConfigError(f"{self.where(key)} is not a setting; {advice}")

    def read(self, settings: type) -> dict[str, Any]:
        """Return the values of a dataclass's settings that the table has. Raises ConfigError for a wrong one."""
        return {
            key: self._value(key, kind)
            for key, kind in kinds_of(settings).items()
            if not (key not in self.content or (kind.may_be_none and self.content[key] is None))
        }

    def _value(self, key: str, kind: Kind) -> Any:
        value = self.content[key]
        try:
            return kind.convert(value)
        except Refused as error:
            reason = str(error) or f"must be {kind.what}, is {showing.shown(value)}"
            raise ConfigError(f"{self.where(key)} {reason}") from None
