"""Django's backend for MySQL and MariaDB, with pooled connections of PyMySQL or mysqlclient."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db.utils import DEFAULT_DB_ALIAS
from django.utils.functional import cached_property

from wsgipool.django._wrapper import PooledWrapper
from wsgipool.django.mysql import _mysqldb

DRIVER = _mysqldb.chosen_driver()
"""The driver of this process: Django's backend can work with only one."""

_stock = _mysqldb.import_backend(DRIVER)


@dataclass(frozen=True)
class _SessionSetup:
    """Sends the statements that a new session needs."""

    statements: tuple[str, ...]

    def __call__(self, connection: Any) -> None:
        with connection.cursor() as cursor:
            for statement in self.statements:
                cursor.execute(statement)


@functools.cache  # each checkout compares it
def _session_setup(isolation_level: str | None) -> _SessionSetup:
    statements = ["SET SQL_AUTO_IS_NULL = 0"]
    if isolation_level:
        statements.append(f"SET SESSION TRANSACTION ISOLATION LEVEL {isolation_level.upper()}")
    return _SessionSetup(tuple(statements))


class DatabaseWrapper(PooledWrapper, _stock.DatabaseWrapper):  # type: ignore[name-defined]
    """One thread's connection to a database."""

    dbapi = DRIVER
    address_arguments = frozenset({"user", "password", "database", "host", "port", "unix_socket", "charset"})

    def __init__(self, settings_dict: dict[str, Any], alias: str = DEFAULT_DB_ALIAS) -> None:
        super().__init__(settings_dict, alias)
        wanted = _mysqldb.driver_of(alias, settings_dict)
        if wanted != DRIVER:
            raise ImproperlyConfigured(_mysqldb.two_drivers(DRIVER, wanted))

    def get_connection_params(self) -> dict[str, Any]:
        arguments = super().get_connection_params()
        arguments.pop("driver", None)
        return arguments

    def session_setup(self) -> _SessionSetup:
        return _session_setup(self.isolation_level)

    @cached_property
    def mysql_server_data(self) -> dict[str, Any]:
        """What Django wants to know about the server, asked once for each pool and not for each thread."""
        if not self.is_pooled:
            data: dict[str, Any] = super().mysql_server_data
            return data
        name = self.pool_name(self.get_connection_params())
        if name not in _server_data:
            _server_data[name] = super().mysql_server_data
        return _server_data[name]


_server_data: dict[str, dict[str, Any]] = {}
