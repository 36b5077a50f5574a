"""The servers' error codes by meaning. PEP 249 defines classes of errors and no codes."""

from __future__ import annotations

import re
from collections.abc import Set

from wsgipool.errors import ConfigError

Codes = Set[int | str]
"""Numbers of MySQL and MariaDB, and PostgreSQL's SQLSTATEs.

See https://mariadb.com/kb/en/mariadb-error-code-reference/, https://dev.mysql.com/doc/mysql-errors/en/ and
https://www.postgresql.org/docs/current/errcodes-appendix.html.
"""

REFUSALS: Codes = {
    *(1045, 1698, "28P01", "28000"),  # a wrong password, no such user, or no login from this host
    *(1044, "42501"),  # no permission to use the database
    *(1049, "3D000", "55000"),  # no such database, or the database accepts no connections
    *(3118, 4151),  # the account is locked: MySQL, MariaDB
    *(3955, 4150),  # the account is locked after too many wrong passwords: MySQL, MariaDB
    1862,  # the password has expired
    *(1129, 1130),  # this host is blocked after too many errors, or not allowed
    *(1251, 1275, 1524, 2049, 2059, 2061),  # client and server share no authentication method
    3159,  # the server requires TLS
}
"""Errors of a connect that will fail again until somebody acts."""

CONFLICTS: Codes = {
    *(1213, "40P01"),  # a deadlock; in Galera also a conflict with another node, which COMMIT may report
    *(1205, "55P03"),  # a lock wait timed out
    *(3572, 1689),  # a lock is held by another session: with NOWAIT, or an aborted lock wait
    "40001",  # a serialization failure
    1020,  # a serialization failure in MariaDB with innodb_snapshot_isolation
    3101,  # Group Replication: another member has committed first
    1297,  # NDB Cluster: a temporary error
}
"""Errors of a transaction that can be run again."""

_STORAGE_ERRORS: Codes = {1180, 1030}
"""Errors of the storage engine at COMMIT or in a statement. Their text has the engine's own number."""
_STORAGE_CONFLICTS = {"149", "146", "35"}
"""A deadlock, a lock wait that timed out, and EDEADLK, by which Galera reports a conflict."""
_STORAGE_OUT_OF_SERVICE = {"6", "Primary Component"}
"""ENXIO and its text: a Galera node outside the cluster."""

OUT_OF_SERVICE: Codes = {
    1047,  # Galera: not in the cluster's primary component
    *(1290, 1836, 1874),  # read only: by an option, the whole server, or InnoDB
    *(3032, 3168),  # offline
    *(3100, 3101, 3783, 3797, 3799),  # Group Replication: a member is not online, or cannot reach the others
    *(1053, "57P01", "57P02", "57P03"),  # shutting down, crashed, starting
    "25006",  # PostgreSQL: a standby server or a read-only transaction
    1820,  # the password has expired: the session can do no work, even after a change of the password
}
"""Errors of a server that keeps its sessions open and can do no work.

Three kinds do not belong here: 1792, a transaction that the program began READ ONLY; 1223, the program's own lock; 1317
and 1969, a statement that was ended alone.
"""

SESSION_ENDED: Codes = {
    *(2006, 2013, 2055),  # ended by the server or the network
    *(1927, 3169),  # killed: MariaDB, MySQL
    *(4031, "57P05", "25P03", "25P04"),  # idle, or in a transaction, for too long
    "57P04",  # the database was dropped
}
"""Errors of a session that has ended. They are common for idle connections, and no sign of a failed server."""

_SQLSTATE = re.compile("[0-9A-Z]{5}")
_CONNECTION_EXCEPTION = "08"
"""The SQLSTATE class "connection exception" of ISO/IEC 9075-2."""
_CONNECTION_EXCEPTIONS: Codes = {*range(1152, 1162), 1184, 1189, 1190}
"""MySQL's and MariaDB's numbers for this class: mysqlclient's errors have no SQLSTATE."""


def is_one_of(codes: Codes, error: BaseException) -> bool:
    """Return whether an error of any DB-API module has one of these codes."""
    return any(code in codes for code in _codes_of(error))


def is_refusal(error: BaseException) -> bool:
    """Return whether a failed connect will fail again until somebody acts."""
    if isinstance(error, ConfigError | ImportError):
        return True
    if isinstance(error, RuntimeError):
        return "package is required" in str(error)  # PyMySQL without cryptography or pynacl
    return is_one_of(REFUSALS, error)


def is_conflict(error: BaseException) -> bool:
    """Return whether a failed transaction can be run again."""
    return is_one_of(CONFLICTS, error) or _reason_of_storage(error) in _STORAGE_CONFLICTS


def is_out_of_service(error: BaseException, more: Codes = frozenset()) -> bool:
    """Return whether an error of any DB-API module shows that its server can do no work.

    Args:
        error: The error of a statement.
        more: Further codes that have this meaning for a site.
    """
    return (
        is_one_of(OUT_OF_SERVICE | _CONNECTION_EXCEPTIONS, error)
        or _reason_of_storage(error) in _STORAGE_OUT_OF_SERVICE
        or any(state.startswith(_CONNECTION_EXCEPTION) for state in _states_of(error))
        or any(code in more for code in (*_codes_of(error), *_states_of(error)))
    )


def is_database_error(error: BaseException) -> bool:
    """Return whether an error comes from a DB-API module, by the names of its base classes in PEP 249."""
    return any(kind.__name__ in ("DatabaseError", "InterfaceError") for kind in type(error).__mro__)


def _codes_of(error: BaseException) -> list[int | str]:
    """Return the number of an error, or its SQLSTATEs if it has none.

    MySQL's modules give the number as the first argument. The SQLSTATE beside it is less exact: for 1792 it is 25006.
    """
    if not is_database_error(error):
        return []
    first = error.args[0] if error.args else None
    return [first] if isinstance(first, int) else [*_states_of(error)]


def _reason_of_storage(error: BaseException) -> str | None:
    """Return the first number in the text of a storage error, such as 'Got error 149 "…" during COMMIT'."""
    if not is_one_of(_STORAGE_ERRORS, error):
        return None
    reason = re.search(r"Primary Component|\d+", str(error.args[1:]))
    return reason and reason[0]


def _states_of(error: BaseException) -> list[str]:
    """Return the SQLSTATEs of an error. PostgreSQL's modules and PyMySQL have one as an attribute."""
    if not is_database_error(error):
        return []
    given = (*error.args[:1], getattr(error, "sqlstate", None), getattr(error, "pgcode", None))
    return [state for state in given if isinstance(state, str) and _SQLSTATE.fullmatch(state)]
