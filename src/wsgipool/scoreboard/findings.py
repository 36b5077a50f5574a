"""What an operator should know first: what is wrong on the host, why, since when, and what to change.

Each check looks at the report only, and reads no clock: ages are those at the moment of the report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from wsgipool.scoreboard.changes import changes
from wsgipool.scoreboard.model import Activity, BudgetUse, DatabaseReport, HostReport, PoolReport, ProcessReport, Totals
from wsgipool.wording import counted, lasting, plural, printable, rounded, shortened

Severity = Literal["critical", "warning", "notice"]
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "notice")
"""All severities, the worst first."""

CODES: Mapping[str, Severity] = {
    "pool-exhausted": "critical",
    "budget-exhausted": "critical",
    "connects-failing": "critical",
    "checkouts-timed-out": "warning",
    "threads-waited": "warning",
    "long-holder": "warning",
    "connections-leaked": "warning",
    "resets-failing": "warning",
    "connects-slow": "warning",
    "connections-not-reused": "warning",
    "report-late": "warning",
    "old-generation": "warning",
    "interpreter-per-host-name": "warning",
    "name-of-two-databases": "warning",
    "requests-refused": "notice",
    "process-stopping": "notice",
    "pool-larger-than-threads": "notice",
    "pool-never-full": "notice",
}
"""All codes of findings. Critical: requests wait or fail now. Warning: they did, or will. Notice: worth knowing."""

RECENT = 300.0
"""Seconds that count as recent: long enough to open a terminal after a user's call, and within the history."""
LONG_HOLD = 5.0
"""Seconds after which a holder is named. Few pages may take this long, and their visitors notice."""
MANY_WAITING = 0.5
"""Threads that waited on average in recent times, from which a pool is too small for its bursts."""
MIN_PERIOD = 30.0
"""Seconds that are needed for an average. A wait is counted when it ends, so it may be longer than a short period."""
MUCH_OF_A_POOL = 0.5
"""Share of the holders from which one page is named as the cause."""
MIN_OPENED = 100
"""Connections that must have been opened before their number means anything: the first ones are never reused."""
FEW_CHECKOUTS = 5
"""Checkouts for each connection, below which connecting costs more than the pool saves."""
MIN_CONNECTS = 10
"""Connects that are needed for a mean."""
SLOW_CONNECT = 0.5
"""Mean seconds of a connect. A near server takes milliseconds; a name server that does not answer takes seconds."""
MIN_RESET_FAILURES = 10
"""Failed resets that a restart of the database cannot explain alone."""
RESET_FAILURES = 0.01
"""Share of the checkouts whose reset failed, from which connecting again costs time."""
LATE = 10.0
"""Age of a report in seconds. A process writes one each second while it has connections in use."""
RESTARTED = 30.0
"""Seconds after a restart in which old processes may finish their requests."""
SETTLED = 3600.0
"""Seconds after which a process has seen its usual load."""
MIN_CHECKOUTS = 10_000
"""Checkouts that are needed to know the usual load."""
SMALL_PART = 0.25
"""Share of its size below which a pool is larger than its load needs."""


_Pools = Sequence[tuple[ProcessReport, PoolReport]]
_Holders = Sequence[tuple[ProcessReport, Activity]]


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
    seen = _Seen(host, host.databases())
    found = [finding for check in _CHECKS for finding in check(seen)]
    codes = list(CODES)
    return sorted(found, key=lambda finding: (codes.index(finding.code), finding.database))


@dataclass(frozen=True)
class _Seen:
    host: HostReport
    databases: Sequence[DatabaseReport]
    """The databases of the host, added up once."""


def _finding(code: str, database: str, text: str, advice: str) -> Finding:
    return Finding(CODES[code], code, database, text, advice)


# --- Now -------------------------------------------------------------------------------------------------------------


def _pool_exhausted(seen: _Seen) -> Iterator[Finding]:
    for database in seen.databases:
        full = _full(database)
        if not full:
            continue
        waiting = sum(pool.waiting for _, pool in full)
        size = sum(pool.max_size for _, pool in full)
        how_long = _how_long(seen.host, [database.name], [waiter for _, pool in full for waiter in pool.waiters])
        holders = _holders(full)
        yield _finding(
            "pool-exhausted",
            database.name,
            f"{counted(waiting, 'thread')} of {counted(len(full), 'process')} {_verb(waiting, 'wait')} for a "
            f"connection{how_long}: all {size} are in use. {_who_holds(seen.host, holders)}".rstrip(),
            _advice_for_full(database.name, full, holders),
        )


