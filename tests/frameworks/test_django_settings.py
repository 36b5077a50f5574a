"""The settings of Django that choose a pool, and the errors for wrong ones."""

from __future__ import annotations

from typing import Any

import pytest

from frameworks.django_site import entry, run_site
from unit.fakes import run_python

ENGINE = "wsgipool.django.mysql"
NOWHERE = entry("mysql://shop:secret@127.0.0.1:1/orders", ENGINE)


SHOP = {
    "databases": {
        "orders": {"url": "mysql://shop:secret@127.0.0.1:1/orders"},
        "pages": {"url": "postgresql://shop:secret@127.0.0.1:1/pages"},
        "books": {"url": "sqlite:////nowhere/books.db"},
    }
}


def error_of(default: dict[str, Any], *, before: str = "", **more: Any) -> str:
    """Return the message of the ImproperlyConfigured that the first use of a database raises."""
    program = f"""
from frameworks import django_site
django_site.set_up({{"DATABASES": {{"default": {default!r}}}}} | {more!r})
{before}
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
try:
    connection.ensure_connection()
except ImproperlyConfigured as error:
    print(error)
"""
    return run_python(program)


def errors_of(*entries: dict[str, Any]) -> list[str]:
    """Return the messages of the ImproperlyConfigured for these entries of DATABASES."""
    program = f"""
from frameworks import django_site
django_site.set_up({{"DATABASES": {{"default": {NOWHERE!r}}}, "WSGIPOOL": {SHOP!r}}})
from django.core.exceptions import ImproperlyConfigured
from django.db.utils import ConnectionHandler
for entry in {entries!r}:
    try:
        ConnectionHandler({{"default": entry}})["default"].ensure_connection()
    except ImproperlyConfigured as error:
        print(error)
"""
    return run_python(program).splitlines()


def with_pool(pool: object, **options: Any) -> dict[str, Any]:
    return {**NOWHERE, "OPTIONS": {"pool": pool, **options}}


def on_sqlite(options: dict[str, Any]) -> dict[str, Any]:
    return {"ENGINE": "wsgipool.django.sqlite3", "NAME": "books.db", "OPTIONS": options}


def named(name: object = "orders", **more: Any) -> dict[str, Any]:
    return {"ENGINE": ENGINE, "OPTIONS": {"pool": {"name": name}}, **more}


def test_wrong_settings_are_explained() -> None:
    expected = [
        ({**NOWHERE, "CONN_MAX_AGE": 60}, "['CONN_MAX_AGE'] must be 0"),
        ({**NOWHERE, "CONN_MAX_AGE": None}, "['CONN_MAX_AGE'] must be 0"),
        (with_pool({"max_sise": 3}), "['pool']: max_sise is not a setting; did you mean max_size?"),
        (with_pool({"pool_size": 3}), "['pool']: pool_size is not a setting; write max_size"),
        (with_pool({"host": "db"}), "it does not belong in 'pool' but beside it"),
        (with_pool({"max_size": "many"}), "['pool']: max_size must be a whole number"),
        (with_pool({"max_size": 2, "min_size": 3}), "['pool']: min_size = 3 is more than max_size, which is 2"),
        ({**NOWHERE, "PORT": "33o6"}, "DATABASES['default']['PORT'] must be a number, is '33o6'"),
        (with_pool("mysql://shop:s3cret@db/orders"), "must be True, False or a dict of settings"),
        (with_pool({"name": "orders", "max_size": 3}), "so the other settings belong in [databases.orders]"),
        (with_pool(True, driver="mysqldb"), "['driver'] must be 'pymysql' or 'mysqlclient', is 'mysqldb'"),
        (with_pool(True, driver="mysqlclient"), "two drivers, pymysql and mysqlclient"),
        (with_pool(True, ssl_mode="REQUIRED"), "DATABASES['default']: pymysql: ssl_mode is not an argument"),
        (
            with_pool(True, connect_timeout="5"),
            "DATABASES['default']['OPTIONS'] has an option or a value that connect()",
        ),
        (with_pool(True, charset="utf9"), "DATABASES['default']['OPTIONS'] has an option or a value that connect()"),
        (with_pool({"name": "orders"}, chars="utf8"), "unexpected keyword argument 'chars'"),
        (on_sqlite({"driver": "pymysql"}), "DATABASES['default']: sqlite: driver is not an argument of connect()"),
    ]

    messages = errors_of(*(entry for entry, _ in expected))

    assert len(messages) == len(expected)
    for message, (_, text) in zip(messages, expected, strict=True):
        assert text in message
        assert "s3cret" not in message


def test_an_entry_that_contradicts_the_named_database_is_explained() -> None:
    expected = [
        (named(HOST="elsewhere"), "['HOST'] is not that of the mapping given to configure(): databases.orders"),
        (named(USER="root"), "['USER'] is not that of"),
        (named(PORT=3307), "['PORT'] is not that of"),
        (named(PASSWORD="guess"), "['PASSWORD'] is not that of"),
        (
            {"ENGINE": ENGINE, "OPTIONS": {"pool": {"name": "orders"}, "host": "elsewhere"}},
            "DATABASES['default']['OPTIONS']['host']: the address is that of the mapping given to configure()",
        ),
        (
            named("order"),
            "DATABASES['default']: the mapping given to configure() has no database 'order'; did you mean orders?",
        ),
        (named(1), "['name'] must be a string, is 1"),
        (named("pages"), "choose another ENGINE"),
        (on_sqlite({"pool": {"name": "orders"}}), "name a database of sqlite:// or choose another ENGINE"),
        (named("books"), "name a database of mysql:// or choose another ENGINE"),
        (
            {"ENGINE": ENGINE, "OPTIONS": {"pool": {"name": "orders"}, "driver": "mysqlclient"}},
            "means 'pymysql'; leave 'driver' out",
        ),
    ]

    messages = errors_of(*(entry for entry, _ in expected))

    assert len(messages) == len(expected)
    for message, (_, text) in zip(messages, expected, strict=True):
        assert text in message
        assert "guess" not in message


