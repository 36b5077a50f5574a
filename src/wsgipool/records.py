"""Converts frozen dataclasses to plain values of JSON and back, so that root may trust another user's process.

Restored values have only types that the dataclass declares. No name is looked up, and no code is run.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping, Sequence, Set
from pathlib import PurePath
from typing import Any

_LIMIT = 1 << 63
"""Numbers of others must be smaller than this, so that sums and formats work."""


def plain(value: object) -> Any:
    """Return a value as a plain value of JSON. Raises TypeError if JSON has no such value."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | Set) and not isinstance(value, bytes):
        return [plain(item) for item in value]
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    raise TypeError(f"{type(value).__name__} cannot be part of a record")


def restored(kind: Any, value: Any) -> Any:
    """Return a value of type `kind` from the result of `plain`. Raises TypeError if it has another type."""
    if kind is object or kind is Any:
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _record(kind, value)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _first(arguments, value)
    if origin is typing.Literal:
        if value in arguments:
            return value
    elif origin is None:
        return _simple(kind, value)
    elif issubclass(origin, Mapping) and isinstance(value, dict):
        return types.MappingProxyType({_key(arguments[0], k): restored(arguments[1], v) for k, v in value.items()})
    elif isinstance(value, list) and issubclass(origin, Sequence | Set):
        items = [restored(arguments[0], item) for item in value]
        return frozenset(items) if issubclass(origin, Set) else tuple(items)
    raise _mismatch(kind, value)


def _key(kind: Any, key: str) -> Any:
    """Return a key of a mapping. In JSON it is a string, also if it is a number."""
    if kind is int and key.isascii() and key.isdigit() and len(key) < 20:
        return int(key)
    return restored(kind, key)


def _record(kind: type[Any], value: Any) -> Any:
    if not isinstance(value, dict):
        raise _mismatch(kind, value)
    hints = _hints(typing.cast(Any, kind))
    if list(hints) != list(value):
        raise _mismatch(kind, value)
    return kind(**{name: restored(hint, value[name]) for name, hint in hints.items()})


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """Return the types of a dataclass's fields."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


def _first(kinds: Sequence[Any], value: Any) -> Any:
    for kind in kinds:
        try:
            return restored(kind, value)
        except TypeError:
            continue
    raise _mismatch(kinds, value)


def _simple(kind: Any, value: Any) -> Any:
    if kind in (None, type(None)) and value is None:
        return None
    if isinstance(kind, type):
        if issubclass(kind, PurePath) and isinstance(value, str):
            return kind(value)
        # Some programs write 10.0 as 10.
        if kind is float and type(value) is int and abs(value) < _LIMIT:
            return float(value)
        if kind in (str, bool) and type(value) is kind:
            return value
        if kind in (int, float) and type(value) is kind and abs(value) < _LIMIT:
            return value
    raise _mismatch(kind, value)


def _mismatch(kind: Any, value: Any) -> TypeError:
    return TypeError(f"{type(value).__name__} instead of {kind}")
