"""The numbers of connections that a database server allows, asked of the server."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from wsgipool import drivers
from wsgipool.config import DatabaseSettings, DatabaseURL
from wsgipool.drivers import occupancy
from wsgipool.drivers.occupancy import Occupancy
from wsgipool.errors import ConfigError

REFUSALS = {
    "mysql": {
        "server": "error 1040, Too many connections",
        "user": "error 1226 or 1203, User has exceeded 'max_user_connections'",
    },
    "postgresql": {
        "server": "FATAL: sorry, too many clients already",
        "user": "FATAL: too many connections for role",
        "database": "FATAL: too many connections for database",
    },
}
"""The server's error at a reached limit, by the kind of server and of limit."""


@dataclass(frozen=True)
class ServerLimit:
    """A maximum number of connections."""

    kind: str
    """The scope of the limit: "server", "user" or "database"."""
    setting: str
    """The server's name for the limit."""
    connections: int


@dataclass(frozen=True)
class Answer:
    """A server's limits, and its sessions."""

    limits: Sequence[ServerLimit]
    occupancy: Occupancy | None = None
    """None if the server was not asked."""


def network_host(url: DatabaseURL) -> str | None:
    """Return the host of a database on the network; None for a Unix socket or a file."""
    try:
        endpoint = drivers.endpoint_of(url)
    except (ConfigError, ImportError):
        return None  # a connect will fail
    return None if endpoint is None else endpoint.host


def has_limit(url: DatabaseURL) -> bool:
    """Return whether a server may limit the connections to this database; a file has no server."""
    return drivers.server_of(url) is not None


def ask(settings: DatabaseSettings, timeout: float) -> Answer:
    """Return the server's limits and sessions, asked on a connection made for it.

    Raise the driver's error, or ConfigError.
    """
    driver = drivers.for_database(settings)
    connection = driver.connect(timeout)
    try:
        with closing(connection.cursor()) as cursor:
            allowed = read(settings.url, cursor)
            try:
                return Answer(allowed, occupancy.read(settings.url, cursor))
            except Exception:  # a server of another kind may not show its sessions
                return Answer(allowed)
    finally:
        driver.close(connection)


def sessions_allowed(url: DatabaseURL, connection: Any) -> tuple[int, int | None]:
    """Return how many sessions the server allows to all, and to this account if the account has a limit.

    The open connection has no transaction afterwards.
    """
    with closing(connection.cursor()) as cursor:
        limits = read(url, cursor)
    connection.rollback()
    to_all = next((limit.connections for limit in limits if limit.kind == "server"), 0)
    return to_all, min((limit.connections for limit in limits if limit.kind != "server"), default=None)


def read(url: DatabaseURL, cursor: Any) -> list[ServerLimit]:
    """Return the server's limits, asked on an open cursor."""
    return _mysql(cursor) if drivers.family(url) == "mysql" else _postgresql(cursor)


def _mysql(cursor: Any) -> list[ServerLimit]:
    # The session's max_user_connections is the account's limit if it has one, otherwise the server's; 0 is no limit
    # (https://dev.mysql.com/doc/refman/en/server-system-variables.html).
    (total, user) = _row(cursor, "SELECT @@GLOBAL.max_connections, @@SESSION.max_user_connections")
    limits = [ServerLimit("server", "max_connections", total)]
    return [*limits, ServerLimit("user", "max_user_connections", user)] if user else limits


def _postgresql(cursor: Any) -> list[ServerLimit]:
    # max_connections includes the reserved connections; reserved_connections is new in 16. -1 is no limit
    # (https://www.postgresql.org/docs/current/runtime-config-connection.html, CREATE ROLE, CREATE DATABASE).
    total, role, database = _row(
        cursor,
        "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
        " - coalesce(current_setting('reserved_connections', true), '0')::int,"
        " (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user),"
        " (SELECT datconnlimit FROM pg_database WHERE datname = current_database())",
    )
    limits = [
        ServerLimit("server", "max_connections less the reserved", total),
        ServerLimit("user", "CONNECTION LIMIT of the role", role),
        ServerLimit("database", "CONNECTION LIMIT of the database", database),
    ]
    return [limit for limit in limits if limit.connections >= 0]


def _row(cursor: Any, statement: str) -> Sequence[Any]:
    cursor.execute(statement)
    row: Sequence[Any] = cursor.fetchone()
    return row
