"""The views of the bookshop: requests and responses."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import django.views.static
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.cache import patch_cache_control, patch_vary_headers
from django.views.decorators.http import require_POST, require_safe
from jinja2 import Environment

from wsgipool.demo import bookshop, pool_page
from wsgipool.demo.bookshop import Answer, Bookshop, Refusal
from wsgipool.demo.django_site import queries
from wsgipool.demo.pool_page import PoolPage

shop = Bookshop(queries)
pool = PoolPage(queries)


@require_safe
def book_list(request: HttpRequest) -> HttpResponse:
    return respond(request, shop.book_list())


@require_safe
def book_page(request: HttpRequest, book_id: int) -> HttpResponse:
    return respond(request, shop.book_page(book_id))


@require_POST
def order_book(request: HttpRequest, book_id: int) -> HttpResponse:
    answer = shop.order_book(book_id, fields(request))
    if answer.status != 201:
        return respond(request, answer)
    location = reverse("order_page", kwargs={"order_id": answer.payload["order"]["id"]})
    if not wants_json(request):
        return HttpResponseRedirect(location, status=303)
    answer.headers["Location"] = location
    return respond(request, answer)


@require_safe
def order_list(request: HttpRequest) -> HttpResponse:
    return respond(request, shop.order_list())


@require_safe
def order_page(request: HttpRequest, order_id: int) -> HttpResponse:
    return respond(request, shop.order_page(order_id))


@require_safe
def slow_report(request: HttpRequest) -> HttpResponse:
    return respond(request, shop.slow_report(request.GET.get("seconds", "2")))


@require_safe
def fail(request: HttpRequest) -> HttpResponse:
    return respond(request, shop.fail())


@require_safe
def show_pool(request: HttpRequest) -> HttpResponse:
    return respond(request, pool.show())


@require_POST
def request_action(request: HttpRequest, action: str) -> HttpResponse:
    return respond(request, pool.request_action(action, request.headers.get))


@require_POST
def make_mistake(request: HttpRequest, mistake: str) -> HttpResponse:
    return respond(request, pool.make_mistake(mistake, request.headers.get))


@require_safe
def static(request: HttpRequest, filename: str) -> HttpResponse:
    return django.views.static.serve(request, filename, document_root=bookshop.DEMO / "static")


# ---- requests ------------------------------------------------------------------------------------------------


def fields(request: HttpRequest) -> Any:
    """Return the fields of a form or a JSON object."""
    if request.content_type != "application/json":
        return request.POST.dict()
    try:
        return json.loads(request.body)
    except ValueError:
        raise Refusal(400, "The body of the request is no JSON.") from None


def wants_json(request: HttpRequest) -> bool:
    best = request.get_preferred_type(["text/html", "application/json"])
    return request.GET.get("format") == "json" or best == "application/json"


# ---- responses -----------------------------------------------------------------------------------------------


def respond(request: HttpRequest, answer: Answer) -> HttpResponse:
    """Return the answer as JSON or as a page."""
    if wants_json(request):
        body = bookshop.as_json(answer.payload)
        return HttpResponse(body, "application/json", answer.status, headers=answer.headers)
    endpoint = request.resolver_match and request.resolver_match.url_name
    values = {**answer.payload, **answer.page, "served_by": bookshop.served_by(), "endpoint": endpoint}
    page = render_to_string(answer.template, values, request)
    return HttpResponse(page, status=answer.status, headers=answer.headers)


def environment(**options: Any) -> Environment:
    """Return the environment of the templates, with the names that Flask gives them."""
    environment = Environment(**options)  # noqa: S701 - Django's options contain autoescape=True
    environment.globals["url_for"] = lambda name, **arguments: reverse(name, kwargs=arguments)
    environment.globals["status_page"] = pool_page.status_page
    environment.filters["money"] = bookshop.money
    return environment


class Signature:
    """A middleware that signs each response, and answers for errors of the shop and of the pool."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        bookshop.begin_visit()
        response = self._get_response(request)
        for name, value in bookshop.served_by_headers().items():
            response[name] = value
        if not request.resolver_match or request.resolver_match.url_name != "static":
            patch_vary_headers(response, ["Accept"])
            patch_cache_control(response, no_cache=True)
        return response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if isinstance(error, Refusal):
            return respond(request, bookshop.error_page(error.status, str(error)))
        reason = bookshop.pool_error(error)
        if reason is None:
            return None
        return respond(request, bookshop.unavailable(reason, request.method or "", request.path))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:  # noqa: ARG001 - Django's keyword
    return respond(request, bookshop.error_page(404, "There is no such page."))


def server_error(request: HttpRequest) -> HttpResponse:
    return respond(request, bookshop.error_page(500, "The server has failed; its log says why."))
