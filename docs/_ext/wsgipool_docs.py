"""Directives that write reference pages from the code, so that nothing there is written twice."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from wsgipool._values import kinds_of

APACHE = Path(__file__).parents[2] / "apache"


class SettingsOf(SphinxDirective):
    """`{settings-of} wsgipool.config.DatabaseSettings`: each setting with its values, its default and its meaning."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module_name, _, class_name = self.arguments[0].rpartition(".")
        module = importlib.import_module(module_name)
        self.env.note_dependency(module.__file__)
        settings = getattr(module, class_name)
        analyzer = ModuleAnalyzer.for_module(module_name)
        meanings = analyzer.find_attr_docs()
        entries = []
        for field in fields(settings):
            if field.name in kinds_of(settings):
                meaning = " ".join(meanings[class_name, field.name])
                entries += self._entry(field.name, kinds_of(settings)[field.name].what, field.default, meaning)
        return self.parse_text_to_nodes("\n".join(entries))

    def _entry(self, name: str, values: str, default: Any, meaning: str) -> Iterator[str]:
        yield f"````{{confval}} {name}"
        yield f":type: {json.dumps(values)}"
        if default is not MISSING and default is not None:
            yield f":default: `{_toml(default)}`"
        yield from ("", meaning, "````", "")


class DefinesOf(SphinxDirective):
    """`{defines-of} daemon.conf`: the names that an Apache file gives a default, and the defaults."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = APACHE / self.arguments[0]
        self.env.note_dependency(str(path))
        rows = [f"| `{name}` | `{value}` |" for name, value in defaults_in(path)]
        return self.parse_text_to_nodes("\n".join(["| Define | default |", "|---|---|", *rows]))


def defaults_in(path: Path) -> list[tuple[str, str]]:
    """Return the Defines of a file that stand inside `<IfDefine !NAME>`: those that a site can replace."""
    return re.findall(r"<IfDefine !\w+>\s+Define (\w+) (\S+)", path.read_text())


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case frozenset() | tuple():
            return str(sorted(value))
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("settings-of", SettingsOf)
    app.add_directive("defines-of", DefinesOf)
    app.add_lexer("haproxy", TextLexer)  # Pygments knows none of its own
    return {"parallel_read_safe": True}
