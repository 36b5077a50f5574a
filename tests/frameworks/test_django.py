"""Django on MariaDB and MySQL: `"ENGINE": "wsgipool.django.mysql"`."""

from __future__ import annotations

from typing import Any

import pytest

from frameworks.conftest import GeneralLog
from frameworks.django_site import entry, run_site
from servers.sql import ISOLATION
from wsgipool.demo.mariadb import ADMIN, Server

ENGINE = "wsgipool.django.mysql"


@pytest.fixture
def default(mysql_url: str) -> dict[str, Any]:
    return entry(mysql_url, ENGINE)


def run(program: str, default: dict[str, Any], **settings: Any) -> str:
    return run_site(program, {"default": default}, **settings)


def test_requests_use_one_connection_after_the_other(default: dict[str, Any]) -> None:
    run(
        """
create_tables()
Book.objects.create(title="Emma")

def session():
    with connection.cursor() as cursor:
        cursor.execute("SELECT CONNECTION_ID()")
        return cursor.fetchone()

connection.close()
assert len({request(session) for _ in range(3)} | {on_thread(lambda: request(session))}) == 1
stats = wsgipool.pool("default").stats()
assert (stats.opened, stats.idle, stats.in_use) == (1, 1, 0), stats
""",
        default,
    )


def test_messages_name_the_place_in_the_sites_code(default: dict[str, Any]) -> None:
    output = run(
        """
from django.db.utils import OperationalError

def first_view():
    Book.objects.first()
    return on_thread(second_view)

def second_view():
    try:
        Book.objects.first()
    except OperationalError as error:
        return str(error)

create_tables()
print(request(first_view))
""",
        {**default, "OPTIONS": {"pool": {"max_size": 1, "timeout": 1}}},
    )

    assert "in first_view" in output, output


def test_a_request_with_one_query_sends_one_statement(default: dict[str, Any], general_log: GeneralLog) -> None:
    run(
        """
create_tables()
request(Book.objects.count)
for _ in range(3):
    request(lambda: list(Book.objects.filter(title="Emma")))
""",
        default,
    )

    sent = general_log.statements_of(default["USER"])
    queries = [index for index, sql in enumerate(sent) if "'Emma'" in sql]
    assert len(queries) == 3
    assert queries == list(range(queries[0], queries[0] + 3))


def test_a_new_session_has_the_state_that_django_wants(default: dict[str, Any]) -> None:
    run(
        """
def state():
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@autocommit, @@sql_auto_is_null, {isolation}")
        return cursor.fetchone()

assert request(state) == (1, 0, "READ-COMMITTED"), request(state)
assert connection.get_autocommit() is True
""".replace("{isolation}", ISOLATION),
        default,
    )


def test_the_isolation_level_of_the_options_is_used(default: dict[str, Any]) -> None:
    run(
        """
with connection.cursor() as cursor:
    cursor.execute("SELECT {isolation}")
    assert cursor.fetchone() == ("REPEATABLE-READ",)
""".replace("{isolation}", ISOLATION),
        {**default, "OPTIONS": {"isolation_level": "repeatable read"}},
    )


def test_a_save_that_changes_nothing_is_no_second_insert(default: dict[str, Any]) -> None:
    run(
        """
create_tables()
book = Book.objects.create(title="Emma")
book.save()
book.save()
assert Book.objects.count() == 1
""",
        default,
    )


def test_times_have_django_s_types(default: dict[str, Any]) -> None:
    run(
        """
import datetime
create_tables()
book = Book.objects.create(title="Emma")
Order.objects.create(book=book, number=1, opens=datetime.time(9, 30))
order = Order.objects.get()
assert order.opens == datetime.time(9, 30)
assert order.at.tzinfo is not None
""",
        default,
    )


def test_a_failed_request_returns_its_connection_rolled_back(default: dict[str, Any]) -> None:
    run(
        """
create_tables()

def view():
    with transaction.atomic():
        Book.objects.create(title="Emma")
        raise KeyError

def view_without_a_block():
    transaction.set_autocommit(False)
    Book.objects.create(title="Persuasion")
    raise KeyError

for failing in (view, view_without_a_block):
    try:
        request(failing)
    except KeyError:
        pass
    stats = wsgipool.pool("default").stats()
    assert (stats.opened, stats.idle) == (1, 1), stats
assert request(Book.objects.count) == 0
assert transaction.get_autocommit() is True
""",
        default,
    )


