"""A plan as text for people, and as JSON for machines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wsgipool.httpd.configuration import EMBEDDED, Configuration
from wsgipool.planning import Fit, Row, Situation, Sum, budgets, fits, rows, sums
from wsgipool.process import CONFIG_NAME
from wsgipool.sizing import ProcessGroup, Waiting
from wsgipool.wording import counted, printable, rounded

_ELSEWHERE = "Apache's configuration"


@dataclass(frozen=True)
class Wait:
    """The answer to --rate and --hold for one row and one size."""

    row: Row
    size: int
    waiting: Waiting


@dataclass(frozen=True)
class Report:
    """All that is said."""

    server: Configuration | None
    """The httpd that was asked; None is by hand."""
    settings: str | None
    """The wsgipool.toml; None is no site that is here."""
    situation: Situation
    fit: Fit | None
    unlimited: frozenset[str]
    """Databases without a limit: files."""
    unknown: Sequence[str]
    """Why the limits of some are not known."""
    silent: Sequence[str]
    """Databases that were asked and did not answer."""
    notes: Sequence[str]
    waits: Sequence[Wait]
    apache: Sequence[str]
    toml: Sequence[str]


def as_text(report: Report, console: Console) -> None:
    if report.server is not None:
        server = report.server
        _say(console, f"{server.program}: {server.mpm.name} MPM; drop-in: {server.drop_in or 'not installed'}")
    if report.settings is not None:
        _say(console, f"settings: {report.settings}")
    console.print()
    console.print(_table(report))
    for group in report.situation.groups:
        _say(console, _lifetime(group, report.situation))
    for line in [*report.notes, *report.unknown]:
        _say(console, f"note: {line}")
    console.print()
    for total in sums(report.situation):
        _say(console, _verdict(total, report.situation))
    for wait in report.waits:
        _say(console, _wait(wait))
    console.print()
    _lines(report, console)


def as_json(report: Report) -> dict[str, Any]:
    situation, server = report.situation, report.server
    return {
        "httpd": server
        and {
            "program": server.program,
            "mpm": server.mpm.name,
            "drop_in": str(server.drop_in) if server.drop_in else None,
        },
        "settings": report.settings,
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
            "toml": list(report.toml),
        },
        "notes": [*report.notes, *report.unknown],
    }


def title(group: ProcessGroup) -> str:
    return f"Apache ({group.mode})" if group.name == EMBEDDED else group.name


def _table(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("process group")
    table.add_column("database")
    for name in ("processes", "threads", "interpreters", "pool size", "worst case", "limit", "headroom"):
        table.add_column(name, justify="right", no_wrap=True)
    # A limit of one row stands in that row, another in a line of its own below.
    left = sums(report.situation)
    known = {name for total in left for name in total.limit.databases}
    for row in rows(report.situation):
        of_row = [
            total for total in left if len(report.situation.groups) == 1 and total.limit.databases == (row.database,)
        ]
        cells = [Text("none" if row.database in report.unlimited else "" if row.database in known else "?"), Text()]
        if of_row:
            left.remove(of_row[0])
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
    if left:
        table.add_section()
    for total in left:
        table.add_row(
            total.limit.name, ", ".join(total.limit.databases), "", "", "", "", f"{total.worst_case}", _limit(total),
            _headroom(total),
        )  # fmt: skip
    return table


def _limit(total: Sum) -> str:
    limit = total.limit
    return f"{limit.connections} - {limit.reserve}" if limit.reserve else f"{limit.connections}"


def _headroom(total: Sum) -> Text:
    return Text(f"{total.headroom}", style="bold red" if total.headroom < 0 else "green")


def _lifetime(group: ProcessGroup, situation: Situation) -> str:
    if group.alive == group.processes:
        return f"{title(group)}: never more than {counted(group.alive, 'process')}, graceful restarts included."
    reason = (
        f"ServerLimit is {group.alive}, and processes that end after a graceful restart take slots of their own"
        if group.mode == "event"
        else "each graceful restart leaves its processes behind until their last request is done "
        f"(--graceful-restarts {situation.graceful_restarts})"
    )
    return f"{title(group)}: {counted(group.processes, 'process')} at work, {group.alive} at once: {reason}."


def _verdict(total: Sum, situation: Situation) -> str:
    limit = total.limit
    kept = f", {limit.reserve} of them kept for others" if limit.reserve else ""
    worst = counted(total.worst_case, "connection")
    if limit.budget is not None:
        several = budgets(limit, situation)
        each = f" for each of {several} users" if several > 1 else ""
        worst += f", with the budget of {limit.budget} a host{each}"
    if total.refused:
        return (
            f"TOO MANY: at worst {worst}, where {limit.name} is {limit.connections}{kept}: "
            f"{total.refused} would be refused ({limit.refusal})."
        )
    return f"It fits: at worst {worst}, where {limit.name} is {limit.connections}{kept}."


def _wait(wait: Wait) -> str:
    pool = f"A pool of {wait.size} in each process ({title(wait.row.group)}, {wait.row.database})"
    if math.isinf(wait.waiting.seconds):
        return (
            f"{pool} is too small: {rounded(wait.waiting.busy, 3)} connections would be busy on average, and requests "
            "pile up."
        )
    return (
        f"{pool} has {rounded(wait.waiting.busy, 3)} busy on average; {rounded(wait.waiting.probability * 100)} % of "
        f"the requests wait for one, which makes {rounded(wait.waiting.seconds * 1000)} ms a request."
    )


def _lines(report: Report, console: Console) -> None:
    settings = report.settings or CONFIG_NAME
    exceeding = [total.limit for total in sums(report.situation) if total.refused and total.limit.budget]
    if report.fit is None and exceeding:
        most = max(budgets(limit, report.situation) for limit in exceeding)
        _say(
            console,
            f"The budget is too large for its server: lower connections in [budget] of {settings}, or write "
            f'connections = "auto" with hosts = {report.situation.hosts * most}.',
        )
        return
    if report.fit is None:
        needed = max(total.limit.reserve + total.worst_case for total in sums(report.situation) if total.refused)
        _say(
            console,
            "No sizes fit: pools of one connection in one process of each process group are too many already. Allow "
            f"the site more connections ({needed} for the sizes of now), keep a smaller --reserve, or let some sites "
            "have a server of their own.",
        )
        return
    now = "The sizes of now" if fits(report.situation) else "What would fit"
    if report.apache:
        drop_in = report.server.drop_in if report.server else None
        _say(console, f"{now}, in {drop_in or _ELSEWHERE}:")
        _paste(console, report.apache)
        _say(console, f"and in {settings}:")
    else:
        _say(console, f"{now}: Apache's as they are, and in {settings}:")
    _paste(console, report.toml)


def _paste(console: Console, lines: Sequence[str]) -> None:
    console.print()
    for line in lines:
        _say(console, f"    {line}")
    console.print()


def _say(console: Console, line: str) -> None:
    # Neither markup nor line breaks of the terminal's: [databases.orders] is no style, and lines are to be pasted.
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
