"""The pools of this process: one per database, made at first use, emptied in a fork's child, closed at the end.

Where the settings come from, the first that is there: `configure()`, the file named by the environment's
WSGIPOOL_CONFIG, the one named by a `Define WSGIPOOL_CONFIG` of httpd's configuration, wsgipool.toml beside the WSGI
script, /etc/wsgipool.toml.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

from wsgipool import config, drivers, showing, sizing
from wsgipool.block import Block
from wsgipool.drivers import limits
from wsgipool.errors import ConfigError
from wsgipool.host.budget import Budget, Limit
from wsgipool.host.folder import default_folder, name_origin
from wsgipool.housekeeping import housekeeping
from wsgipool.httpd import errorlog
from wsgipool.httpd import process as httpd
from wsgipool.pool import Pool
from wsgipool.stats import Stats
from wsgipool.wording import counted

logger = logging.getLogger("wsgipool")

T = TypeVar("T")

watch: Callable[[], object] | None = None
"""`Pool.watch` of the pools that are made from now on; `wsgipool.request` learns so what a request borrows."""

CONFIG_VARIABLE = "WSGIPOOL_CONFIG"
CONFIG_NAME = "wsgipool.toml"
SYSTEM_CONFIG = Path("/etc") / CONFIG_NAME

_LOOK = 0.25
"""Seconds between two looks whether httpd lets the process end, which is a look at one of its variables."""


class _Pools:
    """The pools of one configuration."""

    def __init__(self, settings: config.Settings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self.by_name: dict[str, Pool[Any]] = {}
        # Every URL is checked now, not at the first request that needs it.
        self._drivers = {name: drivers.for_database(database) for name, database in settings.databases.items()}
        self._budgets: dict[str, Budget | None] = {}

    def open_budgets(self) -> None:
        """Open now what the processes of the host share. Raises ConfigError where that cannot be."""
        for name in self.settings.databases:
            self._budget(name)

    def get(self, name: str) -> Pool[Any]:
        pool = self.by_name.get(name)
        if pool is not None:
            return pool
        with self._lock:
            if name not in self.by_name:
                self.by_name[name] = self._make(name)
            return self.by_name[name]

    def announce(self) -> None:
        """Say in the log what was found and chosen: once, when the settings are taken."""
        server = httpd.this_process()
        if server is not None:
            errorlog.show_lines()
        logger.info("%s; settings from %s", server or "not in httpd", self.settings.origin)
        for name, database in self.settings.databases.items():
            size = sizing.pool_size(database.max_size, _threads())
            logger.info("pool %r: up to %s a process to %s", name, counted(size, "connection"), database.url)
            if (budget := self._budget(name)) is not None:
                logger.info("pool %r: within a budget of %s", name, budget)

    def made(self) -> list[Pool[Any]]:
        # A copy made by list() alone, without the lock: wind_down() may have interrupted whoever holds it.
        return list(self.by_name.values())

    def _make(self, name: str) -> Pool[Any]:
        database = self.settings.databases.get(name)
        if database is None:
            hint = config.unknown_key(name, self.settings.databases)
            raise ConfigError(f"{self.settings.origin} has no database {showing.shown(name)}; {hint}")
        threads = _threads()
        max_size = sizing.pool_size(database.max_size, threads)
        if isinstance(database.max_size, int) and max_size < database.max_size:
            logger.warning(
                "%s.max_size = %d is more than the %d threads of this process can use; it gets %d. Leave max_size out "
                "to follow the server",
                database.origin,
                database.max_size,
                threads,
                max_size,
            )
        budget = self._budget(name)
        pool: Pool[Any] = Pool(
            self._drivers[name],
            name=name,
            max_size=max_size,
            min_size=min(database.min_size, max_size),
            timeout=database.timeout,
            max_waiting=database.max_waiting,
            max_connecting=database.max_connecting,
            check_after=database.check_after,
            configure=_asking(budget, database.url) if budget and budget.asks_server else None,
            max_idle=database.max_idle,
            max_lifetime=database.max_lifetime,
            reset=None if database.reset == "none" else database.reset,
            pipeline=database.pipeline,
            debug=database.debug,
            permits=budget,
        )
        pool.watch = watch
        return pool

    def _budget(self, name: str) -> Budget | None:
        if name not in self._budgets:
            settings, server = self.settings.budget, drivers.server_of(self.settings.databases[name].url)
            if settings is None or server is None:
                self._budgets[name] = None
            else:
                limit = Limit(settings.connections, settings.hosts, settings.reserve)
                folder = _folder(self.settings)
                account = limits.account(self.settings.databases[name].url)
                self._budgets[name] = Budget(folder, server, limit, account)
        return self._budgets[name]


def _threads() -> int:
    server = httpd.this_process()
    return server.threads if server else sizing.THREADS_OUTSIDE_HTTPD


def _asking(budget: Budget, url: config.DatabaseURL) -> Callable[[Any], None]:
    """Return a pool's `configure` that asks the server how many sessions it allows, once a process."""

    def ask(connection: Any) -> None:
        if budget.asks_server:
            budget.learn(*limits.sessions_allowed(url, connection))

    return ask