def _budget_exhausted(seen: _Seen) -> Iterator[Finding]:
    for budget, pools in _budgets(seen.host):
        starved = [(process, pool) for process, pool in pools if pool.budget is not None and pool.budget.is_starved]
        if budget.limit is None or budget.taken < budget.limit or not starved:
            continue
        names = sorted({pool.name for _, pool in starved})
        waiting = sum(pool.waiting for _, pool in starved)
        how_long = _how_long(seen.host, names, [waiter for _, pool in starved for waiter in pool.waiters])
        held = Counter[int]()
        for process, pool in pools:
            held[process.pid] += pool.budget.held if pool.budget is not None else 0
        most = " and ".join(f"process {pid} has {number}" for pid, number in held.most_common(2) if number)
        holders = _holders(pools)
        yield _finding(
            "budget-exhausted",
            names[0] if len(names) == 1 else "",
            f"All {budget.limit} connections that the budget of {_shown(budget.server)} allows this host are taken, "
            f"and {counted(waiting, 'thread')} of {counted(len(starved), 'pool')} ({', '.join(map(_shown, names))}) "
            f"{_verb(waiting, 'wait')} for one{how_long}{f': {most}' if most else ''}. "
            f"{_who_holds(seen.host, holders)}".rstrip(),
            f"{_advice_for_page(holders)}Raise connections in [budget] if the server allows more (`wsgipool plan` "
            "prints the sum).",
        )


def _connects_failing(seen: _Seen) -> Iterator[Finding]:
    for database in seen.databases:
        failing = [(process, pool) for process, pool in database.pools if pool.failure]
        # A pool keeps its failure until it connects again, which a process without requests does not try.
        is_tried = any(pool.waiting or pool.connecting for _, pool in failing)
        if failing and (is_tried or not database.idle + database.in_use):
            process, pool = max(failing, key=lambda each: each[0].at)
            yield _finding(
                "connects-failing",
                database.name,
                f"{len(failing)} of {counted(len(database.pools), 'pool')} cannot open a connection: "
                f"{_shown(pool.failure, 300)} (process {process.pid}; "
                f"{counted(_sum(database, lambda totals: totals.connect_failures), 'connect')} failed so far).",
                "Look whether the database runs and accepts this user; `wsgipool doctor` tries to connect, and prints "
                "the remedy.",
            )


def _long_holder(seen: _Seen) -> Iterator[Finding]:
    for database in seen.databases:
        long = [
            (process, holder) for process, holder in _holders(database.pools) if seen.host.at - holder.since > LONG_HOLD
        ]
        if long and not _full(database):
            yield _finding(
                "long-holder",
                database.name,
                f"{counted(len(long), 'thread')} {_verb(len(long), 'hold')} a connection for more than "
                f"{lasting(LONG_HOLD)}. {_who_holds(seen.host, long)}",
                "Make its queries faster, or return the connection before slow work that needs no database.",
            )


# --- The last minutes ------------------------------------------------------------------------------------------------


def _checkouts_timed_out(seen: _Seen) -> Iterator[Finding]:
    for name, change in changes(seen.host, seen.databases, RECENT).items():
        if change.timeouts:
            yield _finding(
                "checkouts-timed-out",
                name,
                f"In the last {lasting(change.seconds)}, {change.timeouts} of "
                f"{counted(change.checkouts + change.timeouts, 'checkout')} got no connection in time (PoolTimeout).",
                f"Read the messages in the error log: they name the holders. Then {_more_connections(name)}.",
            )


def _threads_waited(seen: _Seen) -> Iterator[Finding]:
    exhausted = {database.name for database in seen.databases if _full(database)}
    for name, change in changes(seen.host, seen.databases, RECENT).items():
        waiting = change.wait_seconds / change.seconds
        if change.seconds >= MIN_PERIOD and waiting >= MANY_WAITING and name not in exhausted:
            yield _finding(
                "threads-waited",
                name,
                f"In the last {lasting(change.seconds)}, {rounded(waiting)} threads waited for a connection on "
                "average.",
                f"{_more_connections(name).capitalize()}, or shorten the requests that hold connections longest.",
            )


# --- Since the start of the live processes ---------------------------------------------------------------------------


def _connections_leaked(seen: _Seen) -> Iterator[Finding]:
    for database in seen.databases:
        leaked = _sum(database, lambda totals: totals.leaked)
        if leaked:
            yield _finding(
                "connections-leaked",
                database.name,
                f"{counted(leaked, 'connection')} of {counted(_checkouts(database), 'checkout')} "
                f"{plural(leaked, 'was')} not returned, and had to be closed.",
                "The error log names the place of each checkout. Use `with wsgipool.connection(...)` there.",
            )


