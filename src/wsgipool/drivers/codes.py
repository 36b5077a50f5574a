"""What servers call their errors, and where DB-API modules say it: PEP 249 knows classes, and no codes."""

from __future__ import annotations

from collections.abc import Set

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


def is_one_of(codes: Codes, error: BaseException) -> bool:
    """Tell whether an error of any DB-API module has one of these codes.

    MySQL's modules give it as the first argument, PostgreSQL's as the attribute `sqlstate` or, psycopg2, `pgcode`.
    """
    if not any(kind.__name__ == "DatabaseError" for kind in type(error).__mro__):
        return False  # PEP 249's name for the base of what a database says, in each module its own class
    given = (*error.args[:1], getattr(error, "sqlstate", None), getattr(error, "pgcode", None))
    return any(isinstance(code, int | str) and code in codes for code in given)
