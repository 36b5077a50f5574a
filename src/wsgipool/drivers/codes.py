"""What servers call their errors, and where DB-API modules say it: PEP 249 knows classes, and no codes."""

from __future__ import annotations

from collections.abc import Iterable, Set

Codes = Set[int | str]
"""MySQL's and MariaDB's numbers (https://mariadb.com/kb/en/mariadb-error-code-reference/), and SQLSTATEs as PostgreSQL
has them (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""

CREDENTIALS: Codes = {
    *(1045, 1698, "28P01", "28000"),  # a wrong password, no such user, or one that may not log in from here
    *(1044, "42501"),  # may not use the database
    *(1049, "3D000"),  # no such database
}
"""A connect that fails so would fail again until somebody mends it."""

CONFLICTS: Codes = {
    *(1213, "40P01"),  # a deadlock
    *(1205, "55P03"),  # a lock that took too long
    "40001",  # what others have changed cannot be seen by this transaction
}
"""A transaction that fails so can simply be run again."""

OUT_OF_SERVICE: Codes = {
    *(
        1047,
        1053,
        1290,
        1836,
        3032,
        3100,
        3101,
    ),  # MySQL, MariaDB: left the cluster, shutting down, read only, offline
    *("57P01", "57P02", "57P03", "25006"),  # PostgreSQL: shutting down, crashed, starting, read only
}
"""A server that answers a statement so can do no work, though it keeps its sessions open; so does one that answers with
any SQLSTATE of class 08, a connection exception."""

CONNECTION_EXCEPTION = "08"
"""The class of SQLSTATEs of ISO/IEC 9075-2 that say that the connection is of no use."""

LOST: Codes = {2006, 2013, 2055, 1927, 4031}
"""The session has ended, by the server's will or the network's: what happens to idle connections every day."""


def is_one_of(codes: Codes, error: BaseException) -> bool:
    """Return whether an error of any DB-API module has one of these codes."""
    return any(code in codes for code in _codes_of(error))


def is_out_of_service(error: BaseException, more: Codes = frozenset()) -> bool:
    """Return whether an error of any DB-API module says that its server can do no work, or has one of `more` codes."""
    return says_out_of_service(_codes_of(error), more)


def says_out_of_service(given: Iterable[int | str], more: Codes) -> bool:
    """Return whether one of the codes that a server has given says so, or is one of `more`."""
    return any(
        code in OUT_OF_SERVICE or code in more or (isinstance(code, str) and code.startswith(CONNECTION_EXCEPTION))
        for code in given
    )


def is_database_error(error: BaseException) -> bool:
    """Return whether an error is one of a DB-API module: PEP 249 names its bases, each module has its own classes."""
    return any(kind.__name__ in ("DatabaseError", "InterfaceError") for kind in type(error).__mro__)


def _codes_of(error: BaseException) -> list[int | str]:
    """Return the codes of an error: MySQL's modules give one as the first argument, PostgreSQL's as an attribute."""
    if not is_database_error(error):
        return []
    given = (*error.args[:1], getattr(error, "sqlstate", None), getattr(error, "pgcode", None))
    return [code for code in given if isinstance(code, int | str)]
