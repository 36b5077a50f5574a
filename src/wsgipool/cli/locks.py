"""`wsgipool locks`: the counts of the locks of all processes of this host, with advice."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table

from wsgipool import pools
from wsgipool.cli.site_settings import plain_settings, restored, settings_files
from wsgipool.config import Settings
from wsgipool.locks.publisher import report_of_host
from wsgipool.locks.statistics import COLUMNS, LocksReport, as_cells
from wsgipool.shared.folder import default_folder, set_origin
from wsgipool.wording import counted, printable


@click.command()
@click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"The wsgipool.toml of the site, which names the runtime_dir. Default: {pools.SYSTEM_CONFIG}, if it exists.",
)
@click.option(
    "--runtime-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder that the processes of the site share. Default: the settings' runtime_dir, else a folder of the "
    "current user.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def locks(config_path: Path | None, runtime_dir: Path | None, as_json: bool) -> None:
    """Show how this host's processes use their locks, with advice.

    The table shows how often each lock was taken, waited for and held. The numbers are up to about a second old.
    Processes that have ended are not counted. Times are exact to a factor of two. Run the command as the user of
    httpd's processes. Exit status: 1 if the numbers cannot be read.
    """
    folder = runtime_dir or shared_folder(site_settings(config_path))
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
        click.echo(printable(f"no process that shares {folder} has taken a lock so far"))
    else:
        _print(report, processes)


def site_settings(config_path: Path | None) -> Settings | None:
    """Return the settings without passwords, read with the rights of the file's owner; None if there are none.

    Raises ConfigError.
    """
    if config_path is None and not pools.SYSTEM_CONFIG.exists():
        return None
    (file,) = settings_files(config_path or pools.SYSTEM_CONFIG, None)
    return restored(Settings, file.ask(file.readers[0], lambda load: plain_settings(load())))


def shared_folder(settings: Settings | None) -> Path:
    """Return the folder that the processes of the site share."""
    if settings is None or settings.runtime_dir is None:
        return default_folder()
    set_origin(settings.runtime_dir, settings.origin)
    return settings.runtime_dir


def _print(report: LocksReport, processes: int) -> None:
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
