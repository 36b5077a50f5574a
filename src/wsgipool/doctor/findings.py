"""A finding, and the codes of all there are. docs/doctor.md has a paragraph for each code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """How bad it is; the worst is the least."""

    ERROR = 0
    """Requests fail, or will."""
    WARNING = 1
    """Something costs or risks more than it should."""
    NOTE = 2
    """Worth knowing; a site may want it so."""


CODES = {
    "budget-folder-unusable": Severity.ERROR,
    "budget-over-limit": Severity.ERROR,
    "configuration-refused": Severity.ERROR,
    "connections-over-limit": Severity.ERROR,
    "database-unreachable": Severity.ERROR,
    "python-home-unreadable": Severity.ERROR,
    "python-version-differs": Severity.ERROR,
    "selinux-denies-network": Severity.ERROR,
    "settings-invalid": Severity.ERROR,
    "settings-unreadable": Severity.ERROR,
    "transactions-left-open": Severity.ERROR,
    "budget-for-each-user": Severity.WARNING,
    "completion-type": Severity.WARNING,
    "cryptography-missing": Severity.WARNING,
    "idle-timeout-below-max-idle": Severity.WARNING,
    "interpreters-multiply-pools": Severity.WARNING,
    "isolation-unusual": Severity.WARNING,
    "limit-was-reached": Severity.WARNING,
    "max-size-above-threads": Severity.WARNING,
    "mod-wsgi-too-old": Severity.WARNING,
    "request-timeout-below-timeout": Severity.WARNING,
    "secret-readable": Severity.WARNING,
    "sizes-corrected": Severity.WARNING,
    "tls-off": Severity.WARNING,
    "autocommit-mixed": Severity.NOTE,
    "locks-of-one-node": Severity.NOTE,
    "not-examined": Severity.NOTE,
    "prefork-without-need": Severity.NOTE,
    "request-timeout-above-timeout": Severity.NOTE,
    "socket-rotation": Severity.NOTE,
}


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or could be better."""

    code: str
    """One of CODES; it stays the same from version to version."""
    what: str
    remedy: str

    @property
    def severity(self) -> Severity:
        return CODES[self.code]


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings, each once, the worst first and otherwise as they were found."""
    return sorted(dict.fromkeys(findings), key=lambda finding: finding.severity)
