"""`manage.py test --parallel` on a project whose databases are pooled: test databases, their clones and forks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from drivers.shops import new_name
from frameworks.django_site import entry
from servers.postgresql import PostgreSQL
from wsgipool.demo.mariadb import Server

MODELS = """
from django.db import models

class Book(models.Model):
    title = models.CharField(max_length=100)
"""

TESTS = """
import http.client
from django.db import connection
from django.test import LiveServerTestCase, TestCase, TransactionTestCase
from library.models import Book

class InTransaction(TestCase):
    @classmethod
    def setUpTestData(cls):
        Book.objects.create(title="Emma")

    def test_reads(self):
        self.assertEqual(Book.objects.count(), 1)

    def test_writes(self):
        with self.assertNumQueries(1):
            Book.objects.create(title="Persuasion")
        self.assertEqual(Book.objects.count(), 2)

class Committed(TransactionTestCase):
    def test_writes(self):
        Book.objects.create(title="Emma")
        connection.close()
        self.assertEqual(Book.objects.count(), 1)

    def test_is_empty(self):
        self.assertEqual(Book.objects.count(), 0)

class Live(LiveServerTestCase):
    def test_a_request_on_another_thread(self):
        Book.objects.create(title="Emma")
        visitor = http.client.HTTPConnection(self.server_thread.host, self.server_thread.port)
        visitor.request("GET", "/")
        self.assertEqual(visitor.getresponse().read(), b"1 book")
        visitor.close()
"""

SETTINGS = """
SECRET_KEY = "test"
ROOT_URLCONF = "urls"
USE_TZ = True
ALLOWED_HOSTS = ["*"]
STATIC_URL = "static/"
INSTALLED_APPS = ["wsgipool.django", "library"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {databases!r}
WSGIPOOL = {{"budget": {{"connections": 10}}, "runtime_dir": {runtime_dir!r}}}
"""

URLS = """
from django.http import HttpResponse
from django.urls import path
from library.models import Book

urlpatterns = [path("", lambda request: HttpResponse(f"{Book.objects.count()} book"))]
"""


@pytest.fixture
def mysql_entry(mysql_url: str, database_server: Server) -> dict[str, Any]:
    user = urlsplit(mysql_url).username
    with database_server.admin() as connection, connection.cursor() as cursor:
        cursor.execute(f"GRANT ALL ON `test\\_%`.* TO '{user}'@'%'")
    return entry(mysql_url, "wsgipool.django.mysql")


@pytest.fixture
def postgresql_entry(postgresql: PostgreSQL) -> dict[str, Any]:
    url = postgresql.create_database(new_name())
    with postgresql.admin() as connection:
        connection.execute(f"ALTER ROLE {urlsplit(url).username} CREATEDB")
    return entry(url, "wsgipool.django.postgresql")


@pytest.fixture
def sqlite_entry(tmp_path: Path) -> dict[str, Any]:
    # A file, also for the tests: Django's default would be a database in memory.
    return {
        "ENGINE": "wsgipool.django.sqlite3",
        "NAME": str(tmp_path / "db.sqlite3"),
        "TEST": {"NAME": str(tmp_path / "test.sqlite3")},
    }


@pytest.mark.parametrize("database", ["mysql", "postgresql", "sqlite"])
def test_the_tests_of_a_project_pass_in_parallel(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    databases = {"default": request.getfixturevalue(f"{database}_entry")}
    library = tmp_path / "library"
    library.mkdir()
    (tmp_path / "run").mkdir(mode=0o700)
    settings = SETTINGS.format(databases=databases, runtime_dir=str(tmp_path / "run"))
    for path, text in [
        (tmp_path / "settings.py", settings),
        (tmp_path / "urls.py", URLS),
        (library / "__init__.py", ""),
        (library / "models.py", MODELS),
        (library / "tests.py", TESTS),
    ]:
        path.write_text(text)

    finished = subprocess.run(
        [sys.executable, "-W", "error", "-m", "django", "test", "--parallel=2", "--noinput"],
        cwd=tmp_path,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "Ran 5 tests" in finished.stderr
