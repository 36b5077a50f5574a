"""What an operator should know first: what is wrong on the host, why, since when, and what to change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wsgipool.scoreboard.model import HostReport

Severity = Literal["critical", "warning", "notice"]
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "notice")
"""All severities, the worst first."""


@dataclass(frozen=True)
class Finding:
    """One thing to know."""

    severity: Severity
    code: str
    """A short fixed name, such as "pool-exhausted"."""
    database: str
    """The database's name; "" if it concerns the host."""
    text: str
    """One or two sentences: what is so, which page and process, since when."""
    advice: str
    """What to change; "" if nothing."""


def findings(host: HostReport) -> Sequence[Finding]:
    """Return the findings, the worst first."""
    raise NotImplementedError
