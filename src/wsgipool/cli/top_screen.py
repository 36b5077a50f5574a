"""The screen of `wsgipool top`, and what its keys change. Reads no clock and no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from wsgipool.cli import host_view as view
from wsgipool.cli.host_view import ActivityRow, DatabaseRow, Look, PoolRow
from wsgipool.cli.hosts import Seen
from wsgipool.scoreboard.findings import findings
from wsgipool.scoreboard.model import HostReport, PoolReport, ProcessReport, Totals
from wsgipool.wording import printable

SORTS: Mapping[str, str] = {"u": "in use", "w": "waiting", "r": "rate", "n": "name"}
"""What each key sorts by."""
HELP = """
u  w  r  n   sort by connections in use, waiting, checkouts a second, name
/            show only rows with a text: a database, a process, a pid, a path
Escape       show everything again
Space  p     hold the screen; again to go on
Up  Down     scroll the processes; Page Up and Page Down by ten
Tab          the next folder, if the sites of this host have several
h  ?         this help
q  Ctrl-C    quit

The processes publish their numbers four times a second while you look.
checkouts/s is the rate since the last report; timeouts are since the start.
"""
_SCROLLS = {"up": -1, "down": 1, "page up": -10, "page down": 10}
_PART = 4
"""Each table gets at most this part of the height; the processes get the rest."""


@dataclass(frozen=True)
class Choices:
    """What the user has chosen."""

    sort: str = "in use"
    text: str = ""
    """The filter: only rows with this text are shown."""
    is_typing: bool = False
    """Whether keys are added to the text."""
    is_held: bool = False
    is_help: bool = False
    is_over: bool = False
    first: int = 0
    """The first process that is shown."""
    folder: int = 0


def after_key(choices: Choices, key: str, folders: int, pools: int) -> Choices:
    """Return what is chosen after a key, with this many folders, and pools in the one that is shown."""
    if choices.is_typing:
        return _after_typing(choices, key)
    if key in SORTS:
        return replace(choices, sort=SORTS[key], first=0)
    changed: dict[str, Callable[[], Choices]] = {
        "q": lambda: replace(choices, is_over=True),
        "/": lambda: replace(choices, is_typing=True, text="", first=0),
        "escape": lambda: replace(choices, text="", is_help=False, first=0),
        **{name: partial(_scrolled, choices, rows, pools) for name, rows in _SCROLLS.items()},
        "tab": lambda: replace(choices, folder=(choices.folder + 1) % folders, first=0),
        **dict.fromkeys((" ", "p"), lambda: replace(choices, is_held=not choices.is_held)),
        **dict.fromkeys(("h", "?"), lambda: replace(choices, is_help=not choices.is_help)),
    }
    return changed[key]() if key in changed else choices


def _scrolled(choices: Choices, rows: int, pools: int) -> Choices:
    return replace(choices, first=max(0, min(choices.first + rows, pools - 1)))


def _after_typing(choices: Choices, key: str) -> Choices:
    if key in ("enter", "escape"):
        return replace(choices, is_typing=False, text=choices.text if key == "enter" else "")
    if key == "backspace":
        return replace(choices, text=choices.text[:-1])
    return replace(choices, text=choices.text + key) if len(key) == 1 and key.isprintable() else choices


@dataclass(frozen=True)
class TopScreen:
    """A renderable that fills the terminal."""

    seen: Seen
    before: Seen | None
    """The report from which rates are taken."""
    choices: Choices
    folders: int = 1
    error: str = ""
    """Why the report is not a new one."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.size
        look = Look(width, view.ASCII if options.ascii_only else view.UNICODE)
        lines = [*_lines(console, options, self._head(width)), *self._body(console, options, look, height - 2)]
        lines = lines[: height - 1] + [[Segment(" ")]] * (height - 1 - len(lines))
        for line in lines:
            yield from line
            yield Segment.line()
        yield from _lines(console, options, self._foot())[0]

    def _body(self, console: Console, options: ConsoleOptions, look: Look, height: int) -> list[list[Segment]]:
        if self.choices.is_help:
            return _lines(console, options, Text(HELP))
        host, part = self.seen.host, height // _PART
        lines: list[list[Segment]] = []
        for content in (self._findings(host, look), self._databases(host, look), self._holders(host, look)):
            if content is not None:
                lines += [*_lines(console, options, content)[:part], [Segment("")]]
        rows = self._pools(host)
        space = max(1, height - len(lines) - 1)
        first = max(0, min(self.choices.first, len(rows) - space))
        return lines + _lines(console, options, view.pools_view(host, rows[first : first + space], look))

    def _head(self, width: int) -> Text:
        host, choices = self.seen.host, self.choices
        parts = [
            "wsgipool top",
            time.strftime("%H:%M:%S", time.localtime(host.at)),
            *(["HELD"] if choices.is_held else []),
            *([f"folder {choices.folder + 1} of {self.folders}"] if self.folders > 1 else []),
            view.headline(self.seen),
        ]
        text = Text("  ".join(parts), style="reverse", no_wrap=True, overflow="ellipsis")
        text.truncate(width, pad=True)
        return text

    def _foot(self) -> Text:
        choices = self.choices
        if choices.is_typing:
            return Text(f"/{printable(choices.text)}_  Enter: keep  Escape: show everything", no_wrap=True)
        shown = f"only {printable(choices.text)}, " if choices.text else ""
        keys = "u w r n sort  / filter  Space hold  h help  q quit"
        return Text(f"{shown}sorted by {choices.sort}   {keys}", no_wrap=True)

    def _findings(self, host: HostReport, look: Look) -> RenderableType:
        if self.error:
            return Text(printable(self.error), style="bold red")
        found = findings(host)
        return view.findings_view(found, look) if found else Text("no findings", style="green")

    def _databases(self, host: HostReport, look: Look) -> Table | None:
        before = {(each.name, each.address): each.totals for each in self._host_before().databases()}
        rows = [
            DatabaseRow(each, self._rate(before.get(key), each.totals), view.load(host, each.name))
            for each in host.databases()
            for key in [(each.name, each.address)]
            if any(self._is_shown(*pool) for pool in each.pools)
        ]
        rows.sort(key=lambda row: self._order(row.database, row.rate, row.database.name))
        return view.databases_view(rows, look) if rows else None

    def _holders(self, host: HostReport, look: Look) -> Table | None:
        rows = [row for row in view.holders(host) if self._is_activity_shown(row)]
        return view.holders_view(rows, look) if rows else None

    def _pools(self, host: HostReport) -> Sequence[PoolRow]:
        before = {
            _key(process, pool): pool.totals for process in self._host_before().processes for pool in process.pools
        }
        shown = [row for row in view.pool_rows(host) if self._is_shown(row.process, row.pool)]
        rated = [
            replace(row, rate=self._rate(before.get(_key(row.process, row.pool)), row.pool.totals)) for row in shown
        ]
        return sorted(rated, key=lambda row: self._order(row.pool, row.rate, row.pool.name))

    def _order(self, numbers: view.Numbers, rate: float | None, name: str) -> tuple[float | str, ...]:
        """Return the sort key of a row: the largest number first."""
        by_number = {"in use": numbers.in_use, "waiting": numbers.waiting, "rate": rate or 0.0}
        chosen = by_number.get(self.choices.sort)
        return (name,) if chosen is None else (-chosen, -numbers.waiting, -numbers.in_use, name)

    def _rate(self, before: Totals | None, now: Totals) -> float | None:
        seconds = self.seen.host.at - self._host_before().at
        return (now.checkouts - before.checkouts) / seconds if before is not None and seconds > 0 else None

    def _host_before(self) -> HostReport:
        return self.seen.host if self.before is None else self.before.host

    def _is_shown(self, process: ProcessReport, pool: PoolReport) -> bool:
        return self._matches(pool.name, process.place, str(process.pid))

    def _is_activity_shown(self, row: ActivityRow) -> bool:
        return self._is_shown(row.process, row.pool) or self._matches(row.activity.path)

    def _matches(self, *texts: str) -> bool:
        return any(self.choices.text.casefold() in text.casefold() for text in texts)


def _key(process: ProcessReport, pool: PoolReport) -> tuple[object, ...]:
    return process.pid, process.application_group, pool.name, pool.address


def _lines(console: Console, options: ConsoleOptions, content: RenderableType) -> list[list[Segment]]:
    return console.render_lines(Group(content), options.update(height=None), pad=False)
