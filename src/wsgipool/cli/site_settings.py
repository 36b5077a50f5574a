"""The site that `plan` and `doctor` examine: their common options, its settings, and its connection limits."""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from wsgipool import config, drivers, records
from wsgipool.budget import budget as host_budget
from wsgipool.config import BudgetSettings, DatabaseSettings, DatabaseURL, Settings
from wsgipool.drivers import limits, occupancy
from wsgipool.drivers.limits import Answer, ServerLimit
from wsgipool.drivers.occupancy import Occupancy, Occupants
from wsgipool.errors import ConfigError
from wsgipool.httpd.configuration import Configuration
from wsgipool.httpd.placement import Interpreter
from wsgipool.httpd.users import is_root
from wsgipool.impersonation import NoAnswer, as_user
from wsgipool.plan.planning import ConnectionLimit, Database
from wsgipool.plan.sizing import DEFAULT_RESERVE
from wsgipool.pools import CONFIG_NAME, CONFIG_VARIABLE, SYSTEM_CONFIG
from wsgipool.privileged import owner_of

ASK_TIMEOUT = 5.0
"""Seconds to wait for a database."""
READ_TIMEOUT = 10.0
"""Seconds to read the settings and the files that they name; reading a FIFO would never end."""

HANGING = "check whether it, or a file that it names, is a pipe or is on a network share that hangs"

MAX_NUMBER = 100_000
"""Maximum number of hosts or connections; no site has as many."""

HIDDEN = "hidden"
"""Replaces a password outside the process that may read it."""
_SECRET_OPTIONS = ("ssl_key_password", "sslpassword")
"""Options of a URL whose values are passwords."""

T = TypeVar("T")


class NoSettings(ConfigError):
    """No settings are named, and none are in the usual places."""


def site_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that select the site and its share of connections."""
    for option in reversed(
        [
            click.option(
                "--config",
                "config_path",
                type=click.Path(dir_okay=False, path_type=Path),
                help=f"The {CONFIG_NAME} of the site. Default: ${CONFIG_VARIABLE}, httpd's `Define {CONFIG_VARIABLE}`, "
                f"the one beside the WSGI script, or {SYSTEM_CONFIG}.",
            ),
            click.option(
                "--httpd", "program", help="httpd or its control script. Default: Debian's apache2ctl, or httpd."
            ),
            click.option(
                "--hosts",
                type=click.IntRange(1, MAX_NUMBER),
                default=1,
                show_default=True,
                help="Number of hosts that run the site.",
            ),
            click.option(
                "--reserve",
                type=click.IntRange(0, MAX_NUMBER),
                default=DEFAULT_RESERVE,
                show_default=True,
                help="Number of connections left to others: a backup, a monitor, a cron job, a migration, a person.",
            ),
        ]
    ):
        command = option(command)
    return command


@dataclass(frozen=True)
class SettingsFile:
    """A wsgipool.toml and the users whose processes read it.

    Root must not trust a file that another user may write. So a child process, with the user and environment of the
    site's processes, reads the file and connects to its databases. It can send no file to a server that the site could
    not send.
    """

    path: Path
    server: Configuration | None
    readers: Sequence[str]
    interpreters: Mapping[str, int] | None = None
    """The number of interpreters in a process that read it, by process group; None for all of all groups."""

    def ask(self, reader: str, question: Callable[[Callable[[], Settings]], T], timeout: float = READ_TIMEOUT) -> T:
        """Return the result of `question(load)`, called as a reader; `load()` returns the settings."""
        live = self.server.live.environment if self.server and self.server.live else {}

        def load() -> Settings:
            # A password may exist in the environment of the running httpd only.
            return config.load(self.path, {**live, **os.environ})

        preload_drivers()
        group = self.server.unix_groups.get(reader) if self.server else None
        try:
            return as_user(reader, partial(question, load), group=group, environment=live, timeout=timeout)
        except NoAnswer as error:
            raise ConfigError(f"{self.path}: {error}; {HANGING}") from None

    def load(self) -> Settings:
        """Return the settings without their passwords. Raises ConfigError if one of the readers cannot use them."""
        answers = [self.ask(reader, _usable) for reader in self.readers]
        return restored(Settings, answers[0])


def _usable(load: Callable[[], Settings]) -> Any:
    settings = load()
    # Unusable URLs are errors here, since their databases need no connections.
    for database in settings.databases.values():
        drivers.for_database(database)
    return plain_settings(settings)


def plain_settings(settings: Settings) -> Any:
    """Return settings as plain values, without their passwords."""
    without = {
        name: replace(database, url=_without_secrets(database.url)) for name, database in settings.databases.items()
    }
    return records.plain(replace(settings, databases=without))


def _without_secrets(url: DatabaseURL) -> DatabaseURL:
    options = {name: HIDDEN if name in _SECRET_OPTIONS else value for name, value in url.options.items()}
    return replace(url, password=url.password and HIDDEN, options=options)


def restored(kind: type[T], answer: Any) -> T:
    """Return a record from the answer of another user's process. Raises ConfigError."""
    try:
        record: T = records.restored(kind, answer)
    except TypeError as error:
        raise ConfigError(f"the process that reads the settings answered with {error}") from None
    return record


