"""docs/inside/architecture.md says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from unit.test_package import ORDER
from wsgipool.pool._slot import MOVES, SlotState

PAGE = (Path(__file__).parents[2] / "docs" / "inside" / "architecture.md").read_text()


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_page_has_the_moves_of_a_slot() -> None:
    states = {state.value: state for state in SlotState}
    rows = [line.split("|")[1:3] for line in section("The states of a slot").splitlines() if line.startswith("| ")]
    cells = [(start.strip(), end.strip()) for start, end in rows]

    on_page = [(states[start], states[end]) for start, end in cells if start in states]

    assert len(on_page) == len(set(on_page))
    assert set(on_page) == {(start, end) for start, ends in MOVES.items() for end in ends}


def test_the_page_has_the_order_of_imports() -> None:
    block = section("The order of imports").split("```text\n")[1].split("```")[0]

    assert block.split() == ORDER


def test_the_page_names_files_that_are_there() -> None:
    lines = section("A checkout, from getconn to putconn").splitlines()
    named = {line.split("`")[1] for line in lines if line.startswith("| `")}
    pool = Path(__file__).parents[2] / "src" / "wsgipool" / "pool"

    assert named | {"__init__.py", "pool.py", "_state.py", "_block.py", "_close_hook.py"} == {
        path.name for path in pool.glob("*.py")
    }


def test_the_page_names_code_that_is_there() -> None:
    sources = "".join(path.read_text() for path in (Path(__file__).parents[2] / "src").rglob("*.py"))
    named = {name for text in re.findall(r"`([A-Za-z_.]+)(?:\(\))?`", PAGE) for name in text.split(".")}

    assert {name for name in named if not re.search(rf"\b{name}\b", sources)} == set()
