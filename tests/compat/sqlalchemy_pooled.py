"""A pytest plugin for SQLAlchemy's tests: our dialects under the names of the stock ones.

The tests skip and expect by the name of the driver. Some end all sessions by way of the DB-API module that SQLAlchemy
calls; so our dialects tell that module which connections there are.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.dialects import registry

from wsgipool.sqlalchemy import mysql, postgresql


class _Lost:
    """A connection as the tests' module knows it."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def close(self) -> None:
        """End the session below the connection, which is in the pool or in use."""
        end = getattr(self._connection, "_force_close", None) or self._connection.pgconn.finish
        end()


class _Reconnecting:
    dbapi: Any

    def connect(self, *cargs: Any, **cparams: Any) -> Any:
        connection = super().connect(*cargs, **cparams)  # type: ignore[misc]
        if hasattr(self.dbapi, "is_stopped"):
            lost = _Lost(connection)
            if self.dbapi.is_stopped:
                lost.close()
                connection.cursor().execute("SELECT 1")
            self.dbapi.connections.append(lost)
        return connection


class MySQL(_Reconnecting, mysql.MySQLDialect):
    """mysql+pymysql."""

    driver = "pymysql"
    supports_statement_cache = True


class MariaDB(_Reconnecting, mysql.MariaDBDialect):
    """mariadb+pymysql."""

    driver = "pymysql"
    supports_statement_cache = True


class PostgreSQL(_Reconnecting, postgresql.PostgreSQLDialect):
    """postgresql+psycopg."""

    driver = "psycopg"
    supports_statement_cache = True


registry.register("mysql.pymysql", __name__, "MySQL")
registry.register("mariadb.pymysql", __name__, "MariaDB")
registry.register("postgresql.psycopg", __name__, "PostgreSQL")
