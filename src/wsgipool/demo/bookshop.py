"""The bookshop without a web framework and without SQL: the pages, and what they say.

A `Bookshop` answers with the rows that a module of queries (`Queries`) reads and writes. Such a module differs from the
others only in how it uses the database: `plain_sql`, `sqlalchemy_orm` and `django_site.queries`. Likewise `flask_site`
and `django_site.views` differ only in how they find the page for an address and send its answer.

The catalogue is read often and changes only with orders, so a cache keeps the books. After an order has committed its
change of the stock, it invalidates the caches of all processes. The order itself reads the database, not the cache.

Orders wait for the lock of the stock, which all processes of the host share, before they check out a connection.
Without the lock they would wait in the database, each with a connection checked out.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sqlite3
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import wsgipool
from wsgipool import Locks, SharedCache

LOG = logging.getLogger("wsgipool.demo")

MAX_COPIES = 99
MAX_NAME = 100
"""Characters of a customer's name."""
MAX_SECONDS = 10
"""Duration of the slow report."""
MAX_BODY = 64 * 1024
"""Bytes of a request's body."""
MAX_ID = 2**31 - 1
"""The largest id of an INTEGER column: SQLite's driver raises for much larger numbers."""

DEMO = Path(__file__).parent
"""The folder of `templates` and `static`."""

Row = dict[str, Any]

ALL_BOOKS = "all books"

locks = Locks("stock", scope="host")
PATIENCE = 10
"""Seconds that an order waits for the lock."""


class FailedOnPurposeError(Exception):
    """The error that /fail raises in the middle of its transaction."""


class Refusal(Exception):
    """A request that the shop cannot fulfil, with the status of its answer and a message for the visitor."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Failure(NamedTuple):
    """What the transaction that failed on purpose saw, and what it left behind."""

    orders_during: int
    orders_after: int
    is_left_behind: bool


class Queries(Protocol):
    """The queries of the shop. A call that writes has committed when it returns."""

    def all_books(self) -> list[Row]: ...

    def find_book(self, book_id: int) -> Row | None: ...

    def last_orders(self) -> list[Row]: ...

    def find_order(self, order_id: int) -> Row | None: ...

    def place_order(self, book_id: int, customer: str, quantity: int) -> int | None:
        """Take the copies out of stock and insert the order; return its id, or None if there are too few copies."""

    def best_sellers(self, seconds: float) -> tuple[list[Row], float]:
        """Keep a connection checked out for `seconds`; return the best sellers, and the seconds that it took."""

    def fail(self, customer: str) -> Failure:
        """Insert an order of this customer and raise before the commit, then look for the order."""

    def pool(self) -> wsgipool.Pool[Any]:
        """Return the pool of this process, for handlers that use it wrongly on purpose."""


@dataclass
class Answer:
    """The content of a page, the same in HTML and in JSON."""

    template: str
    payload: Row
    status: int = 200
    page: Row = field(default_factory=dict)
    """Values that only the HTML needs."""
    headers: dict[str, str] = field(default_factory=dict)


class Bookshop:
    """The pages, by the queries of one module."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries
        # The ttl limits how long an old stock is shown if a process dies between its commit and the invalidation.
        self._catalogue: SharedCache[str | int, Any] = SharedCache(maxsize=1000, ttl=60, name="bookshop catalogue")

    def book_list(self) -> Answer:
        books = self._catalogue.get_or_create(ALL_BOOKS, lambda _: self._queries.all_books())
        return Answer("books.html", {"books": books})

    def book_page(self, book_id: int) -> Answer:
        book = self._catalogue.get_or_create(book_id, lambda _: self._book(book_id))
        return Answer("book.html", {"book": book}, page={"form": {"quantity": "1", "customer": ""}, "errors": {}})

    def order_book(self, book_id: int, fields: object) -> Answer:
        """Place an order; the status of the answer is 201, 400 for a wrong form, or 409 for too few copies."""
        form = order_form(fields)
        errors = order_errors(form)
        if errors:
            return self._not_ordered(400, self._book(book_id), form, errors)
        order_id = self._take_order(book_id, form["customer"], int(form["quantity"]))
        # The order is committed here, so the answer never names an order that was rolled back.
        if order_id is None:
            book = self._book(book_id)
            stock = book["stock"]
            problem = f"We have only {stock} left in stock." if stock else "This book is sold out."
            return self._not_ordered(409, book, form, {"quantity": problem})
        self._catalogue.invalidate(book_id)
        self._catalogue.invalidate(ALL_BOOKS)
        return Answer("order.html", {"order": self._order(order_id)}, 201)

    def order_list(self) -> Answer:
        return Answer("orders.html", {"orders": [with_iso_time(order) for order in self._queries.last_orders()]})

    def order_page(self, order_id: int) -> Answer:
        return Answer("order.html", {"order": self._order(order_id)})

    def slow_report(self, seconds: str) -> Answer:
        """Show the best sellers from a query of a chosen duration, to watch the pool under load."""
        try:
            duration = float(seconds)
        except ValueError:
            duration = -1
        if not 0 <= duration <= MAX_SECONDS:
            raise Refusal(400, f"“seconds” must be a number from 0 to {MAX_SECONDS}.")
        books, took = self._queries.best_sellers(duration)
        payload = {"seconds": duration, "took": round(took, 3), "books": books}
        return Answer("slow.html", payload, page={"longest": MAX_SECONDS})

    def fail(self) -> Answer:
        """Raise in the middle of a transaction, then check that the database has rolled it back."""
        # The unique name distinguishes this order from those of other visitors.
        failure = self._queries.fail(f"Nobody {secrets.token_hex(8)}")
        outcome = {
            "error": "Failed on purpose",
            "rolled_back": not failure.is_left_behind,
            "orders_before": failure.orders_during - 1,
            "orders_during": failure.orders_during,
            "orders_after": failure.orders_after,
        }
        return Answer("fail.html", outcome, 500)

    @locks.requires("stock", timeout=PATIENCE)
    def _take_order(self, book_id: int, customer: str, quantity: int) -> int | None:
        return self._queries.place_order(book_id, customer, quantity)

    def _book(self, book_id: int) -> Row:
        book = self._queries.find_book(book_id)
        if book is None:
            raise Refusal(404, "We have no such book.")
        return book

    def _order(self, order_id: int) -> Row:
        order = self._queries.find_order(order_id)
        if order is None:
            raise Refusal(404, "There is no such order.")
        return with_iso_time(order)

    def _not_ordered(self, status: int, book: Row, form: dict[str, str], errors: dict[str, str]) -> Answer:
        return Answer("book.html", {"errors": errors, "book": book}, status, page={"form": form})


