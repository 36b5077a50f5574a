"""The driver reads the answers of a real MariaDB or MySQL as PyMySQL does, with and without fast_reading."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from threading import get_ident
from typing import Any

import pymysql
import pytest
from pymysql.constants import FIELD_TYPE
from pymysql.cursors import Cursor, DictCursor, SSCursor

from drivers.shops import driver_of, run
from servers.sql import numbers
from unit.fakes import PATIENCE

LENGTHS = (0, 1, 250, 251, 252, 65_535, 65_536, 70_000)
"""Lengths of values at which the length's own encoding grows. The reader's buffer has 8 KiB."""


@pytest.fixture(params=["true", "false"], ids=["fast", "not fast"])
def connect(mariadb_shop: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A function that connects by the driver, or by PyMySQL alone, with these options."""
    with contextlib.ExitStack() as close:

        def connect(options: str = "", *, plain: bool = False) -> Any:
            driver: Any = driver_of(
                f"{mariadb_shop.replace('+mysqlclient', '')}?{options}{'&' * bool(options)}fast_reading={request.param}"
            )
            if plain:
                return close.enter_context(contextlib.closing(pymysql.connect(**driver._arguments)))
            connection = driver.connect(PATIENCE)
            close.callback(driver.close, connection)
            assert driver.check_out(connection, get_ident(), PATIENCE)
            return connection

        yield connect


def outcome(connection: Any, query: str, kind: type[Cursor] = Cursor) -> list[object]:
    """Return the visible parts of a query's results."""
    seen: list[object] = []
    with connection.cursor(kind) as cursor:
        seen.append(cursor.execute(query))
        while True:
            rows = cursor.fetchall()
            seen += [rows, [[type(value) for value in row] for row in rows]]
            seen += [cursor.description, cursor.rowcount, cursor.lastrowid, cursor.warning_count, cursor.rownumber]
            if not cursor.nextset():
                return seen


def many(columns: int) -> str:
    return "SELECT " + ", ".join(str(number) for number in range(columns))


QUERIES = {
    "a row": "SELECT id, stock FROM books WHERE id = 1",
    "rows": "SELECT * FROM books ORDER BY id",
    "no rows": "SELECT id FROM books WHERE id = 3",
    "kinds": (
        "SELECT 1, -1, 18446744073709551615, 1.5, 1e300, 'text', 'Grüße 🐘', '', NULL, x'00ff', TRUE, b'101', "
        "DATE '2026-02-28', TIME '25:00:01.5', TIMESTAMP '2026-02-28 12:00:00.25', INTERVAL 1 DAY + DATE '2026-01-01', "
        "JSON_ARRAY(1), CAST('a' AS BINARY), NULL"
    ),
    "nothing but NULL": "SELECT NULL, NULL",
    "lengths": "SELECT " + ", ".join(f"REPEAT('x', {length})" for length in LENGTHS),
    "a length a row": " UNION ALL ".join(f"SELECT {length} n, REPEAT('x', {length})" for length in LENGTHS),
    "longer than a packet": "SELECT 1, REPEAT('x', 9000000), REPEAT('y', 9000000), 2",
    "250 columns": many(250),
    "251 columns": many(251),
    "1,000 columns": many(1000),
    "names twice": "SELECT 1 AS n, 2 AS n",
    "1,000 rows": "SELECT seq, REPEAT('x', seq % 300), IF(seq % 7, seq, NULL) FROM " + numbers(1000),
    "20,000 rows": "SELECT seq FROM " + numbers(20_000),
    "warnings": "SELECT 1 / 0, CAST('a' AS SIGNED)",
    "no result": "DO 1",
    "changed rows": "UPDATE books SET stock = stock + 1",
}


@pytest.mark.parametrize("kind", [Cursor, DictCursor, SSCursor], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_a_result_is_pymysqls_the_first_time_and_again(query: str, kind: type[Cursor], connect: Any) -> None:
    if kind is DictCursor and query == QUERIES["names twice"]:
        query += ", 3 AS m"
    options = "autocommit=true&init_command=SET sql_mode=''"
    plain, ours = connect(options, plain=True), connect(options)
    expected = [outcome(plain, query, kind) for _ in range(2)]

    assert [outcome(ours, query, kind) for _ in range(2)] == expected
    assert outcome(ours, "SELECT 'in step'") == outcome(plain, "SELECT 'in step'")


def test_results_come_one_after_another(connect: Any) -> None:
    plain, ours = connect(plain=True), connect()
    run(plain, "CREATE PROCEDURE several() BEGIN SELECT 1 / 0; SELECT id FROM books; SELECT REPEAT('x', 9000); END")

    expected = outcome(plain, "CALL several()")
    assert [outcome(ours, "CALL several()") for _ in range(2)] == [expected, expected]


def test_an_error_may_come_after_rows(connect: Any) -> None:
    query = "SELECT seq, (SELECT id FROM books WHERE seq > 3 OR id = 1) FROM " + numbers(5)
    for connection in (connect(plain=True), connect()):
        for _ in range(2):
            with pytest.raises(pymysql.OperationalError, match="returns more than 1 row"):
                outcome(connection, query)

            assert outcome(connection, "SELECT 1")[1] == ((1,),)


def test_characters_are_decoded_as_the_connection_is_set(connect: Any) -> None:
    plain, ours = connect("charset=latin1", plain=True), connect("charset=latin1")
    for charset in ("latin1", "utf8mb4", "latin1"):
        for connection in (plain, ours):
            connection.set_character_set(charset)
        assert outcome(ours, "SELECT 'é'") == outcome(plain, "SELECT 'é'")


def test_values_are_converted_by_the_connections_current_decoders(connect: Any) -> None:
    ours, other = connect(), connect()
    assert outcome(ours, "SELECT 1")[1] == ((1,),)

    ours.decoders = ours.decoders | {FIELD_TYPE.LONG: float, FIELD_TYPE.LONGLONG: float}
    assert outcome(ours, "SELECT 1")[1] == ((1.0,),)
    ours.decoders[FIELD_TYPE.LONG] = ours.decoders[FIELD_TYPE.LONGLONG] = repr
    assert outcome(ours, "SELECT 1")[1] == (("'1'",),)
    assert outcome(other, "SELECT 1")[1] == ((1,),)