_lock = threading.Lock()
_current: _Pools | None = None


def configure(source: str | os.PathLike[str] | Mapping[str, object]) -> None:
    """Take the settings from a wsgipool.toml, or from a mapping of the same shape.

    Called again with the same settings it changes nothing, so it may stand in a WSGI script that mod_wsgi reloads.
    With other settings the pools begin anew; connections lent by the old ones are closed as they come back.
    Raises ConfigError.
    """
    global _current
    settings = config.load(source)
    with _lock:
        if _current is not None and _current.settings == settings:
            return
        pools = _Pools(settings)
        pools.open_budgets()
        previous, _current = _current, pools
    pools.announce()
    for pool in previous.made() if previous else ():
        pool.wind_down()


def pool(name: str) -> Pool[Any]:
    """Return this process's pool for a database. Raises ConfigError for a name that the settings do not have."""
    return _configured().get(name)


def connection(
    name: str, timeout: float | None = None, readonly: bool = False, read_timeout: float | None = None
) -> AbstractContextManager[Any]:
    """Check a connection to the database `name` out for a `with` block: committed at its end, rolled back when it
    raises.

    Waits for one at most `timeout` seconds (default: the database's setting). With `readonly=True` the block always
    ends in a rollback. `read_timeout`: see `Pool.connection`. Raises ConfigError, or a PoolError: PoolTimeout,
    ConnectFailed, PoolDeadlock, PoolClosed.
    """
    pools = _current
    pool = None if pools is None else pools.by_name.get(name)
    block: Block[Any] = Block()
    block.pool = _configured().get(name) if pool is None else pool
    block.timeout = timeout
    block.readonly = readonly
    block.read_timeout = read_timeout
    return block


def transaction(
    name: str,
    function: Callable[[Any], T],
    *,
    retry: int = 0,
    timeout: float | None = None,
    read_timeout: float | None = None,
) -> T:
    """Call `function` with a connection, commit, and return what it returned; see `Pool.transaction`."""
    pool = _configured().get(name)
    return pool.transaction(function, retry=retry, timeout=timeout, read_timeout=read_timeout)


def stats() -> list[Stats]:
    """Return the numbers of the pools that this process has made."""
    pools = _current
    return [pool.stats() for pool in pools.made()] if pools else []


def close() -> None:
    """Close this process's pools. The next use begins anew, with the same settings."""
    global _current
    with _lock:
        previous = _current
        if previous is not None:
            _current = _Pools(previous.settings)
    for pool in previous.made() if previous else ():
        pool.close()


