"""`install()`: the program says `import pymysql`, and connects to a pool; in one process, and on a real httpd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drivers.shops import shop_on
from frameworks.old_code import arguments_of
from httpd.harness import SiteOptions, give_to_apache, running_site
from unit.fakes import run_python
from wsgipool import ConfigError, config
from wsgipool.demo.mariadb import Server

pytestmark = pytest.mark.mariadb_only("the kind of server does not matter to it")


@pytest.fixture
def url(database_server: Server) -> Iterator[str]:
    with shop_on(database_server) as url:
        yield url


CONNECTS = """
import {name}
from {name}.cursors import DictCursor
for connect in ({name}.connect, {name}.Connect, {name}.Connection):
    with connect(**{arguments!r}, cursorclass=DictCursor) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT stock FROM books WHERE id = 1")
        assert [*cursor.fetchall()] == [{{"stock": 10}}]
        assert isinstance(connection, {name}.connections.Connection)
        assert isinstance(connection, {name}.Connection)
import wsgipool
stats = wsgipool.pool({arguments[database]!r}).stats()
assert (stats.opened, stats.checkouts) == (1, 3), stats
"""


@pytest.mark.parametrize("name", ["pymysql", "MySQLdb"])
def test_the_modules_own_connect_is_pooled(name: str, url: str) -> None:
    install = f"import wsgipool.{name} as pooled\npooled.install()\npooled.install()\n"

    run_python(install + CONNECTS.format(name=name, arguments=arguments_of(url)))


@pytest.mark.parametrize("name", ["pymysql", "MySQLdb"])
def test_the_setting_pools_when_the_settings_are_loaded(name: str, url: str) -> None:
    configure = f'import wsgipool\nwsgipool.configure({{"install": [{name!r}]}})\n'

    run_python(configure + CONNECTS.format(name=name, arguments=arguments_of(url)))


@pytest.mark.parametrize(
    ("imported", "place"),
    [("from pymysql import connect", "connect"), ("from pymysql import Connect as link", "link")],
)
def test_install_after_the_function_was_imported_says_where(imported: str, place: str) -> None:
    run_python(f"""
{imported}
import pymysql, wsgipool.pymysql
try:
    wsgipool.pymysql.install()
except wsgipool.ConfigError as error:
    assert "__main__.{place} refers to the function" in str(error), error
else:
    raise AssertionError
assert pymysql.connect is pymysql.connections.Connection
""")


def test_install_after_a_connect_is_too_late(url: str) -> None:
    run_python(f"""
import pymysql
connection = pymysql.connect(**{arguments_of(url)!r})
import wsgipool.pymysql
try:
    wsgipool.pymysql.install()
except wsgipool.ConfigError as error:
    assert "the program has connected already" in str(error), error
else:
    raise AssertionError
connection.close()
wsgipool.pymysql.install()
""")


def test_a_setting_that_comes_too_late_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "wsgipool.toml"
    file.write_text('install = ["pymysql"]\n')

    run_python(f"""
from pymysql import connect
import wsgipool
try:
    wsgipool.configure({str(file)!r})
except wsgipool.ConfigError as error:
    assert str(error).startswith({str(file)!r} + ": install: "), error
else:
    raise AssertionError
""")


def test_an_import_of_the_class_is_not_too_late() -> None:
    run_python("from pymysql.connections import Connection\nimport wsgipool.pymysql\nwsgipool.pymysql.install()")


def test_the_pools_drivers_are_not_pooled_themselves(url: str) -> None:
    plain = url.replace("mysql+mysqlclient", "mysql")

    run_python(f"""
import wsgipool
wsgipool.configure({{"install": ["pymysql"], "databases": {{"orders": {{"url": {plain!r}}}}}}})
with wsgipool.connection("orders") as connection, connection.cursor() as cursor:
    cursor.execute("SELECT COUNT(*) FROM books")
    assert cursor.fetchone() == (2,)
assert [stats.name for stats in wsgipool.pools.stats()] == ["orders"]
""")


@pytest.mark.parametrize("value", ["pymysql", ["psycopg"], [1], 1])
def test_a_wrong_setting_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match='install must be an array of modules: "pymysql", "MySQLdb"'):
        config.load({"install": value})


# --- on httpd --------------------------------------------------------------------------------------------------------

SITE = """
import functools
import json
import pymysql


@functools.cache
def connection():  # for all threads, as old code has it
    connection = pymysql.connect(**ARGUMENTS)
    connection.autocommit(True)
    return connection


def application(environ, start_response):
    cursor = connection().cursor()
    if environ["PATH_INFO"] == "/add":
        cursor.execute("INSERT INTO books VALUES (%s, 0)", (100 + int(environ["QUERY_STRING"]),))
    if environ["PATH_INFO"] == "/leak":
        other = pymysql.connect(**ARGUMENTS)
        cycle = [other]
        cycle.append(cycle)
    cursor.execute("SELECT @@autocommit, @seen IS NOT NULL")
    mode, seen = cursor.fetchone()
    cursor.execute("SELECT COUNT(*) FROM books")
    books, = cursor.fetchone()
    cursor.execute("SET @seen = 1")
    import wsgipool
    stats = wsgipool.pool(ARGUMENTS["database"]).stats()
    answer = {"books": books, "mode": mode, "seen": seen, "in_use": stats.in_use,
              "opened": stats.opened, "checkouts": stats.checkouts}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
"""


@pytest.mark.parametrize("mode", ["prefork", "worker", "daemon"])
def test_a_global_connection_of_a_site_that_knows_no_pool(mode: str, servers_folder: Path, url: str) -> None:
    folder = servers_folder / f"old-code-{mode}"
    folder.mkdir(mode=0o755)
    script = folder / "old.wsgi"
    script.write_text(f"ARGUMENTS = {arguments_of(url)!r}\n{SITE}")
    give_to_apache(script)
    databases = {"other": url.replace("mysql+mysqlclient", "mysql")}
    threads = 1 if mode == "prefork" else 4
    options: SiteOptions = {"processes": 1, "threads": threads, "script": script, "install": ["pymysql"]}
    with running_site(folder, mode, databases, **options) as site:
        answers = site.load(lambda number: f"/add?{number}" if number % 2 else "/", requests=40, clients=4)
        answers += site.load(lambda _: "/leak", requests=8, clients=4)
        last = site.get("/")
        log = site.log()

    assert {(answer["mode"], answer["seen"]) for answer in answers} == {(1, 0)}
    assert last["books"] == 2 + 20
    assert last["in_use"] == 1  # this request's
    assert last["opened"] <= 2 * threads
    assert "was not returned" not in log
