"""The databases of Django's settings, as `wsgipool plan` takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from django.db import connections

from wsgipool import pools
from wsgipool.cli.site_settings import plain_settings, restored
from wsgipool.config import DatabaseSettings, DatabaseURL, Settings
from wsgipool.django import _settings
from wsgipool.django.checks import ENGINES

T = TypeVar("T")

_SCHEMES = {"mysql": "mysql", "postgresql": "postgresql", "sqlite3": "sqlite"}
_URL_OPTIONS = (
    *("connect_timeout", "read_timeout", "write_timeout", "read_default_file", "charset", "service"),
    *("ssl_ca", "ssl_capath", "ssl_cert", "ssl_key", "ssl_key_password", "ssl_mode", "ssl_disabled"),
    *("ssl_verify_cert", "ssl_verify_identity", "sslmode", "sslrootcert", "sslcert", "sslkey"),
)
"""Keys of `OPTIONS` that a database URL has by the same name."""


class DjangoSettings:
    """Takes the place of a settings file: its methods are those of `wsgipool.cli.site_settings.SettingsFile`."""

    path = "DATABASES in Django's settings"
    readers = ("the user of manage.py",)
    interpreters = None

    def __init__(self) -> None:
        _settings.configure()
        settings = pools.settings() or Settings({}, self.path)
        ours = {alias: connections[alias].settings_dict for alias in connections if _is_pooled(alias)}
        named = {entry["OPTIONS"]["pool"]["name"] for entry in ours.values() if _has_name(entry)}
        databases = {name: database for name, database in settings.databases.items() if name not in named}
        databases |= {alias: _database(alias, entry) for alias, entry in ours.items()}
        self._settings = replace(settings, databases=databases, origin=self.path)

    def ask(self, _: str, question: Callable[[Callable[[], Settings]], T], timeout: float) -> T:  # noqa: ARG002
        """Return the result of `question(load)`."""
        return question(lambda: self._settings)

    def load(self) -> Settings:
        """Return the settings without their passwords."""
        return restored(Settings, plain_settings(self._settings))


def _is_pooled(alias: str) -> bool:
    entry = connections.settings[alias]
    return str(entry["ENGINE"]).startswith(ENGINES) and _settings.is_pooled(entry)


def _has_name(entry: Mapping[str, Any]) -> bool:
    pool = entry["OPTIONS"].get("pool")
    return isinstance(pool, Mapping) and "name" in pool


def _database(alias: str, entry: Mapping[str, Any]) -> DatabaseSettings:
    """Return an entry of `DATABASES` as a database of wsgipool.toml."""
    database = _settings.read(alias, entry)
    if _has_name(entry):
        return replace(database, name=alias)
    options = {key: _text(entry["OPTIONS"][key]) for key in _URL_OPTIONS if key in entry["OPTIONS"]}
    tls = entry["OPTIONS"].get("ssl")
    if isinstance(tls, Mapping):
        options |= {f"ssl_{key}": str(tls[key]) for key in ("ca", "capath", "cert", "key") if tls.get(key)}
    elif tls:
        options["ssl_mode"] = "VERIFY_IDENTITY"  # a URL cannot have an SSLContext
    host = str(entry["HOST"] or "") or None
    scheme = _SCHEMES[entry["ENGINE"].removeprefix(ENGINES)]
    if scheme == "mysql" and host is not None and host.startswith("/"):
        options["unix_socket"], host = host, None
    url = DatabaseURL(
        scheme,
        user=entry["USER"] or None,
        password=entry["PASSWORD"] or None,
        host=host,
        port=int(entry["PORT"]) if entry["PORT"] else None,
        database=str(entry["NAME"] or ""),
        options=options,
    )
    return replace(database, url=url)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
