from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from httpd.harness import sessions
from wsgipool.demo.mariadb import MariaDB

_numbers = itertools.count(1)


@pytest.fixture
def folder(servers_folder: Path) -> Path:
    """A new folder for one httpd."""
    folder = servers_folder / f"site{next(_numbers)}"
    folder.mkdir(mode=0o755)
    return folder


@pytest.fixture
def shop(mariadb: MariaDB) -> Iterator[str]:
    """The URL of a new database with a table of notes; its user has the database's name."""
    name = f"served_shop{next(_numbers)}"
    url = mariadb.create_database(name)
    with mariadb.admin(name) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE notes (id INT AUTO_INCREMENT PRIMARY KEY, text VARCHAR(100)) ENGINE=InnoDB")
    yield url
    left = sessions(mariadb, name)
    assert not left, f"sessions {left} of {name} outlived the site"
