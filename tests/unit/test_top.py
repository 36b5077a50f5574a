"""`wsgipool top` in a real terminal, with real keys, and its screen at odd sizes and contents."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from unit.fakes import eventually
from unit.reports import full_pool, holder, host, pool, process, sample
from unit.sharing import process_with_holders
from unit.terminals import LEFT, START, TOP, Session, session
from wsgipool.cli.hosts import Seen
from wsgipool.cli.top_screen import Choices, TopScreen, after_key
from wsgipool.locks.statistics import LocksReport
from wsgipool.scoreboard.model import HostReport, Totals

COLOURS = re.compile(rb"\x1b\[[0-9;]*3[1-6]m")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which the two connections of a process are in use, and a third thread waits."""
    folder = tmp_path_factory.mktemp("top")
    (folder / "run").mkdir(mode=0o700)
    with process_with_holders(folder, threads=3):
        yield folder


@contextlib.contextmanager
def top(folder: Path, **options: Any) -> Iterator[Session]:
    with session("--runtime-dir", str(folder / "run"), **options) as running:
        yield running


# --- In a terminal ---------------------------------------------------------------------------------------------------


def test_the_screen_has_the_finding_the_numbers_and_the_page(folder: Path) -> None:
    with top(folder) as session:
        session.shows(r"^CRITICAL pool-exhausted shop: 1 thread of 1 process waits")

        session.shows(r"^shop +██████████ +2 of 2 +1 ")
        session.shows(r"^ *[\d.]+ \w+ +\d+ +shop +/report  runs, at ")
        session.press("q")
        assert session.ends() == 0


def test_keys_sort_filter_hold_and_help(folder: Path) -> None:
    with top(folder) as session:
        session.shows("^sorted by in use")
        session.press("w")
        session.shows("^sorted by waiting")
        session.press("/nothing\r")
        session.shows("^only nothing, sorted by waiting")
        assert "/report" not in session.text().split("pid", 1)[-1]
        session.press("\x1b")
        session.shows(r"^sorted by waiting(.|\n)*")
        session.shows(r"^shop ")
        session.press("p")
        session.shows("HELD")
        session.press("h")
        session.shows(r"^q  Ctrl-C +quit")
        session.press("q")
        assert session.ends() == 0


def test_ctrl_c_ends_it_like_q(folder: Path) -> None:
    with top(folder) as session:
        session.shows("^sorted by")
        session.press("\x03")
        assert session.ends() == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_that_ends_it_leaves_the_terminal_as_it_was(folder: Path, number: int, status: int) -> None:
    with top(folder) as session:
        session.shows("^sorted by")
        session.process.send_signal(number)
        assert session.ends() == status


def test_ctrl_z_gives_the_terminal_back_until_it_goes_on(folder: Path) -> None:
    with top(folder) as session:
        session.shows("^sorted by")
        session.press("\x1a")
        os.waitpid(session.process.pid, os.WUNTRACED)
        assert session.is_given_back()

        session.process.send_signal(signal.SIGCONT)
        session.screen.reset()
        session.shows("^sorted by")
        session.press("q")
        assert session.ends() == 0


def test_a_new_size_of_the_terminal_changes_the_screen(folder: Path) -> None:
    with top(folder) as session:
        session.shows("^sorted by")
        assert "last 10 min" not in session.text()

        session.resize(150, 50)

        session.shows("last 10 min, at most")
        session.shows(r"\nsorted by in use .*\Z")
        session.press("q")
        assert session.ends() == 0


def test_a_folder_that_cannot_be_read_any_more_is_an_error_on_the_screen(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    with top(tmp_path, width=200) as session:
        session.shows("^sorted by")
        (tmp_path / "run").chmod(0o755)
        session.shows("is open to others")
        (tmp_path / "run").chmod(0o700)
        eventually(lambda: "is open to others" not in session.text())
        session.press("q")
        assert session.ends() == 0


def test_colours_can_be_turned_off(folder: Path) -> None:
    with top(folder) as coloured, top(folder, NO_COLOR="1") as plain:
        coloured.shows("^CRITICAL")
        plain.shows("^CRITICAL")

        assert COLOURS.search(coloured.output)
        assert not COLOURS.search(plain.output)


def test_a_terminal_without_unicode_has_bars_too(folder: Path) -> None:
    with top(folder, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0") as session:
        session.shows(r"^shop +########## +2 of 2 ")


def test_a_dumb_terminal_gets_plain_text_once(folder: Path) -> None:
    with top(folder, TERM="dumb") as session:
        session.shows(r"^shop .* 2 of 2 ")
        eventually(lambda: session.process.poll() is not None, START)

    assert session.process.returncode == 0
    assert b"\x1b" not in session.output


def test_a_pipe_gets_plain_text_once(folder: Path) -> None:
    command = [*TOP, "--runtime-dir", str(folder / "run")]
    outcome = subprocess.run(command, capture_output=True, text=True, check=True)

    assert re.search(r"^shop +2 of 2 ", outcome.stdout, re.M)
    assert "\x1b" not in outcome.stdout


def test_a_folder_that_cannot_be_read_at_first_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o755)
    with top(tmp_path, width=200) as session:
        session.shows("^wsgipool: .*/run is open to others")
        eventually(lambda: session.process.poll() is not None, START)

    assert session.process.returncode == 1
    assert LEFT not in session.output


# --- The screen ------------------------------------------------------------------------------------------------------

MANY = [process(pid, [pool(name) for name in ("bills", "orders", "stock", "users")]) for pid in range(1, 65)]
BUSY = process(
    70,
    [
        pool("orders", in_use=1, totals=Totals(checkouts=10)),
        full_pool("stock", waiting=1, totals=Totals(checkouts=50)),
        pool("users", in_use=3, totals=Totals(checkouts=1000)),
    ],
)


def lines(report: HostReport, choices: Choices, width: int = 80, height: int = 24, **options: Any) -> Sequence[str]:
    """Return the lines of the screen. Each database had no checkout a second before."""
    earlier = [
        replace(each, pools=[replace(one, totals=replace(one.totals, checkouts=0)) for one in each.pools])
        for each in report.processes
    ]
    before = Seen(replace(report, at=report.at - 1, processes=earlier), LocksReport(), "www-data")
    console = Console(
        file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None, legacy_windows=False
    )
    with console.capture() as captured:
        console.print(TopScreen(Seen(report, LocksReport(), "www-data"), before, choices, **options), end="")
    return captured.get().split("\n")


def pools_shown(shown: Sequence[str]) -> list[str]:
    """Return pid and database of the processes' table."""
    start = next(number for number, line in enumerate(shown) if re.match(r" *pid  process", line))
    found = [re.match(r" *(\d+)  daemon shop +(\w+)", line) for line in shown[start:]]
    return [f"{row[1]} {row[2]}" for row in found if row]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (20, 5), (200, 60)])
