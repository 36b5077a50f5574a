"""Findings and their codes; docs/reference/doctor.md explains each code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """How serious a finding is; the most serious has the smallest number."""

    ERROR = 0
    """Requests fail or will fail."""
    WARNING = 1
    """Something costs or risks more than necessary."""
    NOTE = 2
    """Something worth knowing, which may be intended."""


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
    "others-above-reserve": Severity.WARNING,
    "request-timeout-below-timeout": Severity.WARNING,
    "scripts-share-interpreter": Severity.WARNING,
    "secret-readable": Severity.WARNING,
    "settings-missing": Severity.WARNING,
    "sizes-corrected": Severity.WARNING,
    "tls-off": Severity.WARNING,
    "autocommit-mixed": Severity.NOTE,
    "locks-of-one-node": Severity.NOTE,
    "not-examined": Severity.NOTE,
    "prefork-without-need": Severity.NOTE,
    "request-timeout-above-timeout": Severity.NOTE,
    "site-not-pooled": Severity.NOTE,
    "socket-rotation": Severity.NOTE,
}


@dataclass(frozen=True)
class Finding:
    """A problem of a site, with its remedy."""

    code: str
    """A key of CODES, the same in all versions."""
    what: str
    remedy: str

    @property
    def severity(self) -> Severity:
        """The severity of the code."""
        return CODES[self.code]


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings without duplicates, the most serious first and otherwise in order."""
    return sorted(dict.fromkeys(findings), key=lambda finding: finding.severity)
