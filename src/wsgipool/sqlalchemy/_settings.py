"""The arguments of `create_engine` about the pool, as settings of a pool of wsgipool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.exc import ArgumentError

from wsgipool import _sources, hints, showing
from wsgipool._values import Table, kinds_of
from wsgipool.config import DatabaseSettings, DatabaseURL
from wsgipool.errors import ConfigError

DEFAULT_POOL_SIZE, DEFAULT_MAX_OVERFLOW = 5, 10
"""Those of SQLAlchemy, if only the other one is given."""

_NOT_HERE = {
    **dict.fromkeys(("url", "password_file", "password_env"), "it is a part of the engine's URL or connect_args"),
    "close_returns": "close() of an engine's connection always returns it",
    "close_on_errors": "register a handle_error listener that sets is_disconnect",
    "reset": "write pool_reset_on_return",
    "timeout": "write pool_timeout",
    "max_lifetime": "write pool_recycle",
}
"""Settings of a database that are none of `pool_settings`, each with the advice."""


@dataclass(frozen=True)
class PoolSettings:
    """The settings of an engine's pool, which are complete once the settings file is read."""

    table: Mapping[str, Any]
    """Those with the names of a table `[databases.NAME]`."""
    arguments: Mapping[str, Any]
    """Arguments of `wsgipool.Pool`, in place of those of the table."""

    def of_pool(self, database: DatabaseSettings | None) -> dict[str, Any]:
        """Return the arguments of `wsgipool.Pool` for this process; `database` is the named table.

        Raises:
            ConfigError: The table has a setting that an engine cannot have.
        """
        if database is None:
            database = DatabaseSettings(name="", url=DatabaseURL(""), origin="create_engine: pool_settings")
        if database.reset == "session":
            raise ConfigError(
                f"{database.origin}.reset: an engine prepares each session once, which a reset of the session would "
                'undo; write reset = "rollback", or name another database'
            )
        return {**_sources.pool_settings(replace(database, **self.table)), "reset": "rollback", **self.arguments}


def of_engine(
    *,
    pool_size: int | None,
    max_overflow: int | None,
    timeout: float | None,
    use_lifo: bool | None,
    recycle: float | None,
    pre_ping: bool,
    pool_settings: Mapping[str, Any] | None,
) -> PoolSettings:
    """Return the settings of an engine's pool. Raise ArgumentError."""
    if use_lifo is False:
        raise ArgumentError(
            "pool_use_lifo=False: the connection that was returned last is always used first; leave it out"
        )
    _check("pool_size", pool_size, int, "a whole number")
    _check("max_overflow", max_overflow, int, "a whole number")
    _check("pool_recycle", recycle, int | float, "a number of seconds")
    _check("pool_timeout", timeout, int | float, "a number of seconds")
    _check("pool_settings", pool_settings, Mapping, "a dictionary, such as {'max_waiting': 20}")
    if timeout is not None and timeout < 0:
        raise ArgumentError(f"pool_timeout must be at least 0 seconds, is {timeout}")
    table = _read(pool_settings or {})
    arguments: dict[str, Any] = {"close_returns": False}
    max_size = _max_size(pool_size, max_overflow)
    if max_size is not None:
        if "max_size" in table:
            raise ArgumentError("pool_settings: give max_size, or pool_size and max_overflow")
        arguments["max_size"] = max_size
    if timeout is not None:
        arguments["timeout"] = timeout
    if recycle is not None and recycle >= 0:
        arguments["max_lifetime"] = recycle
    if pre_ping:
        arguments["check_after"] = 0
    return PoolSettings(table, arguments)


def _check(name: str, value: object, kind: Any, description: str) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
        raise ArgumentError(f"{name}{showing.assigned(value)}: it must be {description}")


def _max_size(pool_size: int | None, max_overflow: int | None) -> int | None:
    if pool_size is None and max_overflow is None:
        return None
    size = DEFAULT_POOL_SIZE if pool_size is None else pool_size
    overflow = DEFAULT_MAX_OVERFLOW if max_overflow is None else max_overflow
    if size < 1 or overflow < 0:
        raise ArgumentError(
            f"pool_size={size}, max_overflow={overflow}: a pool without a limit could take all connections of the "
            "server; leave both out for one connection a thread, or write the numbers"
        )
    return size + overflow


def _read(pool_settings: Mapping[str, Any]) -> dict[str, Any]:
    table = Table(pool_settings, "create_engine", "pool_settings")
    known = {name: kind for name, kind in kinds_of(DatabaseSettings).items() if name not in _NOT_HERE}
    try:
        table.check_keys(known, lambda key, _: _NOT_HERE.get(key) or hints.hint(key))
        return table.read(DatabaseSettings)
    except ConfigError as error:
        raise ArgumentError(str(error)) from None