def settings_files(given: Path | None, server: Configuration | None) -> list[SettingsFile]:
    """Return the settings files of a server's sites, each with its readers. Raises NoSettings if there is none."""
    live = server.live.environment if server and server.live else {}
    named = _named_path(given, server, {**live, **os.environ})
    if named is not None or server is None:
        path = named or _first_of([SYSTEM_CONFIG])
        beside = [site for site in server.sites if site.script.parent == path.parent] if server else []
        # A file beside a script is read by the processes of that script; others may be read by all.
        interpreters = {interpreter for site in beside for interpreter in site.interpreters}
        return [SettingsFile(path, server, _readers(path, server, interpreters))]
    found: dict[Path, set[Interpreter]] = {}
    places = [SYSTEM_CONFIG]
    for site in server.sites:
        beside_script = site.script.parent / CONFIG_NAME
        places.append(beside_script)
        own = next(filter(_may_be_there, (beside_script, SYSTEM_CONFIG)), None)
        if own is not None:
            found.setdefault(own, set()).update(site.interpreters)
    if not found:
        path = _first_of(places)
        return [SettingsFile(path, server, _readers(path, server, None))]
    if len(found) == 1:
        # Other scripts, such as imported ones, have no place of their own.
        ((path, interpreters),) = found.items()
        return [SettingsFile(path, server, _readers(path, server, interpreters))]
    return [
        SettingsFile(path, server, _readers(path, server, interpreters), Counter(each.group for each in interpreters))
        for path, interpreters in found.items()
    ]


def preload_drivers() -> None:
    """Import the drivers' modules before a change of user: another user may not be able to read them."""
    importlib.import_module("encodings.idna")
    # mysqlclient imports some of its modules at the first connect, psycopg at the first error.
    for package in (drivers.__name__, "MySQLdb", "psycopg"):
        with contextlib.suppress(ImportError):
            for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
                _import_if_there(module.name)


def _import_if_there(module: str) -> None:
    with contextlib.suppress(ImportError):
        importlib.import_module(module)


def _readers(path: Path, server: Configuration | None, interpreters: Collection[Interpreter] | None) -> list[str]:
    """Return the users whose processes read a file: those of some interpreters, or of all groups."""
    if os.geteuid() != 0:
        return [f"#{os.geteuid()}"]
    if server is None:
        return [owner_of(path)]
    names = {each.group for each in interpreters or ()}
    found = {group.user for group in server.groups if group.name in names} or {group.user for group in server.groups}
    return sorted({owner_of(path) if is_root(user) else user for user in found})


@dataclass(frozen=True)
class SiteDatabase:
    """A database of one of the sites."""

    name: str
    """Its name; with the settings file if databases of several files have it."""
    settings: DatabaseSettings
    of: Settings | None = None
    """The settings that it belongs to; None for an imagined database."""
    interpreters: Mapping[str, int] | None = None
    """Those of its settings file."""


def site_databases(loaded: Sequence[tuple[Settings, Mapping[str, int] | None]]) -> list[SiteDatabase]:
    """Return the databases of settings; each is given with the interpreters that read it."""
    names = Counter(name for settings, _ in loaded for name in settings.databases)
    return [
        SiteDatabase(name if names[name] == 1 else f"{name} ({settings.origin})", database, settings, interpreters)
        for settings, interpreters in loaded
        for name, database in settings.databases.items()
    ]


