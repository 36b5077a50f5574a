"""`wsgipool demo`: the bookshop on a real httpd and a real database, in a temporary folder."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import click

from wsgipool.cli.running import Shape, Stop, run_until_stopped, shape, site_options, temporary_folder
from wsgipool.cli.serve import write_config
from wsgipool.cli.typed import typed
from wsgipool.demo import POOL_SIZE, schema
from wsgipool.demo.action_runner import ActionRunner
from wsgipool.demo.mariadb import DatabaseServerFailed, MariaDB, is_installed
from wsgipool.errors import ConfigError
from wsgipool.httpd.express import PACKAGE, Site, apache_user, refuse_taken_port
from wsgipool.pools import CONFIG_NAME

APPS = {"plain": ["flask"], "flask": ["flask", "sqlalchemy"], "django": ["django", "jinja2"]}
"""The packages that each site imports."""

_DATABASE = "bookshop"


@click.command()
@site_options
@click.option(
    "--app",
    type=click.Choice(list(APPS)),
    default="plain",
    show_default=True,
    help="How the bookshop is written. plain: Flask with plain SQL; flask: Flask with SQLAlchemy; django: Django.",
)
@click.option(
    "--db",
    "database",
    type=click.Choice(["mariadb", "sqlite"]),
    help="Database of the bookshop. Default: mariadb if mariadbd is installed, else sqlite.",
)
def demo(
    mode: str, processes: int | None, threads: int | None, host: str, port: int, app: str, database: str | None
) -> None:
    """Run a small bookshop on a real httpd until Ctrl-C.

    The database is a new MariaDB server on a free loopback port, or an SQLite file. Everything is removed at the end.

    The page /pool shows the pools at work. Its buttons act on this httpd and this MariaDB only.
    """
    chosen = shape(mode, processes, threads)
    missing = [package for package in APPS[app] if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(f"this demo site needs {' and '.join(missing)}: pip install 'wsgipool[demo]'")
    refuse_taken_port(host, port)
    if database is None:
        database = "mariadb" if is_installed() else "sqlite"
    with Stop().on_signals() as stop, contextlib.ExitStack() as undo:
        folder = undo.enter_context(temporary_folder())
        server = _mariadb(folder, undo) if database == "mariadb" else None
        url = _sqlite(folder) if server is None else _bookshop(server)
        if stop():
            return
        settings_file, environment = _write_settings(app, url, folder, chosen)
        actions = undo.enter_context(ActionRunner(folder, server))
        site = Site(
            script=PACKAGE / "demo" / f"{app}.wsgi",
            config=settings_file,
            environment={**environment, **actions.environment},
            folder=folder,
            mode=chosen.mode,
            processes=chosen.processes,
            threads=chosen.threads,
            host=host,
            port=port,
            has_status_page=True,
        )
        address = f"http://{host}:{port}"
        run_until_stopped(
            site,
            stop,
            f"the bookshop is open on {address} ({app}; {chosen}; {database}); Ctrl-C closes it\n"
            f"the pool at work: {address}/pool\n"
            f"its status page: {address}/wsgipool-status\n"
            + typed(f"the same in another terminal: `wsgipool top --runtime-dir {folder / 'run'}`").replace("`", ""),
            on_start=actions.on_start,
            on_line=actions.on_line,
        )


def _mariadb(folder: Path, undo: contextlib.ExitStack) -> MariaDB:
    if not is_installed():
        raise DatabaseServerFailed(
            "mariadbd is not installed: apt-get install mariadb-server, or choose DB=sqlite (--db sqlite)"
        )
    click.echo("starting a MariaDB server in a temporary folder")
    data = folder / "mariadb"
    data.mkdir()
    server = undo.enter_context(MariaDB(data))
    server.start()
    return server


def _bookshop(server: MariaDB) -> str:
    url = server.create_database(_DATABASE)
    with server.admin(_DATABASE) as connection:
        schema.create(connection)
    return url


def _sqlite(folder: Path) -> str:
    # SQLite writes a journal beside the file, so the Apache user must own the folder, too.
    data = folder / "sqlite"
    data.mkdir()
    file = data / f"{_DATABASE}.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        schema.create(connection)
        connection.commit()
    _give_to_apache(data, *data.iterdir())
    return f"sqlite:///{file}"


def _write_settings(app: str, url: str, folder: Path, chosen: Shape) -> tuple[Path, dict[str, str]]:
    """Write the site's wsgipool.toml; return its path and the environment of the site's processes."""
    file = folder / CONFIG_NAME
    # Half as many connections as threads. So the pool's page shows visitors that wait, in prefork for the budget.
    budget = max(1, chosen.processes * chosen.threads // 2)
    shared: dict[str, Any] = {"runtime_dir": str(_runtime_dir(folder)), "budget": {"connections": budget}}
    if app == "plain":
        return file, write_config(file, {_DATABASE: url}, {"max_size": POOL_SIZE}, **shared)
    # The site itself names its database, so the settings have only what all its pools share.
    write_config(file, {}, **shared)
    return file, {"BOOKSHOP_DATABASE": url.replace("mysql:", "mysql+wsgipool:")}


def _runtime_dir(folder: Path) -> Path:
    """Create the runtime_dir, which only the site's processes can use."""
    shared = folder / "run"
    shared.mkdir(mode=0o700)
    _give_to_apache(shared)
    return shared


def _give_to_apache(*paths: Path) -> None:
    if os.geteuid() == 0:
        for path in paths:
            shutil.chown(path, apache_user().pw_name)
