"""The tables below the first screen: holders, waiters, processes, sessions of the servers, locks and caches."""

from __future__ import annotations

from collections.abc import Sequence

from wsgipool.handlers.status_page import words
from wsgipool.handlers.status_page.markup import Child, Markup, element, joined
from wsgipool.handlers.status_page.sessions import ServerSessions
from wsgipool.handlers.status_page.tables import Row, numbers, table, text
from wsgipool.handlers.status_page.view import Occupation, View
from wsgipool.locks.statistics import as_cells
from wsgipool.scoreboard.model import DatabaseReport, PoolReport, ProcessReport, Totals
from wsgipool.wording import counted, lasting

_FIRST = 10
"""How many rows of a long table are shown at once; the others are folded."""

_MAX_ROWS = 100
"""How many threads are listed at most."""

_PAGES = 5
"""How many pages are shown."""

_PLURALS = {"holds": "hold connections", "waits": "wait"}

_LONG = 5.0
"""Seconds from which a hold or a wait is marked."""

_NOW = numbers("In use", "Idle", "Opening", "Waiting")
_SINCE_START = numbers("Checkouts", "Timeouts", "Wait p99", "Use p99", "Opened", "Leaked")
_TOTAL_COLUMNS = [*text("Database"), *numbers("Processes"), *_NOW, *_SINCE_START]
_UNUSUAL_COLUMNS = [*text("Process", "Database", "Why"), *_NOW, *numbers("Timeouts", "Use p99", "Age")]
_POOL_COLUMNS = [*text("Process", "Database"), *_NOW, *numbers("Most in use"), *_SINCE_START, *numbers("Age")]


def holders(view: View) -> Markup:
    """Return the threads that hold connections."""
    return _occupations(view, view.holders(), "holds", "No thread holds a connection.")


def waiters(view: View) -> Markup:
    """Return the threads that wait for connections."""
    return _occupations(view, view.waiters(), "waits", "No thread waits for a connection.")


def processes(view: View) -> Markup:
    """Return the totals of each database, the pools that stand out, and all pools."""
    every = [(process, pool) for process in view.host.processes for pool in process.pools]
    if not every:
        return joined(element("p", "No process has a pool.", class_="quiet"), _ended(view.ended))
    unusual = sorted(
        ((process, pool, why) for process, pool in every if (why := _why(view, process, pool))),
        key=lambda each: (-each[1].waiting, not each[1].failure, -each[1].in_use, each[0].pid),
    )
    rows = [_unusual_row(view, *each) for each in unusual[:_FIRST]]
    more = len(unusual) - _FIRST
    return joined(
        element("h3", "Totals"),
        table("Totals of each database", _TOTAL_COLUMNS, [_total_row(each) for each in view.databases]),
        element("h3", "Pools that stand out"),
        table("Pools that stand out", _UNUSUAL_COLUMNS, rows, is_stacked=True)
        if rows
        else element("p", "No pool is full, failing or behind the others.", class_="quiet"),
        element("p", f"{more} more are in the list of all pools.", class_="quiet") if more > 0 else None,
        element(
            "details",
            element("summary", f"All {counted(len(every), 'pool')} of {counted(len(view.host.processes), 'process')}"),
            table("All pools", _POOL_COLUMNS, [_pool_row(view, process, pool) for process, pool in every]),
            id="all-pools",
        ),
        _ended(view.ended),
    )


def servers(view: View) -> Markup:
    """Return the sessions that each database server has, the site's and others'."""
    if not view.servers:
        return element("p", "The process that answers has no pool of a database server.", class_="quiet")
    return element("div", [_server(view, each) for each in view.servers])


def locks(view: View) -> Markup:
    """Return the locks of the host, with advice."""
    if not view.locks.locks:
        return element("p", "No process has taken a lock so far.", class_="quiet")
    columns = [
        *text("Lock"),
        *numbers("Turns", "Contended", "Wait p50", "Wait p99", "Hold p50", "Hold p99"),
        *text("Advice"),
    ]
    rows = [Row(f"{each.scope} {each.database} {each.name}", as_cells(each)) for each in view.locks.locks]
    return table("Locks, the most contended first", columns, rows, is_stacked=True)


