"""The meaning of errors: a temporary conflict, a permanent refusal, or a server out of service."""

from __future__ import annotations

import sqlite3

import MySQLdb
import psycopg
import pymysql
import pytest

from wsgipool.drivers.codes import is_conflict, is_out_of_service, is_refusal
from wsgipool.errors import ConfigError


class Error(Exception):
    """The base class of a DB-API module, like the classes below."""


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
        pymysql.OperationalError(1213, "Deadlock found", sqlstate="40001"),
        pymysql.OperationalError(3572, "Statement aborted because lock(s) could not be acquired immediately"),
        pymysql.OperationalError(1020, "Record has changed since last read in table 'books'"),
        pymysql.OperationalError(1689, "Wait on a lock was aborted due to a pending exclusive lock"),
        pymysql.OperationalError(1297, "Got temporary error 266 'Time-out in NDB' from NDBCLUSTER"),
        pymysql.OperationalError(1180, 'Got error 149 "Lock deadlock; Retry transaction" during COMMIT'),
        pymysql.OperationalError(1180, 'Fehler 149 "Lock deadlock; Retry transaction" beim COMMIT'),
        MySQLdb.OperationalError(1180, "Got error 35 'Resource deadlock avoided' during COMMIT"),
        MySQLdb.OperationalError(1030, 'Got error 146 "Lock timed out; Retry transaction" from storage engine'),
        MySQLdb.OperationalError(1213, "Deadlock found"),
        MySQLdb.OperationalError(3572, "Statement aborted"),
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
    assert is_conflict(error)
    assert not is_refusal(error)
    assert not is_out_of_service(error)


def test_a_transaction_that_group_replication_rolled_back_can_be_run_again() -> None:
    error = pymysql.OperationalError(3101, "Plugin instructed the server to rollback the current transaction.")

    assert is_conflict(error)
    assert is_out_of_service(error)


@pytest.mark.parametrize(
    "error",
    [
        pymysql.OperationalError(1045, "Access denied"),
        MySQLdb.OperationalError(1698, "Access denied"),
        pymysql.OperationalError(3118, "Access denied for user 'shop'@'web1'. Account is locked."),
        pymysql.OperationalError(3955, "Access denied for user 'shop'@'web1'. Account is blocked for 2 day(s)"),
        pymysql.OperationalError(4151, "Access denied, this account is locked"),
        pymysql.OperationalError(4150, "User is blocked because of too many credential errors"),
        MySQLdb.OperationalError(1862, "Your password has expired."),
        pymysql.OperationalError(1129, "Host 'web1' is blocked because of many connection errors"),
        pymysql.OperationalError(1130, "Host 'web1' is not allowed to connect"),
        pymysql.OperationalError(1524, "Plugin 'mysql_native_password' is not loaded"),
        pymysql.OperationalError(2059, "Authentication plugin 'authentication_kerberos' not configured"),
        MySQLdb.OperationalError(2061, "Authentication requires secure connection."),
        pymysql.OperationalError(3159, "Connections using insecure transport are prohibited"),
        RuntimeError("'cryptography' package is required for sha256_password or caching_sha2_password auth methods"),
        ModuleNotFoundError("No module named 'cryptography'"),
        ConfigError("databases.shop.url: ssl_ca"),
        psycopg.errors.InvalidPassword("password authentication failed"),
        psycopg.errors.ObjectNotInPrerequisiteState('database "shop" is not currently accepting connections'),
        InternalError(1049, "Unknown database"),
        InternalError("Access denied", sqlstate="28000"),
    ],
    ids=repr,
)
def test_a_refusal_stays_until_somebody_acts(error: Exception) -> None:
    assert is_refusal(error)
    assert not is_conflict(error)


@pytest.mark.parametrize(
    "error",
    [
        pymysql.OperationalError(1047, "WSREP has not yet prepared node for application use", sqlstate="08S01"),
        MySQLdb.OperationalError(1047, "WSREP has not yet prepared node for application use"),
        pymysql.OperationalError(1053, "Server shutdown in progress"),
        MySQLdb.OperationalError(1290, "The MariaDB server is running with the --read-only option"),
        MySQLdb.OperationalError(1836, "Running in read-only mode"),
        MySQLdb.OperationalError(1874, "InnoDB is in read only mode."),
        MySQLdb.OperationalError(1820, "You must SET PASSWORD before executing this statement"),
        pymysql.OperationalError(3032, "The server is currently in offline mode"),
        pymysql.OperationalError(3100, "Error on observer while running replication hook 'before_commit'."),
        pymysql.OperationalError(1180, "Error while … (provider status: Not connected to Primary Component)"),
        MySQLdb.OperationalError(1180, 'Got error 6 "No such device or address" during COMMIT'),
        MySQLdb.OperationalError(1158, "Got an error reading communication packets"),
        pymysql.OperationalError(9999, "of any number", sqlstate="08S01"),
        psycopg.errors.AdminShutdown("terminating connection due to administrator command"),
        psycopg.errors.ReadOnlySqlTransaction("cannot execute INSERT in a read-only transaction"),
        psycopg.errors.ConnectionFailure("the connection is lost"),
        InternalError("08006", "the connection is lost"),
    ],
    ids=repr,
)
def test_a_server_that_can_do_no_work_is_noticed(error: Exception) -> None:
    assert is_out_of_service(error)
    assert not is_conflict(error)


@pytest.mark.parametrize(
    "error",
    [
        pymysql.OperationalError(1792, "Cannot execute statement in a READ ONLY transaction.", sqlstate="25006"),
        MySQLdb.OperationalError(1792, "Cannot execute statement in a READ ONLY transaction."),
        pymysql.OperationalError(1223, "Can't execute the query because you have a conflicting read lock"),
        pymysql.OperationalError(1927, "Connection was killed", sqlstate="70100"),
        psycopg.errors.IdleInTransactionSessionTimeout("terminating connection"),
        pymysql.OperationalError(1317, "Query execution was interrupted", sqlstate="70100"),
        pymysql.OperationalError(1969, "Query execution was interrupted (max_statement_time exceeded)"),
        pymysql.OperationalError(1180, 'Got error 28 "No space left on device" during COMMIT'),
        pymysql.OperationalError(1180, 'Got error 1 "Operation not permitted" during COMMIT at 149'),
        pymysql.OperationalError(1180),
        pymysql.IntegrityError(1062, "Duplicate entry"),
        pymysql.OperationalError(),
        psycopg.errors.UniqueViolation("duplicate key"),
        psycopg.errors.RaiseException("08 apples are not enough"),
        sqlite3.OperationalError("no such table: books"),
        InternalError({"C": "40001"}),
        RuntimeError("generator ignored GeneratorExit"),
        ValueError(1213),
        Error(1213),
        OSError(1213, "no error of a database"),
    ],
    ids=repr,
)
def test_other_errors_are_none_of_these(error: Exception) -> None:
    assert not is_conflict(error)
    assert not is_refusal(error)
    assert not is_out_of_service(error)


@pytest.mark.parametrize(
    "error",
    [
        pymysql.OperationalError(1114, "The table 'books' is full", sqlstate="HY000"),
        MySQLdb.OperationalError(1114, "The table 'books' is full"),
        psycopg.errors.DiskFull("could not extend file"),
    ],
    ids=repr,
)
def test_a_site_can_name_further_codes(error: Exception) -> None:
    assert not is_out_of_service(error)
    assert is_out_of_service(error, more={1114, "53100"})
