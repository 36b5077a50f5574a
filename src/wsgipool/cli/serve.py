"""`wsgipool serve app.wsgi`: a real httpd with one pool per process for a WSGI script of one's own."""

from __future__ import annotations

import os
import pwd
import shutil
from functools import partial
from pathlib import Path

import click
import tomli_w

from wsgipool import config, drivers, process
from wsgipool.cli.running import Shape, Stop, run_until_stopped, shape, site_options, temporary_folder
from wsgipool.doctor.accounts import as_user
from wsgipool.errors import ConfigError
from wsgipool.httpd.express import Site, apache_user, refuse_taken_port
from wsgipool.process import CONFIG_NAME, CONFIG_VARIABLE, SYSTEM_CONFIG


@click.command()
@click.argument("script", type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path))
@site_options
@click.option(
    "--database",
    "databases",
    metavar="[NAME=]URL",
    multiple=True,
    help="A database, such as mysql://user:password@host/shop or sqlite:////path/shop.db; NAME is what the program "
    "asks for, by default the database's own. May be given several times.",
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, resolve_path=True, path_type=Path),
    help="A wsgipool.toml, instead of --database. Default: $WSGIPOOL_CONFIG, the one beside SCRIPT, or "
    "/etc/wsgipool.toml.",
)
@click.argument("express_options", nargs=-1, metavar="[-- OPTION...]")
def serve(
    script: Path,
    mode: str,
    processes: int | None,
    threads: int | None,
    host: str,
    port: int,
    databases: tuple[str, ...],
    config_path: Path | None,
    express_options: tuple[str, ...],
) -> None:
    """Serve the WSGI application in SCRIPT by a real httpd, until Ctrl-C.

    Options after `--` are passed on to `mod_wsgi-express start-server`.
    """
    chosen: Shape = shape(mode, processes, threads)
    refuse_taken_port(host, port)
    if databases and config_path:
        raise ConfigError("--database and --config are two ways to say the same; give one")
    with Stop().on_signals() as stop, temporary_folder() as folder:
        settings_file = (
            write_config(folder / CONFIG_NAME, database_urls(databases))
            if databases
            else config_path or _config_beside(script)
        )
        settings = config.load(settings_file)
        for database in settings.databases.values():
            drivers.for_database(database)
        if settings.budget is not None:
            refuse_unusable_budget(settings_file)
        site = Site(
            script=script,
            config=settings_file,
            folder=folder,
            mode=chosen.mode,
            processes=chosen.processes,
            threads=chosen.threads,
            host=host,
            port=port,
            secrets=[d.password_file for d in settings.databases.values() if d.password_file is not None],
            express_options=express_options,
        )
        run_until_stopped(site, stop, f"{script.name} on http://{host}:{port} ({chosen}); Ctrl-C stops it")


def database_urls(arguments: tuple[str, ...]) -> dict[str, str]:
    """Return the URL of each name from arguments of the form `URL` or `NAME=URL`. Raises ConfigError."""
    urls: dict[str, str] = {}
    for argument in arguments:
        name, separator, url = argument.partition("=")
        if not separator or ":" in name:
            url = argument
            name = Path(config.parse_url(url, "--database").database).stem
        if not name:
            raise ConfigError("--database: the URL names no database; add it, or write NAME=URL")
        if name in urls:
            raise ConfigError(f"--database: two databases have the name {name}; write NAME=URL")
        urls[name] = url
    return urls


def write_config(path: Path, urls: dict[str, str], **settings: object) -> Path:
    """Write a wsgipool.toml that the Apache user can read, and others can not."""
    path.touch(mode=0o600)
    settings |= {"databases": {name: {"url": url} for name, url in urls.items()}}
    path.write_text(tomli_w.dumps(settings), encoding="utf-8")
    if os.geteuid() == 0:
        shutil.chown(path, group=apache_user().pw_gid)
        path.chmod(0o640)
    return path


def refuse_unusable_budget(settings_file: Path) -> None:
    """Open what the processes will share, as the user that they run as. Raises ConfigError where that cannot be."""
    user = apache_user() if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    complaint = as_user(user.pw_name, partial(_complaint, settings_file))
    if complaint:
        raise ConfigError(complaint)


def _complaint(settings_file: Path) -> str:
    try:
        process.configure(settings_file)
    except ConfigError as error:
        return str(error)
    return ""


def _config_beside(script: Path) -> Path:
    named = os.environ.get(CONFIG_VARIABLE)
    places = [Path(named)] if named else [script.parent / CONFIG_NAME, SYSTEM_CONFIG]
    for place in places:
        if place.exists():
            return place.absolute()
    raise ConfigError(
        f"no databases: give --database URL or --config FILE, or write {places[0]} "
        f"(`wsgipool apache show {CONFIG_NAME}` prints one to start from)"
    )
