"""The site that `plan` and `doctor` look at: their common options, where its settings are, what its databases allow."""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from wsgipool import config, drivers, records
from wsgipool.config import BudgetSettings, DatabaseSettings, Settings
from wsgipool.drivers import limits
from wsgipool.drivers.limits import ServerLimit
from wsgipool.errors import ConfigError
from wsgipool.host import budget as host_budget
from wsgipool.httpd.configuration import Configuration
from wsgipool.httpd.users import is_root
from wsgipool.impersonation import NoAnswer, as_user
from wsgipool.planning import Limit
from wsgipool.privileged import owner_of
from wsgipool.process import CONFIG_NAME, CONFIG_VARIABLE, SYSTEM_CONFIG
from wsgipool.sizing import DEFAULT_RESERVE

ASK_TIMEOUT = 5.0
"""Seconds that a database has to answer."""
READ_TIMEOUT = 10.0
"""Seconds to read settings and what they name; a FIFO, say, would take for ever."""

HANGING = "see whether it, or a file that it names, is a pipe or on a share that hangs"

MOST = 100_000
"""Hosts, or connections: more than any site has."""

HIDDEN = "hidden"
"""In place of a password, which stays with the process that may read it."""

T = TypeVar("T")


def site_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which site it is, and how many connections are its own."""
    for option in reversed(
        [
            click.option(
                "--config",
                "config_path",
                type=click.Path(dir_okay=False, path_type=Path),
                help=f"The {CONFIG_NAME}. Default: ${CONFIG_VARIABLE}, httpd's `Define {CONFIG_VARIABLE}`, the one "
                f"beside the WSGI script, or {SYSTEM_CONFIG}.",
            ),
            click.option("--httpd", "program", help="httpd or its apachectl. Default: Debian's apache2ctl, or httpd."),
            click.option(
                "--hosts",
                type=click.IntRange(1, MOST),
                default=1,
                show_default=True,
                help="Hosts that run the same site.",
            ),
            click.option(
                "--reserve",
                type=click.IntRange(0, MOST),
                default=DEFAULT_RESERVE,
                show_default=True,
                help="Connections left to others: a backup, a monitor, a cron job, a migration, a person.",
            ),
        ]
    ):
        command = option(command)
    return command


@dataclass(frozen=True)
class SettingsFile:
    """A wsgipool.toml, and the users whose processes read it.

    Where this process is root, what the file says may be another user's: it is read, and its databases are asked, by a
    process of the user whose processes do so, with their environment. So root's doctor sends no file to a server that
    the site could not have sent itself.
    """

    path: Path
    server: Configuration | None
    readers: Sequence[str]

    def ask(self, reader: str, question: Callable[[Callable[[], Settings]], T], timeout: float = READ_TIMEOUT) -> T:
        """Return the answer to a question, in plain values, by a process of a reader: it is called with what loads the
        settings.
        """
        live = self.server.live.environment if self.server and self.server.live else {}

        def load() -> Settings:
            # A password may stand in the environment of the running httpd alone.
            return config.load(self.path, {**live, **os.environ})

        preload_drivers()
        group = self.server.unix_groups.get(reader) if self.server else None
        try:
            return as_user(reader, partial(question, load), group=group, environment=live, timeout=timeout)
        except NoAnswer as error:
            raise ConfigError(f"{self.path}: {error}; {HANGING}") from None

    def load(self) -> Settings:
        """Return the settings without their passwords. Raises ConfigError where one of the readers cannot use them."""
        answers = [self.ask(reader, _usable) for reader in self.readers]
        return restored(Settings, answers[0])


def load_settings(given: Path | None, server: Configuration | None) -> Settings:
    """Return the settings that the processes of a site read, without their passwords. Raises ConfigError."""
    return settings_file(given, server).load()


def _usable(load: Callable[[], Settings]) -> Any:
    settings = load()
    # What no process can use needs no connections.
    for database in settings.databases.values():
        drivers.for_database(database)
    return plain_settings(settings)


def plain_settings(settings: Settings) -> Any:
    """Return settings as plain values, without their passwords."""
    without = {
        name: replace(database, url=replace(database.url, password=database.url.password and HIDDEN))
        for name, database in settings.databases.items()
    }
    return records.plain(replace(settings, databases=without))


def restored(kind: type[T], answer: Any) -> T:
    """Return a record that another user's process has sent. Raises ConfigError."""
    try:
        record: T = records.restored(kind, answer)
    except TypeError as error:
        raise ConfigError(f"the process that reads the settings answered with {error}") from None
    return record