def _resets_failing(seen: _Seen) -> Iterator[Finding]:
    for database in seen.databases:
        failures, checkouts = _sum(database, lambda totals: totals.reset_failures), _checkouts(database)
        if failures >= max(MIN_RESET_FAILURES, RESET_FAILURES * checkouts):
            yield _finding(
                "resets-failing",
                database.name,
                f"{failures} of {counted(checkouts, 'returned connection')} could not be cleaned, and were closed.",
                "The error log has the reason. Usual ones: a proxy that refuses the reset, and results that the "
                "program did not read to their end.",
            )


def _connects_slow(seen: _Seen) -> Iterator[Finding]:
    for database in seen.databases:
        opened = _sum(database, lambda totals: totals.opened)
        mean = sum(pool.totals.create_seconds for _, pool in database.pools) / max(1, opened)
        if opened >= MIN_CONNECTS and mean >= SLOW_CONNECT:
            yield _finding(
                "connects-slow",
                database.name,
                f"Opening a connection took {lasting(mean)} on average, {opened} times.",
                "Look for a slow name server (skip_name_resolve in the server, an address in place of a name in url) "
                "or a slow network; min_size keeps connections ready.",
            )


def _connections_not_reused(seen: _Seen) -> Iterator[Finding]:
    for database in seen.databases:
        # Those of ended processes, too: perhaps the processes end too early.
        opened, checkouts = database.totals.opened, database.totals.checkouts
        if database.pools and opened >= MIN_OPENED and checkouts < FEW_CHECKOUTS * opened:
            reason, number = max(database.totals.closed.items(), key=lambda each: each[1], default=("", 0))
            why = f" Most were closed as {reason} ({number})." if number else ""
            yield _finding(
                "connections-not-reused",
                database.name,
                f"{counted(opened, 'connection')} {plural(opened, 'was')} opened for "
                f"{counted(checkouts, 'checkout')}.{why}",
                _REUSE.get(
                    reason,
                    "Look for processes that end after a few requests (MaxConnectionsPerChild, maximum-requests).",
                ).format(name=database.name),
            )


_REUSE = {
    "idle": "Raise max_idle in [databases.{name}], or set min_size.",
    "lifetime": "Raise max_lifetime in [databases.{name}].",
    "broken": "Keep max_idle in [databases.{name}] below the wait_timeout of the server and of proxies before it.",
    "budget": "Raise connections in [budget], or run fewer processes: they take connections from each other.",
    "leaked": "Return connections: use `with wsgipool.connection(...)`.",
}


def _requests_refused(seen: _Seen) -> Iterator[Finding]:
    for database in seen.databases:
        refused = _sum(database, lambda totals: totals.refused)
        if refused:
            yield _finding(
                "requests-refused",
                database.name,
                f"{counted(refused, 'checkout')} {plural(refused, 'was')} refused since the start, because too many "
                "threads waited (TooManyRequests).",
                f"If this happens at the usual load, {_more_connections(database.name)}.",
            )


# --- Processes -------------------------------------------------------------------------------------------------------


def _report_late(seen: _Seen) -> Iterator[Finding]:
    late = [process for process in seen.host.processes if seen.host.at - process.at > LATE and _is_busy(process)]
    if late:
        oldest = min(late, key=lambda process: process.at)
        yield _finding(
            "report-late",
            "",
            f"{_processes(late)} {plural(len(late), 'has')} not reported for up to "
            f"{lasting(seen.host.at - oldest.at)}, so {plural(len(late), 'its')} numbers are old.",
            "The process is stopped, or runs C code that keeps Python's lock, or the machine is overloaded: look at it "
            "with `top -p PID`.",
        )


def _old_generation(seen: _Seen) -> Iterator[Finding]:
    newest = _newest(seen.host)
    old = [process for process in seen.host.processes if _is_older(process, newest) and _size(process)]
    started = [process.started for process in seen.host.processes if process.generation == newest]
    if old and seen.host.at - min(started) > RESTARTED:
        holders = _holders([(process, pool) for process in old for pool in process.pools])
        yield _finding(
            "old-generation",
            "",
            f"{_processes(old)} of before the last restart {plural(len(old), 'has')} "
            f"{counted(sum(map(_size, old)), 'connection')} still. {_who_holds(seen.host, holders)}".rstrip(),
            "The requests end by themselves. GracefulShutdownTimeout, or graceful-timeout= of WSGIDaemonProcess, "
            "limits how long they may take.",
        )