def preload() -> None:
    """Take the settings and make all pools now. Raises ConfigError.

    Before the WSGI script is loaded nobody knows what stands beside it, so where no file is named this is left to the
    first request.
    """
    if _current is None and not _named_config():
        logger.info("no Define %s: the settings are looked for at the first request", CONFIG_VARIABLE)
        return
    pools = _configured()
    for name in pools.settings.databases:
        pools.get(name)


def reclaim(thread_id: int) -> int:
    """Take back what a thread has borrowed and not returned, from all pools; see `Pool.reclaim`."""
    pools = _current
    return sum(pool.reclaim(thread_id) for pool in pools.made()) if pools else 0


def runtime_dir() -> Path:
    """Return the folder for what the processes of this host share, by the settings if there are any.

    Raises ConfigError where there are some and something is wrong with them.
    """
    pools = _current
    if pools is not None:
        settings: config.Settings | None = pools.settings
    else:
        file = _found_config()
        settings = None if file is None else config.load(file)
    return default_folder() if settings is None else _folder(settings)


def _folder(settings: config.Settings) -> Path:
    if settings.runtime_dir is None:
        return default_folder()
    name_origin(settings.runtime_dir, settings.origin)
    return settings.runtime_dir


def find_config() -> Path:
    """Return the settings file of this process. Raises ConfigError that names the places where none was found."""
    found = _found_config()
    if found is not None:
        return found
    raise ConfigError(
        f"no settings: name a file by the environment's {CONFIG_VARIABLE} or by `Define {CONFIG_VARIABLE}` in "
        f"httpd's configuration, put one at {' or '.join(map(str, _config_places()))}, or call wsgipool.configure()"
    )


def is_configured() -> bool:
    """Tell whether this process has settings, given or found."""
    return _current is not None


def _found_config() -> Path | None:
    named = _named_config()
    return Path(named) if named else next(filter(_may_be_there, _config_places()), None)


def _may_be_there(place: Path) -> bool:
    try:
        return place.exists()
    except OSError:
        return True  # this user may not look; reading it says so


def _config_places() -> list[Path]:
    return list(dict.fromkeys([*(script.parent / CONFIG_NAME for script in httpd.wsgi_scripts()), SYSTEM_CONFIG]))


def _named_config() -> str | None:
    return os.environ.get(CONFIG_VARIABLE) or httpd.define(CONFIG_VARIABLE)


def _configured() -> _Pools:
    global _current
    if _current is None:
        settings = config.load(find_config())
        with _lock:
            if _current is not None:
                return _current
            pools = _Pools(settings)
            pools.open_budgets()
            _current = pools
        pools.announce()
    return _current


def _wind_down() -> None:
    pools = _current
    for pool in pools.made() if pools else ():
        pool.wind_down()


class _Generation:
    """The children of httpd that were started together, of which this is one: the next restart makes them the old ones.

    An old child may be at a request for minutes, while the new ones want what it keeps idle.
    """

    def tend(self) -> float | None:
        pools = _current
        if not any(pool.size for pool in (pools.made() if pools else ())):
            return None
        if httpd.is_stopping():
            _wind_down()
            return None
        return _LOOK


_generation = _Generation()


def _end(*_: object, **__: object) -> None:
    _wind_down()
    housekeeping.stop()


def _after_fork_in_child() -> None:
    # The pools empty themselves; the locks may have been held by threads that the child does not have.
    global _lock
    _lock = threading.Lock()
    if _current is not None:
        _current._lock = threading.Lock()


def _watch_for_the_end() -> None:
    atexit.register(_wind_down)
    os.register_at_fork(after_in_child=_after_fork_in_child)
    # In daemon mode this comes before the requests in flight have ended: they still get connections. A mod_wsgi that
    # does not say when it ends ends its interpreters all the same, and atexit knows.
    httpd.at_shutdown(_end)
    server = httpd.this_process()
    if server is not None and server.lingers:
        housekeeping.accompany(_generation)


_watch_for_the_end()
