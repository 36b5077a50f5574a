"""Django on SQLite: `"ENGINE": "wsgipool.django.sqlite3"`."""

from __future__ import annotations

from pathlib import Path

from frameworks.django_site import run_site

ENGINE = "wsgipool.django.sqlite3"


def test_requests_use_one_connection_after_the_other(tmp_path: Path) -> None:
    run_site(
        """
from django.db import IntegrityError
from django.db.models import Avg, StdDev
create_tables()

def view():
    with transaction.atomic():
        book = Book.objects.create(title="Emma")
        try:
            with transaction.atomic():
                Order.objects.create(book_id=book.pk + 1, number=0)
                connection.check_constraints()
        except IntegrityError:
            pass
        Order.objects.create(book=book, number=book.pk)
    return Order.objects.filter(book__title__iregex="emm.").aggregate(StdDev("number"))["number__stddev"]

assert request(view) == 0
assert on_thread(lambda: request(view)) == 0.5
try:
    with transaction.atomic():
        Book.objects.create(title="Persuasion")
        raise KeyError
except KeyError:
    connection.close()
assert Book.objects.count() == 2
connection.close()
stats = wsgipool.pool("default").stats()
assert (stats.opened, stats.idle) == (1, 1), stats
""",
        {"default": {"ENGINE": ENGINE, "NAME": tmp_path / "shop.db"}},
    )


def test_a_return_does_not_end_in_a_new_connection_after_foreign_keys_were_off(tmp_path: Path) -> None:
    run_site(
        """
create_tables()
with connection.constraint_checks_disabled():
    Order.objects.create(book_id=7, number=1)
Order.objects.all().delete()
connection.close()
Book.objects.count()
assert wsgipool.pool("default").stats().opened == 1
""",
        {"default": {"ENGINE": ENGINE, "NAME": str(tmp_path / "shop.db"), "OPTIONS": {"timeout": 3}}},
    )


def test_a_database_in_memory_is_djangos_own() -> None:
    run_site(
        """
create_tables()
Book.objects.create(title="Emma")
connection.close()
assert Book.objects.count() == 1
assert wsgipool.pools.stats() == []
""",
        {"default": {"ENGINE": ENGINE, "NAME": ":memory:"}},
    )


def test_a_named_database_gives_the_file(tmp_path: Path) -> None:
    run_site(
        """
create_tables()
Book.objects.create(title="Emma")
connection.close()
assert wsgipool.pool("default").stats().idle == 1
""",
        {"default": {"ENGINE": ENGINE, "OPTIONS": {"pool": {"name": "orders"}}}},
        WSGIPOOL={"databases": {"orders": {"url": f"sqlite:///{tmp_path}/shop.db"}}},
    )
    assert (tmp_path / "shop.db").stat().st_size > 0
