"""The options of a database URL, `?connect_timeout=3&autocommit=true`: from text to what a driver takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wsgipool.config import DatabaseURL, unknown_key
from wsgipool.errors import ConfigError

Option = tuple[Callable[[str], Any], str]
"""How to convert an option, with a ValueError for what cannot be one, and what to call it in a message."""


def convert(url: DatabaseURL, known: Mapping[str, Option], where: str) -> dict[str, Any]:
    """Return the options of a URL, converted. Raises ConfigError for an unknown or wrong one; `where` begins it."""
    converted: dict[str, Any] = {}
    for name, text in url.options.items():
        if name not in known:
            raise ConfigError(f"{where}: {name} is not an option of {url.scheme}://; {unknown_key(name, known)}")
        function, kind = known[name]
        try:
            converted[name] = function(text)
        except ValueError:
            raise ConfigError(f"{where}: the option {name} is {kind}, not {text!r}") from None
    return converted


def one_of(*words: str) -> Option:
    """An option that is one of these words, in capital letters or not."""

    def function(text: str) -> str:
        if text.upper() not in words:
            raise ValueError(text)
        return text.upper()

    return function, f"{', '.join(words[:-1])} or {words[-1]}"


def _boolean(text: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if text.lower() not in values:
        raise ValueError(text)
    return values[text.lower()]


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 86_400:
        raise ValueError(text)
    return seconds


TEXT: Option = (str, "a text")
BOOLEAN: Option = (_boolean, "true or false")
SECONDS: Option = (_seconds, "a number of seconds above 0")
