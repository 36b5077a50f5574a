"""The queries of the bookshop by Django's ORM, on connections of the pool.

Django checks a connection out at the first query of a request, and returns it at the end of the request.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from django.db import connection, transaction
from django.db.backends.signals import connection_created
from django.db.models import F, Sum
from django.dispatch import receiver

import wsgipool
from wsgipool import pools
from wsgipool.demo.bookshop import FailedOnPurposeError, Failure, Row, now, remember
from wsgipool.demo.django_site.models import Book, Order, OrderLine

BOOK = ("id", "title", "author", "year", "price", "stock")
ORDER = ("id", "customer", "placed_at", "total")


@receiver(connection_created)
def remember_connection(connection: Any, **_: object) -> None:
    remember(connection.connection)


def all_books() -> list[Row]:
    return list(Book.objects.order_by("id").values(*BOOK))


def find_book(book_id: int) -> Row | None:
    return Book.objects.filter(id=book_id).values(*BOOK, "blurb").first()


def last_orders() -> list[Row]:
    return list(Order.objects.order_by("-id").values(*ORDER)[:50])


def find_order(order_id: int) -> Row | None:
    order = Order.objects.filter(id=order_id).values(*ORDER).first()
    lines = OrderLine.objects.filter(order_id=order_id).order_by("book_id")
    lines = lines.values("book_id", "quantity", "price", title=F("book__title"), author=F("book__author"))
    return order and {**order, "lines": list(lines)}


@transaction.atomic
def place_order(book_id: int, customer: str, quantity: int) -> int | None:
    # The UPDATE with its condition comes before any SELECT, since other hosts take orders, too. It locks the book, so
    # the second of two orders for the last copy finds the new stock.
    if not Book.objects.filter(id=book_id, stock__gte=quantity).update(stock=F("stock") - quantity):
        return None
    price = Book.objects.values_list("price", flat=True).get(id=book_id)
    order = Order.objects.create(customer=customer, placed_at=now(), total=price * quantity)
    order.lines.create(book_id=book_id, quantity=quantity, price=price)
    return order.id


def best_sellers(seconds: float) -> tuple[list[Row], float]:
    connection.ensure_connection()  # the checkout, before the time is taken
    started = time.monotonic()
    if connection.vendor == "sqlite":
        time.sleep(seconds)
    else:
        with connection.cursor() as cursor:
            cursor.execute("SELECT SLEEP(%s)", [seconds])
    books = (
        Book.objects.annotate(
            copies=Sum("orderline__quantity"), revenue=Sum(F("orderline__quantity") * F("orderline__price"))
        )
        .filter(copies__gt=0)
        .order_by("-revenue", "id")
        .values("id", "title", "author", "copies", "revenue")[:10]
    )
    return list(books), time.monotonic() - started


def fail(customer: str) -> Failure:
    with suppress(FailedOnPurposeError), transaction.atomic():
        Order.objects.create(customer=customer, placed_at=now(), total=0)
        orders_during = Order.objects.count()
        raise FailedOnPurposeError
    is_left_behind = Order.objects.filter(customer=customer).exists()
    return Failure(orders_during, Order.objects.count(), is_left_behind)


def pool() -> wsgipool.Pool[Any]:
    return pools.pool(connection.pool_name(connection.get_connection_params()))
