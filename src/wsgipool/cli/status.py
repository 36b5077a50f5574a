"""`wsgipool status`: what the pools, locks and caches of all processes of this host do now, with findings first."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from wsgipool.cli import host_view as view
from wsgipool.cli.host_view import ASCII, UNICODE, DatabaseRow, Look, Row
from wsgipool.cli.hosts import Seen, ask, config_option, folders, runtime_dir_option
from wsgipool.scoreboard.changes import changes
from wsgipool.scoreboard.document import document
from wsgipool.scoreboard.findings import findings
from wsgipool.scoreboard.model import HostReport
from wsgipool.wording import counted

WATCH_INTERVAL = 2.0
"""Seconds between two reports of --watch."""
_RATE_PERIOD = 60.0
"""Seconds over which a rate is taken."""
_MAX_ROWS = 10
"""Maximum number of rows of a table without --all."""
_UNLIMITED = 1000
"""Columns of a pipe: nothing is cut off there."""


@click.command()
@config_option
@runtime_dir_option
@click.option("--all", "with_all", is_flag=True, help="Show all rows of each table.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --watch one line each time.")
@click.option(
    "--watch",
    type=click.FloatRange(min=0.2),
    is_flag=False,
    flag_value=WATCH_INTERVAL,
    metavar="[SECONDS]",
    help=f"Print the report again and again; default: every {WATCH_INTERVAL:g} seconds. Ctrl-C ends it.",
)
def status(
    config_path: Path | None, runtime_dir: Path | None, with_all: bool, as_json: bool, watch: float | None
) -> None:
    """Show what the pools of this host do now, and what is wrong.

    First come the findings: what is wrong, which page and process, since when, and what to change. Then the databases,
    the threads that hold a connection or wait for one, the processes that stand out, caches and locks.

    The numbers come from the processes themselves, by the folder that they share: httpd gets no request. They are at
    most about a second old. Counts include those of ended processes. Times of connections are exact to 25 %, times of
    locks to a factor of two.

    Run the command as root or as the user of httpd's processes. Root gets the reports of all users whose processes run
    Python in httpd, with --json one document after the other. Exit status: 0, with findings too; 1 if the numbers
    cannot be read.
    """
    found = folders(config_path, runtime_dir)
    console = Console()
    if watch is None:
        _print(console, [ask(folder) for folder in found], with_all, as_json)
        return
    try:
        while True:
            seen = [ask(folder) for folder in found]
            if not as_json:
                console.clear()  # does nothing in a pipe
            _print(console, seen, with_all, as_json, indent=None)
            time.sleep(watch)
    except KeyboardInterrupt:
        return


def _print(console: Console, reports: Sequence[Seen], with_all: bool, as_json: bool, indent: int | None = 1) -> None:
    for seen in reports:
        if as_json:
            click.echo(json.dumps(document(seen.host, seen.locks), indent=indent))
        else:
            print_text(console, seen, with_all)


def print_text(console: Console, seen: Seen, with_all: bool = False) -> None:
    """Print a report: coloured in a terminal, else as plain aligned lines."""
    if console.is_terminal:
        console.print(report_view(seen, look_of(console), with_all))
        return
    console.width = _UNLIMITED
    with console.capture() as captured:
        console.print(report_view(seen, Look(_UNLIMITED, None), with_all))
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def look_of(console: Console) -> Look:
    """Return what a terminal can show."""
    return Look(console.width, ASCII if console.options.ascii_only else UNICODE)


def report_view(seen: Seen, look: Look, with_all: bool) -> RenderableType:
    """Return a whole report."""
    host = seen.host
    pools = view.pool_rows(host)
    outstanding = sum(row.stands_out for row in pools)

    def section(
        what: str, rows: Sequence[Row], table: Callable[[Sequence[Row], Look], Table], limit: int = _MAX_ROWS
    ) -> list[RenderableType]:
        shown = rows if with_all else rows[:limit]
        more = len(rows) - len(shown)
        left_out = [Text(f"{counted(more, f'more {what}')}: --all shows all", "dim")] if more else []
        return [Text(), table(shown, look), *left_out] if rows else []

    return Group(
        Text(view.headline(seen), style="bold"),
        *_findings(host, look),
        *section("database", _databases(host, with_all), view.databases_view),
        *section("holder", view.holders(host), view.holders_view),
        *section("waiting thread", view.waiters(host), view.waiters_view),
        # Without trouble, these are the busiest.
        *section("pool", pools, partial(view.pools_view, host), min(outstanding, _MAX_ROWS) or _MAX_ROWS),
        *section("cache", host.caches, view.caches_view),
        *section("lock", seen.locks.locks, view.locks_view),
    )


def _findings(host: HostReport, look: Look) -> list[RenderableType]:
    found = findings(host)
    if found:
        return [Text(), view.findings_view(found, look)]
    return [Text("no findings", style="green")] if host.processes else []


def _databases(host: HostReport, with_ended: bool) -> list[DatabaseRow]:
    databases = host.databases()
    rates = changes(host, databases, _RATE_PERIOD)
    return [
        DatabaseRow(
            database,
            rates[database.name].checkouts_per_second if database.name in rates else None,
            view.load(host, database.name),
        )
        for database in databases
        if database.pools or with_ended
    ]
