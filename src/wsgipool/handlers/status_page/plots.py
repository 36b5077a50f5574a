"""Plots as inline SVG: a line over the last ten minutes, a bar of parts, and a square for each process."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from wsgipool.handlers.status_page import words
from wsgipool.handlers.status_page.history import LENGTH, Point
from wsgipool.handlers.status_page.markup import Markup, element, joined

_WIDTH, _HEIGHT = 300, 60
_GAP = 25.0
"""Seconds without a sample after which a line is broken."""
_SQUARE, _STEP = 10, 12


def line(title: str, kind: str, points: Sequence[Point], now: float, limit: int | None = None) -> Markup:
    """Return a figure with a line over the last ten minutes. A limit near the values is drawn as a dashed line."""
    largest = max((point.value for point in points), default=0.0)
    shown_limit = limit if limit is not None and 0 < limit <= 2 * largest else None
    top = max(largest, shown_limit or 0, 1.0)
    shade = kind if largest else "nothing"
    latest = words.rate(points[-1].value) if points else words.NOTHING
    text = f"now {latest}, at most {words.rate(largest)}" if points else "no samples yet"
    return element(
        "figure",
        element(
            "figcaption",
            element("span", title, class_="plot-title"),
            element("span", text, class_="quiet"),
        ),
        element(
            "svg",
            element("line", x1=0, x2=_WIDTH, y1=_HEIGHT - 0.5, y2=_HEIGHT - 0.5, class_="axis"),
            [element("line", x1=x, x2=x, y1=0, y2=_HEIGHT, class_="grid") for x in (0, 60, 120, 180, 240, 300)],
            None if shown_limit is None else _level(shown_limit, top),
            [_curve(run, now, top, shade) for run in _runs(points)],
            role="img",
            aria_label=f"{title} in the last ten minutes: {text}",
            viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
            preserveAspectRatio="none",
        ),
        element(
            "div",
            element("span", "10 min ago"),
            element("span", f"limit {words.number(shown_limit)}") if shown_limit is not None else None,
            element("span", "now"),
            class_="plot-times",
            aria_hidden="true",
        ),
        class_=f"plot {kind}",
        data_key=kind,
    )


def bar(label: str, parts: Sequence[tuple[str, int]], total: int) -> Markup:
    """Return a bar of parts, each with its class, on a track of `total`."""
    whole = max(total, sum(count for _, count in parts), 1)
    rectangles: list[Markup] = []
    x = 0.0
    for kind, count in parts:
        width = count * _WIDTH / whole
        if count:
            rectangles.append(element("rect", x=_short(x), y=0, width=_short(width), height=10, class_=kind))
        x += width
    return element(
        "svg",
        element("rect", x=0, y=0, width=_WIDTH, height=10, class_="track"),
        rectangles,
        role="img",
        aria_label=label,
        viewBox=f"0 0 {_WIDTH} 10",
        preserveAspectRatio="none",
        class_="bar",
    )


def squares(label: str, cells: Sequence[tuple[str, str]], columns: int = 32) -> Markup:
    """Return a square for each process, with its class and its text."""
    rows = -(-len(cells) // columns)
    width = min(len(cells), columns)
    return element(
        "svg",
        [
            element(
                "g",
                element("title", text),
                element(
                    "rect",
                    x=index % columns * _STEP,
                    y=index // columns * _STEP,
                    width=_SQUARE,
                    height=_SQUARE,
                    rx=2,
                    class_=kind,
                ),
            )
            for index, (kind, text) in enumerate(cells)
        ],
        role="img",
        aria_label=label,
        viewBox=f"-1 -1 {max(1, width) * _STEP} {max(1, rows) * _STEP}",
        width=max(1, width) * _STEP,
        class_="squares",
    )


def _level(value: float, top: float) -> Markup:
    y = _short(_y(value, top))
    return element("line", x1=0, x2=_WIDTH, y1=y, y2=y, class_="limit")


def _curve(points: Sequence[Point], now: float, top: float, kind: str) -> Markup:
    places = [(_short(_x(point.at, now)), _short(_y(point.value, top))) for point in points]
    if len(places) == 1:
        places.insert(0, (places[0][0] - 1, places[0][1]))
    path = "L".join(f"{x} {y}" for x, y in places)
    area = f"M{places[0][0]} {_HEIGHT}L{path}L{places[-1][0]} {_HEIGHT}Z"
    return joined(element("path", d=area, class_=f"area {kind}"), element("path", d=f"M{path}", class_=f"curve {kind}"))


def _runs(points: Sequence[Point]) -> list[list[Point]]:
    """Return the points in groups without a gap."""
    if not points:
        return []
    runs = [[points[0]]]
    for before, point in pairwise(points):
        if point.at - before.at > _GAP:
            runs.append([])
        runs[-1].append(point)
    return runs


def _x(at: float, now: float) -> float:
    return min(max((at - now + LENGTH) / LENGTH, 0.0), 1.0) * _WIDTH


def _y(value: float, top: float) -> float:
    return _HEIGHT - 1 - value / top * (_HEIGHT - 3)


def _short(value: float) -> float:
    return round(value, 1)
