"""How a terminal shows a host: tables, bars and sparklines, for `wsgipool status` and `wsgipool top`.

All values come from the processes of a site, so each is made printable, and none is read as markup.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wsgipool.cli.hosts import Seen
from wsgipool.histogram import percentile
from wsgipool.locks.statistics import COLUMNS, LockRow, as_cells
from wsgipool.scoreboard.findings import LATE, Finding, Severity
from wsgipool.scoreboard.model import (
    Activity,
    CacheReport,
    DatabaseReport,
    HostReport,
    PoolReport,
    ProcessReport,
)
from wsgipool.wording import counted, lasting, printable, rounded

Row = TypeVar("Row")

_STYLES: dict[Severity, str] = {"critical": "bold red", "warning": "bold yellow", "notice": "bold cyan"}
_BAR = 10
_FULL, _NEARLY_FULL = 1.0, 0.8
"""Shares of a limit from which a bar is red, and yellow."""
_SPARKLINE = 20
_PERIOD = 600.0
"""Seconds that a sparkline shows."""
WIDE = 140
"""Columns from which a place is shown with its folders."""


@dataclass(frozen=True)
class Glyphs:
    """Characters for plots."""

    full: str
    empty: str
    levels: str
    advice: str


UNICODE = Glyphs("█", "░", "▁▂▃▄▅▆▇█", "→")
ASCII = Glyphs("#", ".", "_.-=+*#@", "->")


@dataclass(frozen=True)
class Look:
    """What the output can show."""

    width: int
    glyphs: Glyphs | None
    """None: no bars and sparklines."""


class Numbers(Protocol):
    """The numbers by which rows are sorted."""

    @property
    def in_use(self) -> int: ...
    @property
    def waiting(self) -> int: ...


@dataclass(frozen=True)
class PoolRow:
    """A pool of a process, with its rate if it is known."""

    process: ProcessReport
    pool: PoolReport
    notes: Sequence[str]
    """Why an operator should look at it."""
    rate: float | None = None

    @property
    def stands_out(self) -> bool:
        """Whether an operator should look at it."""
        return bool(self.pool.waiting or self.pool.in_use >= self.pool.max_size or self.notes)


@dataclass(frozen=True)
class DatabaseRow:
    """A database of the host, with its rate if it is known, and its last minutes."""

    database: DatabaseReport
    rate: float | None
    load: Sequence[int | None]
    """Connections in use and waiting threads, at moments of the last ten minutes; None for those without a sample."""


@dataclass(frozen=True)
class ActivityRow:
    """A holder, or a waiter."""

    process: ProcessReport
    pool: PoolReport
    activity: Activity
    seconds: float


@dataclass(frozen=True)
class _Column(Generic[Row]):
    title: str
    cell: Callable[[Row], Text]
    is_text: bool = False
    from_width: int = 0
    """Columns of the terminal from which this one is shown."""


# --- Rows ------------------------------------------------------------------------------------------------------------


def pool_rows(host: HostReport) -> Sequence[PoolRow]:
    """Return the pools of all processes, those that stand out first."""
    generations = [process.generation for process in host.processes if process.generation is not None]
    newest = max(generations, default=0)
    rows = [
        PoolRow(process, pool, _notes(host, process, pool, newest))
        for process in host.processes
        for pool in process.pools
    ]
    return sorted(rows, key=lambda row: (not row.stands_out, -row.pool.waiting, -row.pool.in_use))


def _notes(host: HostReport, process: ProcessReport, pool: PoolReport, newest: int) -> Sequence[str]:
    """Return what is unusual about a pool and its process."""
    return [
        *(["cannot connect"] if pool.failure else []),
        *(["waits for the budget"] if pool.budget is not None and pool.budget.is_starved else []),
        *([f"{pool.totals.leaked} leaked"] if pool.totals.leaked else []),
        *(["stopping"] if process.is_stopping else []),
        *(["before the restart"] if process.generation is not None and process.generation < newest else []),
        *(
            [f"no report for {lasting(host.at - process.at)}"]
            if host.at - process.at > LATE and (pool.in_use or pool.waiting)
            else []
        ),
    ]


def holders(host: HostReport) -> Sequence[ActivityRow]:
    """Return the holders, the longest first."""
    return _activities(host, lambda pool: pool.holders)


def waiters(host: HostReport) -> Sequence[ActivityRow]:
    """Return the waiting threads, the longest first."""
    return _activities(host, lambda pool: pool.waiters)


def _activities(host: HostReport, of: Callable[[PoolReport], Iterable[Activity]]) -> Sequence[ActivityRow]:
    rows = [
        ActivityRow(process, pool, activity, max(0.0, host.at - activity.since))
        for process in host.processes
        for pool in process.pools
        for activity in of(pool)
    ]
    return sorted(rows, key=lambda row: -row.seconds)


def load(host: HostReport, name: str, points: int = _SPARKLINE) -> Sequence[int | None]:
    """Return connections in use and waiting threads in the last ten minutes, the maximum for each point."""
    found: list[int | None] = [None] * points
    for sample in host.history:
        point = points - 1 - int((host.at - sample.at) / _PERIOD * points)
        gauges = sample.databases.get(name)
        if gauges is not None and 0 <= point < points:
            found[point] = max(found[point] or 0, gauges.in_use + gauges.waiting)
    return found


# --- Views -----------------------------------------------------------------------------------------------------------


def headline(seen: Seen) -> str:
    """Return a line about the processes and their folder."""
    host = seen.host
    ended = f" ({host.ended_processes} ended)" if host.ended_processes else ""
    hint = "" if host.processes or ended else "; --config or --runtime-dir names the folder of another site"
    processes = counted(len(host.processes), "process")
    return printable(f"{processes} of {seen.user}{ended}; the folder is {host.folder}{hint}")


def findings_view(found: Sequence[Finding], look: Look) -> RenderableType:
    """Return the findings, each with its advice."""
    arrow = (look.glyphs or ASCII).advice
    lines: list[RenderableType] = []
    for finding in found:
        lines.append(
            Text.assemble(
                (finding.severity.upper(), _STYLES[finding.severity]),
                printable(f" {finding.code}{f' {finding.database}' if finding.database else ''}: {finding.text}"),
            )
        )
        if finding.advice:
            lines.append(Text(f"{arrow} {printable(finding.advice)}", style="italic"))
    return Group(*lines)


def databases_view(rows: Sequence[DatabaseRow], look: Look) -> Table:
    """Return the table of the databases."""
    columns: list[_Column[DatabaseRow]] = [
        _Column("database", lambda row: _cell(row.database.name), is_text=True),
        _Column("in use", lambda row: _use(row.database.in_use, row.database.max_size, look)),
        _Column("idle", lambda row: _number(row.database.idle), from_width=90),
        _Column("opening", lambda row: _number(row.database.connecting), from_width=120),
        _Column("waiting", lambda row: _waiting(row.database.waiting)),
        _Column("budget", lambda row: _budget(row.database)),
        _Column("checkouts/s", lambda row: _rate(row.rate)),
        _Column("timeouts", lambda row: _number(row.database.totals.timeouts)),
        _Column("wait p95", lambda row: _time(percentile(row.database.totals.wait_time, 0.95)), from_width=130),
        _Column("use p95", lambda row: _time(percentile(row.database.totals.use_time, 0.95)), from_width=140),
        _Column("leaked", lambda row: _number(row.database.totals.leaked), from_width=150),
    ]
    if look.glyphs is not None:
        columns.append(_Column("last 10 min, at most", lambda row: _sparkline(row, look), from_width=110))
    return _table(columns, rows, look)


def holders_view(rows: Sequence[ActivityRow], look: Look) -> Table:
    """Return the table of the threads that hold a connection."""
    return _activities_view("holds for", rows, look)


def waiters_view(rows: Sequence[ActivityRow], look: Look) -> Table:
    """Return the table of the threads that wait for a connection."""
    return _activities_view("waits for", rows, look)


def _activities_view(title: str, rows: Sequence[ActivityRow], look: Look) -> Table:
    columns: list[_Column[ActivityRow]] = [
        _Column(title, lambda row: _cell(lasting(row.seconds))),
        _Column("pid", lambda row: _cell(str(row.process.pid))),
        _Column("database", lambda row: _cell(row.pool.name), is_text=True),
        _Column("request", lambda row: _cell(row.activity.path or "-"), is_text=True),
        _Column("what it does", lambda row: _doing(row.activity, look), is_text=True),
        _Column("checked out at", lambda row: _cell(row.activity.place or "-"), is_text=True, from_width=WIDE),
    ]
    return _table(columns, rows, look)


def pools_view(host: HostReport, rows: Sequence[PoolRow], look: Look) -> Table:
    """Return the table of the pools of single processes."""
    columns: list[_Column[PoolRow]] = [
        _Column("pid", lambda row: _cell(str(row.process.pid))),
        _Column("process", lambda row: _cell(row.process.place), is_text=True),
        _Column("up", lambda row: _cell(lasting(host.at - row.process.started)), from_width=100),
        _Column("threads", lambda row: _number(row.process.threads), from_width=110),
        _Column("database", lambda row: _cell(row.pool.name), is_text=True),
        _Column("in use", lambda row: _use(row.pool.in_use, row.pool.max_size, look)),
        _Column("idle", lambda row: _number(row.pool.idle), from_width=90),
        _Column("waiting", lambda row: _waiting(row.pool.waiting)),
        _Column("at most", lambda row: _number(row.pool.max_in_use), from_width=130),
        _Column("checkouts", lambda row: _number(row.pool.totals.checkouts), from_width=100),
        *([_Column("/s", lambda row: _rate(row.rate))] if any(row.rate is not None for row in rows) else []),
        _Column("timeouts", lambda row: _number(row.pool.totals.timeouts), from_width=120),
        _Column("notes", lambda row: _cell(", ".join(row.notes), "yellow"), is_text=True),
    ]
    return _table(columns, rows, look)


def caches_view(rows: Sequence[CacheReport], look: Look) -> Table:
    """Return the table of the caches."""
    columns: list[_Column[CacheReport]] = [
        _Column("cache", lambda row: _cell(row.name), is_text=True),
        _Column("size", lambda row: _cell(f"{row.size:,} of {row.maxsize:,}")),
        _Column("hits", lambda row: _cell(_share(row.hits, row.hits + row.misses))),
        _Column("misses", lambda row: _number(row.misses)),
        _Column("waits", lambda row: _number(row.waits), from_width=90),
        _Column("evictions", lambda row: _number(row.evictions)),
        _Column("errors", lambda row: _number(row.errors)),
    ]
    return _table(columns, rows, look)


def locks_view(rows: Sequence[LockRow], look: Look) -> Table:
    """Return the table of the locks, with advice."""

    def column(number: int) -> _Column[LockRow]:
        is_text = number in (0, len(COLUMNS) - 1)
        return _Column(COLUMNS[number], lambda row: _cell(as_cells(row)[number]), is_text=is_text)

    return _table([column(number) for number in range(len(COLUMNS))], rows, look)


# --- Cells -----------------------------------------------------------------------------------------------------------


def _table(columns: Sequence[_Column[Row]], rows: Iterable[Row], look: Look) -> Table:
    shown = [column for column in columns if look.width >= column.from_width]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    for column in shown:
        # Only texts become narrower where the table is too wide.
        table.add_column(Text(column.title), justify="left" if column.is_text else "right", no_wrap=not column.is_text)
    for row in rows:
        table.add_row(*(column.cell(row) for column in shown))
    return table


def _cell(text: str, style: str = "") -> Text:
    return Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")


def _number(number: int) -> Text:
    return _cell(f"{number:,}")


def _waiting(number: int) -> Text:
    return _cell(f"{number:,}", "bold red" if number else "")


def _rate(rate: float | None) -> Text:
    return _cell("-" if rate is None else rounded(rate, 2 if rate < 100 else 4))


def _time(seconds: float) -> Text:
    return _cell(lasting(seconds) if seconds else "-")


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"


def _use(number: int, limit: int, look: Look) -> Text:
    text = f"{number} of {limit}"
    if look.glyphs is None:
        return _cell(text)
    return Text.assemble(bar(number, limit, look.glyphs), f" {text:>8}", no_wrap=True)


def bar(number: int, limit: int, glyphs: Glyphs, width: int = _BAR) -> Text:
    """Return a bar that shows a part of a limit. One of many is not nothing."""
    share = min(1.0, number / limit) if limit > 0 else 0.0
    filled = max(round(share * width), int(number > 0))
    style = "red" if share >= _FULL else "yellow" if share >= _NEARLY_FULL else "green"
    return Text.assemble((glyphs.full * filled, style), (glyphs.empty * (width - filled), "dim"))


def _budget(database: DatabaseReport) -> Text:
    budget = database.budget
    if budget is None:
        return _cell("-")
    is_used_up = budget.limit is not None and budget.taken >= budget.limit
    return _cell(f"{budget.taken} of {'?' if budget.limit is None else budget.limit}", "red" if is_used_up else "")


def _sparkline(row: DatabaseRow, look: Look) -> Text:
    assert look.glyphs is not None
    most = max((number or 0 for number in row.load), default=0)
    return Text.assemble((sparkline(row.load, look.glyphs), "cyan"), f" {most:>3}", no_wrap=True)


def sparkline(numbers: Sequence[int | None], glyphs: Glyphs) -> str:
    """Return a character for each number: a space for None, the highest for the largest number."""
    most = max((number or 0 for number in numbers), default=0)
    step = max(1, most) / (len(glyphs.levels) - 1)
    return "".join(" " if number is None else glyphs.levels[round(number / step)] for number in numbers)


def _doing(activity: Activity, look: Look) -> Text:
    text = activity.doing or (f"at {activity.place}" if activity.place else "-")
    # Without the folders of a place, in narrow terminals.
    return _cell(text if look.width >= WIDE else re.sub(r"/\S*/(?=[^/\s]+:\d+)", "", text))
