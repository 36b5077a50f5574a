"""SQL with the same meaning in MariaDB and MySQL."""

from __future__ import annotations

ISOLATION = "/*M! @@tx_isolation */ /*!80000 @@transaction_isolation */"
"""The session's isolation level. Each server takes the other's name for a comment."""

_DIGITS = "(SELECT 0 AS d" + "".join(f" UNION ALL SELECT {digit}" for digit in range(1, 10)) + ")"


def numbers(count: int) -> str:
    """Return a table with a column seq of the numbers from 1 to `count`, in this order.

    The server sends the first rows before it has made the last ones. MariaDB has such tables; MySQL counts by joins of
    ten digits, and comments hide the one from the other.
    """
    places = range(len(str(count - 1)))
    seq = " + ".join(["1", *(f"{10**place} * t{place}.d" for place in places)])
    joined = " STRAIGHT_JOIN ".join(f"{_DIGITS} AS t{place}" for place in reversed(places))
    counted = f"(SELECT /*+ NO_BNL() */ {seq} AS seq FROM {joined} WHERE {seq} <= {count}) AS numbers"
    return f"/*M! seq_1_to_{count} */ /*!80000 {counted} */"
