"""`wsgipool drain`: replace the connections of all processes of this host, without a restart of httpd."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import click

from wsgipool import pools
from wsgipool.cli.locks import shared_folder, site_settings
from wsgipool.config import Settings
from wsgipool.errors import ConfigError
from wsgipool.httpd import users
from wsgipool.impersonation import as_user
from wsgipool.shared import drains
from wsgipool.showing import shown, unknown_key
from wsgipool.wording import printable


@click.command()
@click.argument("name", required=False)
@click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"The wsgipool.toml of the site, which names the runtime_dir. Default: {pools.SYSTEM_CONFIG}, if it exists.",
)
def drain(name: str | None, config_path: Path | None) -> None:
    """Replace the connections of all processes of this host.

    NAME is the database; default: all databases. Idle connections are closed at once, and those in use when they are
    returned; new ones are opened as needed. Use it after changes that only new connections see: a renewed certificate,
    other privileges or variables of the server, another primary behind the same name. Passwords are read only when a
    process starts.

    Run it as the user of httpd's processes. Root may run it if the settings name a runtime_dir, and then acts as the
    owner of that folder. The command leaves a request in the folder, and does not see which processes read it. Exit
    status: 1 if the request cannot be left there.
    """
    settings = site_settings(config_path)
    folder = shared_folder(settings)
    owner = os.geteuid() if os.geteuid() != 0 else _owner_of(folder, settings)
    if owner == os.geteuid():
        drains.request(folder, name)
    else:
        # The owner could replace files in the folder, so they are opened with the owner's rights.
        as_user(f"#{owner}", partial(drains.request, folder, name))
    what = "all pools" if name is None else f"pool {shown(name)}"
    click.echo(
        printable(
            f"{what}: the processes of {users.name(f'#{owner}')} that share {folder} replace their connections within "
            "two seconds"
        )
    )
    if name is not None and settings is not None and name not in settings.databases:
        hint = unknown_key(name, settings.databases)
        click.echo(
            printable(
                f"wsgipool: warning: {settings.origin} has no database {shown(name)} ({hint}); only processes that "
                "registered a pool of that name replace connections"
            ),
            err=True,
        )


def _owner_of(folder: Path, settings: Settings | None) -> int:
    """Return the user whose processes share the folder. Raises ConfigError if root cannot know it."""
    advice = "run the command as the user of httpd's processes: sudo -u www-data wsgipool drain"
    if settings is None or settings.runtime_dir is None:
        raise ConfigError(f"no settings name a runtime_dir, so each user has a separate folder; {advice}")
    try:
        return folder.lstat().st_uid
    except OSError as error:
        raise ConfigError(f"{settings.origin}: runtime_dir = {folder}: {error.strerror}; {advice}") from None
