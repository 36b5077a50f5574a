"""Destructors of incomplete objects: an asynchronous exception may come before the first line of `__init__`."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

import wsgipool

PACKAGE = Path(wsgipool.__file__).parent


def classes_with_destructor() -> list[type]:
    """Return the classes of the package that define `__del__`."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and any(getattr(part, "name", "") == "__del__" for part in node.body):
                module = ".".join(("wsgipool", *path.relative_to(PACKAGE).with_suffix("").parts))
                found.append(getattr(importlib.import_module(module), node.name))
    return found


def test_the_search_finds_the_classes_with_a_destructor() -> None:
    assert {"ByteLocks", "FilePermit", "SessionEnd"} <= {kind.__name__ for kind in classes_with_destructor()}


@pytest.mark.parametrize("kind", classes_with_destructor())
def test_the_destructor_of_an_incomplete_object_is_quiet(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", errors.append)

    object.__new__(kind)

    assert errors == []
