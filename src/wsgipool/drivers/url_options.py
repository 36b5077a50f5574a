"""Conversion of a URL's options, `?connect_timeout=3&autocommit=true`, to a driver's arguments."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from wsgipool._values import MAX_SECONDS
from wsgipool.database_url import DatabaseURL, is_secret, option_in_message
from wsgipool.errors import ConfigError
from wsgipool.showing import shown, unknown_key

Option = tuple[Callable[[str], Any], str]
"""A function that converts an option's text or raises ValueError, and the option's kind for messages."""

_MAY_BE_EMPTY = frozenset({"sql_mode"})
"""Options with a meaning for an empty value: SET sql_mode = ''."""


def convert(url: DatabaseURL, known: Mapping[str, Option], where: str) -> dict[str, Any]:
    """Return the converted options of a URL.

    Args:
        url: The URL.
        known: The options of its scheme.
        where: The URL's place, with which an error message begins.

    Raises:
        ConfigError: An option is unknown, empty, or has a wrong value.
    """
    converted: dict[str, Any] = {}
    for name, text in url.options.items():
        if name not in known:
            named = option_in_message(name, url.options)
            if named != name:
                raise ConfigError(f"{where}: the option {named} is not one of {url.scheme}://")
            raise ConfigError(f"{where}: {name} is not an option of {url.scheme}://; {unknown_key(name, known)}")
        if not text and name not in _MAY_BE_EMPTY:
            raise ConfigError(f"{where}: the option {name} has no value; write one, or leave the option out")
        function, kind = known[name]
        try:
            converted[name] = function(text)
        except ValueError:
            found = "" if is_secret(name) else f", not {shown(text)}"
            raise ConfigError(f"{where}: the option {name} is {kind}{found}") from None
    return converted


def check_arguments(module: str, arguments: Iterable[str], known: Collection[str]) -> None:
    """Raise ConfigError for an argument that the `connect()` of a DB-API module does not have."""
    for name in arguments:
        if name not in known:
            raise ConfigError(f"{module}: {name} is not an argument of connect(); {unknown_key(name, known)}")


def one_of(*words: str) -> Option:
    """Return an option whose value is one of these words, in upper or lower case."""

    def function(text: str) -> str:
        if not text.isascii() or text.upper() not in words:
            raise ValueError(text)
        return text.upper()

    return function, f"{', '.join(words[:-1])} or {words[-1]}"


def _boolean(text: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if text.lower() not in values:
        raise ValueError(text)
    return values[text.lower()]


def _number(text: str) -> float:
    # float() would also accept '1_0', ' 5 ', 'nan' and the digits of every script.
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        raise ValueError(text)
    return float(text)


def _seconds(text: str) -> float:
    seconds = _number(text)
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(text)
    return seconds


def _seconds_or_0(text: str) -> float:
    seconds = _number(text)
    if seconds > MAX_SECONDS:
        raise ValueError(text)
    return seconds


TEXT: Option = (str, "a text")
BOOLEAN: Option = (_boolean, "true or false")
SECONDS: Option = (_seconds, f"a number of seconds above 0 and up to {MAX_SECONDS}")
SECONDS_OR_0: Option = (_seconds_or_0, f"a number of seconds from 0 to {MAX_SECONDS}")
