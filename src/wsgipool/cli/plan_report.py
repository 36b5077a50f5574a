"""A plan as text and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wsgipool.drivers.occupancy import Occupants
from wsgipool.httpd.configuration import Configuration
from wsgipool.httpd.placement import EMBEDDED
from wsgipool.plan.planning import Fit, Row, Situation, Sum, budgets, budgets_in_words, fits, rows, sums
from wsgipool.plan.sizing import ProcessGroup, WaitEstimate
from wsgipool.pools import CONFIG_NAME
from wsgipool.wording import counted, printable, rounded

_ELSEWHERE = "Apache's configuration"


@dataclass(frozen=True)
class Wait:
    """The estimate for --rate and --hold, for one row and one size."""

    row: Row
    size: int
    waiting: WaitEstimate


@dataclass(frozen=True)
class PlanReport:
    """The content of a report."""

    server: Configuration | None
    """httpd's configuration; None with --mpm."""
    settings: Sequence[str]
    """The paths of the settings files."""
    situation: Situation
    fit: Fit | None
    occupants: Mapping[str, Occupants]
    """The sessions of each server that was asked, by the server's name."""
    unlimited: frozenset[str]
    """Databases without a limit, which are files."""
    unknown: Sequence[str]
    """The reasons why limits are not known."""
    silent: Sequence[str]
    """Databases that did not answer."""
    notes: Sequence[str]
    waits: Sequence[Wait]
    apache: Sequence[str]
    toml: Mapping[str, Sequence[str]]
    """The lines of each settings file; of "" if there is none."""


def as_text(report: PlanReport, console: Console) -> None:
    """Print a report as text."""
    if report.server is not None:
        server = report.server
        _say(console, f"{server.program}: {server.mpm.name} MPM; drop-in: {server.drop_in or 'not installed'}")
    for path in report.settings:
        _say(console, f"settings: {path}")
    console.print()
    console.print(_table(report))
    for group in report.situation.groups:
        _say(console, _lifetime(group, report.situation))
    for line in [*report.notes, *report.unknown]:
        _say(console, f"note: {line}")
    console.print()
    for total in sums(report.situation):
        _say(console, _verdict(total, report.situation))
    for name, occupants in report.occupants.items():
        _say(console, f"{occupants.in_words(name)}.")
    for wait in report.waits:
        _say(console, _wait(wait))
    console.print()
    _lines(report, console)


def as_json(report: PlanReport) -> dict[str, Any]:
    """Return a report as a JSON document."""
    situation, server = report.situation, report.server
    return {
        "httpd": server
        and {
            "program": server.program,
            "mpm": server.mpm.name,
            "drop_in": str(server.drop_in) if server.drop_in else None,
        },
        "settings": list(report.settings),
        "fits": fits(situation),
        "hosts": situation.hosts,
        "graceful_restarts": situation.graceful_restarts,
        "groups": [asdict(group) for group in situation.groups],
        "rows": [
            {
                "group": row.group.name,
                "database": row.database,
                "pool_size": row.pool_size,
                "worst_case": row.worst_case,
            }
            for row in rows(situation)
        ],
        "limits": [
            {
                **asdict(total.limit),
                "usable": total.limit.usable,
                "worst_case": total.worst_case,
                "headroom": total.headroom,
                "refused": total.refused,
            }
            for total in sums(situation)
        ],
        "servers": [
            {
                "name": name,
                "sessions": occupants.total,
                "most": occupants.most,
                "ours": occupants.ours,
                "by_account": occupants.by_account,
                "others": [asdict(each) for each in occupants.others],
            }
            for name, occupants in report.occupants.items()
        ],
        "unlimited": sorted(report.unlimited),
        "not_asked": sorted(report.silent),
        "waiting": [
            {
                "group": wait.row.group.name,
                "database": wait.row.database,
                "size": wait.size,
                "busy": wait.waiting.busy,
                "probability": wait.waiting.probability,
                # JSON has no infinity.
                "seconds": None if math.isinf(wait.waiting.seconds) else wait.waiting.seconds,
            }
            for wait in report.waits
        ],
        "fit": None
        if report.fit is None
        else {
            "groups": [asdict(group) for group in report.fit.groups],
            "max_size": dict(report.fit.max_sizes),
            "apache": list(report.apache),
            "toml": {path: list(lines) for path, lines in report.toml.items()},
        },
        "notes": [*report.notes, *report.unknown],
    }


def title(group: ProcessGroup) -> str:
    """Return the name of a process group in a report."""
    return f"Apache ({group.mode})" if group.name == EMBEDDED else group.name


