"""The site that a command looks at: where its settings are, and what its databases allow."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from wsgipool.config import BudgetSettings, DatabaseSettings
from wsgipool.drivers import limits
from wsgipool.drivers.limits import ServerLimit
from wsgipool.errors import ConfigError
from wsgipool.host import budget as host_budget
from wsgipool.httpd.configuration import Configuration
from wsgipool.planning import Limit
from wsgipool.process import CONFIG_NAME, CONFIG_VARIABLE, SYSTEM_CONFIG


def settings_file(given: Path | None, server: Configuration | None, environment: Mapping[str, str]) -> Path:
    """Return the wsgipool.toml that the processes of a site read. Raises ConfigError where there is none.

    `environment` is that of httpd, where it runs.
    """
    named = (
        given
        or os.environ.get(CONFIG_VARIABLE)
        or environment.get(CONFIG_VARIABLE)
        or (server.defines.get(CONFIG_VARIABLE) if server else None)
    )
    if named:
        return Path(named).absolute()
    beside = [script.parent / CONFIG_NAME for script in server.scripts] if server else []
    places = list(dict.fromkeys([*beside, SYSTEM_CONFIG]))
    for place in places:
        if place.exists():
            return place
    raise ConfigError(
        f"no settings: name a file by --config, or write one at {' or '.join(map(str, places))} "
        f"(`wsgipool apache show {CONFIG_NAME}` prints one to start from)"
    )


def limits_of(
    databases: Sequence[DatabaseSettings],
    answers: Mapping[str, Sequence[ServerLimit]],
    reserve: int,
    budget: BudgetSettings | None,
    *,
    named: bool = True,
) -> list[Limit]:
    """Return the limits that the servers told for their databases, by name; databases of one server share its limit.

    Without `named` the server is not one that is there, so messages do not name it.
    """
    found: dict[tuple[str, str], tuple[ServerLimit, str, str, list[str]]] = {}
    for database in databases:
        place = limits.server(database.url)
        for answer in answers.get(database.name, ()):
            who = {"server": "", "user": database.url.user or "", "database": database.url.database}[answer.kind]
            name = f"{answer.setting} of {who + ' at ' if who else ''}{place if named else 'the database'}"
            refusal = limits.REFUSALS[limits.kind(database.url)][answer.kind]
            entry = found.setdefault((place, f"{answer.kind} {who}"), (answer, name, refusal, []))
            entry[3].append(database.name)
    # A database that gave no answer shares the limit that another one of its server told.
    for database in databases:
        shared = found.get((limits.server(database.url), "server "))
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
        )
        for (place, _), (answer, name, refusal, names) in found.items()
    ]


def _share(budget: BudgetSettings | None, allowed: Sequence[ServerLimit]) -> int | None:
    if budget is None:
        return None
    share = host_budget.Limit(budget.connections, budget.hosts, budget.reserve)
    return share.share(min(limit.connections for limit in allowed))
