"""Which errors stay until somebody mends them, and which need not come when a transaction is run again."""

from __future__ import annotations

import sqlite3

import MySQLdb
import psycopg
import pymysql
import pytest

from wsgipool.drivers.codes import CONFLICTS, CREDENTIALS, is_one_of


class Error(Exception):
    """A DB-API module's own, as are those that follow."""


class DatabaseError(Error):
    def __init__(self, *arguments: object, sqlstate: str | None = None, pgcode: str | None = None) -> None:
        super().__init__(*arguments)
        self.sqlstate = sqlstate
        self.pgcode = pgcode


class InternalError(DatabaseError):
    pass


@pytest.mark.parametrize(
    "error",
    [
        pymysql.OperationalError(1213, "Deadlock found"),
        pymysql.OperationalError(1205, "Lock wait timeout exceeded"),
        MySQLdb.OperationalError(1213, "Deadlock found"),
        psycopg.errors.DeadlockDetected("deadlock detected"),
        psycopg.errors.SerializationFailure("could not serialize access"),
        psycopg.errors.LockNotAvailable("canceling statement due to lock timeout"),
        InternalError(1213, "Deadlock found"),
        InternalError("deadlock detected", sqlstate="40P01"),
        InternalError("deadlock detected", pgcode="40P01"),
        InternalError("40001", "could not serialize access"),
    ],
    ids=repr,
)
def test_a_conflict_with_others_can_be_run_again(error: Exception) -> None:
    assert is_one_of(CONFLICTS, error)
    assert not is_one_of(CREDENTIALS, error)


@pytest.mark.parametrize(
    "error",
    [
        pymysql.OperationalError(1045, "Access denied"),
        MySQLdb.OperationalError(1698, "Access denied"),
        psycopg.errors.InvalidPassword("password authentication failed"),
        InternalError(1049, "Unknown database"),
        InternalError("Access denied", sqlstate="28000"),
    ],
    ids=repr,
)
def test_credentials_stay_wrong_until_somebody_mends_them(error: Exception) -> None:
    assert is_one_of(CREDENTIALS, error)
    assert not is_one_of(CONFLICTS, error)


@pytest.mark.parametrize(
    "error",
    [
        pymysql.IntegrityError(1062, "Duplicate entry"),
        pymysql.OperationalError(),
        psycopg.errors.UniqueViolation("duplicate key"),
        sqlite3.OperationalError("no such table: books"),
        InternalError({"C": "40001"}),
        ValueError(1213),
        Error(1213),
        OSError(1213, "no error of a database"),
    ],
    ids=repr,
)
def test_other_errors_are_neither(error: Exception) -> None:
    assert not is_one_of(CONFLICTS, error)
    assert not is_one_of(CREDENTIALS, error)