def _table(report: PlanReport) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("process group")
    table.add_column("database")
    for name in ("processes", "threads", "interpreters", "pool size", "worst case", "limit", "headroom"):
        table.add_column(name, justify="right", no_wrap=True)
    # A limit that concerns one row only is shown in that row, all others below the rows.
    totals = sums(report.situation)
    known = {name for total in totals for name in total.limit.databases}
    for row in rows(report.situation):
        of_row = [
            total for total in totals if len(report.situation.groups) == 1 and total.limit.databases == (row.database,)
        ]
        cells = [Text("none" if row.database in report.unlimited else "" if row.database in known else "?"), Text()]
        if of_row:
            totals.remove(of_row[0])
            cells = [Text(_limit(of_row[0])), _headroom(of_row[0])]
        group = row.group
        table.add_row(
            title(group),
            row.database,
            f"{group.alive}" if report.situation.hosts == 1 else f"{report.situation.hosts} x {group.alive}",
            f"{group.threads}",
            f"{group.interpreters}",
            f"{row.pool_size}",
            f"{row.worst_case}",
            *cells,
        )
    if totals:
        table.add_section()
    for total in totals:
        table.add_row(
            total.limit.name, ", ".join(total.limit.databases), "", "", "", "", f"{total.worst_case}", _limit(total),
            _headroom(total),
        )  # fmt: skip
    return table


def _limit(total: Sum) -> str:
    limit = total.limit
    return f"{limit.connections} - {limit.kept}" if limit.kept else f"{limit.connections}"


def _headroom(total: Sum) -> Text:
    return Text(f"{total.headroom}", style="bold red" if total.headroom < 0 else "green")


def _lifetime(group: ProcessGroup, situation: Situation) -> str:
    if group.alive == group.processes:
        return f"{title(group)}: at most {counted(group.alive, 'process')}, also during graceful restarts."
    reason = (
        f"ServerLimit is {group.alive}, and processes that end after a graceful restart keep their slots meanwhile"
        if group.mode == "event"
        else "each graceful restart leaves processes behind until their last request is done "
        f"(--graceful-restarts {situation.graceful_restarts})"
    )
    return f"{title(group)}: {counted(group.processes, 'process')} at work, up to {group.alive} alive: {reason}."


def _verdict(total: Sum, situation: Situation) -> str:
    limit = total.limit
    worst = f"{counted(total.worst_case, 'connection')} in the worst case"
    if shares := budgets(limit, situation):
        worst += f", with {budgets_in_words(shares)}"
    if total.refused:
        return (
            f"TOO MANY: {worst}, but {limit.name} is {limit.connections}{limit.kept_in_words}: "
            f"{total.refused} would be refused ({limit.refusal})."
        )
    return f"It fits: {worst}, and {limit.name} is {limit.connections}{limit.kept_in_words}."


def _wait(wait: Wait) -> str:
    pool = f"A pool of {wait.size} in each process ({title(wait.row.group)}, {wait.row.database})"
    if math.isinf(wait.waiting.seconds):
        return (
            f"{pool} is too small: {rounded(wait.waiting.busy, 3)} connections would be busy on average, and the queue "
            "of requests would grow."
        )
    return (
        f"{pool} has {rounded(wait.waiting.busy, 3)} busy connections on average; "
        f"{rounded(wait.waiting.probability * 100)} % of the requests wait, "
        f"{rounded(wait.waiting.seconds * 1000)} ms on average over all requests."
    )


def _lines(report: PlanReport, console: Console) -> None:
    settings = " and ".join(report.settings) or CONFIG_NAME
    exceeding = [
        total.limit for total in sums(report.situation) if total.refused and budgets(total.limit, report.situation)
    ]
    occupied = max((limit.others for limit in report.situation.limits if limit.others > limit.reserve), default=0)
    if report.fit is None and exceeding:
        count = max(len(budgets(limit, report.situation)) for limit in exceeding)
        reserve = f" and reserve = {occupied}" if occupied else ""
        _say(
            console,
            f"The budget is too large for its server: lower connections in [budget] of {settings}, or write "
            f'connections = "auto" with hosts = {report.situation.hosts * count}{reserve}.',
        )
        return
    if report.fit is None:
        fewer = "let others have fewer" if occupied else "use a smaller --reserve"
        needed = max(total.limit.kept + total.worst_case for total in sums(report.situation) if total.refused)
        _say(
            console,
            "No sizes fit: even one process in each process group with pools of one connection exceeds the limit. "
            f"Allow the site more connections ({needed} for the current sizes), {fewer}, or move some "
            "databases to another server.",
        )
        return
    heading = "The current sizes" if fits(report.situation) else "Sizes that fit"
    if report.apache:
        drop_in = report.server.drop_in if report.server else None
        _say(console, f"{heading}, in {drop_in or _ELSEWHERE}:")
        _paste(console, report.apache)
    else:
        _say(console, f"{heading}: Apache's unchanged,")
    for path, lines in report.toml.items():
        _say(console, f"and in {path or CONFIG_NAME}:")
        _paste(console, lines)


def _paste(console: Console, lines: Sequence[str]) -> None:
    console.print()
    for line in lines:
        _say(console, f"    {line}")
    console.print()


def _say(console: Console, line: str) -> None:
    # No markup, since [databases.orders] is not a style; no added line breaks, so that lines can be pasted.
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
