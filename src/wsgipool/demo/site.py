"""The bookshop as a Flask site: each page borrows one connection, and says which one it had.

Two habits keep a small pool quick. Views read every row inside the `with` block and render after it, since a
connection that waits for a template or a slow visitor is one that nobody else can have. And blocks are never
nested: where a process serves one request at a time its pool holds a single connection, which the inner block
would await from the outer one. For the same reason nobody asks the catalogue from within a block.

The catalogue is read often and changes with an order only, so the books are kept in a cache. An order changes the
stock in the database, and when that is committed says so to the caches of all processes; the order itself never
believes them.

Orders for the last copy queue up for the stock's lock, which all processes of the host share, before they borrow a
connection. Without it they would queue up in the database, each with a connection that nobody else can have.
"""

import logging
import os
import secrets
import sqlite3
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import flask
from flask import Flask, Response, abort, g, request, url_for
from flask.json.provider import DefaultJSONProvider
from werkzeug.exceptions import HTTPException

import wsgipool
from wsgipool import Locks, SharedCache
from wsgipool.demo.schema import execute

LOG = logging.getLogger("wsgipool.demo")

MOST_COPIES = 99
LONGEST_NAME = 100
LONGEST_REPORT = 10

# Up to the largest id that an INTEGER column can hold; SQLite's driver raises for one that is far beyond.
BOOK = "/books/<int(max=2147483647):book_id>"
ORDER = "/orders/<int(max=2147483647):order_id>"


class ReadableJSON(DefaultJSONProvider):
    """Titles as a person would write them, and `served_by` first."""

    ensure_ascii = False
    sort_keys = False


class FailedOnPurposeError(Exception):
    """What /fail raises in the middle of its transaction."""


# A minute: for as long would an old stock be shown, should a process die between its commit and the invalidation.
catalogue: SharedCache[str | int, Any] = SharedCache(maxsize=1000, ttl=60, name="bookshop catalogue")
ALL_BOOKS = "all books"

locks = Locks("stock", scope="host")
PATIENCE = 10
"""Seconds that an order waits for those before it."""

application = Flask(__name__)
application.json = ReadableJSON(application)
application.config["MAX_CONTENT_LENGTH"] = 64 * 1024


# ---- pages ---------------------------------------------------------------------------------------------------


@application.get("/")
def book_list() -> Response:
    return respond("books.html", {"books": catalogue.get_or_create(ALL_BOOKS, read_books)})


@application.get(BOOK)
def book_page(book_id: int) -> Response:
    book = catalogue.get_or_create(book_id, read_book)
    return respond("book.html", {"book": book}, form={"quantity": "1", "customer": ""}, errors={})


@application.post(f"{BOOK}/order")
def order_book(book_id: int) -> Response:
    form = order_form()
    errors = order_errors(form)
    order, book = (None, read_book(book_id)) if errors else take_order(book_id, form["customer"], int(form["quantity"]))
    # Committed now, and not before: nobody must be sent to an order that a failed commit took back.
    if order:
        catalogue.invalidate(book_id)
        catalogue.invalidate(ALL_BOOKS)
        location = url_for("order_page", order_id=order["id"])
        if not wants_json():
            return flask.make_response(flask.redirect(location, 303))
        response = respond("order.html", {"order": order}, 201)
        response.location = location
        return response
    status = 400 if errors else 409
    if not errors:
        left = book["stock"]
        errors["quantity"] = f"We have only {left} left in stock." if left else "This book is sold out."
    return respond("book.html", {"errors": errors, "book": book}, status, form=form)


@application.get("/orders")
def order_list() -> Response:
    with wsgipool.connection("bookshop", readonly=True) as conn:
        remember(conn)
        orders = fetch(conn, "SELECT id, customer, placed_at, total FROM orders ORDER BY id DESC LIMIT 50")
    return respond("orders.html", {"orders": [with_iso_time(order) for order in orders]})


@application.get(ORDER)
def order_page(order_id: int) -> Response:
    with wsgipool.connection("bookshop", readonly=True) as conn:
        remember(conn)
        order = find_order(conn, order_id)
    return respond("order.html", {"order": order})


