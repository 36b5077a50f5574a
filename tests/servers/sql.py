"""SQL that MariaDB and MySQL understand alike."""

from __future__ import annotations

_DIGITS = "(SELECT 0 AS d" + "".join(f" UNION ALL SELECT {digit}" for digit in range(1, 10)) + ")"


def numbers(count: int) -> str:
    """Return a table with a column seq of the numbers from 1 to `count`, a power of ten, in any order.

    The server sends the first rows before it has made the last ones.
    """
    places = len(str(count)) - 1
    assert count == 10**places
    seq = " + ".join(["1", *(f"{10**place} * t{place}.d" for place in range(places))])
    tables = " JOIN ".join(f"{_DIGITS} AS t{place}" for place in range(places))
    return f"(SELECT {seq} AS seq FROM {tables}) AS numbers"
