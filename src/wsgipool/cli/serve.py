"""`wsgipool serve app.wsgi`: a real httpd, with one pool per process, for any WSGI script."""

from __future__ import annotations

import os
import pwd
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import tomlkit
from click.core import ParameterSource

from wsgipool import config, drivers, pools
from wsgipool.cli import serve_checks
from wsgipool.cli.running import Shape, Stop, run_until_stopped, shape, site_options, temporary_folder
from wsgipool.cli.site_settings import (
    ASK_TIMEOUT,
    HANGING,
    READ_TIMEOUT,
    plain_settings,
    preload_drivers,
    restored,
)
from wsgipool.cli.syntax import syntax_error
from wsgipool.config import Settings
from wsgipool.drivers.limits import Answer
from wsgipool.errors import ConfigError
from wsgipool.httpd.express import Site, apache_user, refuse_taken_port, refuse_unquotable, refuse_unreadable
from wsgipool.impersonation import NoAnswer, as_user
from wsgipool.pools import CONFIG_NAME, CONFIG_VARIABLE, SYSTEM_CONFIG
from wsgipool.wording import printable, shortened

DATABASE_VARIABLE = "WSGIPOOL_DATABASE"

_PASSWORD_IS_SHOWN = (
    "everyone on this host can see the password in --database while this runs (ps); give the URL in the variable "
    f"{DATABASE_VARIABLE}, or name a password_file in a {CONFIG_NAME} (--config)"
)


@click.command()
@click.argument("script", type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path))
@site_options
@click.option(
    "--database",
    "databases",
    metavar="[NAME=]URL",
    multiple=True,
    envvar=DATABASE_VARIABLE,
    help="A database, such as mysql://user:password@host/shop or sqlite:////path/shop.db. NAME is the name that the "
    "program uses; default: the database's name. May be given several times. Everyone on this host can see the "
    f"command line, so put a URL with a password into the variable {DATABASE_VARIABLE}; blanks separate several URLs.",
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, resolve_path=True, path_type=Path),
    help="A wsgipool.toml, instead of --database. Default: $WSGIPOOL_CONFIG, the one beside SCRIPT, or "
    "/etc/wsgipool.toml.",
)
@click.option(
    "--reload",
    "reloads",
    is_flag=True,
    help="Restart the processes when a module that they have loaded changes, the script or the settings. This is "
    "daemon mode: leave --mpm out, or choose daemon.",
)
@click.option("--access-log", "has_access_log", is_flag=True, help="Log each request on stderr.")
@click.option(
    "--force",
    is_flag=True,
    help="Serve in spite of what was found at the start: a syntax error, a database that refuses the connection, more "
    "processes or threads than the databases or this host allow.",
)
@click.argument("express_options", nargs=-1, metavar="[-- OPTION...]")
@click.pass_context
def serve(
    context: click.Context,
    script: Path,
    mode: str,
    processes: int | None,
    threads: int | None,
    host: str,
    port: int,
    databases: tuple[str, ...],
    config_path: Path | None,
    reloads: bool,
    has_access_log: bool,
    force: bool,
    express_options: tuple[str, ...],
) -> None:
    """Run the WSGI application in SCRIPT on a real httpd until Ctrl-C.

    First the script and the modules beside it are compiled, and each database is connected to once, as the user of
    httpd's processes. A problem is one line, and httpd does not start; --force turns it into a warning.

    A request that gets no connection is answered 503 (Service Unavailable), without a traceback in the log.

    Options after `--` are passed on to `mod_wsgi-express start-server`.

    Exit status: 0 after Ctrl-C or another signal; 1 if a problem was found, httpd did not start or ended, or a setting
    is wrong; 2 if the command line is wrong.
    """
    _refuse_odd_script(script)
    if reloads:
        if mode != "daemon" and context.get_parameter_source("mode") is not ParameterSource.DEFAULT:
            raise ConfigError("--reload needs daemon mode, whose processes can restart: leave --mpm out")
        mode = "daemon"
    chosen: Shape = shape(mode, processes, threads)
    refuse_taken_port(host, port)
    origin = "--database"
    if context.get_parameter_source("databases") is ParameterSource.ENVIRONMENT:
        origin = DATABASE_VARIABLE
        databases = () if config_path else databases
    if databases and config_path:
        raise ConfigError("--database and --config exclude each other; give one of them")
    settings_file = None if databases else config_path or _config_beside(script)
    refuse_unreadable(script)
    with Stop().on_signals() as stop, temporary_folder() as folder:
        passwords: dict[str, str] = {}
        if settings_file is None:
            urls = database_urls(databases, origin)
            _as_httpd(partial(_check_urls, urls, origin), passwords, origin)
            settings_file = folder / CONFIG_NAME
            passwords = write_config(settings_file, urls)
        settings = restored(Settings, _as_httpd(partial(_used_settings, settings_file), passwords, settings_file))
        is_python = not any(option.startswith("--application-type") for option in express_options)
        warnings = list(_problems(script if is_python else None, settings_file, settings, chosen, passwords))
        if warnings and not force:
            for problem in warnings:
                click.echo(f"wsgipool: {printable(shortened(problem))} --force serves nevertheless.", err=True)
            context.exit(1)
        files = _as_httpd(partial(serve_checks.budget_files, settings_file), passwords, settings_file)
        warnings += serve_checks.second_budgets(files)
        if passwords and origin == "--database":
            warnings.append(_PASSWORD_IS_SHOWN)
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
            answers_503=True,
            reloads=reloads,
            has_access_log=has_access_log,
            environment=passwords,
        )
        announcement = f"{script.name} on http://{host}:{port} ({chosen}); Ctrl-C stops it"
        run_until_stopped(site, stop, announcement, warnings)


