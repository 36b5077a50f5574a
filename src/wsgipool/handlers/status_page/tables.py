"""Tables of the status page: with a caption, heads for columns and rows, and numbers on the right.

A table scrolls in a region of its own. On a narrow screen, a stacked one shows each row as a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wsgipool.handlers.status_page.markup import Child, Markup, element


@dataclass(frozen=True)
class Column:
    """A column's head, and whether it has numbers."""

    title: str
    is_number: bool = False


@dataclass(frozen=True)
class Row:
    """A row. Its key is the same in each refresh."""

    key: str
    cells: Sequence[Child]
    is_bad: bool = False
    """Whether the row asks for attention."""


def text(*titles: str) -> list[Column]:
    """Return columns of texts."""
    return [Column(title) for title in titles]


def numbers(*titles: str) -> list[Column]:
    """Return columns of numbers."""
    return [Column(title, is_number=True) for title in titles]


def table(caption: str, columns: Sequence[Column], rows: Sequence[Row], *, is_stacked: bool = False) -> Markup:
    """Return a table. The first cell of each row is the row's head."""
    # A display of its own would take the roles away, so they are named.
    roles = is_stacked or None
    head = element(
        "tr",
        [element("th", each.title, scope="col", class_=_kind(each), role=roles and "columnheader") for each in columns],
        role=roles and "row",
    )
    return element(
        "div",
        element(
            "table",
            element("caption", caption, class_="hidden"),
            element("thead", head, role=roles and "rowgroup"),
            element("tbody", [_row(columns, row, roles) for row in rows], role=roles and "rowgroup"),
            role=roles and "table",
            class_="stacked" if is_stacked else None,
        ),
        class_="scroll",
        role="region",
        tabindex=0,
        aria_label=caption,
    )


def _row(columns: Sequence[Column], row: Row, roles: bool | None) -> Markup:
    cells = [
        element(
            "td" if index else "th",
            cell,
            scope=None if index else "row",
            role=roles and ("cell" if index else "rowheader"),
            class_=_kind(column),
            data_title=column.title if roles else None,
        )
        for index, (column, cell) in enumerate(zip(columns, row.cells, strict=True))
    ]
    return element("tr", cells, data_key=row.key, class_="bad" if row.is_bad else None, role=roles and "row")


def _kind(column: Column) -> str | None:
    return "number" if column.is_number else None
