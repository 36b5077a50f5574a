"""The pools of one configuration: those from the settings, and the registered ones."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wsgipool import _runtime, _sources, showing
from wsgipool._sources import Source
from wsgipool.budget.budget import Budget, BudgetLimit
from wsgipool.config import Settings
from wsgipool.errors import ConfigError
from wsgipool.httpd import errorlog
from wsgipool.httpd import process as httpd
from wsgipool.pool import Pool
from wsgipool.shared.drains import DrainRequests
from wsgipool.shared.folder import default_folder, set_origin

logger = logging.getLogger("wsgipool")

NO_SETTINGS = Settings({}, "code alone")
"""The settings of a process with registered pools only."""

lock = threading.Lock()
"""Held while settings are adopted and pools are created."""


class Collection:
    """The pools of one configuration. Each is created at its first use."""

    def __init__(
        self, settings: Settings, registered: Mapping[str, Source], prepare: Callable[[Pool[Any]], object]
    ) -> None:
        """Check all sources now, not at the first request. Raises ConfigError.

        `prepare` is called with each new pool.
        """
        self.settings = settings
        self._prepare = prepare
        self.sources = {name: _sources.from_table(database) for name, database in settings.databases.items()}
        for name, source in registered.items():
            self.check_name(name)
            self.sources[name] = source
        self.by_name: dict[str, Pool[Any]] = {}
        self._budgets: dict[str, Budget | None] = {}
        self._drain_requests = DrainRequests(folder_of(settings))
        self.has_connections = False
        """Whether the pools had connections at the last maintenance. If not, only `pool` checks for drain requests."""

    def registered(self) -> dict[str, Source]:
        """Return the sources of the registered pools."""
        return {name: source for name, source in self.sources.items() if source.arguments is not None}

    def open_budgets(self) -> None:
        """Open the budgets now. Raises ConfigError if that fails."""
        for source in self.sources.values():
            self._budget(source)

    def get(self, name: str) -> Pool[Any]:
        """Return the pool for a database. Raises ConfigError for an unknown name."""
        pool = self.by_name.get(name)
        if pool is not None:
            return pool
        source = self.sources.get(name)
        if source is None:
            hint = showing.unknown_key(name, self.sources)
            raise ConfigError(f"{self.settings.origin} has no database {showing.shown(name)}; {hint}")
        with lock:
            return self.by_name.get(name) or self._create(source)

    def add(self, source: Source) -> Pool[Any]:
        """Return the pool of a registered source, an existing one for equal arguments. The caller holds `lock`."""
        self.check_name(source.name)
        known = self.sources.get(source.name)
        if known is not None and known.arguments == source.arguments:
            return self.by_name.get(source.name) or self._create(known)
        return self._create(source)

    def check_name(self, name: str) -> None:
        """Raise ConfigError if the settings have a database of the name."""
        if name in self.settings.databases:
            raise ConfigError(
                f"{self.settings.databases[name].origin}: register() creates a pool of that name, too; choose another "
                "name for one of them"
            )

    def keep_registered(self, previous: Collection) -> None:
        """Take over the registered pools of another configuration if it has the same budget."""
        if self._budget_of_host() == previous._budget_of_host():
            for name in self.registered().keys() & previous.by_name.keys():
                self.by_name[name] = previous.by_name[name]
                self._budgets[name] = previous._budgets[name]
                self._drain_requests.register(name)

    def announce(self) -> None:
        """Log the server, the settings and the pools, once for each configuration."""
        server = httpd.this_process()
        if server is not None:
            errorlog.show_lines()
        logger.info("%s; settings from %s", server or "not in httpd", self.settings.origin)
        for source in list(self.sources.values()):
            self.announce_pool(source)

    def announce_pool(self, source: Source) -> None:
        """Log the size and the budget of a pool."""
        logger.info("%s", source.describe())
        if (budget := self._budget(source)) is not None:
            logger.info("pool %r: within a budget of %s", source.name, budget)

    def created(self) -> list[Pool[Any]]:
        """Return the pools that have been created. Takes no lock: a signal handler may call this."""
        return list(self.by_name.values())

    def drain_as_requested(self) -> None:
        """Drain the pools for which `wsgipool drain` was run since the last call."""
        requested = self._drain_requests.take()
        for pool in self.created() if requested else ():
            if None in requested or pool.name in requested:
                logger.info("pool %r is drained, as `wsgipool drain` requests", pool.name)
                pool.drain()

    def _create(self, source: Source) -> Pool[Any]:
        """Create a pool, and store it with its source and its budget. The caller holds `lock`."""
        budget = self._budget(source)
        pool = source.create_pool(budget)
        self._prepare(pool)
        name = source.name
        self._drain_requests.register(name)
        # The pool first: an asynchronous exception here leaves an old source, which the next register() replaces.
        self.by_name[name], self._budgets[name], self.sources[name] = pool, budget, source
        if _runtime.is_ending():
            pool.wind_down()  # the functions of the end may have missed this pool
        return pool

    def _budget_of_host(self) -> tuple[object, ...]:
        return () if self.settings.budget is None else (self.settings.budget, folder_of(self.settings))

    def _budget(self, source: Source) -> Budget | None:
        name = source.name
        if self.sources.get(name) is not source:
            return self._open_budget(source)  # `_create` stores it with the pool
        if name not in self._budgets:
            self._budgets[name] = self._open_budget(source)
        return self._budgets[name]

    def _open_budget(self, source: Source) -> Budget | None:
        settings = self.settings.budget
        if settings is None or source.server is None:
            return None
        limit = BudgetLimit(settings.connections, settings.hosts, settings.reserve)
        return Budget(folder_of(self.settings), source.server, limit, source.account)


def folder_of(settings: Settings) -> Path:
    """Return the folder that the processes of this host share."""
    if settings.runtime_dir is None:
        return default_folder()
    set_origin(settings.runtime_dir, settings.origin)
    return settings.runtime_dir


def _after_fork_in_child() -> None:
    # The pools reset themselves. A thread that the child does not have may have held the lock.
    global lock
    lock = threading.Lock()


_runtime.after_fork(_after_fork_in_child)
