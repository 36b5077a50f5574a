"""The site that `plan` and `doctor` look at: their common options, where its settings are, what its databases allow."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from wsgipool import config, drivers
from wsgipool.config import BudgetSettings, DatabaseSettings, Settings
from wsgipool.drivers import limits
from wsgipool.drivers.limits import ServerLimit
from wsgipool.errors import ConfigError
from wsgipool.host import budget as host_budget
from wsgipool.httpd.configuration import Configuration
from wsgipool.planning import Limit
from wsgipool.process import CONFIG_NAME, CONFIG_VARIABLE, SYSTEM_CONFIG
from wsgipool.sizing import DEFAULT_RESERVE

ASK_TIMEOUT = 5.0
"""Seconds that a database has to answer."""


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
                type=click.IntRange(min=1),
                default=1,
                show_default=True,
                help="Hosts that run the same site.",
            ),
            click.option(
                "--reserve",
                type=click.IntRange(min=0),
                default=DEFAULT_RESERVE,
                show_default=True,
                help="Connections left to others: a backup, a monitor, a cron job, a migration, a person.",
            ),
        ]
    ):
        command = option(command)
    return command


def load_settings(given: Path | None, server: Configuration | None) -> Settings:
    """Return the settings that the processes of a site read. Raises ConfigError."""
    # A file's name or a password may stand in the environment of the running httpd alone.
    environment = {**(server.live.environment if server and server.live else {}), **os.environ}
    return config.load(_settings_file(given, server, environment), environment)


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


def _settings_file(given: Path | None, server: Configuration | None, environment: Mapping[str, str]) -> Path:
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