# ---- orders --------------------------------------------------------------------------------------------------


def order_form(fields: object) -> dict[str, str]:
    """Return the fields of a form or a JSON object as text."""
    if not isinstance(fields, dict):
        raise Refusal(400, "An order is a JSON object with “quantity” and “customer”.")
    return {name: str(fields.get(name, "")).strip() for name in ("quantity", "customer")}


def order_errors(form: dict[str, str]) -> dict[str, str]:
    errors = {}
    try:
        quantity = int(form["quantity"])
    except ValueError:
        quantity = 0
    if not 1 <= quantity <= MAX_COPIES:
        errors["quantity"] = f"Give the number of copies, from 1 to {MAX_COPIES}."
    if not form["customer"]:
        errors["customer"] = "Give the name that the order is for."
    elif len(form["customer"]) > MAX_NAME or not form["customer"].isprintable():
        errors["customer"] = f"A name has at most {MAX_NAME} characters, all on one line."
    return errors


def now() -> datetime:
    """Return the time as the column `placed_at` keeps it: in UTC, in whole seconds, without a zone."""
    return datetime.now(UTC).replace(microsecond=0, tzinfo=None)


def with_iso_time(order: Row) -> Row:
    """Return the order with its time as text: most drivers answer with a datetime, SQLite's with text."""
    return {**order, "placed_at": str(order["placed_at"]).replace(" ", "T") + "Z"}


# ---- answers -------------------------------------------------------------------------------------------------


def error_page(status: int, message: str) -> Answer:
    return Answer("error.html", {"error": HTTPStatus(status).phrase, "message": message}, status)


def pool_error(error: BaseException | None) -> wsgipool.Error | None:
    """Return the error of a pool or lock that is the cause of a framework's error, or that is this error."""
    while error is not None and not isinstance(error, (wsgipool.PoolError, wsgipool.LockError)):
        error = error.__cause__
    return error


def unavailable(error: wsgipool.Error, method: str, path: str) -> Answer:
    """Answer 503 with advice for the visitor; the reason names hosts and code, so it goes to the log."""
    reason = " ".join(str(error).split())
    LOG.error("503 for %s %r: %s: %s", method, path, type(error).__name__, reason)
    if isinstance(error, wsgipool.PoolTimeout):
        problem = "All our database connections are busy right now"
    elif isinstance(error, wsgipool.LockError):
        problem = "Many orders are being taken right now"
    elif isinstance(error, wsgipool.PoolClosed):
        problem = "This server is just being restarted"
    else:
        problem = "The shop cannot reach its database right now"
    answer = error_page(503, f"{problem}; please try again in a few seconds.")
    answer.headers["Retry-After"] = "5"
    return answer


def as_json(payload: Row) -> str:
    """Return JSON with readable titles, and with `served_by` first."""
    return json.dumps({"served_by": served_by(), **payload}, ensure_ascii=False, separators=(",", ":")) + "\n"


def money(cents: int) -> str:
    return f"€{cents // 100}.{cents % 100:02}"


# ---- served by -----------------------------------------------------------------------------------------------

_visit = threading.local()


def begin_visit() -> None:
    """Forget the connection of the request that this thread served before."""
    _visit.connection = None


def remember(connection: Any) -> None:
    """Record the id of the driver's connection, which the page shows after the connection was returned."""
    is_sqlite = isinstance(connection, sqlite3.Connection)
    _visit.connection = f"{id(connection):x}"[-8:] if is_sqlite else connection.thread_id()


def served_by() -> Row:
    return {"process": os.getpid(), "thread": threading.get_native_id(), "connection": _visit.connection}


def served_by_headers() -> dict[str, str]:
    """Return the headers of every response, also of errors and redirects."""
    return {f"X-Served-By-{part.capitalize()}": str(value) for part, value in served_by().items() if value is not None}