@application.get("/slow")
def slow_report() -> Response:
    """The best sellers, from a query as slow as asked for: a way to see what the pool does under load."""
    try:
        seconds = float(request.args.get("seconds", "2"))
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= LONGEST_REPORT:
        abort(400, f"“seconds” must be a number from 0 to {LONGEST_REPORT}.")
    with wsgipool.connection("bookshop", readonly=True) as conn:
        remember(conn)
        started = time.monotonic()
        if isinstance(conn, sqlite3.Connection):
            time.sleep(seconds)
        else:
            execute(conn, "SELECT SLEEP(%s)", seconds)
        # The casts because MariaDB sums integers into decimals, which JSON would show as strings.
        books = fetch(
            conn,
            "SELECT b.id, b.title, b.author, CAST(SUM(l.quantity) AS SIGNED) AS copies,"
            " CAST(SUM(l.quantity * l.price) AS SIGNED) AS revenue"
            " FROM order_lines l JOIN books b ON b.id = l.book_id"
            " GROUP BY b.id, b.title, b.author ORDER BY revenue DESC, b.id LIMIT 10",
        )
        took = round(time.monotonic() - started, 3)
    return respond("slow.html", {"seconds": seconds, "took": took, "books": books}, longest=LONGEST_REPORT)


@application.get("/fail")
def fail() -> Response:
    """Raise in the middle of a transaction, and then see whether the database forgot all about it."""
    # A name of its own tells this order from those that other visitors place in the meantime.
    customer = f"Nobody {secrets.token_hex(8)}"
    with suppress(FailedOnPurposeError), wsgipool.connection("bookshop") as conn:
        insert_order(conn, customer, total=0)
        orders_during = count_orders(conn)
        raise FailedOnPurposeError
    with wsgipool.connection("bookshop", readonly=True) as conn:
        remember(conn)
        left_behind = fetch(conn, "SELECT id FROM orders WHERE customer = %s", customer)
        orders_after = count_orders(conn)
    outcome = {
        "error": "Failed on purpose",
        "rolled_back": not left_behind,
        "orders_before": orders_during - 1,
        "orders_during": orders_during,
        "orders_after": orders_after,
    }
    return respond("fail.html", outcome, 500)


# ---- what the catalogue keeps --------------------------------------------------------------------------------


def read_books(_: object) -> list[dict[str, Any]]:
    with wsgipool.connection("bookshop", readonly=True) as conn:
        remember(conn)
        return fetch(conn, "SELECT id, title, author, year, price, stock FROM books ORDER BY id")


def read_book(book_id: str | int) -> dict[str, Any]:
    with wsgipool.connection("bookshop", readonly=True) as conn:
        remember(conn)
        return find_book(conn, int(book_id))


# ---- what the shop asks of its database ----------------------------------------------------------------------


def fetch(conn: Any, statement: str, *values: object) -> list[dict[str, Any]]:
    cursor = execute(conn, statement, *values)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def find_book(conn: Any, book_id: int) -> dict[str, Any]:
    select = "SELECT id, title, author, year, price, stock, blurb FROM books WHERE id = %s"
    books = fetch(conn, select, book_id)
    return books[0] if books else abort(404, "We have no such book.")


def find_order(conn: Any, order_id: int) -> dict[str, Any]:
    orders = fetch(conn, "SELECT id, customer, placed_at, total FROM orders WHERE id = %s", order_id)
    if not orders:
        abort(404, "There is no such order.")
    lines = fetch(
        conn,
        "SELECT l.book_id, b.title, b.author, l.quantity, l.price FROM order_lines l"
        " JOIN books b ON b.id = l.book_id WHERE l.order_id = %s ORDER BY l.book_id",
        order_id,
    )
    return {**with_iso_time(orders[0]), "lines": lines}


def with_iso_time(order: dict[str, Any]) -> dict[str, Any]:
    """MariaDB answers with a datetime, SQLite with text; as a string they are the same."""
    return {**order, "placed_at": str(order["placed_at"]).replace(" ", "T") + "Z"}


def count_orders(conn: Any) -> int:
    count: int = execute(conn, "SELECT COUNT(*) FROM orders").fetchone()[0]
    return count


def insert_order(conn: Any, customer: str, total: int) -> int:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    insert = "INSERT INTO orders (customer, placed_at, total) VALUES (%s, %s, %s)"
    order_id: int = execute(conn, insert, customer, now, total).lastrowid
    return order_id


@locks.requires("stock", timeout=PATIENCE)
def take_order(book_id: int, customer: str, quantity: int) -> tuple[Any, Any]:
    """Place an order and commit it; return it, or None when there are not that many copies, and the book."""
    with wsgipool.connection("bookshop") as conn:
        remember(conn)
        order_id = place_order(conn, book_id, customer, quantity)
        return find_order(conn, order_id) if order_id else None, find_book(conn, book_id)


