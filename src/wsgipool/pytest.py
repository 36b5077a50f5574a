"""Fixtures for pytest: a MariaDB or MySQL in a temporary folder, and pools of connections to it.

A site's conftest.py names this module::

    pytest_plugins = ["wsgipool.pytest"]

The server starts with the first test that needs it, once for each process of a run, so with pytest-xdist once for each
worker. It listens on a loopback port, reads no configuration of the system, and is stopped at the end. Under root it
runs as the account ``mysql`` or ``nobody``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from wsgipool import Pool, drivers, pools
from wsgipool.config import DatabaseSettings, parse_url
from wsgipool.demo import mariadb
from wsgipool.demo.mariadb import LocalServer, MariaDB, run_installer

SETTINGS: dict[str, str | int] = {
    "max_connections": 200,
    "innodb_fast_shutdown": 2,  # the data is deleted
}
"""Options of the server of ``wsgipool_server``."""

Databases = Callable[..., dict[str, str]]
"""The type of ``wsgipool_databases``."""

_mysqld = shutil.which("mysqld", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def wsgipool_server() -> Iterator[LocalServer]:
    """The server: MariaDB, or MySQL if there is no MariaDB.

    It has ``host``, ``port``, ``admin()``, which returns a connection as administrator, and ``create_database(name)``,
    which returns the URL of a new database. It has no TLS.
    """
    if mariadb.is_installed():
        kind: type[LocalServer] = MariaDB
    elif _mysqld:
        kind = _MySQL
    else:
        pytest.fail(
            "wsgipool_server needs a MariaDB or MySQL server: on Debian and Ubuntu, "
            "apt-get install mariadb-server-core mariadb-client-core"
        )
    with tempfile.TemporaryDirectory(prefix="wsgipool-pytest-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the server's account must enter it
        with kind(folder, SETTINGS) as server:
            server.start()
            yield server


@pytest.fixture
def wsgipool_database(wsgipool_server: LocalServer) -> Iterator[str]:
    """The URL of a new, empty database. It is dropped at the end of the test."""
    with _databases(wsgipool_server, ["test"]) as urls:
        yield urls["test"]


@pytest.fixture
def wsgipool_pool(wsgipool_database: str) -> Iterator[Pool[Any]]:
    """A pool of at most 10 connections to ``wsgipool_database``. It is closed at the end of the test."""
    settings = DatabaseSettings("test", parse_url(wsgipool_database), "wsgipool_pool")
    pool = Pool(drivers.for_database(settings), name="test", max_size=10)
    yield pool
    pool.close()


@pytest.fixture
def wsgipool_databases(wsgipool_server: LocalServer) -> Iterator[Databases]:
    """A function that makes ``wsgipool.connection(name)`` go to new, empty databases until the end of the test.

    ``wsgipool_databases("orders", "stock", timeout=1)`` does so for two names. Keyword arguments are settings of each
    database, as in ``wsgipool.toml``. The result has the URLs by name. Other settings of the process do not count
    meanwhile; registered pools stay.
    """
    with contextlib.ExitStack() as stack:

        def use(*names: str, **settings: Any) -> dict[str, str]:
            urls = stack.enter_context(_databases(wsgipool_server, names))
            tables = {name: {"url": url, **settings} for name, url in urls.items()}
            stack.enter_context(pools.override({"databases": tables}))
            return urls

        yield use


@contextlib.contextmanager
def _databases(server: LocalServer, names: list[str] | tuple[str, ...]) -> Iterator[dict[str, str]]:
    """The URLs of new databases by `names`."""
    created = {name: f"wsgipool_test{next(_numbers)}" for name in names}
    yield {name: server.create_database(database) for name, database in created.items()}
    with server.admin() as connection, connection.cursor() as cursor:
        for database in created.values():
            cursor.execute("SELECT id FROM information_schema.processlist WHERE user = %s", (database,))
            for (session,) in cursor.fetchall():
                # The test has left it; its locks would keep the database.
                with contextlib.suppress(pymysql.MySQLError):
                    cursor.execute(f"KILL {session}")
            cursor.execute(f"DROP DATABASE {database}")
            cursor.execute(f"DROP USER {database}")


class _MySQL(LocalServer):
    """The MySQL that the system has installed."""

    kind = "MySQL"

    def program(self) -> list[str]:
        return [*self._command(), "--tls-version="]

    def create_data(self) -> None:
        run_installer(*self._command(), "--initialize-insecure")

    def _command(self) -> list[str]:
        options = ["--mysqlx=OFF", "--secure-file-priv=NULL", "--disable-log-bin"]
        return [_mysqld or "mysqld", "--no-defaults", *self.common_options(), *options]