def _process_stopping(seen: _Seen) -> Iterator[Finding]:
    newest = _newest(seen.host)
    stopping = [
        process
        for process in seen.host.processes
        if process.is_stopping and _size(process) and not _is_older(process, newest)
    ]
    if stopping:
        holders = _holders([(process, pool) for process in stopping for pool in process.pools])
        yield _finding(
            "process-stopping",
            "",
            f"{_processes(stopping)} {_verb(len(stopping), 'stop')} and {plural(len(stopping), 'has')} "
            f"{counted(sum(map(_size, stopping)), 'connection')} until the last request ends. "
            f"{_who_holds(seen.host, holders)}".rstrip(),
            "",
        )


def _interpreter_per_host_name(seen: _Seen) -> Iterator[Finding]:
    named = sorted({process.application_group for process in seen.host.processes if "|" in process.application_group})
    if named:
        yield _finding(
            "interpreter-per-host-name",
            "",
            f"{counted(len(named), 'interpreter')} {plural(len(named), 'has')} a name that comes from the request, "
            f"such as {_shown(named[0])}. Each Host header may start one more, with pools of its own.",
            "Write `WSGIApplicationGroup %{GLOBAL}`, or application-group= in WSGIScriptAlias.",
        )


def _name_of_two_databases(seen: _Seen) -> Iterator[Finding]:
    addresses: dict[str, dict[str, str]] = {}
    for process in seen.host.processes:
        for pool in process.pools:
            addresses.setdefault(pool.name, {}).setdefault(pool.address, process.settings)
    for name, places in addresses.items():
        if len(places) > 1:
            where = " and ".join(
                f"{_shown(address)} ({_shown(settings) or 'without a settings file'})"
                for address, settings in sorted(places.items())
            )
            yield _finding(
                "name-of-two-databases",
                name,
                f"Processes use this name for {counted(len(places), 'database')}: {where}. The plots add them up.",
                "Give each a name of its own in its wsgipool.toml. After a change of url, restart the old processes.",
            )


# --- Sizes -----------------------------------------------------------------------------------------------------------


def _pool_larger_than_threads(seen: _Seen) -> Iterator[Finding]:
    for database in seen.databases:
        large = [
            (process, pool) for process, pool in database.pools if process.mpm and pool.max_size > process.threads > 0
        ]
        if large:
            process, pool = large[0]
            yield _finding(
                "pool-larger-than-threads",
                database.name,
                f"max_size is {pool.max_size}, but process {process.pid} ({_shown(process.place)}) has "
                f"{counted(process.threads, 'thread')}.",
                f"Leave max_size out of [databases.{_shown(database.name)}]: then it is the number of threads. Keep it "
                "if requests take two connections, or threads of your own take some.",
            )


def _pool_never_full(seen: _Seen) -> Iterator[Finding]:
    for database in seen.databases:
        settled = [pool for process, pool in database.pools if seen.host.at - process.started >= SETTLED]
        if not settled or sum(pool.totals.checkouts for pool in settled) < MIN_CHECKOUTS:
            continue
        largest = max(pool.max_in_use for _, pool in database.pools)
        size = min(pool.max_size for _, pool in database.pools)
        if largest < SMALL_PART * size:
            yield _finding(
                "pool-never-full",
                database.name,
                f"No process has had more than {largest} of {counted(size, 'connection')} in use at the same time.",
                f"If the server's connections are scarce, lower max_size in [databases.{_shown(database.name)}].",
            )


_CHECKS: tuple[Callable[[_Seen], Iterator[Finding]], ...] = (
    _pool_exhausted,
    _budget_exhausted,
    _connects_failing,
    _long_holder,
    _checkouts_timed_out,
    _threads_waited,
    _connections_leaked,
    _resets_failing,
    _connects_slow,
    _connections_not_reused,
    _requests_refused,
    _report_late,
    _old_generation,
    _process_stopping,
    _interpreter_per_host_name,
    _name_of_two_databases,
    _pool_larger_than_threads,
    _pool_never_full,
)

# --- Parts of the report ---------------------------------------------------------------------------------------------


def _full(database: DatabaseReport) -> _Pools:
    """Return the pools with waiting threads that have all their connections in use."""
    return [(process, pool) for process, pool in database.pools if pool.waiting and pool.in_use >= pool.max_size]


def _holders(pools: _Pools) -> _Holders:
    """Return the holders, the longest first."""
    holders = [(process, holder) for process, pool in pools for holder in pool.holders]
    return sorted(holders, key=lambda each: each[1].since)


def _sum(database: DatabaseReport, number: Callable[[Totals], int]) -> int:
    """Return a sum over live processes only: what has ended may be cured."""
    return sum(number(pool.totals) for _, pool in database.pools)


