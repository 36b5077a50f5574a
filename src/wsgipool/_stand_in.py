"""Modules that stand in for a DB-API module, under another name or in its place."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from wsgipool.errors import ConfigError


def alias_submodules(module: str, alias: str) -> None:
    """Make the imported submodules of a package importable under another name: the same objects, not copies."""
    for name, found in tuple(sys.modules.items()):
        if name.startswith(f"{module}."):
            sys.modules[f"{alias}{name.removeprefix(module)}"] = found


def install(module: ModuleType, names: Sequence[str], replacement: type, stock: type[Any]) -> None:
    """Replace the functions that connect in a DB-API module. Does nothing if that was done before.

    Args:
        module: The module.
        names: Its names for the function.
        replacement: The pooled connection class.
        stock: The module's own connection class.

    Raises:
        ConfigError: Some code has connected already, or has imported the function itself, so that it would go on
            connecting without a pool.
    """
    functions = [getattr(module, name) for name in names if getattr(module, name) is not replacement]
    places = [*_places_of(functions, module.__name__)]
    if functions and any(type(found) is stock and found.open for found in gc.get_objects()):
        raise ConfigError(
            f"wsgipool.{module.__name__}.install() comes too late: the program has connected already; call install() "
            "earlier, before the import of the module that connects"
        )
    if places:
        raise ConfigError(
            f"wsgipool.{module.__name__}.install() comes too late: {' and '.join(places)} refers to the "
            f"function that connects already; call install() earlier, or write `import {module.__name__}` there"
        )
    for name in names:
        setattr(module, name, replacement)


def _places_of(functions: Sequence[object], package: str) -> Iterator[str]:
    """Return the global variables of other packages that refer to a function.

    A variable `Connection` is none: such code subclasses the class, or compares with it.
    """
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] in (package, "wsgipool"):
            continue
        for variable, value in tuple(getattr(module, "__dict__", {}).items()):
            if variable != "Connection" and any(value is function for function in functions):
                yield f"{name}.{variable}"