def place_order(conn: Any, book_id: int, customer: str, quantity: int) -> int | None:
    """Take the copies out of stock and write the order down; None when there are not that many."""
    # The guarded UPDATE comes before any SELECT, since the database knows more orders than this host's: it locks the
    # book, so of two for the last copy the second one finds the new stock, not the one it read a moment ago.
    take = "UPDATE books SET stock = stock - %s WHERE id = %s AND stock >= %s"
    if execute(conn, take, quantity, book_id, quantity).rowcount == 0:
        return None
    price: int = find_book(conn, book_id)["price"]
    order_id = insert_order(conn, customer, price * quantity)
    insert_line = "INSERT INTO order_lines (order_id, book_id, quantity, price) VALUES (%s, %s, %s, %s)"
    execute(conn, insert_line, order_id, book_id, quantity, price)
    return order_id


# ---- the order form ------------------------------------------------------------------------------------------


def order_form() -> dict[str, str]:
    """The fields as text, from a form or from a JSON object."""
    fields = request.get_json() if request.is_json else request.form
    if not isinstance(fields, dict):
        abort(400, "An order is a JSON object with “quantity” and “customer”.")
    return {name: str(fields.get(name, "")).strip() for name in ("quantity", "customer")}


def order_errors(form: dict[str, str]) -> dict[str, str]:
    errors = {}
    try:
        quantity = int(form["quantity"])
    except ValueError:
        quantity = 0
    if not 1 <= quantity <= MOST_COPIES:
        errors["quantity"] = f"Give the number of copies, from 1 to {MOST_COPIES}."
    if not form["customer"]:
        errors["customer"] = "Give the name that the order is for."
    elif len(form["customer"]) > LONGEST_NAME or not form["customer"].isprintable():
        errors["customer"] = f"A name has at most {LONGEST_NAME} characters, all on one line."
    return errors


# ---- answers -------------------------------------------------------------------------------------------------


def wants_json() -> bool:
    best = request.accept_mimetypes.best_match(["text/html", "application/json"])
    return request.args.get("format") == "json" or best == "application/json"


def remember(conn: Any) -> None:
    """Note the connection's id, which the answer shows when the connection is long given back."""
    g.connection = f"{id(conn):x}"[-8:] if isinstance(conn, sqlite3.Connection) else conn.thread_id()


def served_by() -> dict[str, Any]:
    thread = threading.current_thread().name
    return {"process": os.getpid(), "thread": thread, "connection": g.get("connection")}


def respond(template: str, payload: dict[str, Any], status: int = 200, **page: Any) -> Response:
    """Answer with the payload as JSON or as a page; `page` is what only the HTML needs."""
    if wants_json():
        response = flask.jsonify({"served_by": served_by(), **payload})
    else:
        html = flask.render_template(template, served_by=served_by(), **payload, **page)
        response = flask.make_response(html)
    response.status_code = status
    return response


@application.after_request
def sign(response: Response) -> Response:
    """Say who served it on every answer, the errors and redirects too."""
    for part, value in served_by().items():
        if value is not None:
            response.headers[f"X-Served-By-{part.capitalize()}"] = str(value)
    if request.endpoint != "static":
        response.vary.add("Accept")
        response.cache_control.no_cache = True
    return response


@application.template_filter()
def money(cents: int) -> str:
    return f"€{cents // 100}.{cents % 100:02}"


@application.errorhandler(wsgipool.PoolError)
@application.errorhandler(wsgipool.LockError)
def unavailable(error: wsgipool.Error) -> Response:
    """The reason names hosts and code, so it goes to the log; the visitor learns what to do."""
    reason = " ".join(str(error).split())
    LOG.error("503 for %s %r: %s: %s", request.method, request.path, type(error).__name__, reason)
    if isinstance(error, wsgipool.PoolTimeout):
        problem = "All our database connections are busy right now"
    elif isinstance(error, wsgipool.LockError):
        problem = "Many orders are being taken right now"
    elif isinstance(error, wsgipool.PoolClosed):
        problem = "This server is just being restarted"
    else:
        problem = "The shop cannot reach its database right now"
    message = f"{problem}; please try again in a few seconds."
    response = respond("error.html", {"error": "Service Unavailable", "message": message}, 503)
    response.headers["Retry-After"] = "5"
    return response


@application.errorhandler(HTTPException)
def http_error(error: HTTPException) -> Response:
    response = respond("error.html", {"error": error.name, "message": error.description}, error.code or 500)
    for name, value in error.get_headers():
        if name != "Content-Type":
            response.headers[name] = value
    return response
