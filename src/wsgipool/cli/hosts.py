"""What the processes of a host report, as `status` and `top` ask for it: with the rights of the user of each folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from wsgipool import pools, records
from wsgipool.cli.shared_folders import SharedFolder, named, of_sites
from wsgipool.cli.site_settings import restored
from wsgipool.errors import ConfigError
from wsgipool.httpd import users
from wsgipool.locks.statistics import LocksReport
from wsgipool.scoreboard import reading
from wsgipool.scoreboard.model import HostReport
from wsgipool.shared.folder import default_folder

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The wsgipool.toml of the site, which names the runtime_dir. Default: for root the file that httpd's "
    f"processes read, else {pools.SYSTEM_CONFIG}, if it exists.",
)
runtime_dir_option = click.option(
    "--runtime-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder that the processes of the site share. Default: the settings' runtime_dir, else a folder of the "
    "user: for root, of httpd's users.",
)

_MAX_NUMBER = 2.0**53
"""Numbers of this size and larger ones are counts no longer. Infinity and NaN are refused with them."""


@dataclass(frozen=True)
class Seen:
    """The report of the processes that share a folder."""

    host: HostReport
    locks: LocksReport
    user: str = ""
    """The name of the processes' user."""


def folders(config_path: Path | None, runtime_dir: Path | None) -> Sequence[SharedFolder]:
    """Return the folders that the options name, or those of this host's sites. Raises ConfigError."""
    found = [named(runtime_dir)] if runtime_dir else of_sites(config_path)[0]
    return found or [SharedFolder(default_folder(), f"#{os.geteuid()}")]


def ask(folder: SharedFolder) -> Seen:
    """Return what is seen in a folder. Raises ConfigError if it cannot be read."""
    plain = folder.ask(_answer)
    if not _has_usual_numbers(plain):
        raise ConfigError(
            f"{folder.path} has numbers that no process of wsgipool wrote; stop httpd, and remove the files in it"
        )
    answer = restored(_Answer, plain)
    return Seen(answer.host, answer.locks, users.name(folder.user))


def _has_usual_numbers(plain: Any) -> bool:
    """Return whether one can calculate with all numbers of an answer: the user of the processes can write any."""
    if isinstance(plain, dict):
        return all(map(_has_usual_numbers, plain.values()))
    if isinstance(plain, list):
        return all(map(_has_usual_numbers, plain))
    return not isinstance(plain, int | float) or abs(plain) < _MAX_NUMBER


@dataclass(frozen=True)
class _Answer:
    host: HostReport
    locks: LocksReport


def _answer(folder: Path) -> Any:
    return records.plain(_Answer(*reading.host(folder)))