@pytest.mark.parametrize("processes", [[], [BUSY], [*MANY, BUSY]], ids=["none", "one", "many"])
def test_the_screen_is_filled_and_never_exceeded(width: int, height: int, processes: Any) -> None:
    shown = lines(host(*processes), Choices(), width, height)

    assert len(shown) == height
    assert all(len(line) <= width for line in shown)
    assert shown[0].startswith("wsgipool top")
    assert shown[-1].startswith("sorted by in use"[:width])


@pytest.mark.parametrize(
    ("key", "order"),
    [
        ("u", ["70 stock", "70 users", "70 orders"]),
        ("w", ["70 stock", "70 users", "70 orders"]),
        ("r", ["70 users", "70 stock", "70 orders"]),
        ("n", ["70 orders", "70 stock", "70 users"]),
    ],
)
def test_each_key_sorts_by_its_column(key: str, order: list[str]) -> None:
    choices = after_key(Choices(), key, folders=1, pools=3)

    assert pools_shown(lines(host(BUSY), choices)) == order


@pytest.mark.parametrize("text", ["70", "STOCK", "/report"])
def test_the_filter_finds_pids_databases_and_paths(text: str) -> None:
    shown = "\n".join(lines(host(*MANY[:3], BUSY), Choices(text=text), height=50))

    assert "/report" in shown.split("holds for")[1]
    assert " 2  daemon shop   orders" not in shown


def test_the_arrows_scroll_through_all_processes() -> None:
    choices, seen = Choices(sort="name"), set[str]()
    report = host(*MANY)
    for _ in range(30):
        seen |= set(pools_shown(lines(report, choices)))
        choices = after_key(choices, "page down", folders=1, pools=256)
    assert len(seen) == 256
    assert choices.first == 255

    for _ in range(30):
        choices = after_key(choices, "page up", folders=1, pools=256)
    assert choices.first == 0


def test_the_rates_are_those_since_the_last_report() -> None:
    shown = "\n".join(lines(host(BUSY), Choices(), 120))

    assert re.search(r"\n +70  daemon shop .* users .* 1000 ", shown)


def test_strangers_cannot_write_to_the_terminal() -> None:
    strange = "\x1b[2J\u202e[bold]x[/bold]\n"
    stranger = process(
        1, [full_pool(strange, failure=strange, holders=[holder(strange, 9, place=strange, doing=strange)])],
        process_group=strange,
    )  # fmt: skip

    for choices in (Choices(), Choices(text=strange), Choices(text=strange, is_typing=True)):
        assert all(line.isprintable() for line in lines(host(stranger), choices, error=strange))


@pytest.mark.parametrize("moment", [-8e15, 0.0, 8e15])
def test_odd_moments_fill_the_screen_too(moment: float) -> None:
    assert len(lines(replace(host(BUSY), at=moment), Choices())) == 24


def test_history_of_a_database_is_a_sparkline() -> None:
    history = [
        sample(10.0 * number, orders={"in_use": number % 9, "waiting": number % 3}) for number in range(60, 0, -1)
    ]

    assert re.search(
        r"\norders .* [▁▂▃▄▅▆▇█]{20} +10 *\n", "\n".join(lines(host(BUSY, history=history), Choices(), 150))
    )


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["q"], Choices(is_over=True)),
        (["/", "a", "q", "up", "backspace", "b", "enter"], Choices(text="ab")),
        (["/", "a", "escape"], Choices()),
        (["/", "a", "enter", "escape"], Choices()),
        ([" "], Choices(is_held=True)),
        (["p", "p"], Choices()),
        (["?"], Choices(is_help=True)),
        (["h", "escape"], Choices()),
        (["tab"], Choices(folder=1)),
        (["tab", "tab"], Choices()),
        (["up", "x", "\x00", "enter"], Choices()),
    ],
)
def test_keys_change_what_is_chosen(keys: list[str], expected: Choices) -> None:
    choices = Choices()
    for key in keys:
        choices = after_key(choices, key, folders=2, pools=1)

    assert choices == expected


def test_several_folders_are_announced() -> None:
    assert "folder 2 of 3" in lines(host(), Choices(folder=1), folders=3)[0]