def _checkouts(database: DatabaseReport) -> int:
    return _sum(database, lambda totals: totals.checkouts)


def _budgets(host: HostReport) -> Iterator[tuple[BudgetUse, _Pools]]:
    """Return each budget as the latest report has it, and its pools."""
    by_path: dict[str, list[tuple[ProcessReport, PoolReport]]] = {}
    for process in host.processes:
        for pool in process.pools:
            if pool.budget is not None:
                by_path.setdefault(pool.budget.path, []).append((process, pool))
    for pools in by_path.values():
        latest = max(pools, key=lambda each: each[0].at)[1].budget
        assert latest is not None
        yield latest, pools


def _newest(host: HostReport) -> int:
    return max((process.generation for process in host.processes if process.generation is not None), default=0)


def _is_older(process: ProcessReport, generation: int) -> bool:
    return process.generation is not None and process.generation < generation


def _is_busy(process: ProcessReport) -> bool:
    return any(pool.in_use or pool.waiting for pool in process.pools)


def _size(process: ProcessReport) -> int:
    return sum(pool.size for pool in process.pools)


# --- Words -----------------------------------------------------------------------------------------------------------


def _who_holds(host: HostReport, holders: _Holders) -> str:
    """Return sentences about the longest holder, and the page that holds most."""
    if not holders:
        return ""
    process, longest = holders[0]
    place = f", from {_shown(longest.place)}" if longest.path and longest.place not in longest.doing else ""
    doing = f"; it {_shown(longest.doing)}" if longest.doing else ""
    age = lasting(host.at - longest.since)
    text = f"The longest holder is {_page(longest)} in process {process.pid}, for {age}{place}{doing}."
    page, number = _main_page(holders)
    if page and len(holders) > 1:
        text += f" {number} of {len(holders)} holders are {page}."
    return text


def _main_page(holders: _Holders) -> tuple[str, int]:
    """Return the page that has much of the connections, and how many; "" if there is none."""
    if not holders:
        return "", 0
    page, number = Counter(_page(holder) for _, holder in holders).most_common(1)[0]
    return (page, number) if number >= MUCH_OF_A_POOL * len(holders) else ("", 0)


def _page(activity: Activity) -> str:
    """Return the URL's path of a request, or the place of a checkout outside requests."""
    return _shown(activity.path or activity.place) or "a thread"


def _how_long(host: HostReport, databases: Sequence[str], waiters: Sequence[Activity]) -> str:
    """Return how long threads have waited for databases without a pause, as far as known."""
    moments = [waiter.since for waiter in waiters]
    for sample in reversed(host.history):
        if not any(name in databases and gauges.waiting for name, gauges in sample.databases.items()):
            break
        moments.append(sample.at)
    return f" (for {lasting(host.at - min(moments))} so far)" if moments else ""


def _advice_for_full(name: str, full: _Pools, holders: _Holders) -> str:
    process, pool = full[0]
    first = _advice_for_page(holders)
    setting = f"max_size in [databases.{_shown(name)}], which is {pool.max_size}"
    if not process.mpm:
        return f"{first}Raise {setting}."
    if pool.max_size < process.threads:
        return f"{first}Raise {setting} for {counted(process.threads, 'thread')} of a process."
    return (
        f"{first}max_size is {pool.max_size}, enough for each of the {counted(process.threads, 'thread')}: look for "
        "requests that take a second connection, and for threads of your own."
    )


def _advice_for_page(holders: _Holders) -> str:
    """Return a sentence for the page that holds most connections; "" if there is none."""
    page, _ = _main_page(holders)
    own = [holder for _, holder in holders if page and _page(holder) == page]
    if not own:
        return ""
    if any("the database" in holder.doing for holder in own):
        return f"Make the queries of {page} faster. "
    return f"Let {page} return its connection before work that needs no database. "


def _more_connections(name: str) -> str:
    return f"raise max_size in [databases.{_shown(name)}]"


def _processes(processes: Sequence[ProcessReport]) -> str:
    """Return the numbers of a few processes, such as "Processes 12, 13 and 5 more"."""
    pids = sorted({process.pid for process in processes})
    shown = ", ".join(map(str, pids[:3])) + (f" and {len(pids) - 3} more" if len(pids) > 3 else "")
    return f"{plural(len(pids), 'process').capitalize()} {shown}"


def _verb(number: int, verb: str) -> str:
    """Return the form of a verb for a number of subjects."""
    return f"{verb}s" if number == 1 else verb


def _shown(text: str, length: int = 120) -> str:
    return printable(shortened(text, length))
