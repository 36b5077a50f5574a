"""The sources of the pools of this process: tables of the settings, and calls of `wsgipool.register`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from wsgipool import drivers
from wsgipool.budget.budget import Budget
from wsgipool.config import MAX_NAME, DatabaseSettings, DatabaseURL, parse_url
from wsgipool.drivers import limits
from wsgipool.errors import ConfigError
from wsgipool.httpd import process as httpd
from wsgipool.plan import sizing
from wsgipool.pool import Pool
from wsgipool.showing import kind, shown
from wsgipool.wording import counted

logger = logging.getLogger("wsgipool")

Connect = Callable[[], Any] | drivers.Driver[Any]


@dataclass(frozen=True)
class Source:
    """Everything that is needed to create and describe one pool."""

    name: str
    origin: str
    """The place of the table or the call, for messages."""
    connect: Connect
    address: str
    """The address of the database, without secrets."""
    settings: Mapping[str, Any]
    """The arguments of `Pool`, with the max_size for this process."""
    url: DatabaseURL | None
    """The URL of the database; None if there is no server that could have a budget."""
    server: str | None
    """The name of the server, which identifies its budget; None if it has none."""
    account: str
    """The database account, which may have a limit of its own."""
    arguments: tuple[object, Mapping[str, object]] | None = field(default=None, repr=False)
    """The arguments of `register`, to recognize an equal call; None for a table of the settings."""

    def describe(self) -> str:
        """Return the size and the address of the pool, for the log."""
        size = counted(self.settings["max_size"], "connection")
        return f"pool {self.name!r}: up to {size} a process to {self.address}"

    def create_pool(self, budget: Budget | None) -> Pool[Any]:
        """Return a new pool, with permits of the budget if there is one."""
        settings = dict(self.settings)
        if budget is not None and budget.asks_server and self.url is not None:
            settings["configure"] = _asking_limit(budget, self.url, settings.get("configure"))
        return Pool(self.connect, name=self.name, permits=budget, **settings)


def from_table(database: DatabaseSettings) -> Source:
    """Return the source for a table of the settings. Raises ConfigError if the driver does not support a setting."""
    return _of_database(database, pool_settings(database))


def pool_settings(database: DatabaseSettings) -> dict[str, Any]:
    """Return the arguments of `Pool` for a table of the settings, with the max_size for this process."""
    max_size = _max_size(database)
    return {
        "max_size": max_size,
        "min_size": min(database.min_size, max_size),
        "timeout": database.timeout,
        "max_waiting": database.max_waiting,
        "max_connecting": database.max_connecting,
        "check_after": database.check_after,
        "max_idle": database.max_idle,
        "max_lifetime": database.max_lifetime,
        "reset": None if database.reset == "none" else database.reset,
        "pipeline": database.pipeline,
        "close_returns": database.close_returns,
        "debug": database.debug,
        "log_slow": database.log_slow,
    }


def from_call(name: str, connect: Connect | str, settings: Mapping[str, Any]) -> Source:
    """Return the source for a call of `register`. Raises ConfigError for settings that the driver does not support."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable() or name != name.strip():
        raise ConfigError(f"register(): {shown(name)} cannot be the name of a pool: 1 to {MAX_NAME} visible characters")
    if not (isinstance(connect, str) or callable(connect) or hasattr(connect, "connect")):
        raise TypeError(f"register({name!r}): connect must be a callable, a driver or a URL, is {kind(connect)}")
    arguments = (getattr(connect, "made_from", connect), settings)
    if "max_size" not in settings:
        max_size = sizing.pool_size(sizing.THREADS, _threads())
        settings = {**settings, "max_size": max_size, "min_size": min(settings.get("min_size", 0), max_size)}
    origin = f"register({name!r})"
    if isinstance(connect, str):
        database = DatabaseSettings(name, parse_url(connect, f"{origin}: the URL"), origin)
        return replace(_of_database(database, settings), arguments=arguments)
    server: str | None = getattr(connect, "server", None)
    return Source(
        name=name,
        origin=origin,
        connect=connect,
        address=getattr(connect, "address", "a callable"),
        settings=settings,
        url=None if server is None else DatabaseURL(server.partition(":")[0]),
        server=server,
        account=getattr(connect, "account", ""),
        arguments=arguments,
    )


def _of_database(database: DatabaseSettings, settings: Mapping[str, Any]) -> Source:
    return Source(
        name=database.name,
        origin=database.origin,
        connect=drivers.for_database(database),
        address=str(database.url),
        settings=settings,
        url=database.url,
        server=drivers.server_of(database.url),
        account=drivers.account_of(database.url),
    )


def _max_size(database: DatabaseSettings) -> int:
    """Return the size for this process. Logs a warning if the setting is more than its threads can use."""
    setting, server = database.max_size, httpd.this_process()
    if isinstance(setting, int) and server is None:
        return setting  # the number of threads is not known
    threads = _threads()
    size = sizing.pool_size(setting, threads)
    if isinstance(setting, int) and size < setting:
        logger.warning(
            "%s.max_size = %d is more than the %d threads of this process can use; it gets %d. Leave max_size out to "
            "follow the server",
            database.origin,
            setting,
            threads,
            size,
        )
    return size


def _threads() -> int:
    server = httpd.this_process()
    return server.threads if server else sizing.THREADS_OUTSIDE_HTTPD


def _asking_limit(
    budget: Budget, url: DatabaseURL, configure: Callable[[Any], object] | None
) -> Callable[[Any], object]:
    """Return a `configure` function that first asks the server for its limit, once for each process."""

    def ask(connection: Any) -> None:
        if budget.asks_server:
            budget.learn(*limits.sessions_allowed(url, connection))
        if configure is not None:
            configure(connection)

    return ask
