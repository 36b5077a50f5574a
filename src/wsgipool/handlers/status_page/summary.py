"""The first screen of the status page: the findings, and a card for each database."""

from __future__ import annotations

from wsgipool.handlers.status_page import history, plots, words
from wsgipool.handlers.status_page.markup import Child, Markup, element, joined
from wsgipool.handlers.status_page.view import View
from wsgipool.scoreboard.findings import Finding
from wsgipool.scoreboard.model import BudgetUse, DatabaseReport, PoolReport, Totals
from wsgipool.wording import counted

_FIRST = 6
"""How many findings are shown at once; the others are folded."""


def findings(view: View) -> Markup:
    """Return the findings as a list, the worst first."""
    if not view.findings:
        return element("p", element("span", "all well", class_="severity good"), " Nothing to change.", class_="well")
    items = [_finding(view, each) for each in view.findings]
    rest = items[_FIRST:]
    return joined(
        element("ol", items[:_FIRST], class_="findings"),
        element(
            "details",
            element("summary", f"{counted(len(rest), 'more finding')}"),
            element("ol", rest, class_="findings", start=_FIRST + 1),
            id="all-findings",
        )
        if rest
        else None,
    )


def databases(view: View) -> Markup:
    """Return a card for each database."""
    if not view.databases:
        return element("p", "No live process has a pool.", class_="quiet")
    return element("div", [_database(view, each, index) for index, each in enumerate(view.databases)], class_="cards")


def _finding(view: View, finding: Finding) -> Markup:
    names = [each.name for each in view.databases]
    database: Child = element("strong", finding.database)
    if finding.database in names:
        database = element("a", database, href=f"#database-{names.index(finding.database)}")
    return element(
        "li",
        element(
            "p",
            element("span", finding.severity, class_=f"severity {finding.severity}"),
            " ",
            database if finding.database else None,
            " ",
            element("span", finding.code, class_="code quiet"),
        ),
        element("p", finding.text),
        element("p", element("strong", "Do: "), finding.advice, class_="advice") if finding.advice else None,
        class_=finding.severity,
        data_key=f"{finding.code} {finding.database}",
    )


def _database(view: View, database: DatabaseReport, index: int) -> Markup:
    past = view.history(database.name)
    heading = f"database-{index}"
    now = view.host.at
    budget = database.budget
    limit = min([database.max_size, *([budget.limit] if budget is not None and budget.limit is not None else [])])
    return element(
        "article",
        element(
            "header",
            element("h3", database.name, id=heading),
            element("p", database.address, class_="code quiet"),
        ),
        _failure(database),
        _connections(database),
        _numbers(database, past),
        element(
            "div",
            plots.line("In use", "in-use", past.values(lambda each: each.in_use), now, limit),
            plots.line("Waiting", "waiting", past.values(lambda each: each.waiting), now),
            plots.line("Checkouts a second", "rate", past.checkout_rates(), now),
            class_="plots",
        ),
        _processes(database),
        class_="card bad" if database.waiting else "card",
        aria_labelledby=heading,
        data_key=f"{database.name} {database.address}",
    )


def _failure(database: DatabaseReport) -> Markup | None:
    failures = sorted({pool.failure for _, pool in database.pools if pool.failure})
    return element("p", failures[0], class_="failure") if failures else None


def _connections(database: DatabaseReport) -> Markup:
    free = max(0, database.max_size - database.in_use - database.idle - database.connecting)
    parts = [("in-use", database.in_use), ("opening", database.connecting), ("idle", database.idle)]
    label = f"{database.in_use} of {database.max_size} connections in use"
    return joined(
        element(
            "dl",
            _figure("in use", words.number(database.in_use), f"of {words.number(database.max_size)}", kind="in-use"),
            _figure("idle", words.number(database.idle), kind="idle"),
            _figure("opening", words.number(database.connecting), kind="opening"),
            _figure("waiting", words.number(database.waiting), kind="waiting", is_bad=database.waiting > 0),
            _budget(database),
            class_="figures",
        ),
        plots.bar(f"{label}, {free} not opened", parts, database.max_size),
    )