def settings_file(given: Path | None, server: Configuration | None) -> SettingsFile:
    """Return the settings that the processes of a site read, and as whom. Raises ConfigError."""
    live = server.live.environment if server and server.live else {}
    path = _settings_path(given, server, {**live, **os.environ})
    return SettingsFile(path, server, _readers(path, server))


def preload_drivers() -> None:
    """Import what the drivers need, as long as this process may read it: another user may not, below /root, say."""
    importlib.import_module("encodings.idna")
    # mysqlclient imports a part of itself when it connects first, psycopg when it fails.
    for package in (drivers.__name__, "MySQLdb", "psycopg"):
        with contextlib.suppress(ImportError):
            for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
                _import_if_there(module.name)


def _import_if_there(module: str) -> None:
    with contextlib.suppress(ImportError):
        importlib.import_module(module)


def _readers(path: Path, server: Configuration | None) -> list[str]:
    if os.geteuid() != 0:
        return [f"#{os.geteuid()}"]
    if server is None:
        return [owner_of(path)]
    # Those beside a script are its processes', others may be anybody's.
    found = server.readers.get(path.parent) or {group.user for group in server.groups}
    readers = {owner_of(path) if is_root(user) else user for user in found}
    return sorted(readers)


def limits_of(
    databases: Sequence[DatabaseSettings],
    answers: Mapping[str, Sequence[ServerLimit]],
    reserve: int,
    settings: Settings | None,
) -> list[Limit]:
    """Return the limits that the servers told for their databases, by name; databases of one server share its limit.

    Without `settings` the server is not one that is there, so messages do not name it.
    """
    budget = settings.budget if settings else None
    found: dict[tuple[str | None, str], tuple[ServerLimit, str, str, list[str]]] = {}
    for database in databases:
        place = drivers.server_of(database.url)
        for answer in answers.get(database.name, ()):
            who = {"server": "", "user": database.url.user or "", "database": database.url.database}[answer.kind]
            name = f"{answer.setting} of {who + ' at ' if who else ''}{place if settings else 'the database'}"
            refusal = limits.REFUSALS[limits.kind(database.url)][answer.kind]
            entry = found.setdefault((place, f"{answer.kind} {who}"), (answer, name, refusal, []))
            entry[3].append(database.name)
    # A database that gave no answer shares the limit that another one of its server told.
    for database in databases:
        shared = found.get((drivers.server_of(database.url), "server "))
        if shared and database.name not in shared[3]:
            shared[3].append(database.name)
    return [
        Limit(
            name=name,
            connections=answer.connections,
            # The reserve is for others, and others have accounts of their own.
            reserve=reserve if answer.kind == "server" else 0,
            databases=tuple(names),
            refusal=refusal,
            budget=_share(budget, [entry[0] for (at, _), entry in found.items() if at == place]),
            # Where no folder is named it is one for each user.
            each_user=settings is not None and settings.runtime_dir is None,
        )
        for (place, _), (answer, name, refusal, names) in found.items()
    ]


def _share(budget: BudgetSettings | None, allowed: Sequence[ServerLimit]) -> int | None:
    if budget is None:
        return None
    share = host_budget.Limit(budget.connections, budget.hosts, budget.reserve)
    return share.share(min(limit.connections for limit in allowed))


def _settings_path(given: Path | None, server: Configuration | None, environment: Mapping[str, str]) -> Path:
    named = given or environment.get(CONFIG_VARIABLE) or (server.defines.get(CONFIG_VARIABLE) if server else None)
    if named:
        return Path(named).absolute()
    beside = [script.parent / CONFIG_NAME for script in server.scripts] if server else []
    places = list(dict.fromkeys([*beside, SYSTEM_CONFIG]))
    for place in places:
        if _may_be_there(place):
            return place
    raise ConfigError(
        f"no settings: name a file by --config, or write one at {' or '.join(map(str, places))} "
        f"(`wsgipool apache show {CONFIG_NAME}` prints one to start from)"
    )


def _may_be_there(place: Path) -> bool:
    try:
        place.stat()
    except PermissionError:
        # The processes may see more; whoever reads it says who may not.
        return True
    except OSError:
        return False
    return True
