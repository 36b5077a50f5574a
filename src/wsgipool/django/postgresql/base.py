"""Django's backend for PostgreSQL, with pooled connections of psycopg 3."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ImproperlyConfigured

try:
    import psycopg
    import psycopg.sql
except ImportError as error:
    raise ImproperlyConfigured(
        f"wsgipool.django.postgresql needs psycopg 3, pip install 'wsgipool[postgresql]': {error}"
    ) from error
from django.db.backends.postgresql import base as _stock

from wsgipool.django._wrapper import PooledWrapper

_cursor_numbers = itertools.count(1)


@dataclass(frozen=True)
class _SessionSetup:
    """Sets what Django's backend sets at each connect."""

    time_zone: str | None
    role: str | None
    isolation_level: psycopg.IsolationLevel | None

    def __call__(self, connection: Any) -> None:
        if self.isolation_level is not None:
            connection.isolation_level = self.isolation_level
        with connection.cursor() as cursor:
            if self.time_zone:
                cursor.execute("SELECT set_config('TimeZone', %s, false)", [self.time_zone])
            if self.role:
                cursor.execute(psycopg.sql.SQL("SET ROLE {}").format(self.role))
        if not connection.autocommit:
            connection.commit()


class DatabaseWrapper(PooledWrapper, _stock.DatabaseWrapper):
    """One thread's connection to a database."""

    dbapi = "psycopg"
    address_arguments = frozenset({"user", "password", "dbname", "host", "port", "prepare_threshold"})
    maintenance_database = "postgres"
    pool = None
    """No pool of psycopg_pool, which `OPTIONS["pool"]` means to Django's backend."""

    def session_setup(self) -> _SessionSetup:
        options = self.settings_dict["OPTIONS"]
        self.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        given = None
        if "isolation_level" in options:
            try:
                self.isolation_level = given = psycopg.IsolationLevel(options["isolation_level"])
            except ValueError:
                raise ImproperlyConfigured(
                    f"DATABASES[{self.alias!r}]['OPTIONS']['isolation_level'] is {options['isolation_level']!r}; use "
                    "one of psycopg.IsolationLevel"
                ) from None
        return _SessionSetup(self.timezone_name, options.get("assume_role"), given)

    def create_cursor(self, name: str | None = None) -> Any:
        # Django numbers the cursors of a thread. A cursor that was not closed may outlive the thread in its session,
        # which another thread with the same identifier may have next.
        return super().create_cursor(name and f"{name}_{next(_cursor_numbers)}")

    def ensure_timezone(self) -> bool:
        is_changed: bool = super().ensure_timezone()
        self.is_altered |= is_changed
        return is_changed
