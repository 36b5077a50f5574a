"""The status page as plain text for programs: `Key: value` lines like those of mod_status."""

from __future__ import annotations

from collections.abc import Iterator

from wsgipool.handlers.status_page import words
from wsgipool.handlers.status_page.view import View
from wsgipool.histogram import percentile
from wsgipool.scoreboard.findings import SEVERITIES
from wsgipool.scoreboard.model import DatabaseReport
from wsgipool.wording import printable


def lines(view: View) -> str:
    """Return the page. The key of a database's number ends in its name: "InUse[orders]"."""
    return "".join(f"{printable(key)}: {printable(str(value))}\n" for key, value in _pairs(view))


def _pairs(view: View) -> Iterator[tuple[str, object]]:
    host = view.host
    yield "Host", view.hostname
    yield "Version", view.version
    yield "CurrentTime", words.timestamp(host.at)
    yield "Folder", host.folder
    yield "Processes", len(host.processes)
    yield "EndedProcesses", host.ended_processes
    for severity in SEVERITIES:
        yield f"Findings[{severity}]", sum(each.severity == severity for each in view.findings)
    for finding in view.findings:
        yield f"Finding[{finding.code}]", f"{finding.severity} {finding.text}"
    names = [each.name for each in view.databases]
    for database in view.databases:
        label = database.name if names.count(database.name) == 1 else f"{database.name} {database.address}"
        for key, value in _of_database(view, database):
            yield f"{key}[{label}]", value
    for lock in view.locks.locks:
        yield f"LockTurns[{lock.name}]", lock.turns
        yield f"LockContended[{lock.name}]", lock.contended
        yield f"LockTimeouts[{lock.name}]", lock.timeouts
    for cache in host.caches:
        yield f"CacheHits[{cache.name}]", cache.hits
        yield f"CacheMisses[{cache.name}]", cache.misses
    for server in view.servers:
        if server.occupants is not None:
            yield f"ServerSessions[{server.server}]", server.occupants.total
            yield f"ServerSessionsOfOthers[{server.server}]", server.occupants.count_of_others


def _of_database(view: View, database: DatabaseReport) -> Iterator[tuple[str, object]]:
    totals = database.totals
    rate = view.history(database.name).checkouts_a_second()
    longest = min((each.activity.since for each in view.holders() if each.pool.name == database.name), default=None)
    yield "Address", database.address
    yield "MaxSize", database.max_size
    yield "InUse", database.in_use
    yield "Idle", database.idle
    yield "Opening", database.connecting
    yield "Waiting", database.waiting
    yield "LongestHold", 0 if longest is None else round(view.host.at - longest, 3)
    if database.budget is not None:
        yield "BudgetTaken", database.budget.taken
        if database.budget.limit is not None:
            yield "BudgetLimit", database.budget.limit
    if rate is not None:
        yield "CheckoutsPerSec", round(rate, 3)
    yield "TotalCheckouts", totals.checkouts
    yield "TotalWaits", totals.waits
    yield "TotalTimeouts", totals.timeouts
    yield "TotalRefused", totals.refused
    yield "TotalOpened", totals.opened
    yield "TotalConnectFailures", totals.connect_failures
    yield "TotalResetFailures", totals.reset_failures
    for reason in sorted(totals.closed):
        yield f"TotalClosed{reason.capitalize()}", totals.closed[reason]
    yield "WaitP99", percentile(totals.wait_time, 0.99)
    yield "UseP99", percentile(totals.use_time, 0.99)
