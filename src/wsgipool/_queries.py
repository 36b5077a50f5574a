"""Queries of the settings, with parameters: `%s`, or `%(user)s` by name, as PyMySQL and psycopg write them.

A value reaches the database as a parameter only. So a parameter in quotes is refused: the driver would put a quoted
value between the quotes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsgipool._values import STRING, Kind, Refused

_MAX_LENGTH = 10_000
_TOKEN = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|%(?:%|s|\((\w+)\)s)?")
_PARAMETER = re.compile(r"%(?!%)")


@dataclass(frozen=True)
class Query:
    """A query with its parameters as `%s`."""

    text: str
    names: tuple[str, ...]
    """The name of each parameter, in order."""

    def arguments(self, values: Mapping[str, str]) -> tuple[str, ...]:
        """Return the values of the parameters, in order."""
        return tuple(values[name] for name in self.names)

    def for_sqlite(self) -> str:
        """Return the text with the parameters of SQLite."""
        return re.sub(r"%%|%s", lambda found: "%" if found[0] == "%%" else "?", self.text)


def query_by(*parameters: str) -> Kind:
    """Return the kind of queries that have these parameters, and no others."""
    in_order = " and ".join(["%s"] * len(parameters))
    by_name = " and ".join(f"%({name})s" for name in parameters)
    number = "one parameter" if len(parameters) == 1 else f"{len(parameters)} parameters"

    def convert(value: Any) -> Query:
        text: str = STRING.convert(value)
        if not text.strip() or "\0" in text or len(text) > _MAX_LENGTH:
            raise Refused(f"must be {kind.what}, at most {_MAX_LENGTH} characters")
        return _parsed(text, parameters, kind.what)

    kind = Kind(f"a query in quotes with {number}, {in_order} or {by_name}", convert, may_be_none=True)
    return kind


def _parsed(text: str, parameters: Sequence[str], what: str) -> Query:
    found: list[str] = []  # "" for %s
    for token in _TOKEN.finditer(text):
        if token[0][0] != "%":
            if _PARAMETER.search(token[0].replace("%%", "")):
                raise Refused("has a parameter or a % in quotes; write %s without quotes, and %% for a percent sign")
        elif token[0] == "%":
            raise Refused("has a % that begins no parameter; write %% for a percent sign")
        elif token[0] != "%%":
            found.append(token[1] or "")
    names = tuple(parameters) if found == [""] * len(parameters) else tuple(found)
    if set(names) != set(parameters):
        raise Refused(f"must be {what}")
    return Query(re.sub(r"%\(\w+\)s", "%s", text), names)
