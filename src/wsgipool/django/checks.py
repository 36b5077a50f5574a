"""System checks of `DATABASES`, run by `manage.py check` if `"wsgipool.django"` is in `INSTALLED_APPS`.

Wrong settings also raise ImproperlyConfigured at the first use of a database, with the same message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from wsgipool import pools
from wsgipool.django import _settings
from wsgipool.errors import ConfigError

ENGINES = "wsgipool.django."


@register("wsgipool")
def check_databases(**_: Any) -> list[CheckMessage]:
    """Return what is wrong or needless in `DATABASES`."""
    found: list[CheckMessage] = []
    entries = {alias: entry for alias, entry in connections.settings.items() if _is_ours(alias)}
    if entries:
        try:
            _settings.configure()
        except ImproperlyConfigured as error:
            found.append(Error(str(error), id="wsgipool.E001"))
    for alias, entry in entries.items():
        try:
            _check_entry(alias, entry)
        except (ImproperlyConfigured, ConfigError) as error:
            found.append(Error(str(error), id="wsgipool.E001"))
        if entry["CONN_HEALTH_CHECKS"] and _settings.is_pooled(entry):
            found.append(
                Warning(
                    f"DATABASES[{alias!r}]['CONN_HEALTH_CHECKS'] = True pings the server in each request",
                    hint="Leave it out: the pool checks the socket at each checkout, and pings after 30 idle seconds.",
                    id="wsgipool.W001",
                )
            )
    places = {_place(entry) for entry in entries.values()}
    found += [
        Warning(
            f"DATABASES[{alias!r}] is on the server of a pool, but its connections are in no pool and no budget",
            hint=f"Write 'ENGINE': '{ENGINES}{_family(entry)}'.",
            id="wsgipool.W002",
        )
        for alias, entry in connections.settings.items()
        if not _is_ours(alias) and _place(entry) in places
    ]
    return found


@register("wsgipool", deploy=True)
def check_budget(**_: Any) -> list[CheckMessage]:
    """Return a warning if nothing limits the connections of all processes together."""
    if not any(_opens_sessions(alias) for alias in connections):
        return []
    try:
        _settings.configure()
        settings = pools.settings()
    except (ImproperlyConfigured, ConfigError) as error:
        return [Error(str(error), id="wsgipool.E001")]
    if settings is not None and settings.budget is not None:
        return []
    return [
        Warning(
            "there is no budget: each process may open a connection for each of its threads",
            hint="Write WSGIPOOL = {'budget': {'connections': 'auto'}}, or [budget] into wsgipool.toml.",
            id="wsgipool.W003",
        )
    ]


def _check_entry(alias: str, entry: Mapping[str, Any]) -> None:
    """Do all of a first connect that needs no server. Raise ImproperlyConfigured or ConfigError."""
    wrapper = connections[alias]
    wrapper.check_settings()
    arguments = wrapper.get_connection_params()
    if wrapper.is_pooled:
        _settings.read(alias, entry)
        wrapper.session_setup()
        with _settings.explained(alias):
            wrapper.new_driver(arguments)


def _opens_sessions(alias: str) -> bool:
    """Return whether an entry has a pool of sessions at a server."""
    entry = connections.settings[alias]
    return _is_ours(alias) and _settings.is_pooled(entry) and _family(entry) != "sqlite3"


def _is_ours(alias: str) -> bool:
    return str(connections.settings[alias]["ENGINE"]).startswith(ENGINES)


def _family(entry: Mapping[str, Any]) -> str:
    return str(entry["ENGINE"]).rpartition(".")[2]


def _place(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the kind and the address of an entry's server; a file is one of its own."""
    family = _family(entry)
    return family, str(entry["HOST"]), str(entry["PORT"]), str(entry["NAME"]) if family == "sqlite3" else ""
