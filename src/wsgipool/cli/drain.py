"""`wsgipool drain`: replace the connections of all processes of this host, without a restart of httpd."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from wsgipool import pools
from wsgipool.cli.shared_folders import of_sites
from wsgipool.errors import ConfigError
from wsgipool.httpd import users
from wsgipool.shared import drains
from wsgipool.showing import shown, unknown_key
from wsgipool.wording import printable


@click.command()
@click.argument("name", required=False)
@click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The wsgipool.toml of the site, which names the runtime_dir. Default: for root the file that httpd's "
    f"processes read, else {pools.SYSTEM_CONFIG}, if it exists.",
)
def drain(name: str | None, config_path: Path | None) -> None:
    """Replace the connections of all processes of this host.

    NAME is the database; default: all databases. Idle connections are closed at once, and those in use when they are
    returned; new ones are opened as needed. Use it after changes that only new connections see: a renewed certificate,
    other privileges or variables of the server, another primary behind the same name. Passwords are read only when a
    process starts.

    Run it as root or as the user of httpd's processes. Root acts as the user that owns the settings' runtime_dir, or as
    each user whose processes run Python in httpd. The command leaves a request in the folder, and does not see which
    processes read it. Exit status: 1 if the request cannot be left there.
    """
    folders, settings = of_sites(config_path)
    if not folders:
        raise ConfigError(
            "no settings name a runtime_dir, and no httpd of this host runs Python, so the folder of the processes is "
            "unknown; run `wsgipool drain` as their user"
        )
    what = "all pools" if name is None else f"pool {shown(name)}"
    for folder in folders:
        folder.ask(partial(drains.request, name=name))
        click.echo(
            printable(
                f"{what}: the processes of {users.name(folder.user)} that share {folder.path} replace their "
                "connections within two seconds"
            )
        )
    databases = [database for each in settings for database in each.databases]
    if name is not None and settings and name not in databases:
        hint = unknown_key(name, databases)
        origins = " and ".join(each.origin for each in settings)
        click.echo(
            printable(
                f"wsgipool: warning: {origins} has no database {shown(name)} ({hint}); only processes that "
                "registered a pool of that name replace connections"
            ),
            err=True,
        )