def planned(databases: Sequence[SiteDatabase], answers: Mapping[str, Answer]) -> list[Database]:
    """Return the databases as a plan takes them; `answers` are those of their servers, by name."""
    allowed: dict[str | None, list[int]] = {}
    for each in databases:
        limits_here = answers[each.name].limits if each.name in answers else ()
        allowed.setdefault(drivers.server_of(each.settings.url), []).extend(limit.connections for limit in limits_here)
    return [
        Database(
            each.name,
            each.settings.max_size,
            each.interpreters,
            budget=_share(each.of.budget if each.of else None, allowed[drivers.server_of(each.settings.url)]),
            # Without a runtime_dir, each user has a folder and so a budget.
            folder=str(each.of.runtime_dir or "") if each.of else "",
        )
        for each in databases
    ]


def occupants_of(databases: Sequence[SiteDatabase], answers: Mapping[str, Answer]) -> dict[str, Occupants]:
    """Return the sessions of each server that was asked, by the server's name, from the answers to its databases."""
    found: dict[str, list[Occupancy]] = {}
    for database in databases:
        place = drivers.server_of(database.settings.url)
        answer = answers.get(database.name)
        if place is not None and answer is not None and answer.occupancy is not None:
            found.setdefault(place, []).append(answer.occupancy)
    return {place: occupancy.of_site(of_server) for place, of_server in found.items()}


def limits_of(databases: Sequence[SiteDatabase], answers: Mapping[str, Answer], reserve: int) -> list[ConnectionLimit]:
    """Return the limits from the servers' answers; databases of one server share its limit.

    The server of an imagined database is not named.
    """
    occupants = occupants_of(databases, answers)
    found: dict[tuple[str | None, str], tuple[ServerLimit, str, str, list[str]]] = {}
    for database in databases:
        url = database.settings.url
        place = drivers.server_of(url)
        for answer in answers[database.name].limits if database.name in answers else ():
            limited = {"server": "", "user": url.user or "", "database": url.database}[answer.kind]
            name = (
                f"{answer.setting} of {limited + ' at ' if limited else ''}{place if database.of else 'the database'}"
            )
            refusal = limits.REFUSALS[drivers.family(url)][answer.kind]
            entry = found.setdefault((place, f"{answer.kind} {limited}"), (answer, name, refusal, []))
            entry[3].append(database.name)
    # A database without an answer shares the limit of another database of its server.
    for database in databases:
        shared = found.get((drivers.server_of(database.settings.url), "server "))
        if shared and database.name not in shared[3]:
            shared[3].append(database.name)
    return [
        ConnectionLimit(
            name=name,
            connections=answer.connections,
            # The reserve is for other accounts, so limits of this account have none.
            reserve=reserve if answer.kind == "server" else 0,
            databases=tuple(names),
            refusal=refusal,
            others=occupants[place].count_of_others if place in occupants and answer.kind == "server" else 0,
        )
        for (place, _), (answer, name, refusal, names) in found.items()
    ]


def _share(budget: BudgetSettings | None, allowed: Sequence[int]) -> int | None:
    if budget is None or not allowed:
        return None
    return host_budget.BudgetLimit(budget.connections, budget.hosts, budget.reserve).share(min(allowed))


def _named_path(given: Path | None, server: Configuration | None, environment: Mapping[str, str]) -> Path | None:
    named = given or environment.get(CONFIG_VARIABLE) or (server.defines.get(CONFIG_VARIABLE) if server else None)
    return Path(named).absolute() if named else None


def _first_of(places: Sequence[Path]) -> Path:
    for place in places:
        if _may_be_there(place):
            return place
    raise NoSettings(
        f"no settings: name a file with --config, or write one at {' or '.join(map(str, dict.fromkeys(places)))} "
        f"(`wsgipool apache show {CONFIG_NAME}` prints one to start from)"
    )


def _may_be_there(place: Path) -> bool:
    try:
        place.stat()
    except PermissionError:
        # The site's processes may see the file; reading it will report which user may not.
        return True
    except OSError:
        return False
    return True
