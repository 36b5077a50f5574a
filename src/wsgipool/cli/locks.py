"""`wsgipool locks`: what the locks of all processes of this host were asked for, and what would make them better."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table

from wsgipool import process
from wsgipool.cli.site import plain_settings, restored, settings_file
from wsgipool.config import Settings
from wsgipool.host.folder import default_folder, name_origin
from wsgipool.locks.book import report_of_host
from wsgipool.locks.statistics import COLUMNS, Report, as_cells
from wsgipool.wording import counted, printable


@click.command()
@click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"The wsgipool.toml of the site, for its runtime_dir. Default: {process.SYSTEM_CONFIG}, if it is there.",
)
@click.option(
    "--runtime-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder that the processes of the site share, where no settings name it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def locks(config_path: Path | None, runtime_dir: Path | None, as_json: bool) -> None:
    """Show the locks of all processes of this host: how often they were taken, waited for, held, and what would help.

    It is run as the user that the processes run as; exit status 1 means that it cannot look. The numbers are at most
    about a second old, and those of processes that have ended are gone.
    """
    folder = runtime_dir or _folder(config_path)
    report, processes = report_of_host(folder)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "folder": str(folder),
                    "processes": processes,
                    "locks": [{**asdict(lock), "share_contended": lock.share_contended} for lock in report.locks],
                },
                indent=1,
            )
        )
    elif not report.locks:
        click.echo(printable(f"no process has taken a lock so far, as far as {folder} tells"))
    else:
        _print(report, processes)


def _folder(config_path: Path | None) -> Path:
    if config_path is None and not process.SYSTEM_CONFIG.exists():
        return default_folder()
    file = settings_file(config_path or process.SYSTEM_CONFIG, None)
    settings = restored(Settings, file.ask(file.readers[0], lambda load: plain_settings(load())))
    if settings.runtime_dir is None:
        return default_folder()
    name_origin(settings.runtime_dir, settings.origin)
    return settings.runtime_dir


def _print(report: Report, processes: int) -> None:
    console = Console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in (COLUMNS[0], COLUMNS[-1]) else "right")
    for lock in report.locks:
        table.add_row(*as_cells(lock))
    if not console.is_terminal:
        console.width = 160
    console.print(table, markup=False, highlight=False)
    console.print(counted(processes, "process"), highlight=False)