def _budget(database: DatabaseReport) -> Markup | None:
    budget = database.budget
    if budget is None:
        return None
    limit = words.NOTHING if budget.limit is None else words.number(budget.limit)
    # With idle connections, a budget that is used up keeps nobody waiting.
    is_full = budget.limit is not None and budget.taken >= budget.limit and not database.idle
    return _figure("budget", words.number(budget.taken), f"of {limit}", is_bad=is_full or budget.is_starved)


def _numbers(database: DatabaseReport, past: history.History) -> Markup:
    totals = database.totals
    recent = past.timeouts()
    budget = database.budget
    pairs: list[tuple[str, Child, bool]] = [
        ("checkouts/s", words.rate(past.checkouts_a_second()), False),
        ("timeouts in 10 min", words.number(recent), recent > 0),
        ("wait p99", words.percentile_in_words(totals.wait_time, 0.99), False),
        ("use p99", words.percentile_in_words(totals.use_time, 0.99), False),
        ("connect p99", words.percentile_in_words(totals.create_time, 0.99), False),
        ("connect failures", words.number(totals.connect_failures), totals.connect_failures > 0),
        ("checkouts", words.number(totals.checkouts), False),
        ("that waited", words.number(totals.waits), False),
        ("timeouts", words.number(totals.timeouts), totals.timeouts > 0),
        ("refused", words.number(totals.refused), totals.refused > 0),
        ("opened", words.number(totals.opened), False),
        ("reset failures", words.number(totals.reset_failures), totals.reset_failures > 0),
    ]
    return joined(
        element("dl", [_pair(*pair) for pair in pairs], class_="numbers"),
        element(
            "dl",
            _pair("closed", _closed(totals)),
            _pair("permits", _permits(budget), is_bad=budget.is_starved) if budget is not None else None,
            class_="lines",
        ),
    )


def _closed(totals: Totals) -> Markup | str:
    """Return the closed connections by reason, the leaked ones marked."""
    reasons = [
        element("span", f"{reason} {words.number(count)}", class_="bad" if reason == "leaked" else None)
        for reason, count in sorted(totals.closed.items())
        if count
    ]
    return joined([joined(", " if index else None, each) for index, each in enumerate(reasons)]) or words.NOTHING


def _permits(budget: BudgetUse) -> str:
    limit = words.NOTHING if budget.limit is None else words.number(budget.limit)
    starved = "; it waits for more" if budget.is_starved else ""
    return (
        f"this database has {words.number(budget.held)} of the {words.number(budget.taken)} taken; the host may have "
        f"{limit}{starved}"
    )


def _pair(title: str, value: Child, is_bad: bool = False) -> Markup:
    return element("div", element("dt", title), element("dd", value), class_="bad" if is_bad else None)


def _figure(title: str, value: str, rest: str = "", *, kind: str = "", is_bad: bool = False) -> Markup:
    return element(
        "div",
        element("dt", _swatch(kind) if kind else None, title),
        element("dd", element("b", value), element("span", f" {rest}", class_="quiet") if rest else None),
        class_="bad" if is_bad else None,
    )


def _processes(database: DatabaseReport) -> Markup:
    by_pid = sorted(database.pools, key=lambda each: (each[0].pid, each[0].application_group))
    levels = [_level(pool) for _, pool in by_pid]
    full, awaited = levels.count("full"), levels.count("awaited")
    label = f"{counted(len(by_pid), 'process')}: {full} full, {awaited} with waiting threads"
    cells = [
        (level, f"{words.process(process)}: {_use(pool)}")
        for level, (process, pool) in zip(levels, by_pid, strict=True)
    ]
    return element(
        "div",
        element(
            "p",
            f"{counted(len(by_pid), 'process')}: ",
            _swatch("full"),
            f"{full} full, ",
            _swatch("awaited"),
            f"{awaited} with waiting threads",
        ),
        plots.squares(label, cells),
        class_="processes",
    )


def _swatch(kind: str) -> Markup:
    return element("span", class_=f"swatch {kind}", aria_hidden="true")


def _level(pool: PoolReport) -> str:
    if pool.waiting:
        return "awaited"
    if pool.in_use >= pool.max_size:
        return "full"
    return "some" if pool.in_use else "none"


def _use(pool: PoolReport) -> str:
    waiting = f", {pool.waiting} waiting" if pool.waiting else ""
    return f"{pool.in_use} of {pool.max_size} in use{waiting}"
