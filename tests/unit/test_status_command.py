"""`wsgipool status`: what it prints of real processes, and of reports that are hard to print."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from unit.fakes import eventually
from unit.reports import budget, full_pool, holder, host, pool, process, sample
from unit.sharing import process_with_holders
from wsgipool import records
from wsgipool.cli import main
from wsgipool.cli.hosts import Seen
from wsgipool.cli.status import print_text
from wsgipool.locks.statistics import Counts, LockRow, LocksReport
from wsgipool.scoreboard.model import CacheReport, ClosedPools, HostReport, Totals
from wsgipool.shared.published import Publication

COMMAND = [sys.executable, "-m", "wsgipool", "status"]


def run(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["status", "--runtime-dir", str(folder / "run"), *options])


def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(folder, "--json").stdout)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder without processes so far."""
    (tmp_path / "run").mkdir(mode=0o700)
    return tmp_path


def test_the_first_lines_name_the_page_and_the_process_of_an_exhausted_pool(folder: Path) -> None:
    with process_with_holders(folder, threads=3) as python:
        eventually(lambda: "2 of 2 holders are /report" in run(folder).stdout)

        lines = run(folder).stdout.splitlines()

    assert re.match(r"1 process of \S+; the folder is \S+/run$", lines[0])
    assert lines[2].startswith("CRITICAL pool-exhausted shop: 1 thread of 1 process waits for a connection (for ")
    assert f"all 2 are in use. The longest holder is /report in process {python.pid}, for " in lines[2]
    assert lines[3].startswith("-> Let /report return its connection before work that needs no database.")
    assert "s3cret" not in "\n".join(lines)


def test_json_has_the_sums_of_all_processes(folder: Path) -> None:
    with process_with_holders(folder, threads=3), process_with_holders(folder, threads=1):

        def numbers() -> list[tuple[int, int, int]]:
            return [(each["in_use"], each["waiting"], each["max_size"]) for each in document(folder)["databases"]]

        eventually(lambda: numbers() == [(3, 1, 4)])


def test_the_counts_of_ended_processes_stay(folder: Path) -> None:
    with process_with_holders(folder, threads=2):
        eventually(lambda: bool(document(folder)["processes"]))

    lines = run(folder).stdout.splitlines()

    assert re.match(r"0 processes of \S+ \(1 ended\); the folder is \S+/run$", lines[0])
    assert document(folder)["databases"][0]["totals"]["checkouts"] == 2


def test_the_locks_of_all_processes_are_shown_with_advice(folder: Path) -> None:
    with process_with_holders(folder, threads=0):
        eventually(lambda: [lock["turns"] for lock in document(folder)["locks"]] == [1, 1])

        text = run(folder).stdout

    assert re.search(r"^stock +1 +0.0 % .* fewer than 100 turns: too early to say$", text, re.M)


