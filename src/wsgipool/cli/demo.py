"""`wsgipool demo`: the bookshop on a real httpd and a real database, all of it in a temporary folder."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sqlite3
from pathlib import Path

import click

from wsgipool.cli.running import Stop, run_until_stopped, shape, site_options, temporary_folder
from wsgipool.cli.serve import write_config
from wsgipool.demo import schema
from wsgipool.demo.mariadb import MariaDB, ServerError, is_installed
from wsgipool.errors import ConfigError
from wsgipool.httpd.express import PACKAGE, Site, apache_user, refuse_taken_port
from wsgipool.process import CONFIG_NAME

_DATABASE = "bookshop"


@click.command()
@site_options
@click.option(
    "--db",
    "database",
    type=click.Choice(["mariadb", "sqlite"]),
    help="Default: mariadb where mariadbd is installed, else sqlite.",
)
def demo(mode: str, processes: int | None, threads: int | None, host: str, port: int, database: str | None) -> None:
    """Serve a small bookshop by a real httpd, until Ctrl-C.

    The database is a server of its own on a free loopback port, or an SQLite file; it is gone afterwards.
    """
    chosen = shape(mode, processes, threads)
    if importlib.util.find_spec("flask") is None:
        raise ConfigError("the demo site needs Flask: pip install 'wsgipool[demo]'")
    refuse_taken_port(host, port)
    if database is None:
        database = "mariadb" if is_installed() else "sqlite"
    with Stop().on_signals() as stop, contextlib.ExitStack() as undo:
        folder = undo.enter_context(temporary_folder())
        url = _mariadb(folder, undo) if database == "mariadb" else _sqlite(folder)
        if stop():
            return
        settings_file = folder / CONFIG_NAME
        passwords = write_config(settings_file, {_DATABASE: url}, runtime_dir=str(_runtime_dir(folder)))
        site = Site(
            script=PACKAGE / "demo" / "demo.wsgi",
            config=settings_file,
            environment=passwords,
            folder=folder,
            mode=chosen.mode,
            processes=chosen.processes,
            threads=chosen.threads,
            host=host,
            port=port,
        )
        run_until_stopped(
            site, stop, f"the bookshop is open on http://{host}:{port} ({chosen}; {database}); Ctrl-C closes it"
        )


def _mariadb(folder: Path, undo: contextlib.ExitStack) -> str:
    if not is_installed():
        raise ServerError(
            "mariadbd is not installed: apt-get install mariadb-server, or choose DB=sqlite (--db sqlite)"
        )
    click.echo("starting a MariaDB server in a temporary folder")
    data = folder / "mariadb"
    data.mkdir()
    server = undo.enter_context(MariaDB(data))
    server.start()
    url = server.create_database(_DATABASE)
    with server.admin(_DATABASE) as connection:
        schema.create(connection)
    return url


def _sqlite(folder: Path) -> str:
    # SQLite writes a journal beside the file, so the Apache user owns the folder as well.
    data = folder / "sqlite"
    data.mkdir()
    file = data / f"{_DATABASE}.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        schema.create(connection)
        connection.commit()
    _give_to_apache(data, *data.iterdir())
    return f"sqlite:///{file}"


def _runtime_dir(folder: Path) -> Path:
    """Make the folder for what the site's processes share, and nobody else."""
    shared = folder / "run"
    shared.mkdir(mode=0o700)
    _give_to_apache(shared)
    return shared


def _give_to_apache(*paths: Path) -> None:
    if os.geteuid() == 0:
        for path in paths:
            shutil.chown(path, apache_user().pw_name)