def test_atomic_blocks_commit_and_roll_back_as_in_django(default: dict[str, Any]) -> None:
    run(
        """
from django.db import IntegrityError
create_tables()
done = []

def view():
    with transaction.atomic(durable=True):
        book = Book.objects.create(title="Emma")
        Order.objects.create(book=book, number=1)
        try:
            with transaction.atomic():
                Order.objects.create(book=book, number=1)
        except IntegrityError:
            pass
        transaction.on_commit(lambda: done.append(Order.objects.count()))
        Order.objects.create(book=book, number=2)
    with transaction.atomic():
        Order.objects.create(book=book, number=3)
        transaction.set_rollback(True)

request(view)
assert done == [2]
assert request(lambda: sorted(Order.objects.values_list("number", flat=True))) == [1, 2]
assert wsgipool.pool("default").stats().opened == 1
""",
        default,
    )


def test_a_connection_closed_in_an_atomic_block_is_not_used_again(default: dict[str, Any]) -> None:
    run(
        """
from django.db import Error
create_tables()
with transaction.atomic():
    Book.objects.create(title="Emma")
    connection.close()
    assert connection.connection is None
    other = connection.copy()
    other.ensure_connection()  # takes the connection that was closed
    try:
        Book.objects.create(title="Persuasion")
    except Error:
        pass
    else:
        raise AssertionError("the closed connection was used")
    other.close()
assert Book.objects.count() == 0
""",
        default,
    )


def test_a_connection_that_the_server_has_ended_is_replaced(default: dict[str, Any], database_server: Server) -> None:
    run(
        f"""
import pymysql
create_tables()
request(Book.objects.count)
with pymysql.connect(host={database_server.host!r}, port={database_server.port!r}, user={ADMIN!r},
                     password={database_server.password!r}) as admin, admin.cursor() as cursor:
    cursor.execute("SELECT id FROM information_schema.processlist WHERE user = %s", ({default["USER"]!r},))
    for (session,) in cursor.fetchall():
        cursor.execute(f"KILL {{session}}")
assert request(Book.objects.count) == 0
assert wsgipool.pool("default").stats().opened == 2
""",
        default,
    )


def test_a_full_pool_raises_django_s_error_whose_cause_is_ours(default: dict[str, Any]) -> None:
    run(
        """
from django.db import OperationalError
create_tables()

def fails():
    try:
        request(Book.objects.count)
    except OperationalError as error:
        assert isinstance(error.__cause__, wsgipool.PoolTimeout), error.__cause__
        return str(error)

def view():
    Book.objects.count()
    return on_thread(fails)

assert "django_site" not in request(view)
assert request(Book.objects.count) == 0
assert on_thread(lambda: request(Book.objects.count)) == 0
""",
        {**default, "OPTIONS": {"pool": {"max_size": 1, "timeout": 1}}},
    )


def test_a_streaming_response_returns_its_connection_at_its_end(default: dict[str, Any]) -> None:
    output = run(
        """
from django.core.handlers.wsgi import WSGIHandler
from django.http import StreamingHttpResponse
from django.test.client import RequestFactory
from django.urls import path

create_tables()
Book.objects.create(title="Emma")
connection.close()

def stream(request):
    return StreamingHttpResponse(book.title for book in Book.objects.all())

import sys, types
sys.modules["urls"] = types.ModuleType("urls")
sys.modules["urls"].urlpatterns = [path("", stream)]
environ = RequestFactory().get("/").environ
response = WSGIHandler()(environ, lambda *_: None)
pool = wsgipool.pool("default")
first = next(iter(response))
print(first, pool.stats().in_use)
response.close()
print(pool.stats().in_use, pool.stats().idle)
""",
        default,
        ROOT_URLCONF="urls",
        ALLOWED_HOSTS=["*"],
    )
    assert output.splitlines() == ["b'Emma' 1", "0 1"]


