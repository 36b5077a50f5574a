"""Django on PostgreSQL: `"ENGINE": "wsgipool.django.postgresql"`."""

from __future__ import annotations

from typing import Any

import pytest

from drivers.shops import new_name
from frameworks.django_site import entry, run_site
from servers.postgresql import PostgreSQL

ENGINE = "wsgipool.django.postgresql"


@pytest.fixture
def url(postgresql: PostgreSQL) -> str:
    return postgresql.create_database(new_name())


@pytest.fixture
def default(url: str) -> dict[str, Any]:
    return entry(url, ENGINE)


def test_requests_use_one_connection_after_the_other(default: dict[str, Any]) -> None:
    run_site(
        """
import datetime
create_tables()

def view():
    with transaction.atomic():
        book = Book.objects.create(title="Emma")
        Order.objects.create(book=book, number=book.pk, opens=datetime.time(9, 30))
    titles = [order.book.title for order in Order.objects.iterator(chunk_size=1)]
    assert Order.objects.first().at.tzinfo is not None
    return len(titles)

assert request(view) == 1
assert on_thread(lambda: request(view)) == 2
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
        {"default": default},
    )


def test_a_request_with_one_query_sends_one_statement(default: dict[str, Any], postgresql: PostgreSQL) -> None:
    with postgresql.admin() as admin:
        admin.execute(f"ALTER ROLE {default['USER']} SET log_statement = 'all'")
    before = len(postgresql.log.read_text().splitlines())

    run_site(
        """
create_tables()
for _ in range(3):
    request(lambda: list(Book.objects.filter(title="Emma")))
""",
        {"default": default},
    )

    sent = [
        line for line in postgresql.log.read_text().splitlines()[before:] if "statement:" in line or "execute " in line
    ]
    queries = [index for index, line in enumerate(sent) if "'Emma'" in line]
    assert queries == list(range(queries[0], queries[0] + 3))


def test_a_session_has_the_state_of_the_settings(default: dict[str, Any], postgresql: PostgreSQL) -> None:
    role = new_name()
    with postgresql.admin() as admin:
        admin.execute(f"CREATE ROLE {role}")
        admin.execute(f"GRANT {role} TO {default['USER']}")
    options = {"isolation_level": 4, "assume_role": role, "server_side_binding": True}

    output = run_site(
        """
def state():
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('TimeZone'), current_setting('transaction_isolation'), current_user")
        return cursor.fetchone()

print(*request(state))
print(*request(state))
print(wsgipool.pool("default").stats().opened)
""",
        {"default": {**default, "TIME_ZONE": "Asia/Tokyo", "OPTIONS": options}},
    )

    assert output.splitlines() == [f"Asia/Tokyo serializable {role}"] * 2 + ["1"]


def test_another_time_zone_has_sessions_of_its_own(default: dict[str, Any]) -> None:
    run_site(
        """
from django.test import override_settings

def zone():
    with connection.cursor() as cursor:
        cursor.execute("SHOW TIMEZONE")
        return cursor.fetchone()[0]

assert zone() == "UTC"
with override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo"):
    assert zone() == "Asia/Tokyo"
    connection.close()
    assert zone() == "Asia/Tokyo"
    connection.close()
assert zone() == "UTC"
""",
        {"default": default},
    )


def test_a_named_database_gives_the_address(url: str) -> None:
    output = run_site(
        """
create_tables()
Book.objects.create(title="Emma")
with connection.cursor() as cursor:
    cursor.execute("SELECT current_setting('application_name'), current_setting('TimeZone')")
    print(*cursor.fetchone())
print(Book.objects.count())
""",
        {"default": {"ENGINE": ENGINE, "OPTIONS": {"pool": {"name": "orders"}}}},
        WSGIPOOL={"databases": {"orders": {"url": f"{url}?application_name=bookshop"}}},
    )

    assert output.splitlines() == ["bookshop UTC", "1"]


def test_a_pool_that_is_full_raises_django_s_error_whose_cause_is_ours(default: dict[str, Any]) -> None:
    run_site(
        """
from django.db import OperationalError
connection.ensure_connection()

def fails():
    try:
        connections["default"].ensure_connection()
    except OperationalError as error:
        return type(error.__cause__)

assert issubclass(on_thread(fails), wsgipool.PoolTimeout)
""",
        {"default": {**default, "OPTIONS": {"pool": {"max_size": 1, "timeout": 1}}}},
    )


def test_a_cursor_that_was_not_closed_is_not_in_the_way_of_another_thread(default: dict[str, Any]) -> None:
    run_site(
        """
create_tables()
Book.objects.bulk_create(Book(title=title) for title in ("Emma", "Persuasion"))
connection.close()
kept = []

def view():
    books = Book.objects.iterator(chunk_size=1)
    next(books)
    kept.append((threading.get_ident(), books))

while len({ident for ident, _ in kept}) == len(kept):  # until an identifier comes again
    on_thread(lambda: request(view))
assert wsgipool.pool("default").stats().opened == 1
import os
os._exit(0)  # closing the iterators now would need their connection
""",
        {"default": default},
    )
