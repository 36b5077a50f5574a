"""The queries of the bookshop in plain SQL, on connections of the pool.

Two rules keep a small pool fast. First, all rows are read inside the `with` block and used after it, so that no
connection waits for a template or a slow visitor. Second, `with` blocks are never nested: in a process with one thread,
the pool has one connection, and the inner block would wait for the outer one.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import wsgipool
from wsgipool.demo.bookshop import FailedOnPurposeError, Failure, Row, now, remember
from wsgipool.demo.schema import execute


@contextmanager
def connection(*, readonly: bool = False) -> Iterator[Any]:
    """Check out a connection for a block, and remember it for the page."""
    with wsgipool.connection("bookshop", readonly=readonly) as conn:
        remember(conn)
        yield conn


def all_books() -> list[Row]:
    with connection(readonly=True) as conn:
        return fetch(conn, "SELECT id, title, author, year, price, stock FROM books ORDER BY id")


def find_book(book_id: int) -> Row | None:
    with connection(readonly=True) as conn:
        return first(conn, "SELECT id, title, author, year, price, stock, blurb FROM books WHERE id = %s", book_id)


def last_orders() -> list[Row]:
    with connection(readonly=True) as conn:
        return fetch(conn, "SELECT id, customer, placed_at, total FROM orders ORDER BY id DESC LIMIT 50")


def find_order(order_id: int) -> Row | None:
    with connection(readonly=True) as conn:
        order = first(conn, "SELECT id, customer, placed_at, total FROM orders WHERE id = %s", order_id)
        lines = fetch(
            conn,
            "SELECT l.book_id, b.title, b.author, l.quantity, l.price FROM order_lines l"
            " JOIN books b ON b.id = l.book_id WHERE l.order_id = %s ORDER BY l.book_id",
            order_id,
        )
    return order and {**order, "lines": lines}


def place_order(book_id: int, customer: str, quantity: int) -> int | None:
    with connection() as conn:
        # The UPDATE with its condition comes before any SELECT, since other hosts take orders, too. It locks the book,
        # so the second of two orders for the last copy finds the new stock.
        take = "UPDATE books SET stock = stock - %s WHERE id = %s AND stock >= %s"
        if execute(conn, take, quantity, book_id, quantity).rowcount == 0:
            return None
        (price,) = execute(conn, "SELECT price FROM books WHERE id = %s", book_id).fetchone()
        order_id = insert_order(conn, customer, price * quantity)
        insert_line = "INSERT INTO order_lines (order_id, book_id, quantity, price) VALUES (%s, %s, %s, %s)"
        execute(conn, insert_line, order_id, book_id, quantity, price)
        return order_id


def best_sellers(seconds: float) -> tuple[list[Row], float]:
    with connection(readonly=True) as conn:
        started = time.monotonic()
        if isinstance(conn, sqlite3.Connection):
            time.sleep(seconds)
        else:
            execute(conn, "SELECT SLEEP(%s)", seconds)
        # MariaDB sums integers into decimals, which JSON would show as strings, so they are cast.
        books = fetch(
            conn,
            "SELECT b.id, b.title, b.author, CAST(SUM(l.quantity) AS SIGNED) AS copies,"
            " CAST(SUM(l.quantity * l.price) AS SIGNED) AS revenue"
            " FROM order_lines l JOIN books b ON b.id = l.book_id"
            " GROUP BY b.id, b.title, b.author ORDER BY revenue DESC, b.id LIMIT 10",
        )
        return books, time.monotonic() - started


def fail(customer: str) -> Failure:
    with suppress(FailedOnPurposeError), connection() as conn:
        insert_order(conn, customer, total=0)
        orders_during = count_orders(conn)
        raise FailedOnPurposeError
    with connection(readonly=True) as conn:
        left_behind = fetch(conn, "SELECT id FROM orders WHERE customer = %s", customer)
        return Failure(orders_during, count_orders(conn), bool(left_behind))


def pool() -> wsgipool.Pool[Any]:
    return wsgipool.pool("bookshop")


def insert_order(conn: Any, customer: str, total: int) -> int:
    insert = "INSERT INTO orders (customer, placed_at, total) VALUES (%s, %s, %s)"
    order_id: int = execute(conn, insert, customer, str(now()), total).lastrowid
    return order_id


def count_orders(conn: Any) -> int:
    count: int = execute(conn, "SELECT COUNT(*) FROM orders").fetchone()[0]
    return count


def fetch(conn: Any, statement: str, *values: object) -> list[Row]:
    cursor = execute(conn, statement, *values)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def first(conn: Any, statement: str, *values: object) -> Row | None:
    rows = fetch(conn, statement, *values)
    return rows[0] if rows else None