def _refuse_odd_script(script: Path) -> None:
    if not script.is_file():
        raise ConfigError(f"{script} is not a regular file; name the WSGI script")
    refuse_unquotable(script.absolute())


def _problems(
    script: Path | None, settings_file: Path, settings: Settings, chosen: Shape, passwords: Mapping[str, str]
) -> Iterator[str]:
    """Yield what is wrong with the script, this host and the databases."""
    if script is not None:
        try:
            problem = _as_httpd(partial(syntax_error, script), passwords, script)
        except ConfigError as error:
            problem = f"the syntax of {script} was not checked: {error}."
        if problem is not None:
            yield problem
    yield from serve_checks.shortage(chosen)
    answers = {}
    for name in settings.databases:
        question = partial(serve_checks.answer_or_why, settings_file, name)
        try:
            answer = _as_httpd(question, passwords, name, READ_TIMEOUT + 2 * ASK_TIMEOUT)
        except ConfigError as error:
            answer = {"why": f"{error}."}
        if "why" in answer:
            yield answer["why"]
        else:
            answers[name] = restored(Answer, answer["answer"])
    yield from serve_checks.excess(chosen, settings, answers)


def _as_httpd(
    question: Callable[[], Any], passwords: Mapping[str, str], origin: object, timeout: float = READ_TIMEOUT
) -> Any:
    """Call a function as the user that the processes will run as; return its result. Raises ConfigError."""
    user = apache_user() if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    preload_drivers()

    def ask() -> Any:
        os.environ.update(passwords)
        return question()

    try:
        return as_user(user.pw_name, ask, environment=os.environ, timeout=timeout)
    except NoAnswer as error:
        raise ConfigError(f"{origin}: {error}; {HANGING}") from None


def _check_urls(urls: Mapping[str, str], origin: str) -> None:
    """Raise ConfigError if a URL cannot be used; the message names the option or variable."""
    known = config.load({"databases": {"database": {"url": "sqlite:////database"}}}).databases["database"].origin
    for name, url in urls.items():
        try:
            settings = config.load({"databases": {"database": {"url": url}}})
            drivers.for_database(settings.databases["database"])
        except ConfigError as error:
            # Replace the origin in the message: the user wrote an option, not a settings file.
            place = origin if len(urls) == 1 else f"{origin} {name}"
            raise ConfigError(str(error).replace(f"{known}.url", place).replace(known, place)) from None


def _used_settings(settings_file: Path) -> Any:
    """Load and check the settings, as the processes will do. Raises ConfigError."""
    settings = config.load(settings_file)
    for database in settings.databases.values():
        drivers.for_database(database)
    if settings.budget is not None:
        pools.configure(settings_file)
    return plain_settings(settings)


def database_urls(arguments: tuple[str, ...], origin: str = "--database") -> dict[str, str]:
    """Return the URLs by name from arguments of the form `URL` or `NAME=URL`. Raises ConfigError."""
    urls: dict[str, str] = {}
    for argument in arguments:
        name, separator, url = argument.partition("=")
        if not separator or ":" in name:
            url = argument
            name = Path(config.parse_url(url, origin).database).stem
        if not name:
            raise ConfigError(f"{origin}: the URL names no database; add its name, or write NAME=URL")
        if name in urls:
            raise ConfigError(f"{origin}: two databases have the name {name}; write NAME=URL")
        urls[name] = url
    return urls


def write_config(
    path: Path, urls: Mapping[str, str], pool_settings: Mapping[str, object] | None = None, **settings: object
) -> dict[str, str]:
    """Write a wsgipool.toml that the Apache user can read; return its passwords as environment variables.

    All databases have the `pool_settings`; `settings` are those above all tables.

    The file contains no password, since a killed process would leave it behind.
    """
    passwords: dict[str, str] = {}
    databases: dict[str, dict[str, object]] = {}
    for number, (name, url) in enumerate(urls.items(), 1):
        password = config.parse_url(url, "--database").password
        databases[name] = {"url": url, **(pool_settings or {})}
        if password:
            variable = f"WSGIPOOL_PASSWORD_{number}"
            passwords[variable] = _for_environment(password)
            databases[name] |= {"url": _without_password(url), "password_env": variable}
    path.touch(mode=0o600)
    path.write_text(tomlkit.dumps({**settings, "databases": databases}), encoding="utf-8")
    if os.geteuid() == 0:
        shutil.chown(path, group=apache_user().pw_gid)
        path.chmod(0o640)
    return passwords


def _for_environment(password: str) -> str:
    try:
        if b"\0" not in os.fsencode(password):
            return password
    except UnicodeEncodeError:
        pass
    raise ConfigError(
        "--database: the password has a character that no environment variable can contain; name a password_file in a "
        f"{CONFIG_NAME} (--config)"
    )


def _without_password(url: str) -> str:
    # Not by urlsplit, which refuses some characters of passwords, and shows them.
    scheme, _, rest = url.partition("://")
    end = re.search(r"[/?#]|$", rest)
    place = rest[: end.start()] if end else rest
    user, _, host = place.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}@{host}{rest[len(place) :]}"


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
