"""wsgipool.pytest, as the tests of a site use it: in a pytest of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

CONFTEST = 'pytest_plugins = ["wsgipool.pytest"]\n'
PROGRAMS = "/usr/bin:/bin:/usr/sbin:/sbin"
MYSQL = f"{sys.prefix}/mysql/mysqld"
"""The MySQL that scripts/setup fetches."""


class Site:
    """A folder with the tests of a site."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.chmod(0o777)
        self.write("conftest.py", CONFTEST)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(textwrap.dedent(text))

    def run(self, *arguments: str, user: str = "", path: str = PROGRAMS) -> str:
        """Run the tests; return the output with the exit status in its last line."""
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *arguments]
        if user:
            command = ["setpriv", f"--reuid={user}", "--regid=nogroup", "--clear-groups", *command]
        outcome = subprocess.run(
            command,
            cwd=self.folder,
            env={"PATH": path, "HOME": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
            check=False,
        )
        return f"{outcome.stdout}\nexit status {outcome.returncode}"


@pytest.fixture
def site(servers_folder: Path) -> Iterator[Site]:
    folder = servers_folder / "site"
    folder.mkdir(exist_ok=True)
    yield Site(folder)
    for path in folder.glob("*.py"):
        path.unlink()


APPLICATION = """
import wsgipool

def add(title):
    with wsgipool.connection("orders") as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO books (title) VALUES (%s)", (title,))

def count():
    with wsgipool.connection("orders", readonly=True) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM books")
        return cursor.fetchone()[0]
"""

TESTS = """
import shop
import pytest
import wsgipool

@pytest.fixture(autouse=True)
def orders(wsgipool_databases):
    wsgipool_databases("orders", "stock", timeout=1)
    with wsgipool.connection("orders") as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE books (title VARCHAR(100))")

@pytest.mark.parametrize("title", ["Emma", "Persuasion"])
def test_a_book_is_added_to_an_empty_shop(title):
    assert wsgipool.pool("orders").timeout == 1
    shop.add(title)
    assert shop.count() == 1

def test_a_test_may_end_in_the_middle_of_a_transaction():
    held = wsgipool.pool("orders").getconn()
    held.cursor().execute("INSERT INTO books VALUES ('Emma')")

def test_each_name_is_a_database():
    with wsgipool.connection("stock") as connection, connection.cursor() as cursor:
        assert cursor.execute("SHOW TABLES") == 0

def test_a_pool_is_a_database_of_its_own(wsgipool_pool, wsgipool_database):
    with wsgipool_pool.connection() as connection, connection.cursor() as cursor:
        assert cursor.execute("SHOW TABLES") == 0
    assert shop.count() == 0

def test_without_a_name_that_is_known(wsgipool_server):
    with pytest.raises(wsgipool.ConfigError, match="no database 'archive'"):
        wsgipool.connection("archive")
"""

TESTS_OF_SETTINGS = """
import wsgipool

wsgipool.configure({"databases": {"orders": {"url": "sqlite:////nowhere/ours.db"}}})
before = wsgipool.pool("orders"), wsgipool.register("reports", "sqlite:////nowhere/reports.db")

def test_other_settings(wsgipool_databases):
    wsgipool_databases("orders")
    assert wsgipool.pool("orders") is not before[0]
    assert wsgipool.pool("reports") is before[1]

def test_the_former_settings_come_back():
    assert (wsgipool.pool("orders"), wsgipool.pool("reports")) == before
"""


@pytest.fixture
def shop(site: Site) -> Site:
    site.write("shop.py", APPLICATION)
    site.write("test_shop.py", TESTS)
    site.write("test_settings.py", TESTS_OF_SETTINGS)
    return site


def test_connections_by_name_go_to_databases_of_the_test(shop: Site) -> None:
    assert shop.run().endswith("exit status 0")


def test_a_plain_user_has_a_server_for_each_worker_of_xdist(shop: Site) -> None:
    user = "nobody" if os.geteuid() == 0 else ""

    assert shop.run("-n2", "--basetemp=tmp", user=user).endswith("exit status 0")


@pytest.mark.compat
def test_without_mariadb_mysql_is_used(shop: Site, tmp_path: Path) -> None:
    # The one of scripts/setup has options before all others, so it gets no --no-defaults, which has to be the first.
    program = tmp_path / "mysqld"
    program.write_text(f'#!/bin/sh\n[ "$1" = --no-defaults ] && shift\nexec {MYSQL} "$@"\n')
    program.chmod(0o755)
    shop.write("conftest.py", f"import wsgipool.demo.mariadb as m\nm.is_installed = lambda: False\n{CONFTEST}")

    assert shop.run(path=f"{tmp_path}:{PROGRAMS}").endswith("exit status 0")


def test_without_a_server_the_error_names_the_package(shop: Site) -> None:
    shop.write("conftest.py", f"import shutil\nshutil.which = lambda *_, **__: None\n{CONFTEST}")

    output = shop.run("-k", "test_each_name")

    assert "apt-get install mariadb-server-core" in output
    assert output.endswith("exit status 1")