def test_a_name_without_a_settings_file_is_explained() -> None:
    assert "no settings: name a file" in error_of(named())


def test_a_wrong_setting_of_wsgipool_is_explained() -> None:
    message = error_of(NOWHERE, WSGIPOOL={"budgets": {}})

    assert "WSGIPOOL: the mapping given to configure(): budgets is not a setting" in message


def test_another_mysqldb_that_django_has_imported_before_is_refused() -> None:
    before = "import django.db.backends.mysql.base"

    assert "imported before with MySQLdb as its MySQLdb" in error_of(NOWHERE, before=before)


def test_pymysql_as_mysqldb_is_refused_where_mysqlclient_is_wanted() -> None:
    before = "import pymysql; pymysql.install_as_MySQLdb()"

    message = error_of(with_pool(True, driver="mysqlclient"), before=before)

    assert "install_as_MySQLdb() was called; remove that call" in message


def test_mysqlclient_still_works_beside_a_django_with_pymysql() -> None:
    program = """
import sys
connections["default"]
import MySQLdb
assert MySQLdb.__name__ == "MySQLdb", MySQLdb
assert connection.Database.__name__ == "pymysql"
"""
    run_site(program, {"default": NOWHERE})


def test_the_settings_of_the_pool_are_those_of_the_options() -> None:
    default = with_pool({"max_size": 3, "min_size": 0, "max_lifetime": 60, "timeout": 2, "max_waiting": 7})

    program = """
pool = wsgipool.pool(connection.pool_name(connection.get_connection_params()))
print(pool.name, pool.max_size, pool.timeout, pool.max_waiting, pool.max_lifetime)
"""
    assert run_site(program, {"default": default}).split() == ["default", "3", "2.0", "7", "60.0"]


def test_the_budget_of_the_settings_counts_djangos_connections(mysql_url: str) -> None:
    default = {**entry(mysql_url, ENGINE), "OPTIONS": {"pool": {"timeout": 1}}}
    program = """
from django.db import OperationalError

def fails():
    try:
        connection.ensure_connection()
    except OperationalError as error:
        print(error)

connection.ensure_connection()
on_thread(fails)
"""
    output = run_site(program, {"default": default}, WSGIPOOL={"budget": {"connections": 1}})

    assert "budget" in output
    assert "1" in output


def test_a_named_database_gives_the_address_and_the_settings_of_the_pool(mysql_url: str) -> None:
    url = mysql_url.replace("mysql+mysqlclient", "mysql")
    shop = {"databases": {"orders": {"url": url + "?init_command=SET @here=1", "max_size": 2}}}
    default = {"ENGINE": ENGINE, "OPTIONS": {"pool": {"name": "orders"}}}
    program = """
create_tables()
book = Book.objects.create(title="Emma")
book.save()

def state():
    with connection.cursor() as cursor:
        cursor.execute("SELECT DATABASE(), @@autocommit, @here")
        return cursor.fetchone()

print(*request(state))
pool = wsgipool.pool("default")
print(pool.max_size, pool.stats().idle, connection.settings_dict["HOST"])
with connection._nodb_cursor() as cursor:
    cursor.execute("SELECT DATABASE()")
    print(cursor.fetchone())
"""
    output = run_site(program, {"default": default}, WSGIPOOL=shop).splitlines()

    assert output == [f"{url.rpartition('/')[2]} 1 1", "2 1 127.0.0.1", "(None,)"]


def test_without_a_pool_django_works_as_ever(mysql_url: str) -> None:
    default = {**entry(mysql_url, ENGINE), "OPTIONS": {"pool": False}, "CONN_MAX_AGE": None}
    program = """
create_tables()
Book.objects.create(title="Emma").save()
assert type(connection.connection).__module__ == "pymysql.connections"
assert wsgipool.pools.stats() == []
"""
    run_site(program, {"default": default})


def test_the_app_uses_the_settings_before_the_first_query() -> None:
    program = """
print(wsgipool.pool("orders").max_size)
"""
    output = run_site(program, {"default": NOWHERE}, INSTALLED_APPS=["wsgipool.django"], WSGIPOOL=SHOP)

    assert output.split() == ["10"]


@pytest.mark.parametrize(("options", "seconds"), [({}, 86_400), ({"read_timeout": 5}, 5)])
def test_a_statement_outside_httpd_may_take_a_day(mysql_url: str, options: dict[str, int], seconds: int) -> None:
    default = {**entry(mysql_url, ENGINE), "OPTIONS": options}

    output = run_site(
        "connection.ensure_connection()\nprint(connection.connection._read_timeout)", {"default": default}
    )

    assert float(output) == seconds
