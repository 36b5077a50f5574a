"""A private MariaDB with a table of items, for the benchmarks with lookups."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from wsgipool.demo import mariadb

ITEMS = 1000
LOOKUP = "SELECT name FROM item WHERE id = %s"


@dataclass(frozen=True)
class Database:
    """The address of the database."""

    folder: Path
    """The folder for the servers of one benchmark; their accounts can enter it."""
    port: int
    password: str

    def url(self, port: int | None = None, options: str = "") -> str:
        return f"mysql://shop:{self.password}@127.0.0.1:{port or self.port}/shop{options}"

    def arguments(self, port: int | None = None) -> dict[str, Any]:
        """Return the arguments for `pymysql.connect()`."""
        return {
            "host": "127.0.0.1",
            "port": port or self.port,
            "user": "shop",
            "password": self.password,
            "database": "shop",
        }


@contextmanager
def running_database() -> Iterator[Database]:
    if not mariadb.is_installed():
        raise click.ClickException("MariaDB is not installed (Debian: apt-get install mariadb-server)")
    with tempfile.TemporaryDirectory(prefix="wsgipool-benchmark-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "mariadb").mkdir()
        with mariadb.MariaDB(folder / "mariadb", {"max_connections": 300}) as server:
            server.start()
            server.create_database("shop")
            create_items(server, "shop")
            yield Database(folder, server.port, server.password)


def create_items(server: mariadb.MariaDB, database: str) -> None:
    with server.admin(database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE item (id INT PRIMARY KEY, name VARCHAR(100)) ENGINE=InnoDB")
        cursor.executemany("INSERT INTO item VALUES (%s, %s)", [(number, f"item {number}") for number in range(ITEMS)])
