"""The settings of an entry of `DATABASES`, as those of a pool.

`OPTIONS["pool"]` has the settings of the pool, or names a database of wsgipool.toml, which then has them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import replace
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from wsgipool import drivers, hints, pools, showing
from wsgipool._values import Table, kinds_of
from wsgipool.config import DatabaseSettings, DatabaseURL, refuse_contradictions
from wsgipool.errors import ConfigError

_ADDRESS = {"user", "password", "passwd", "db", "database", "dbname", "host", "port", "unix_socket", "service"}
"""Options of the drivers that say where to connect."""

_OF_A_POOL = {
    name: kind
    for name, kind in kinds_of(DatabaseSettings).items()
    if name not in ("url", "password_file", "password_env", "close_returns")
}
"""The settings of a database in wsgipool.toml that an entry of `DATABASES` does not have elsewhere."""


def configure() -> None:
    """Use `settings.WSGIPOOL` in place of a wsgipool.toml, if there is one. Raise ImproperlyConfigured."""
    source = getattr(settings, "WSGIPOOL", None)
    if source is None:
        return
    try:
        pools.configure(source)
    except ConfigError as error:
        raise ImproperlyConfigured(f"WSGIPOOL: {error}") from error


@contextlib.contextmanager
def explained(alias: str) -> Iterator[None]:
    """Turn a ConfigError into an ImproperlyConfigured that names the entry of `DATABASES`."""
    try:
        yield
    except ConfigError as error:
        message = str(error)
        entry = f"DATABASES[{alias!r}]"
        raise ImproperlyConfigured(message if entry in message else f"{entry}: {message}") from error


def is_pooled(entry: Mapping[str, Any]) -> bool:
    """Return whether an entry of `DATABASES` asks for a pool: `OPTIONS["pool"]` is not `False`."""
    return entry.get("OPTIONS", {}).get("pool", True) is not False


def named_database(alias: str, entry: Mapping[str, Any]) -> DatabaseSettings | None:
    """Return the database of wsgipool.toml that `OPTIONS["pool"]` names, or None. Raise ConfigError."""
    pool = entry.get("OPTIONS", {}).get("pool")
    if not isinstance(pool, Mapping) or "name" not in pool:
        return None
    name = pool["name"]
    if not isinstance(name, str):
        raise ConfigError(f"{_where(alias)}['name'] must be a string, is {name!r}")
    if len(pool) > 1:
        raise ConfigError(f"{_where(alias)} has a name, so the other settings belong in [databases.{name}]")
    configure()
    return pools.database(name)


def read(alias: str, entry: Mapping[str, Any]) -> DatabaseSettings:
    """Return the settings of the pool for an entry of `DATABASES`; the URL is empty if no database is named.

    Raises:
        ConfigError: A setting is unknown or wrong.
    """
    database = named_database(alias, entry)
    if database is not None:
        return replace(database, check_after=0.0) if entry["CONN_HEALTH_CHECKS"] else database
    given = entry["OPTIONS"].get("pool", True)
    if given is not True and not isinstance(given, Mapping):
        # The message does not repeat the value: it may be a URL with a password.
        raise ConfigError(
            f"{_where(alias)} must be True, False or a dict of settings such as max_size, is {showing.kind(given)}"
        )
    table = Table({} if given is True else given, _where(alias))
    table.check_keys({**_OF_A_POOL, "name": None}, _hint)
    values = table.read(DatabaseSettings)
    if entry["CONN_HEALTH_CHECKS"]:
        values.setdefault("check_after", 0.0)
    read_settings = DatabaseSettings(name=alias, url=DatabaseURL(""), origin=_where(alias), **values)
    refuse_contradictions(read_settings, table, None)
    return read_settings


def check_family(alias: str, entry: Mapping[str, Any], database: DatabaseSettings, family: str) -> None:
    """Raise ConfigError if the named database is of another kind than the `ENGINE`."""
    if drivers.family(database.url) != family:
        raise ConfigError(
            f"DATABASES[{alias!r}] has the ENGINE {entry['ENGINE']}, and {database.origin}.url begins with "
            f"{database.url.scheme}://; name a database of {family}:// or choose another ENGINE"
        )


def complete(alias: str, entry: MutableMapping[str, Any], family: str) -> None:
    """Add the address of the named database to an entry of `DATABASES`, for Django's own tools.

    A `NAME` in the entry stays: that of a test database, for instance.

    Raises:
        ConfigError: The entry has another address, or the database is not of this family.
    """
    database = named_database(alias, entry)
    if database is None:
        return
    check_family(alias, entry, database, family)
    if beside := _ADDRESS & entry.get("OPTIONS", {}).keys():
        raise ConfigError(
            f"DATABASES[{alias!r}]['OPTIONS'][{min(beside)!r}]: the address is that of {database.origin}, which "
            "OPTIONS['pool'] names; leave it out"
        )
    endpoint, url = drivers.endpoint_of(database.url), database.url
    address: dict[str, Any] = {"USER": url.user, "PASSWORD": url.password}
    if endpoint is not None:
        address |= {"HOST": endpoint.socket or endpoint.host, "PORT": endpoint.port}
    for key, value in address.items():
        given = entry.get(key) or ""
        if str(given) not in ("", str(value)):
            raise ConfigError(
                f"DATABASES[{alias!r}][{key!r}] is not that of {database.origin}, which OPTIONS['pool'] names; leave "
                "it out"
            )
        entry[key] = "" if value is None else value
    if entry.get("NAME") == "":
        entry["NAME"] = url.database


def _where(alias: str) -> str:
    return f"DATABASES[{alias!r}]['OPTIONS']['pool']"


def _hint(key: str, _: object) -> str | None:
    hint = hints.hint(key)
    return "it does not belong in 'pool' but beside it, or into the entry itself" if hint and "url" in hint else hint
