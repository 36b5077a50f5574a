"""The pools of this process: one per database, created at first use and closed at the end of the process.

A pool comes from the settings, or from a call of ``register``. The settings are the first of these that is found:

1. the argument of ``configure``
2. the file named by the environment variable ``WSGIPOOL_CONFIG``
3. the file named by ``Define WSGIPOOL_CONFIG`` in httpd's configuration
4. wsgipool.toml beside the WSGI script
5. /etc/wsgipool.toml
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from wsgipool import _collection, _runtime, _sources, config, showing
from wsgipool._background import background
from wsgipool._collection import NO_SETTINGS, Collection, folder_of
from wsgipool._sources import Connect
from wsgipool.errors import ConfigError
from wsgipool.httpd import process as httpd
from wsgipool.pool import Pool
from wsgipool.pool.stats import Stats

logger = logging.getLogger("wsgipool")

T = TypeVar("T")

request_token: Callable[[], object] | None = None
"""The `Pool.request_token` of new pools; `wsgipool.request` sets it."""

CONFIG_VARIABLE = "WSGIPOOL_CONFIG"
CONFIG_NAME = "wsgipool.toml"
SYSTEM_CONFIG = Path("/etc") / CONFIG_NAME

_STOPPING_INTERVAL = 0.25
"""Seconds between two checks for a graceful restart. Each reads one variable of httpd."""

_DRAIN_INTERVAL = 1.0
"""Seconds between two checks for drain requests. Each wakes the process, for an lstat for each pool and one for all."""


_current: Collection | None = None

_are_provisional = False
"""Whether the settings are the system's, taken when the site's script was perhaps not loaded yet."""

_is_winding_down = False

_before_reclaim: list[Callable[[int], object]] = []
"""The functions of `before_reclaim`."""


def configure(source: str | os.PathLike[str] | Mapping[str, object]) -> None:
    """Set the settings of this process.

    A call with the same settings changes nothing, so a WSGI script that mod_wsgi reloads may call this. A call with
    other settings creates new pools; connections of the old ones are closed when they are returned. Registered pools
    stay, unless the budget has changed.

    Args:
        source: The path of a wsgipool.toml, or a mapping with the same keys.

    Raises:
        ConfigError: The file cannot be read, or a setting is wrong.
    """
    settings = config.load(source)
    _install(settings)
    with _collection.lock:
        if _current is not None and _current.settings == settings:
            return
        pools, replaced = _adopt(settings)
    pools.announce()
    for pool in replaced:
        pool.wind_down()


@contextmanager
def override(source: str | os.PathLike[str] | Mapping[str, object]) -> Iterator[None]:
    """Use other settings until the end of the block, for tests.

    Registered pools stay. The pools of the settings before come back as they were; those of the block are closed.

    Args:
        source: As for ``configure``.

    Raises:
        ConfigError: The file cannot be read, or a setting is wrong.
    """
    global _current
    settings = config.load(source)
    with _collection.lock:
        previous = _current
        _adopt(settings)
    try:
        yield
    finally:
        with _collection.lock:
            used, _current = _current, previous
        kept = previous.created() if previous else []
        for pool in used.created() if used else ():
            if pool not in kept:
                pool.close()


def register(name: str, connect: Connect | str, **settings: Any) -> Pool[Any]:
    """Create a pool in code, as a pool of this process, and return it.

    ``pool(name)`` and ``connection(name)`` use it. The status page shows it, and the settings' ``[budget]`` limits it.
    Its connections are taken back at the end of a request, and closed at the end of the process. Without a settings
    file there is no budget.

    A call with equal arguments returns the same pool, so a WSGI script that mod_wsgi reloads may call this. A call with
    other arguments creates a new pool; connections of the old one are closed when they are returned. A function that
    the script itself defines is a different one after each reload.

    Args:
        name: Name of the pool.
        connect: A callable that returns a DB-API connection, a ``wsgipool.drivers.Driver``, or a database URL. Only a
            driver and a URL can have a budget.
        settings: Arguments of ``Pool``. ``max_size`` defaults to the number of threads of this process, 10 outside
            httpd; a larger ``min_size`` is then reduced to it.

    Returns:
        The pool.

    Raises:
        ConfigError: The settings have a database of this name, or an argument is wrong.
        TypeError: ``connect`` is none of these.
    """
    global _current
    source = _sources.from_call(name, connect, settings)
    load_if_found()
    with _collection.lock:
        if _current is None:
            _current = Collection(NO_SETTINGS, {}, _prepare)
        pools = _current
        previous = pools.by_name.get(name)
        pool = pools.add(source)
    if pool is not previous:
        pools.announce_pool(pools.sources[name])
        if previous is not None:
            previous.wind_down()
    return pool


def pool(name: str) -> Pool[Any]:
    """Return the pool of this process for a database.

    Args:
        name: Name of a database in the settings, or of a registered pool.

    Returns:
        The pool, created now if needed.

    Raises:
        ConfigError: The name is unknown, or there are no settings.
    """
    if _are_provisional:
        _confirm()
    pools = _current
    pool = None if pools is None else pools.by_name.get(name)
    if pools is None or pool is None:
        return _collection_with(name).get(name)
    if not pools.has_connections:
        pools.drain_as_requested()  # the next connection may need a new certificate
    return pool


def database(name: str) -> config.DatabaseSettings:
    """Return the settings of a database. Raise ConfigError if the settings have none of this name."""
    settings = _configured().settings
    if name not in settings.databases:
        hint = showing.unknown_key(name, settings.databases)
        raise ConfigError(f"{settings.origin} has no database {showing.shown(name)}; {hint}")
    return settings.databases[name]


def settings() -> config.Settings | None:
    """Return the settings of this process, or None if there are none. Raise ConfigError."""
    load_if_found()
    return _current.settings if _current is not None and is_configured() else None


def is_known(name: str) -> bool:
    """Return whether a name is that of a database in the loaded settings, or of a registered pool."""
    return _current is not None and name in _current.sources


def is_registered(name: str, connect: Connect) -> bool:
    """Return whether the pool of a name was registered with this driver or callable."""
    pools = _current
    source = None if pools is None else pools.sources.get(name)
    return source is not None and source.connect is connect


def connection(
    name: str, timeout: float | None = None, readonly: bool = False, read_timeout: float | None = None
) -> AbstractContextManager[Any]:
    """Check a connection out for a ``with`` block, which commits at its end or rolls back if it raises.

    Args:
        name: Name of a database in the settings, or of a registered pool.
        timeout: Maximum seconds to wait for a connection. Default: the database's setting.
        readonly: Whether the block always ends in a rollback. Default ``False``.
        read_timeout: Maximum seconds of a statement in this block, instead of the URL's ``read_timeout``.

    Returns:
        A context manager, which returns the connection to the ``with`` statement.

    Raises:
        PoolError: No connection can be had: ``PoolTimeout``, ``ConnectFailed``, ``TooManyRequests``,
            ``PoolDeadlock`` or ``PoolClosed``.
        ConfigError: The name is unknown, or the driver cannot change ``read_timeout``.
    """
    return pool(name).connection(timeout, readonly, read_timeout)


def transaction(
    name: str,
    function: Callable[[Any], T],
    *,
    retry: int = 0,
    timeout: float | None = None,
    read_timeout: float | None = None,
) -> T:
    """Call ``function`` with a connection in a transaction, commit, and return its result; see ``Pool.transaction``.

    Args:
        name: Name of a database in the settings, or of a registered pool.
        function: Called with the connection. A rollback must undo all its effects if ``retry`` is not 0.
        retry: Maximum number of further attempts after a conflict. Default 0.
        timeout: Maximum seconds to wait for a connection. Default: the database's setting.
        read_timeout: Maximum seconds of a statement, instead of the URL's ``read_timeout``.

    Returns:
        The result of ``function``.

    Raises:
        PoolError: No connection can be had; see ``connection``.
        ConfigError: The name is unknown, or the driver cannot change ``read_timeout``.
    """
    return pool(name).transaction(function, retry=retry, timeout=timeout, read_timeout=read_timeout)


def created() -> list[Pool[Any]]:
    """Return the pools of this process that have been created. Takes no lock: a signal handler may call this."""
    pools = _current
    return pools.created() if pools else []


def count_connections() -> int:
    """Return the number of connections of all pools of this process, with those that are being opened."""
    return sum(pool.size for pool in created())


def origin() -> str:
    """Return where the settings of this process come from; "" if it has none yet."""
    pools = _current
    return "" if pools is None or pools.settings is NO_SETTINGS else pools.settings.origin


def stats() -> list[Stats]:
    """Return the statistics of the pools of this process.

    Returns:
        One entry for each pool that has been created.
    """
    return [pool.stats() for pool in created()]


def sources() -> list[_sources.Source]:
    """Return the sources of the pools of this process that have been created."""
    pools = _current
    return [pools.sources[pool.name] for pool in pools.created()] if pools else []


def drain(name: str | None = None) -> None:
    """Close the connections of one pool or all pools of this process, and open new ones as needed; see ``Pool.drain``.

    The command ``wsgipool drain`` does this in all processes of the host.

    Args:
        name: Name of the pool. Default: all pools.

    Raises:
        ConfigError: The name is unknown.
    """
    pools = _current
    if name is not None:
        pool(name).drain()
    elif pools is not None:
        for each in list(pools.sources):
            pools.get(each).drain()


def close() -> None:
    """Close the pools of this process. The next use creates new ones from the same settings.

    Programs rarely need this: the pools are closed at the end of the process.
    """
    global _current
    with _collection.lock:
        previous = _current
        if previous is not None:
            _current = Collection(previous.settings, previous.registered(), _prepare)
    for pool in previous.created() if previous else ():
        pool.close()


def preload() -> None:
    """Load the settings and create all pools now.

    If no file is named and no WSGI script was loaded yet, this is left to the first request, since the settings may lie
    beside the script. It is also left to it if there is no file: a framework may have the settings.

    Raises:
        ConfigError: The file cannot be read, or a setting is wrong.
    """
    if not is_configured() and not _named_config() and not (httpd.wsgi_scripts() and _found_config()):
        logger.info("no settings yet: %s is looked up at the first request", CONFIG_NAME)
        return
    pools = _configured()
    for name in list(pools.sources):
        pools.get(name)
    global _are_provisional
    _are_provisional = not _named_config() and pools.settings.origin == str(SYSTEM_CONFIG)


def reclaim(thread_id: int) -> int:
    """Take back the connections that a thread has not returned, from all pools; see ``Pool.reclaim``.

    Args:
        thread_id: Identifier of the thread, as returned by ``threading.get_ident()``.

    Returns:
        Number of connections taken back.
    """
    try:
        for function in _before_reclaim:
            function(thread_id)
    finally:
        pools = _current
        count = sum(pool.reclaim(thread_id) for pool in pools.created()) if pools else 0
    return count


def before_reclaim(function: Callable[[int], object]) -> None:
    """Call a function with the thread's identifier before `reclaim`, to return what can be used again."""
    _before_reclaim.append(function)


