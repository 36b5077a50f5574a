"""Everything that the status page shows, read at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wsgipool.handlers.status_page.history import History, of_name
from wsgipool.handlers.status_page.sessions import ServerSessions
from wsgipool.locks.statistics import LocksReport
from wsgipool.scoreboard.findings import SEVERITIES, Finding
from wsgipool.scoreboard.model import Activity, DatabaseReport, HostReport, PoolReport, ProcessReport
from wsgipool.wording import counted


@dataclass(frozen=True)
class Occupation:
    """A thread that holds or awaits a connection, with its process and pool."""

    process: ProcessReport
    pool: PoolReport
    activity: Activity


@dataclass(frozen=True)
class View:
    """The host, its findings, its locks and the sessions of its database servers."""

    hostname: str
    pid: int
    """The process that answers."""
    version: str
    host: HostReport
    databases: Sequence[DatabaseReport]
    """Those with a pool in a live process."""
    ended: Sequence[DatabaseReport]
    """The others, of ended processes."""
    findings: Sequence[Finding]
    locks: LocksReport
    servers: Sequence[ServerSessions]

    def holders(self) -> list[Occupation]:
        """Return the threads that hold connections, the longest first."""
        return sorted(self._occupations("holders"), key=lambda each: each.activity.since)

    def waiters(self) -> list[Occupation]:
        """Return the threads that wait for connections, the longest first."""
        return sorted(self._occupations("waiters"), key=lambda each: each.activity.since)

    def history(self, name: str) -> History:
        """Return the last ten minutes of the databases of a name."""
        return of_name(self.host, [*self.databases, *self.ended], name)

    def verdict(self) -> str:
        """Return the numbers of findings in words: "1 critical, 2 warnings"."""
        counts = {severity: sum(each.severity == severity for each in self.findings) for severity in SEVERITIES}
        words = [f"{counts['critical']} critical"] if counts["critical"] else []
        words += [counted(counts[each], each) for each in SEVERITIES[1:] if counts[each]]
        return ", ".join(words) or "no findings"

    def _occupations(self, kind: str) -> list[Occupation]:
        return [
            Occupation(process, pool, activity)
            for process in self.host.processes
            for pool in process.pools
            for activity in getattr(pool, kind)
        ]
