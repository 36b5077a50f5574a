"""Formats values and names for messages: on one line, short, and without running foreign code."""

from __future__ import annotations

import datetime
import difflib
import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath

MAX_SHOWN = 100
"""Maximum number of characters of a value or a name in a message."""

MAX_LISTED = 300
"""Maximum number of characters of the list of known names in a message."""

_NAMES_COMPARED = 1000
"""Maximum number of known names that are compared with a wrong one. Each takes some 20 µs."""

_KINDS: Mapping[type, str] = {
    type(None): "None",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "a table",
    datetime.date: "a date",
    datetime.datetime: "a date",
    datetime.time: "a time",
}


def shown(value: object) -> str:
    """Return a value for a message: a string in quotes, a number, or the kind of any other value."""
    if isinstance(value, str):
        start = repr(str.__str__(value)[:MAX_SHOWN])
        return start if len(value) <= MAX_SHOWN else f"{start}... ({len(value)} characters)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if type(value) is int:
        # Python refuses to convert a number of more than 4,300 digits.
        return str(value) if value.bit_length() < 200 else f"a number of {value.bit_length()} bits"
    if type(value) is float:
        return repr(value)
    return kind(value)


def kind(value: object) -> str:
    """Return the kind of a value, in the words of TOML."""
    known = _KINDS.get(type(value))
    if known is None:
        known = "a table" if isinstance(value, Mapping) else f"a {type(value).__name__[:40]}"
    return known if known.isprintable() else "an object"


def assigned(value: object) -> str:
    """Return the text after a key in a message: ` = 3`, or ` is an array` for a kind of value that may be long."""
    plain = isinstance(value, str | bool) or type(value) in (int, float)
    return f" = {shown(value)}" if plain else f" is {kind(value)}"


def name(word: object) -> str:
    """Return a key or a name for a message: a plain word unchanged, anything else in quotes.

    Only the length of a possible URL is returned, because a URL may contain a password.
    """
    if not isinstance(word, str):
        return f"({kind(word)})"
    if re.fullmatch(r"[\w.+-]{1,100}", word) and word.isprintable():
        return str.__str__(word)
    return f"(a name of {len(word)} characters)" if "@" in word or "://" in word else shown(word)


def path(file: str | PurePath) -> str:
    """Return a file's path for a message: unchanged, or in quotes and shortened if it is unusual."""
    text = str(file)
    return text if text.isprintable() and text.strip() == text != "" and len(text) <= 255 else shown(text)


def unknown_key(key: object, known: Iterable[str]) -> str:
    """Return a hint for an unknown key: the most similar known name, or all of them."""
    names = sorted(itertools.islice((each for each in known if isinstance(each, str)), _NAMES_COMPARED))
    words = {each.lower(): each for each in reversed(names)}
    close = difflib.get_close_matches(key.lower()[:MAX_SHOWN], words, n=1) if isinstance(key, str) else []
    if close:
        return f"did you mean {name(words[close[0]])}?"
    listed = ", ".join(map(name, names))
    return f"known are: {listed}" if len(listed) <= MAX_LISTED else f"known are: {listed[:MAX_LISTED]}..."
