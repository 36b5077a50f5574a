"""HTML whose values cannot remain unescaped: `element` escapes every text and attribute that it is given.

`Markup` is the only type that is not escaped. Only `element`, `joined` and `document` create it.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template

_FOLDER = Path(__file__).parent
_VOID = frozenset({"br", "line", "path", "rect"})
"""Elements without content; those of SVG are closed by a slash."""


class Markup(str):
    """HTML in which all values are escaped."""

    __slots__ = ()


Child = Markup | str | int | None
Attribute = str | int | float | bool | None


def element(name: str, *children: Child | Iterable[Child], **attributes: Attribute) -> Markup:
    """Return an element with escaped children and attributes.

    The name of an attribute has underscores for hyphens, and may end in one: `class_`. A value of None or False leaves
    the attribute out, True writes its name only.
    """
    start = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}"
    return Markup(f"{start}/>" if name in _VOID else f"{start}>{joined(*children)}</{name}>")


def joined(*children: Child | Iterable[Child]) -> Markup:
    """Return the escaped children, one after the other."""
    return Markup("".join(map(_escaped, children)))


def document(name: str, **values: Markup) -> Markup:
    """Return a file of this package with markup in place of its `$placeholders`."""
    return Markup(Template(source(name)).substitute(values))


def source(name: str) -> str:
    """Return the text of a file of this package."""
    return (_FOLDER / name).read_text(encoding="utf-8")


def trusted(name: str) -> Markup:
    """Return a file of this package, a style or a script, unchanged."""
    return Markup(source(name))


def _escaped(child: Child | Iterable[Child]) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, str):
        return escape(_encodable(child))
    if isinstance(child, int):
        return str(child)
    return "".join(map(_escaped, child))


def _attribute(key: str, value: Attribute) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{escape(_encodable(str(value)))}"'


def _encodable(text: str) -> str:
    """Return a text whose lone surrogates and control characters are visible."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode("ascii") for each in text
    )