def runtime_dir() -> Path:
    """Return the folder that the processes of this host share: from the settings, or the default.

    Returns:
        The path of the folder.

    Raises:
        ConfigError: The settings are wrong.
    """
    pools = _current
    if pools is not None and pools.settings is not NO_SETTINGS:
        return folder_of(pools.settings)
    file = _found_config()
    return folder_of(NO_SETTINGS if file is None else config.load(file))


def find_config() -> Path:
    """Return the settings file of this process.

    Returns:
        The path of the file.

    Raises:
        ConfigError: No file was found; the message names the places.
    """
    found = _found_config()
    if found is not None:
        return found
    raise ConfigError(
        f"no settings: name a file by the environment's {CONFIG_VARIABLE} or by `Define {CONFIG_VARIABLE}` in "
        f"httpd's configuration, put one at {' or '.join(map(str, _config_places()))}, call wsgipool.configure(), or "
        "create the pool by wsgipool.register()"
    )


def is_configured() -> bool:
    """Return whether this process has settings.

    Returns:
        Whether ``configure`` was called, or a settings file was loaded.
    """
    return _current is not None and _current.settings is not NO_SETTINGS


def _found_config() -> Path | None:
    named = _named_config()
    return Path(named) if named else next(filter(_may_exist, _config_places()), None)


