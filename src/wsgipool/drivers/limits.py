"""What a database server allows: asked of the server itself, by the project's own drivers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from wsgipool import drivers
from wsgipool.config import DatabaseSettings, DatabaseURL
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
"""What who comes too late is told, by the kind of server and of limit."""


@dataclass(frozen=True)
class ServerLimit:
    """A number of connections that a server allows."""

    kind: str
    """Who shares it: all of the "server", a "user" or a "database"."""
    setting: str
    """What the server calls it."""
    connections: int


def kind(url: DatabaseURL) -> str:
    """Return "mysql" (MariaDB too), "postgresql" or "sqlite"."""
    return drivers.family(url)


def network_host(url: DatabaseURL) -> str | None:
    """Return the host that is reached by the network, or None where it is a socket or a file."""
    try:
        place = drivers.place_of(url)
    except (ConfigError, ImportError):
        return None  # nothing connects
    return None if place is None else place.host


def has_limit(url: DatabaseURL) -> bool:
    """Tell whether connections to it are counted; a file's are not."""
    return drivers.server_of(url) is not None


def ask(settings: DatabaseSettings, timeout: float) -> list[ServerLimit]:
    """Return what the server says, with a connection of its own. Raises the driver's error, or ConfigError."""
    driver = drivers.for_database(settings)
    connection = driver.connect(timeout)
    try:
        with closing(connection.cursor()) as cursor:
            return read(settings.url, cursor)
    finally:
        driver.close(connection)


def account(url: DatabaseURL) -> str:
    """Return what tells those apart for whom a server may have a limit of their own."""
    return f"{url.user}/{url.database}" if kind(url) == "postgresql" else url.user or ""


def sessions_allowed(url: DatabaseURL, connection: Any) -> tuple[int, int | None]:
    """Ask on a connection that is there how many sessions the server allows, to all, and to this account if that has
    a limit of its own. Leaves no transaction.
    """
    with closing(connection.cursor()) as cursor:
        limits = read(url, cursor)
    connection.rollback()
    to_all = next((limit.connections for limit in limits if limit.kind == "server"), 0)
    return to_all, min((limit.connections for limit in limits if limit.kind != "server"), default=None)


def read(url: DatabaseURL, cursor: Any) -> list[ServerLimit]:
    """Return what the server says on a connection that is there."""
    return _mysql(cursor) if kind(url) == "mysql" else _postgresql(cursor)


def _mysql(cursor: Any) -> list[ServerLimit]:
    # The session's value of max_user_connections is the account's own limit where it has one, else the server's;
    # 0 is no limit (https://dev.mysql.com/doc/refman/en/server-system-variables.html).
    (total, user) = _row(cursor, "SELECT @@GLOBAL.max_connections, @@SESSION.max_user_connections")
    limits = [ServerLimit("server", "max_connections", total)]
    return [*limits, ServerLimit("user", "max_user_connections", user)] if user else limits


def _postgresql(cursor: Any) -> list[ServerLimit]:
    # What is reserved is part of max_connections; reserved_connections is new in 16. -1 is no limit
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
