"""The errors of a pool are errors of the driver's DB-API module, too."""

from __future__ import annotations

import pickle
import sqlite3
from typing import Any

import MySQLdb.connections
import psycopg
import pymysql.connections
import pytest

import wsgipool
from wsgipool.errors import PLAIN_ERRORS, PoolErrors, errors_like, errors_of

CONNECTIONS: dict[Any, type] = {
    pymysql: pymysql.connections.Connection,
    MySQLdb: MySQLdb.connections.Connection,
    psycopg: psycopg.Connection,
    sqlite3: sqlite3.Connection,
}
MODULES = tuple(CONNECTIONS)
NAMES = ("PoolTimeout", "ConnectFailed", "TooManyRequests", "PoolDeadlock", "PoolClosed", "WrongThread")


def errors(module: Any) -> PoolErrors:
    return errors_of(module.OperationalError, module.InterfaceError)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("name", NAMES)
def test_an_error_is_the_pools_and_the_modules(name: str, module: Any) -> None:
    kind = getattr(errors(module), name)

    dbapi = module.InterfaceError if name == "WrongThread" else module.OperationalError
    assert issubclass(kind, getattr(wsgipool, name))
    assert issubclass(kind, dbapi)
    assert kind.__name__ == name
    assert kind.__doc__ == getattr(wsgipool, name).__doc__


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("name", NAMES)
def test_an_error_has_its_message_alone_and_can_be_pickled(name: str, module: Any) -> None:
    error = getattr(errors(module), name)("the pool is empty")

    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own

    assert (str(error), error.args) == ("the pool is empty", ("the pool is empty",))
    assert (type(again), again.args) == (type(error), error.args)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("name", NAMES)
def test_the_class_of_an_error_can_be_pickled(name: str, module: Any) -> None:
    kind = getattr(errors(module), name)

    assert pickle.loads(pickle.dumps(kind)) is kind  # noqa: S301 - our own


def test_the_classes_are_made_once_for_each_module() -> None:
    assert errors(pymysql) is errors(pymysql)
    assert errors(pymysql).PoolTimeout is not errors(sqlite3).PoolTimeout


@pytest.mark.parametrize("module", MODULES)
def test_the_module_is_found_by_its_connections_and_its_errors(module: Any) -> None:
    assert errors_like(CONNECTIONS[module]) is errors(module)
    assert errors_like(module.ProgrammingError) is errors(module)


@pytest.mark.parametrize("kind", [ValueError, OSError, object, dict])
def test_a_class_of_no_db_api_module_has_the_plain_errors(kind: type) -> None:
    assert errors_like(kind) is PLAIN_ERRORS
    assert PLAIN_ERRORS.PoolTimeout is wsgipool.PoolTimeout
