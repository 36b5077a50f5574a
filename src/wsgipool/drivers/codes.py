"""What servers call their errors, and where DB-API modules say it: PEP 249 knows classes, and no codes."""

from __future__ import annotations

import re
from collections.abc import Set

from wsgipool.errors import ConfigError

Codes = Set[int | str]
"""MySQL's and MariaDB's numbers (https://mariadb.com/kb/en/mariadb-error-code-reference/ and
https://dev.mysql.com/doc/mysql-errors/en/), and SQLSTATEs as PostgreSQL has them
(https://www.postgresql.org/docs/current/errcodes-appendix.html)."""

REFUSALS: Codes = {
    *(1045, 1698, "28P01", "28000"),  # a wrong password, no such user, or one that may not log in from here
    *(1044, "42501"),  # may not use the database
    *(1049, "3D000", "55000"),  # no such database, or one that is closed to all
    *(3118, 4151),  # the account is locked: MySQL, MariaDB
    *(3955, 4150),  # the account is locked after too many wrong passwords: MySQL, MariaDB
    1862,  # the password has expired
    *(1129, 1130),  # this host is blocked after too many errors, or unknown
    *(1251, 1275, 1524, 2049, 2059, 2061),  # client and server have no way of authentication in common
    3159,  # the server wants TLS
}
"""A connect that fails so would fail again until somebody mends it."""

CONFLICTS: Codes = {
    *(1213, "40P01"),  # a deadlock; on Galera what another node has committed first, which a COMMIT may say, too
    *(1205, "55P03"),  # a lock that took too long
    *(3572, 1689),  # a lock that another has: with NOWAIT, or one that had to make way
    "40001",  # what others have changed cannot be seen by this transaction
    1020,  # the same, where MariaDB has innodb_snapshot_isolation
    3101,  # Group Replication: another member has committed first
    1297,  # NDB Cluster: a temporary error
}
"""A transaction that fails so can simply be run again."""

_STORAGE_ERRORS: Codes = {1180, 1030}
"""What the storage engine said to a COMMIT, or to a statement: its own number is in the text."""
_STORAGE_CONFLICTS = {"149", "146", "35"}
"""A deadlock, a lock that took too long, and the operating system's EDEADLK, as which Galera reports a conflict."""
_STORAGE_IS_GONE = {"6", "Primary Component"}
"""ENXIO, and the words for it: a Galera node that has left the cluster."""

OUT_OF_SERVICE: Codes = {
    1047,  # Galera: not in the cluster's primary component
    *(1290, 1836, 1874),  # read only: by an option of the server, as a whole, or InnoDB
    *(3032, 3168),  # offline
    *(3100, 3101, 3783, 3797, 3799),  # Group Replication: a member that is not online, or cannot reach the others
    *(1053, "57P01", "57P02", "57P03"),  # shutting down, crashed, starting
    "25006",  # PostgreSQL: a standby, or a transaction that is read only
    1820,  # the password has expired: the session can do no work, also when the account has another password
}
"""A server that answers a statement so can do no work, though it keeps its sessions open.

Not among them: 1792, a transaction that its program began READ ONLY, 1223, the program's own lock, 1317 and 1969, a
statement that was ended alone.
"""

LOST: Codes = {
    *(2006, 2013, 2055),  # by the server's will or the network's
    *(1927, 3169),  # killed: MariaDB, MySQL
    *(4031, "57P05", "25P03", "25P04"),  # idle, or in a transaction, for too long
    "57P04",  # the database was dropped
}
"""The session has ended, which says nothing of the server: it happens to idle connections every day."""

_SQLSTATE = re.compile("[0-9A-Z]{5}")
_CONNECTION_EXCEPTION = "08"
"""The class of SQLSTATEs of ISO/IEC 9075-2 that say that the connection is of no use."""
_CONNECTION_EXCEPTIONS: Codes = {*range(1152, 1162), 1184, 1189, 1190}
"""The numbers that MySQL and MariaDB give it in answer to a statement: mysqlclient's errors have no SQLSTATE."""


def is_one_of(codes: Codes, error: BaseException) -> bool:
    """Return whether an error of any DB-API module has one of these codes."""
    return any(code in codes for code in _codes_of(error))


def is_refusal(error: BaseException) -> bool:
    """Return whether a connect that failed so would fail again until somebody mends it."""
    if isinstance(error, ConfigError | ImportError):
        return True
    if isinstance(error, RuntimeError):
        return "package is required" in str(error)  # PyMySQL's way to say that cryptography or pynacl is missing
    return is_one_of(REFUSALS, error)


def is_conflict(error: BaseException) -> bool:
    """Return whether a transaction that failed so can be run again."""
    return is_one_of(CONFLICTS, error) or _reason_of_storage(error) in _STORAGE_CONFLICTS


def is_out_of_service(error: BaseException, more: Codes = frozenset()) -> bool:
    """Return whether an error of any DB-API module says that its server can do no work.

    `more` are further codes that a site takes for that.
    """
    return (
        is_one_of(OUT_OF_SERVICE | _CONNECTION_EXCEPTIONS, error)
        or _reason_of_storage(error) in _STORAGE_IS_GONE
        or any(state.startswith(_CONNECTION_EXCEPTION) for state in _states_of(error))
        or any(code in more for code in (*_codes_of(error), *_states_of(error)))
    )


def is_database_error(error: BaseException) -> bool:
    """Return whether an error is one of a DB-API module: PEP 249 names its bases, each module has its own classes."""
    return any(kind.__name__ in ("DatabaseError", "InterfaceError") for kind in type(error).__mro__)


def _codes_of(error: BaseException) -> list[int | str]:
    """Return what an error is called: its number, if it has one, or its SQLSTATEs.

    MySQL's modules give the number as the first argument. The SQLSTATE beside it says less: that of 1792 is 25006.
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
    """Return the SQLSTATEs of an error: PostgreSQL's modules and PyMySQL give one as an attribute."""
    if not is_database_error(error):
        return []
    given = (*error.args[:1], getattr(error, "sqlstate", None), getattr(error, "pgcode", None))
    return [state for state in given if isinstance(state, str) and _SQLSTATE.fullmatch(state)]
