"""`wsgipool locks`: the counts of the locks of all processes of this host, with advice."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table

from wsgipool import pools, records
from wsgipool.cli.shared_folders import SharedFolder, named, of_sites
from wsgipool.cli.site_settings import restored
from wsgipool.httpd import users
from wsgipool.locks.statistics import COLUMNS, LocksReport, as_cells
from wsgipool.scoreboard import reading
from wsgipool.shared.folder import default_folder
from wsgipool.wording import counted, printable


@click.command()
@click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The wsgipool.toml of the site, which names the runtime_dir. Default: for root the file that httpd's "
    f"processes read, else {pools.SYSTEM_CONFIG}, if it exists.",
)
@click.option(
    "--runtime-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder that the processes of the site share. Default: the settings' runtime_dir, else a folder of the "
    "user: for root, of httpd's users.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def locks(config_path: Path | None, runtime_dir: Path | None, as_json: bool) -> None:
    """Show how this host's processes use their locks, with advice.

    The table shows how often each lock was taken, waited for and held. The numbers are up to about a second old.
    Processes that have ended are not counted. Times are exact to a factor of two.

    Run the command as root or as the user of httpd's processes. Root gets the numbers of all users whose processes run
    Python in httpd, with --json one document after the other. Exit status: 1 if the numbers cannot be read.
    """
    folders = [named(runtime_dir)] if runtime_dir else of_sites(config_path)[0]
    for folder in folders or [SharedFolder(default_folder(), f"#{os.geteuid()}")]:
        found = restored(_Found, folder.ask(lambda path: records.plain(_found(path))))
        if as_json:
            _print_json(folder, found)
        else:
            _print(folder, found)


@dataclass(frozen=True)
class _Found:
    report: LocksReport
    processes: int


def _found(folder: Path) -> _Found:
    host, report = reading.host(folder)
    return _Found(report, len(host.processes))


def _print_json(folder: SharedFolder, found: _Found) -> None:
    click.echo(
        json.dumps(
            {
                "folder": str(folder.path),
                "processes": found.processes,
                "locks": [{**asdict(lock), "share_contended": lock.share_contended} for lock in found.report.locks],
            },
            indent=1,
        )
    )


def _print(folder: SharedFolder, found: _Found) -> None:
    if not found.report.locks:
        click.echo(
            printable(f"no process of {users.name(folder.user)} that shares {folder.path} has taken a lock so far")
        )
        return
    console = Console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in (COLUMNS[0], COLUMNS[-1]) else "right")
    for lock in found.report.locks:
        table.add_row(*as_cells(lock))
    if not console.is_terminal:
        console.width = 160
    console.print(table, markup=False, highlight=False)
    processes = counted(found.processes, "process")
    click.echo(printable(f"{processes} of {users.name(folder.user)}; the folder is {folder.path}"))