def test_watch_prints_until_it_is_interrupted(folder: Path) -> None:
    command = [*COMMAND, "--runtime-dir", str(folder / "run"), "--json", "--watch", "0.2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        documents = [json.loads(watch.stdout.readline()) for _ in range(3)]
        watch.send_signal(signal.SIGINT)
        watch.communicate()

    assert watch.returncode == 0
    moments = [each["at"] for each in documents]
    assert moments == sorted(set(moments))


def test_a_folder_without_processes_is_named_with_the_options_for_another(folder: Path) -> None:
    assert "--config or --runtime-dir names the folder of another site" in run(folder).stdout


def test_watch_has_an_interval_of_its_own_by_default(folder: Path) -> None:
    command = [*COMMAND, "--runtime-dir", str(folder / "run"), "--watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        assert watch.stdout.readline().startswith("0 processes of ")
        watch.send_signal(signal.SIGINT)

    assert watch.returncode == 0


def test_a_folder_that_is_open_to_others_is_an_error_in_one_line(folder: Path) -> None:
    (folder / "run").chmod(0o755)

    outcome = run(folder)

    assert outcome.exit_code == 1
    assert len(outcome.stderr.splitlines()) == 1
    assert "is open to others" in outcome.stderr


def test_a_moment_with_which_nobody_can_calculate_is_an_error(folder: Path) -> None:
    publication = Publication(folder / "run")
    publication.write({"process": records.plain(process(1, at=1e16)), "locks": Counts([], []).as_json()})

    outcome = run(folder)
    publication.close()

    assert outcome.exit_code == 1
    assert "numbers that no process of wsgipool wrote" in outcome.stderr


@pytest.mark.parametrize("changes", [{"started": 1e300}, {"started": -1e300}, {"threads": 10**400}])
def test_the_report_of_a_process_with_impossible_numbers_is_skipped(folder: Path, changes: dict[str, Any]) -> None:
    publication = Publication(folder / "run")
    publication.write({"process": records.plain(process(1, **changes)), "locks": Counts([], []).as_json()})

    found = document(folder)
    publication.close()

    assert found["processes"] == []


@pytest.mark.parametrize("moment", [-8e15, 0.0, 8e15])
def test_odd_moments_are_shown_somehow(moment: float) -> None:
    odd = process(1, [full_pool(holders=[holder("/", 8e15), holder("/", -8e15)])], started=moment, at=moment)
    report = replace(host(odd, history=[sample(8e15, orders={}), sample(-8e15, orders={})]), at=moment)

    assert "pool-exhausted" in printed(report, width=80, force_terminal=True)


# --- Reports made by hand --------------------------------------------------------------------------------------------


def printed(report: HostReport, locks: LocksReport | None = None, **options: Any) -> str:
    """Return what is printed in a terminal of a size, or in a pipe."""
    console = Console(file=io.StringIO(), color_system=None, **options)
    with console.capture() as captured:
        print_text(console, Seen(report, locks or LocksReport(), "www-data"))
    return captured.get()


@pytest.fixture
def pipe(capsys: pytest.CaptureFixture[str]) -> Any:
    """A function that returns what a report looks like in a pipe."""

    def text_of(report: HostReport, locks: LocksReport | None = None, with_all: bool = False) -> str:
        print_text(Console(file=io.StringIO()), Seen(report, locks or LocksReport(), "www-data"), with_all)
        return capsys.readouterr().out

    return text_of


EVERYTHING = replace(
    host(
        process(100, [full_pool(budget=budget(taken=14)), pool("stock")]),
        process(101, [pool(totals=Totals(checkouts=600, opened=2))]),
        history=[sample(60, orders={"in_use": 4, "checkouts": 400})],
    ),
    caches=[CacheReport("books", 100, 50, 990, 10, 0, 3, 0, 0, 0)],
)


def test_a_pipe_gets_aligned_lines_that_are_never_cut(pipe: Any) -> None:
    text = pipe(EVERYTHING, LocksReport([LockRow("till", "host", "", 200, 50, 0, 0.0, 0.1, 0.1, 0.2, "leave it")]))

    assert text.splitlines()[4:8] == [
        "",
        "database  in use  idle  opening  waiting    budget  checkouts/s  timeouts  wait p95  use p95  leaked",
        "orders    4 of 8     2        0        3  14 of 15           20         0         -        -       0",
        "stock     0 of 4     2        0        0         -            -         0         -        -       0",
    ]
    assert "books  50 of 100  99 %      10      0          3       0" in text
    assert "till (host)    200     25.0 %         0  100 ms    100 ms  200 ms  leave it" in text
    assert not re.search(r"\x1b| $", text, re.M)


def test_a_terminal_of_80_columns_has_the_whole_report() -> None:
    lines = printed(EVERYTHING, width=80, force_terminal=True).splitlines()

    assert max(map(len, lines)) <= 80
    assert "orders    █████░░░░░   4 of 8        3  14 of 15           20         0" in "\n".join(lines)


def test_the_example_of_the_reference_is_what_is_printed() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text()
    example = host(
        process(4711, [full_pool(budget=budget(taken=6))], threads=25),
        process(4712, [pool(in_use=1, holders=[holder("/orders", 0.4)])], threads=25),
        history=[sample(60, orders={"in_use": 4, "checkouts": 400})],
    )

    lines = printed(example, width=100, force_terminal=True).splitlines()

    text = "\n".join(line.rstrip() for line in lines)
    assert f"```text\n{text}\n```" in page, text


def test_a_wide_terminal_has_plots_of_the_last_minutes() -> None:
    text = printed(EVERYTHING, width=160, force_terminal=True)

    assert re.search(r"orders .*  +█ +4$", text, re.M)


def test_names_of_strangers_are_shown_harmlessly(pipe: Any) -> None:
    strange = "\x1b[2J\x07\u202e[bold]x[/bold][/]\n\r"
    activities = [holder(strange, 9, place=strange, doing=strange)]
    stranger = process(
        1, [full_pool(name=strange, address=strange, failure=strange, holders=activities)],
        process_group=strange, application_group=strange + "|", settings=strange,
    )  # fmt: skip
    report = replace(host(stranger), folder=strange, caches=[CacheReport(strange, 1, 1, 1, 1, 1, 1, 1, 1, 1)])
    locks = LocksReport([LockRow(strange, "database", strange, 1, 1, 1, 1.0, 1.0, 1.0, 1.0, strange)])

    for text in (pipe(report, locks), printed(report, locks, width=80, force_terminal=True)):
        assert all(line.isprintable() for line in text.splitlines())
    assert r"\x1b[2J\x07\u202e[bold]x[/bold][/]\n\r" in pipe(report, locks)


def test_of_many_processes_those_that_stand_out_are_shown(pipe: Any) -> None:
    quiet = [process(pid, [pool(name) for name in "abcd"]) for pid in range(1, 64)]
    report = host(*quiet, process(64, [full_pool("a"), pool("b", totals=Totals(closed={"leaked": 3}))]))

    text = pipe(report)

    assert "252 more pools: --all shows all" in text
    rows = re.findall(r"(?m)^ *(\d+)  daemon shop", text)
    assert rows == ["64", "64"]
    assert len(re.findall(r"(?m)^ *\d+  daemon shop", pipe(report, with_all=True))) == 254


def test_databases_that_no_live_process_uses_are_shown_by_all_only(pipe: Any) -> None:
    report = host(process(1), ended=[ClosedPools("former", "mysql://db/former", Totals(checkouts=7))])

    assert "former" not in pipe(report)
    assert re.search(r"^former +0 of 0", pipe(report, with_all=True), re.M)


def test_without_trouble_some_processes_are_shown(pipe: Any) -> None:
    text = pipe(host(*(process(pid) for pid in range(1, 21))))

    assert "\nno findings\n" in text
    assert "10 more pools: --all shows all" in text


def test_what_is_unusual_about_a_process_is_noted(pipe: Any) -> None:
    old = process(1, [pool(failure="refused", in_use=1, totals=Totals(closed={"leaked": 2}))], is_stopping=True, at=0.0)

    text = pipe(host(old, process(2, generation=1)))

    assert re.search(r" cannot connect, 2 leaked, stopping, before the restart, no report for \d+ d$", text, re.M)