def _may_exist(place: Path) -> bool:
    try:
        return place.exists()
    except OSError:
        return True  # not readable for this user; loading it raises the error


def _config_places() -> list[Path]:
    return list(dict.fromkeys([*(script.parent / CONFIG_NAME for script in httpd.wsgi_scripts()), SYSTEM_CONFIG]))


def _named_config() -> str | None:
    return os.environ.get(CONFIG_VARIABLE) or httpd.define(CONFIG_VARIABLE)


def _collection_with(name: str) -> Collection:
    """Return the collection that should have a name; load the settings if needed."""
    pools = _current
    return pools if pools is not None and name in pools.sources else _configured()


def _configured() -> Collection:
    if _are_provisional:
        _confirm()
    pools = _current
    if pools is not None and pools.settings is not NO_SETTINGS:
        return pools
    return _adopt_found(config.load(find_config()))


def _confirm() -> None:
    """Replace the system's settings if the site's script, which was loaded after `preload`, has its own beside it."""
    global _are_provisional
    _are_provisional = False
    file = _found_config()
    if file is not None and file != SYSTEM_CONFIG and not _named_config():
        configure(file)


def load_if_found() -> None:
    """Load the settings file of this process if there is one and none was loaded. Raises ConfigError."""
    if not is_configured() and (file := _found_config()) is not None:
        _adopt_found(config.load(file))


