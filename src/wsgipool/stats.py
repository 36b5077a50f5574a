"""What a pool can say of itself in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wsgipool.loan import Ending


@dataclass(frozen=True)
class Stats:
    """A pool at one moment, and what it has done since it was made.

    The questions that they answer: is the pool large enough (`waits`, `wait_seconds`, `timeouts`)? Too large (`closed`
    for idleness)? Does it keep what it opens (`opened` beside `loans`)? Is the database well (`connect_failures`,
    `closed` as broken)? Does the program give back (`closed` as leaked)?
    """

    name: str
    min_size: int
    max_size: int
    size: int
    """Connections open or being opened."""
    idle: int
    in_use: int
    connecting: int
    waiting: int
    """Borrowers that wait."""
    loans: int | None
    """Connections lent so far; None where that is not counted, for plain callables without `debug`."""
    waits: int
    """How many of the borrowers that were served had to wait."""
    wait_seconds: float
    """How long these waited together, until a connection was theirs or its opening was."""
    timeouts: int
    """Borrowers that got PoolTimeout."""
    refused: int
    """Borrowers that got TooManyRequests."""
    opened: int
    """Connections opened so far."""
    connect_failures: int
    """Connects that have failed; a request that was told so of another's is not counted."""
    closed: Mapping[Ending, int]
    """Connections closed so far: "idle" too long, at the end of their "lifetime", "broken", "leaked" by their borrower,
    "surplus" since the pool was made smaller, drained or closed, "budget" since another process needed their place."""
