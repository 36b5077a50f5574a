"""The bookshop as a Flask site, for plain SQL and for SQLAlchemy: addresses, requests and responses."""

from __future__ import annotations

import flask
from flask import Flask, Response, request, url_for
from werkzeug.exceptions import HTTPException

from wsgipool.demo import bookshop, pool_page
from wsgipool.demo.bookshop import Answer, Bookshop, Queries, Refusal
from wsgipool.demo.pool_page import PoolPage

BOOK = f"/books/<int(max={bookshop.MAX_ID}):book_id>"
ORDER = f"/orders/<int(max={bookshop.MAX_ID}):order_id>"


def create_application(queries: Queries) -> Flask:
    application = Flask(__name__)
    application.config["MAX_CONTENT_LENGTH"] = bookshop.MAX_BODY
    application.before_request(bookshop.begin_visit)
    application.after_request(sign)
    application.add_template_filter(bookshop.money)
    application.add_template_global(pool_page.status_page)
    application.register_error_handler(Refusal, refused)
    application.register_error_handler(HTTPException, http_error)
    application.register_error_handler(Exception, unavailable)
    shop = Bookshop(queries)
    pool = PoolPage(queries)

    @application.get("/")
    def book_list() -> Response:
        return respond(shop.book_list())

    @application.get(BOOK)
    def book_page(book_id: int) -> Response:
        return respond(shop.book_page(book_id))

    @application.post(f"{BOOK}/order")
    def order_book(book_id: int) -> Response:
        answer = shop.order_book(book_id, request.get_json() if request.is_json else request.form)
        if answer.status != 201:
            return respond(answer)
        location = url_for("order_page", order_id=answer.payload["order"]["id"])
        if not wants_json():
            return flask.make_response(flask.redirect(location, 303))
        answer.headers["Location"] = location
        return respond(answer)

    @application.get("/orders")
    def order_list() -> Response:
        return respond(shop.order_list())

    @application.get(ORDER)
    def order_page(order_id: int) -> Response:
        return respond(shop.order_page(order_id))

    @application.get("/slow")
    def slow_report() -> Response:
        return respond(shop.slow_report(request.args.get("seconds", "2")))

    @application.get("/fail")
    def fail() -> Response:
        return respond(shop.fail())

    @application.get("/pool")
    def show_pool() -> Response:
        return respond(pool.show())

    @application.post("/pool/actions/<action>")
    def request_action(action: str) -> Response:
        return respond(pool.request_action(action, request.headers.get))

    @application.post("/pool/mistakes/<mistake>")
    def make_mistake(mistake: str) -> Response:
        return respond(pool.make_mistake(mistake, request.headers.get))

    return application


def wants_json() -> bool:
    best = request.accept_mimetypes.best_match(["text/html", "application/json"])
    return request.args.get("format") == "json" or best == "application/json"


def respond(answer: Answer) -> Response:
    """Return the answer as JSON or as a page."""
    if wants_json():
        body, content_type = bookshop.as_json(answer.payload), "application/json"
    else:
        values = {**answer.payload, **answer.page, "served_by": bookshop.served_by(), "endpoint": request.endpoint}
        body, content_type = flask.render_template(answer.template, **values), "text/html; charset=utf-8"
    return Response(body, answer.status, answer.headers, content_type=content_type)


def sign(response: Response) -> Response:
    response.headers.update(bookshop.served_by_headers())
    if request.endpoint != "static":
        response.vary.add("Accept")
        response.cache_control.no_cache = True
    return response


def refused(error: Refusal) -> Response:
    return respond(bookshop.error_page(error.status, str(error)))


def http_error(error: HTTPException) -> Response:
    """Answer an error of Flask's, such as that of an unknown address."""
    response = respond(bookshop.error_page(error.code or 500, error.description or ""))
    for name, value in error.get_headers():
        if name != "Content-Type":
            response.headers[name] = value
    return response


def unavailable(error: Exception) -> Response:
    """Answer 503 if no connection or lock could be had; raise any other error again."""
    reason = bookshop.pool_error(error)
    if reason is None:
        raise error
    return respond(bookshop.unavailable(reason, request.method, request.path))