def _adopt_found(settings: config.Settings) -> Collection:
    """Adopt settings from a file, unless another thread has adopted some meanwhile."""
    _install(settings)
    with _collection.lock:
        pools = _current
        if pools is not None and pools.settings is not NO_SETTINGS:
            return pools
        pools, replaced = _adopt(settings)
    pools.announce()
    for pool in replaced:
        pool.wind_down()
    return pools


def _install(settings: config.Settings) -> None:
    """Make the DB-API modules pooled that the settings name. Raises ConfigError."""
    for module in settings.install:
        # By its name, as drivers are: it stands above this module and is rarely needed.
        try:
            importlib.import_module(f"wsgipool.{module}").install()
        except (ConfigError, ImportError) as error:
            raise ConfigError(f"{showing.path(settings.origin)}: install: {error}") from error


def _adopt(settings: config.Settings) -> tuple[Collection, list[Pool[Any]]]:
    """Adopt settings; return the new collection and the replaced pools. The caller holds the lock."""
    global _current
    previous = _current or Collection(NO_SETTINGS, {}, _prepare)
    pools = Collection(settings, previous.registered(), _prepare)
    pools.keep_registered(previous)
    pools.open_budgets()
    _current = pools
    return pools, [pool for pool in previous.created() if pool not in pools.created()]


def _prepare(pool: Pool[Any]) -> None:
    pool.request_token = request_token


def is_winding_down() -> bool:
    """Return whether the pools keep no connection any more, because this process ends after its last requests."""
    return _is_winding_down


def _wind_down() -> None:
    global _is_winding_down
    _is_winding_down = True
    pools = _current
    for pool in pools.created() if pools else ():
        pool.wind_down()


class _GracefulRestartTask:
    """Closes the idle connections of a child of httpd that is replaced at a graceful restart.

    An old child may serve a request for minutes, while the new children need its idle connections.
    """

    def maintain(self) -> float | None:
        if not count_connections():
            return None
        if httpd.is_stopping():
            _wind_down()
            return None
        return _STOPPING_INTERVAL


class _DrainTask:
    """Drains the pools if `wsgipool drain` requests it."""

    def maintain(self) -> float | None:
        pools = _current
        if pools is None:
            return None
        pools.has_connections = count_connections() > 0
        pools.drain_as_requested()
        return _DRAIN_INTERVAL if pools.has_connections else None


_graceful_restart_task, _drain_task = _GracefulRestartTask(), _DrainTask()


def _register_tasks() -> None:
    background.register_passive(_drain_task)
    server = httpd.this_process()
    if server is not None and server.lingers:
        background.register_passive(_graceful_restart_task)


def _after_fork_in_child() -> None:
    global _is_winding_down
    _is_winding_down = False
    _register_tasks()  # the child begins with an empty background


def _register_hooks() -> None:
    _runtime.at_end(_wind_down)
    _runtime.after_fork(_after_fork_in_child)
    # In daemon mode this event comes before the last requests have ended, so they still get connections. A mod_wsgi
    # without this event still ends its interpreters, which calls atexit.
    httpd.at_shutdown(lambda *_, **__: _runtime.end())


_register_hooks()
_register_tasks()