def caches(view: View) -> Markup:
    """Return the caches of the host."""
    if not view.host.caches:
        return element("p", "No process has a shared cache.", class_="quiet")
    columns = [
        *text("Cache"),
        *numbers("Size", "Maximum", "Hit rate", "Hits", "Misses", "Waits", "Evictions", "Expirations", "Invalidations"),
        *numbers("Errors"),
    ]
    rows = []
    for cache in view.host.caches:
        asked = cache.hits + cache.misses
        share = f"{cache.hits / asked:.1%}" if asked else words.NOTHING
        counts = (cache.hits, cache.misses, cache.waits, cache.evictions, cache.expirations, cache.invalidations)
        cells: list[Child] = [cache.name, words.number(cache.size), words.number(cache.maxsize), share]
        rows.append(Row(cache.name, [*cells, *map(words.number, counts), words.number(cache.errors)], cache.errors > 0))
    return table("Caches of all processes", columns, rows, is_stacked=True)


# --- who holds, who waits --------------------------------------------------------------------------------------------


def _occupations(view: View, occupations: Sequence[Occupation], verb: str, none: str) -> Markup:
    if not occupations:
        return element("p", none, class_="quiet")
    columns = [*numbers("For"), *text("URL path", "Place", "Now", "Database", "Process")]
    rows = [_occupation_row(view, each) for each in occupations]
    caption = f"The thread that {verb} longest comes first"
    rest = rows[_FIRST:_MAX_ROWS]
    return joined(
        _by_page(view, occupations, verb) if rest else None,
        table(caption, columns, rows[:_FIRST], is_stacked=True),
        element(
            "details",
            element("summary", _more(len(occupations) - _FIRST, len(rest))),
            table(f"Further threads, {caption[0].lower()}{caption[1:]}", columns, rest, is_stacked=True),
            id=f"all-{verb}",
        )
        if rest
        else None,
    )


def _more(count: int, listed: int) -> str:
    return counted(count, "more thread") if count == listed else f"{count} more threads, {listed} of them listed"


def _by_page(view: View, occupations: Sequence[Occupation], verb: str) -> Markup:
    """Return how many threads each page has, the page with the most first."""
    groups: dict[tuple[str, str, str], list[Occupation]] = {}
    for each in occupations:
        key = each.activity.path or words.NOTHING, each.activity.place or words.NOTHING, each.pool.name
        groups.setdefault(key, []).append(each)
    largest = sorted(groups.items(), key=lambda item: -len(item[1]))[:_PAGES]
    rows = [
        Row(
            "\n".join(key),
            [*key, words.number(len(group)), lasting(view.host.at - group[0].activity.since)],
        )
        for key, group in largest
    ]
    columns = [*text("URL path", "Place", "Database"), *numbers("Threads", "Longest")]
    return joined(
        element("h3", "By page"),
        table(f"Pages whose threads {_PLURALS[verb]}, the most first", columns, rows, is_stacked=True),
        element("h3", "The longest"),
    )


def _occupation_row(view: View, each: Occupation) -> Row:
    length = view.host.at - each.activity.since
    since = element(
        "time",
        lasting(length),
        datetime=words.timestamp(each.activity.since),
        title=f"since {words.clock(each.activity.since)}",
    )
    return Row(
        f"{each.process.pid} {each.process.application_group} {each.pool.name} {each.activity.thread}",
        [
            since,
            each.activity.path or words.NOTHING,
            each.activity.place or words.NOTHING,
            each.activity.doing or words.NOTHING,
            each.pool.name,
            words.process(each.process),
        ],
        length >= _LONG,
    )


# --- processes -------------------------------------------------------------------------------------------------------


def _ended(databases: Sequence[DatabaseReport]) -> Markup | None:
    """Return the totals of databases that no live process has a pool of, folded."""
    if not databases:
        return None
    columns = [*text("Database", "Address"), *_SINCE_START]
    rows = [
        Row(f"{each.name} {each.address}", [each.name, each.address, *_since_start(each.totals)]) for each in databases
    ]
    return element(
        "details",
        element("summary", f"{counted(len(databases), 'database')} of ended processes only"),
        table("Databases of ended processes", columns, rows),
        id="ended",
    )