def test_a_child_of_a_fork_uses_connections_of_its_own(default: dict[str, Any]) -> None:
    run(
        """
import os
create_tables()
Book.objects.create(title="Emma")

def session():
    with connection.cursor() as cursor:
        cursor.execute("SELECT CONNECTION_ID()")
        return cursor.fetchone()

before = session()
child = os.fork()
if not child:
    ok = session() != before and Book.objects.count() == 1
    connection.close()
    os._exit(0 if ok else 1)
assert os.waitpid(child, 0)[1] == 0
assert session() == before
""",
        default,
    )


def test_an_atomic_block_does_not_go_on_in_a_child_of_a_fork(default: dict[str, Any]) -> None:
    run(
        """
import os
from django.db import Error
create_tables()
child = None
with transaction.atomic():
    Book.objects.create(title="Emma")
    child = os.fork()
    if not child:
        try:
            Book.objects.create(title="Persuasion")
        except Error:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
assert Book.objects.count() == 1
""",
        default,
    )


def test_threads_that_share_a_connection_use_it_one_after_the_other(default: dict[str, Any]) -> None:
    run(
        """
from django.db import DatabaseError
create_tables()
shared = connections["default"]

def count():
    connections["default"] = shared
    return Book.objects.count()

def count_refused():
    try:
        count()
    except DatabaseError as error:
        return "can only be used in that same thread" in str(error)

with transaction.atomic():
    Book.objects.create(title="Emma")
    assert on_thread(count_refused)
    connection.inc_thread_sharing()
    assert on_thread(count) == 1
    assert Book.objects.count() == 1
    connection.dec_thread_sharing()
    assert Book.objects.count() == 1
connection.close()
stats = wsgipool.pool("default").stats()
assert (stats.opened, stats.idle) == (1, 1), stats
""",
        default,
    )


def test_a_shared_connection_can_be_closed_after_the_end_of_its_thread(default: dict[str, Any]) -> None:
    run(
        """
kept = []

def share():
    kept.append(connections["default"])
    kept[0].inc_thread_sharing()
    kept[0].cursor()

on_thread(share)
kept[0].close()
kept[0].dec_thread_sharing()
connection.ensure_connection()
stats = wsgipool.pool("default").stats()
assert (stats.size, stats.in_use) == (1, 1), stats
""",
        default,
    )


def test_a_session_whose_constraints_a_request_has_disabled_is_not_used_again(default: dict[str, Any]) -> None:
    run(
        """
def checks():
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@foreign_key_checks")
        return cursor.fetchone()[0]

request(connection.disable_constraint_checking)
assert request(checks) == 1
stats = wsgipool.pool("default").stats()
assert (stats.opened, stats.size) == (2, 1), stats
""",
        default,
    )


def test_an_alias_has_a_pool_for_each_database(default: dict[str, Any]) -> None:
    run(
        """
connection.ensure_connection()
connection.close()
other = connection.copy()
other.settings_dict["OPTIONS"] = {"isolation_level": "serializable"}
other.ensure_connection()
other.close()
names = sorted(stats.name for stats in wsgipool.pools.stats())
assert names == ["default", "default-2"], names
""",
        default,
    )


def test_mysqlclient_works_as_pymysql_does(default: dict[str, Any]) -> None:
    run(
        """
import datetime, os
from django.db import OperationalError
create_tables()
assert connection.Database.__name__ == "MySQLdb"

def view():
    with transaction.atomic():
        book = Book.objects.create(title="Emma")
        book.save()
        Order.objects.create(book=book, number=book.pk, opens=datetime.time(9, 30))
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@autocommit, {isolation}")
        assert cursor.fetchone() == (1, "READ-COMMITTED")
    return [order.opens for order in Order.objects.all()]

assert request(view) == [datetime.time(9, 30)]
assert len(on_thread(lambda: request(view))) == 2
child = os.fork()
if not child:
    os._exit(0 if Book.objects.count() == 2 else 1)
assert os.waitpid(child, 0)[1] == 0
connection.ensure_connection()

def fails():
    try:
        connections["default"].ensure_connection()
    except OperationalError as error:
        return type(error.__cause__)

assert issubclass(on_thread(fails), wsgipool.PoolTimeout)
stats = wsgipool.pool("default").stats()
assert (stats.opened, stats.in_use) == (1, 1), stats
""".replace("{isolation}", ISOLATION),
        {**default, "OPTIONS": {"driver": "mysqlclient", "pool": {"max_size": 1, "timeout": 1}}},
    )
