"""The output of the benchmarks: tables in the terminal, plots and JSON in files."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl
import rich.table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.measuring import Run, Spread

HERE = Path(__file__).parent
RESULTS = HERE / "results"
WIDTH = 120
"""Width in characters if the output is not a terminal."""
PEERS = (
    "Django",
    "Flask",
    "DBUtils",
    "SQLAlchemy",
    "psycopg-pool",
    "mysql-connector-python",
    "peewee",
    "connpool",
    "fasteners",
    "readerwriterlock",
    "PyMySQL",
    "mod_wsgi",
)

Value = Spread | float | None


@dataclass(frozen=True)
class Table:
    """A table with a row for each contender; a plot shows some of its columns."""

    name: str
    """The plot's file name."""
    title: str
    columns: Sequence[str]
    rows: dict[str, Sequence[Value]]
    plotted: Sequence[str]
    logarithmic: bool = False
    panels: bool = False
    """Whether each plotted column has its own scale."""
    reference: float | None = None
    """The value of the plot's reference line."""
    notes: Sequence[str] = ()


Measure = Callable[[Run], list[Table]]


def main(*measures: Measure) -> None:
    """Run benchmarks from the command line, with an orderly end by Ctrl-C or SIGTERM."""
    by_name = {Path(measure.__code__.co_filename).stem: measure for measure in measures}

    @click.command(help="Print the tables and draw the plots of " + ", ".join(by_name) + ".")
    @click.argument("names", nargs=-1, metavar="[NAME]...", type=click.Choice(list(by_name)))
    @click.option("--rounds", type=click.IntRange(1), help="Number of rounds of each measurement.")
    @click.option("--quick", is_flag=True, help="Run a tenth of the rounds, as a trial.")
    @click.option("--markdown", is_flag=True, help="Also print the tables as Markdown.")
    @click.option(
        "--into",
        "page",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Also put the tables into this page, each between <!-- table: NAME --> and <!-- end of table -->.",
    )
    @click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write the numbers to this file.")
    def command(
        names: tuple[str, ...],
        rounds: int | None,
        quick: bool,
        markdown: bool,
        page: Path | None,
        json_file: Path | None,
    ) -> None:
        _run({name: by_name[name] for name in names or by_name}, rounds, quick, markdown, page, json_file)

    # SIGTERM and Ctrl-C both stop the servers. Background jobs of a shell ignore Ctrl-C by default.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    command()


def _run(
    measures: dict[str, Measure],
    rounds: int | None,
    quick: bool,
    markdown: bool,
    page: Path | None,
    json_file: Path | None,
) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    facts = environment()
    console.print(_in_words(facts), highlight=False)
    document: dict[str, Any] = {"environment": facts, "benchmarks": {}}
    for name, measure in measures.items():
        console.rule(name)
        try:
            with _progress() as progress:
                tables = measure(Run(progress, rounds, quick))
        except click.ClickException as missing:
            if len(measures) == 1:
                raise
            console.print(f"left out: {missing.format_message()}")
            continue
        for table in tables:
            _print(console, table)
            if markdown:
                click.echo(_markdown(table))
            if page:
                _put_into(page, table, _in_words(facts))
            _plot(table, _in_words(facts))
        document["benchmarks"][name] = [asdict(table) for table in tables]
        if json_file:
            json_file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        # Redraw between rounds only: a drawing thread would disturb the measurement.
        auto_refresh=False,
    )


def environment() -> dict[str, Any]:
    """Return the properties of the machine and the software on which the numbers depend."""
    versions = {}
    for package in PEERS:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "cpu": f"{os.cpu_count()} x {_cpu_model()}",
        "load": round(os.getloadavg()[0], 1),
        "commit": _commit(),
        "versions": versions,
    }


def _in_words(facts: dict[str, Any]) -> str:
    return f"{facts['python']}, {facts['cpu']}, load {facts['load']}, commit {facts['commit']}"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _print(console: Console, table: Table) -> None:
    view = rich.table.Table(title=table.title, caption="\n".join(table.notes) or None, caption_justify="left")
    view.add_column(no_wrap=True)
    for column in table.columns:
        view.add_column(column, justify="right", overflow="fold")
    for name, values in table.rows.items():
        view.add_row(name, *map(_text, values))
    console.print(view)


def _markdown(table: Table) -> str:
    lines = [f"| {table.title} | {' | '.join(table.columns)} |", f"|---{'|--:' * len(table.columns)}|"]
    lines += [f"| {name} | {' | '.join(map(_text, values))} |" for name, values in table.rows.items()]
    return "\n" + "\n".join(lines) + "\n"


def _put_into(page: Path, table: Table, caption: str) -> None:
    """Replace what a page has between the markers of a table."""
    begin, end = f"<!-- table: {table.name} -->\n", "<!-- end of table -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    if not found or end not in rest:
        raise click.ClickException(f"{page} has no {begin.strip()} with {end} after it")
    notes = "".join(f"{note}. " for note in table.notes)
    text = f"{_markdown(table)}\n{notes}{caption}.\n\n"
    page.write_text(before + begin + text + end + rest.partition(end)[2], encoding="utf-8")


def _text(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, Spread):
        return f"{_number(value.median)} ({_number(value.low)}-{_number(value.high)})"
    return _number(value)


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if 0 < value < 0.095:
        return f"{value:.2g}"
    return f"{value:,.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


def _plot(table: Table, caption: str) -> None:
    mpl.rcParams["svg.fonttype"] = "none"  # text stays text
    names = list(table.rows)
    groups = [[column] for column in table.plotted] if table.panels else [table.plotted]
    bars = len(groups[0])
    figure = Figure(
        figsize=(9 if len(groups) == 1 else 3 + 2 * len(groups), 1.6 + 0.3 * len(names) * max(1, bars * 0.6)),
        layout="constrained",
    )
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, columns in zip(panels, groups, strict=True):
        _bars(axes, table, columns)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    figure.suptitle("\n".join(textwrap.wrap(table.title, 90)), fontsize=10)
    figure.text(0.99, -0.02, caption, ha="right", va="top", fontsize=6)
    RESULTS.mkdir(exist_ok=True)
    for kind in ("png", "svg"):
        figure.savefig(RESULTS / f"{table.name}.{kind}", dpi=150, bbox_inches="tight")


def _bars(axes: Axes, table: Table, columns: Sequence[str]) -> None:
    names = list(table.rows)
    thickness = 0.8 / len(columns)
    for index, column in enumerate(columns):
        values = [table.rows[name][table.columns.index(column)] for name in names]
        spreads = [value if isinstance(value, Spread) else Spread(*[value or 0.0] * 3) for value in values]
        axes.barh(
            [row + (index - (len(columns) - 1) / 2) * thickness for row in range(len(names))],
            [spread.median for spread in spreads],
            thickness,
            xerr=[
                [spread.median - spread.low for spread in spreads],
                [spread.high - spread.median for spread in spreads],
            ],
            error_kw={"elinewidth": 1, "alpha": 0.6},
            label=column,
        )
    if table.logarithmic:
        axes.set_xscale("log")
    if table.reference is not None:
        axes.axvline(table.reference, color="black", linewidth=0.8, linestyle=":")
    if len(columns) > 1:
        axes.legend()
    else:
        axes.set_xlabel(columns[0])
