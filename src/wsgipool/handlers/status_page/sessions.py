"""The sessions of the database servers, asked on idle connections of this process's own pools.

A server is asked at most once in ten seconds. No connection is opened for the question, and no thread waits for one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from wsgipool import pools
from wsgipool._sources import Source
from wsgipool.config import DatabaseURL
from wsgipool.drivers import limits, occupancy
from wsgipool.drivers.occupancy import Occupancy, Occupants
from wsgipool.errors import ConfigError, PoolError
from wsgipool.wording import describe

INTERVAL = 10.0
"""Seconds for which an answer is shown before the server is asked again."""

_READ_TIMEOUT = 2.0
"""Maximum seconds of a statement, if the driver can limit it."""
_ALL_IN_USE = "not asked: all connections are in use"
_NONE_OPEN = "not asked: the process that answers has no open connection"


@dataclass(frozen=True)
class ServerSessions:
    """The sessions of one database server."""

    server: str
    at: float | None
    """When the server answered; None if it has not answered yet."""
    limit: int | None
    """How many sessions the server allows; None if unknown."""
    occupants: Occupants | None
    not_asked: str
    """Why there is no newer answer; "" if there is one."""


class Servers:
    """The sessions of all servers of this process's pools, cached."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._asked_at = -INTERVAL
        self._known: dict[str, ServerSessions] = {}

    def sessions(self) -> list[ServerSessions]:
        """Return the sessions by server. While another thread asks, the last answers are returned."""
        if self._clock() - self._asked_at >= INTERVAL and self._lock.acquire(blocking=False):
            try:
                self._asked_at = self._clock()
                self._ask_all(pools.sources())
            finally:
                self._lock.release()
        return [self._known[server] for server in sorted(self._known)]

    def _ask_all(self, sources: Iterable[Source]) -> None:
        by_server: dict[str, list[Source]] = {}
        for source in sources:
            if source.server is not None and source.url is not None:
                by_server.setdefault(source.server, []).append(source)
        known = {}
        for server, of_server in by_server.items():
            last = self._known.get(server) or ServerSessions(server, None, None, None, "")
            known[server] = _asked(last, of_server)
        self._known = known


def _asked(last: ServerSessions, sources: Sequence[Source]) -> ServerSessions:
    """Return a server's new answer, or the last one with the reason why there is no new one."""
    by_account = {source.account: source for source in sources if _has_idle(source)}
    if not by_account:
        is_open = any(pools.pool(source.name).size for source in sources)
        return replace(last, not_asked=_ALL_IN_USE if is_open else _NONE_OPEN)
    try:
        answers = [_answer(source) for source in by_account.values()]
    except PoolError:
        return replace(last, not_asked=_ALL_IN_USE)
    except Exception as error:  # drivers raise many types
        return replace(last, not_asked=f"asked without success: {describe(error)}")
    return ServerSessions(last.server, time.time(), answers[0][0], occupancy.of_site([each for _, each in answers]), "")


def _has_idle(source: Source) -> bool:
    # A checkout without an idle connection would open one, or count as a timeout.
    pool = pools.pool(source.name)
    return pool.idle > 0 and pool.waiting == 0


def _answer(source: Source) -> tuple[int | None, Occupancy]:
    assert source.url is not None
    pool = pools.pool(source.name)
    try:
        with pool.connection(0, readonly=True, read_timeout=_READ_TIMEOUT) as connection:
            return _read(source.url, connection)
    except ConfigError:  # the driver cannot limit a single statement
        with pool.connection(0, readonly=True) as connection:
            return _read(source.url, connection)


def _read(url: DatabaseURL, connection: Any) -> tuple[int | None, Occupancy]:
    with closing(connection.cursor()) as cursor:
        allowed = [limit.connections for limit in limits.read(url, cursor) if limit.kind == "server"]
        return min(allowed, default=None), occupancy.read(url, cursor)