def _total_row(database: DatabaseReport) -> Row:
    return Row(
        f"{database.name} {database.address}",
        [database.name, words.number(len(database.pools)), *_now(database), *_since_start(database.totals)],
        database.waiting > 0,
    )


def _unusual_row(view: View, process: ProcessReport, pool: PoolReport, why: str) -> Row:
    totals = pool.totals
    p99 = words.percentile_in_words(totals.use_time, 0.99)
    age = lasting(view.host.at - process.started)
    return Row(
        _key(process, pool),
        [words.process(process), pool.name, why, *_now(pool), words.number(totals.timeouts), p99, age],
        _is_bad(pool),
    )


def _pool_row(view: View, process: ProcessReport, pool: PoolReport) -> Row:
    most = words.number(pool.max_in_use)
    age = lasting(view.host.at - process.started)
    return Row(
        _key(process, pool),
        [words.process(process), pool.name, *_now(pool), most, *_since_start(pool.totals), age],
        _is_bad(pool),
    )


def _now(counts: DatabaseReport | PoolReport) -> list[str]:
    in_use = f"{words.number(counts.in_use)} of {words.number(counts.max_size)}"
    return [in_use, *map(words.number, (counts.idle, counts.connecting, counts.waiting))]


def _since_start(totals: Totals) -> list[str]:
    return [
        words.number(totals.checkouts),
        words.number(totals.timeouts),
        words.percentile_in_words(totals.wait_time, 0.99),
        words.percentile_in_words(totals.use_time, 0.99),
        words.number(totals.opened),
        words.number(totals.leaked),
    ]


def _key(process: ProcessReport, pool: PoolReport) -> str:
    return f"{process.pid} {process.application_group} {pool.name}"


def _is_bad(pool: PoolReport) -> bool:
    return pool.waiting > 0 or bool(pool.failure)


def _why(view: View, process: ProcessReport, pool: PoolReport) -> str:
    """Return why a pool stands out; "" if it does not."""
    newest = max((each.generation or 0 for each in view.host.processes), default=0)
    reasons = [
        (pool.waiting > 0, counted(pool.waiting, "thread") + " waiting"),
        (bool(pool.failure), pool.failure),
        (pool.budget is not None and pool.budget.is_starved, "waits for a permit of the budget"),
        (0 < pool.max_size <= pool.in_use, "all connections in use"),
        (pool.totals.leaked > 0, f"{pool.totals.leaked} leaked"),
        (process.is_stopping, "the process is ending"),
        (not process.is_stopping and (process.generation or 0) < newest, "from before the last restart"),
    ]
    return "; ".join(text for applies, text in reasons if applies)


# --- sessions of the servers -----------------------------------------------------------------------------------------


def _server(view: View, sessions: ServerSessions) -> Markup:
    occupants = sessions.occupants
    not_asked = element("p", f"{sessions.not_asked}.", class_="quiet") if sessions.not_asked else None
    if occupants is None or sessions.at is None:
        return element("div", element("h3", sessions.server, class_="code"), not_asked, data_key=sessions.server)
    of = "" if sessions.limit is None else f" of {words.number(sessions.limit)}"
    most = "" if occupants.most is None else f", at most {words.number(occupants.most)} since its start"
    age = lasting(max(0.0, view.host.at - sessions.at))
    numbers_in_words = (
        f"{words.number(occupants.total)}{of} sessions{most}: this site has {words.number(occupants.ours)}, "
        f"others have {words.number(occupants.count_of_others)}. Asked {age} ago."
    )
    rows = [
        Row(
            f"{each.account} {each.host} {each.program}",
            [each.who if not each.account else each.account, each.host, each.program or "", words.number(each.count)],
        )
        for each in occupants.others[:_FIRST]
    ]
    columns = [*text("Account", "Host", "Program"), *numbers("Sessions")]
    more = len(occupants.others) - _FIRST
    return element(
        "div",
        element("h3", sessions.server, class_="code"),
        element("p", numbers_in_words),
        not_asked,
        table(f"Sessions of others on {sessions.server}", columns, rows, is_stacked=True) if rows else None,
        element("p", f"{more} more accounts have sessions.", class_="quiet") if more > 0 else None,
        data_key=sessions.server,
    )
