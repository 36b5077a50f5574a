"""README.md and the page of guarantees name tests that are there; the links of README.md lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
GUARANTEES = (ROOT / "docs" / "reference" / "guarantees.md").read_text()
NAMED = re.findall(r"`((?:tests/|test_)[\w/*.]+)`", README + GUARANTEES)
LINKS = re.findall(r"\]\((?!https?:|#)([^)#]+)", README)
SOURCES = {path: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}


@pytest.mark.parametrize("name", sorted(set(NAMED)))
def test_a_test_that_a_promise_names_is_there(name: str) -> None:
    if name.startswith("tests/"):
        assert any(ROOT.glob(name))
    elif name.endswith(".py"):
        assert any(path.name == name for path in SOURCES)
    else:
        assert any(f"def {name}(" in source for source in SOURCES.values())


@pytest.mark.parametrize("link", sorted(set(LINKS)))
def test_a_file_that_the_readme_links_to_is_there(link: str) -> None:
    assert (ROOT / link).exists()
