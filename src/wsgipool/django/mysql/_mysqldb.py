"""The module that Django's backend imports by the name MySQLdb: PyMySQL or mysqlclient."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pymysql
import pymysql.constants.CLIENT
import pymysql.constants.FIELD_TYPE
import pymysql.converters
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from wsgipool import drivers
from wsgipool.django._settings import check_family, explained, named_database

ENGINE = "wsgipool.django.mysql"
PYMYSQL, MYSQLCLIENT = "pymysql", "mysqlclient"

_BACKEND = "django.db.backends.mysql.base"
_AS_MYSQLDB = {
    "MySQLdb": pymysql,
    "MySQLdb.constants": pymysql.constants,
    "MySQLdb.constants.CLIENT": pymysql.constants.CLIENT,
    "MySQLdb.constants.FIELD_TYPE": pymysql.constants.FIELD_TYPE,
    "MySQLdb.converters": pymysql.converters,
}


def chosen_driver() -> str:
    """Return the driver that the entries of `DATABASES` choose. Raise ImproperlyConfigured if that is not one."""
    entries = {alias: entry for alias, entry in settings.DATABASES.items() if entry.get("ENGINE") == ENGINE}
    chosen = sorted({driver_of(alias, entry) for alias, entry in entries.items()}) or [PYMYSQL]
    if len(chosen) > 1:
        raise ImproperlyConfigured(two_drivers(*chosen))
    return chosen[0]


def driver_of(alias: str, entry: Mapping[str, Any]) -> str:
    """Return the driver that an entry of `DATABASES` chooses. Raise ImproperlyConfigured."""
    with explained(alias):
        database = named_database(alias, entry)
        if database is not None:
            check_family(alias, entry, database, "mysql")
    wanted = entry.get("OPTIONS", {}).get("driver")
    if database is None:
        wanted = wanted or PYMYSQL
        if wanted not in (PYMYSQL, MYSQLCLIENT):
            raise ImproperlyConfigured(
                f"DATABASES[{alias!r}]['OPTIONS']['driver'] must be {PYMYSQL!r} or {MYSQLCLIENT!r}, is {wanted!r}"
            )
        return str(wanted)
    of_url = PYMYSQL if drivers.is_pymysql(database.url) else MYSQLCLIENT
    if wanted not in (None, of_url):
        raise ImproperlyConfigured(
            f"DATABASES[{alias!r}]['OPTIONS']['driver'] is {wanted!r}, and the scheme of {database.origin}.url means "
            f"{of_url!r}; leave 'driver' out"
        )
    return of_url


def two_drivers(one: str, other: str) -> str:
    """Return the error message for two drivers in one process."""
    return (
        f"entries of DATABASES use two drivers, {one} and {other}; Django's backend for MySQL can work with only one "
        "in a process: write the same OPTIONS['driver'] in all of them"
    )


def import_backend(driver: str) -> ModuleType:
    """Import the module of Django's backend with a driver as its MySQLdb. Raise ImproperlyConfigured."""
    backend = sys.modules.get(_BACKEND) or (_with_pymysql() if driver == PYMYSQL else _with_mysqlclient())
    if (backend.Database is pymysql) != (driver == PYMYSQL):
        raise ImproperlyConfigured(
            f"{_BACKEND} was imported before with {backend.Database.__name__} as its MySQLdb, and OPTIONS['driver'] "
            f"is {driver!r}; use the same driver everywhere"
        )
    return backend


def _with_pymysql() -> ModuleType:
    before = {name: sys.modules[name] for name in _AS_MYSQLDB if name in sys.modules}
    sys.modules.update(_AS_MYSQLDB)
    try:
        return importlib.import_module(_BACKEND)
    finally:
        # Another part of the program may use mysqlclient.
        for name in _AS_MYSQLDB:
            del sys.modules[name]
        sys.modules.update(before)


def _with_mysqlclient() -> ModuleType:
    if sys.modules.get("MySQLdb") is pymysql:
        raise ImproperlyConfigured(
            f"OPTIONS['driver'] is {MYSQLCLIENT!r}, but pymysql.install_as_MySQLdb() was called; remove that call"
        )
    return importlib.import_module(_BACKEND)
