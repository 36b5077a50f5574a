"""The pages of the documentation and the blocks in them; see conftest.py for the conventions."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt
from sybil import Document, Region
from sybil.parsers.markdown.lexers import DirectiveInHTMLCommentLexer, RawFencedCodeBlockLexer
from sybil.parsers.myst.lexers import DirectiveInPercentCommentLexer

ROOT = Path(__file__).parents[2]
LANGUAGES = ("python", "sh", "toml", "apache", "sql", "haproxy", "text")
_NOTES = "file|background|debian|docker|redhat|systemd"
_INVISIBLE = "invisible-code-block"
_LEXERS = (
    RawFencedCodeBlockLexer(re.compile(r"(?P<directive>)(?P<arguments>(?!\{)[^\n]*)\n")),
    DirectiveInPercentCommentLexer(rf"{_INVISIBLE}|{_NOTES}"),
    DirectiveInHTMLCommentLexer(rf"{_INVISIBLE}|{_NOTES}"),
)


def pages() -> list[Path]:
    """Return README.md and all pages of the site."""
    built = ROOT / "docs" / "_build"
    return [ROOT / "README.md", *sorted(page for page in ROOT.glob("docs/**/*.md") if built not in page.parents)]


def name_of(page: Path) -> str:
    """Return how a page is called in tests: its path below docs, without the suffix."""
    return str(page.relative_to(ROOT).with_suffix("")).removeprefix("docs/")


@dataclass(frozen=True)
class Block:
    """A block of code, with what the comments before it say of it."""

    language: str
    source: str
    visible: bool
    notes: Mapping[str, str] = field(default_factory=dict)


class Parser:
    """Finds the blocks of a page, for Sybil: the parsed form of each is a `Block`."""

    def __call__(self, document: Document) -> Iterable[Region]:
        regions = [region for lexer in _LEXERS for region in lexer(document)]
        notes: dict[str, str] = {}
        for region in sorted(regions, key=lambda each: each.start):
            directive = region.lexemes["directive"]
            arguments = (region.lexemes["arguments"] or "").strip()
            if directive and directive != _INVISIBLE:
                notes[directive] = arguments
                continue
            region.parsed = Block(arguments, region.lexemes["source"], not directive, notes)
            notes = {}
            yield region


def parse(page: Path) -> Document:
    """Return a page as Sybil sees it."""
    return Document.parse(str(page), Parser())


def faults(page: Path) -> list[str]:
    """Return what in a page does not follow the conventions, by line."""
    found = []
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text()):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "code_block":
            found.append(f"{line}: an indented block; write a fence with its language")
        elif token.type == "fence" and re.match(r"\{(code|sourcecode)", token.info):
            found.append(f"{line}: {token.info.split()[0]}; write a plain fence with its language")
    for example in parse(page):
        block: Block = example.parsed
        known = LANGUAGES if block.visible else ("python", "sh")
        if block.language not in known:
            found.append(f"{example.line}: {block.language or 'no language'}; write one of {', '.join(known)}")
    return found


def has_debian_blocks(page: Path) -> bool:
    """Return whether a page has blocks that run on a Debian server only."""
    return any("debian" in example.parsed.notes for example in parse(page))


def script_of(page: Path) -> str:
    """Return a program for bash that does what a reader of the page does: its files, and all `sh` blocks in order.

    Blocks for systemd are left out: none runs in a container. A block with `% background` goes on; the script waits
    until its URL answers, with curl.
    """
    lines = ["set -euxo pipefail"]
    for example in parse(page):
        block: Block = example.parsed
        if "file" in block.notes:
            path = shlex.quote(block.notes["file"])
            lines += [f"mkdir -p \"$(dirname {path})\"; cat >{path} <<'END-OF-FILE'", block.source + "END-OF-FILE"]
        if block.language != "sh" or "systemd" in block.notes:
            continue
        if url := block.notes.get("background"):
            lines += ["{", block.source, "} &", f"curl --silent --output /dev/null --retry 60 --retry-all-errors {url}"]
        else:
            lines.append(block.source)
    return "\n".join(lines) + "\n"
