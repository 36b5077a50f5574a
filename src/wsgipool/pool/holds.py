"""A record of one checkout: which thread holds a connection, or waits for one, since when, and from where."""

from __future__ import annotations

from types import CodeType
from typing import NamedTuple

from wsgipool._code import place_of


class Hold(NamedTuple):
    """One checkout of a connection."""

    thread: int
    since: float
    code: CodeType | None
    instruction: int

    @property
    def place(self) -> str:
        """File, line and function of the checkout."""
        return place_of(self.code, self.instruction) if self.code else "an unknown place"

    def describe(self, now: float) -> str:
        """Return thread, place and time of the checkout."""
        return f"by thread {self.thread}, checked out at {self.place}, {now - self.since:.1f} s ago"
