from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from httpd.containers import Compose, Containers
from httpd.harness import eventually, sessions
from httpd.place import IN_CONTAINERS, Place, ThisMachine
from wsgipool.demo.mariadb import Server

_numbers = itertools.count(1)


@pytest.fixture
def folder(servers_folder: Path) -> Path:
    """A new folder for one httpd."""
    folder = servers_folder / f"site{next(_numbers)}"
    folder.mkdir(mode=0o755)
    return folder


@pytest.fixture
def place(folder: Path) -> Place:
    """Where the test's httpd runs. A test that asks for it runs on a plain machine and in containers."""
    return Containers(Compose(), folder) if IN_CONTAINERS else ThisMachine(folder)


if IN_CONTAINERS:

    @pytest.fixture(scope="session")
    def mariadb(servers_folder: Path) -> Iterator[Server]:
        """In place of this machine's server, one that the sites in other containers can reach."""
        with Containers(Compose(), servers_folder).running_mariadb({"max_connections": 200}) as server:
            yield server


@pytest.fixture
def shop(mariadb: Server) -> Iterator[str]:
    """The URL of a new database with a table of notes; its user has the database's name."""
    name = f"served_shop{next(_numbers)}"
    url = mariadb.create_database(name)
    with mariadb.admin(name) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE notes (id INT AUTO_INCREMENT PRIMARY KEY, text VARCHAR(100)) ENGINE=InnoDB")
    yield url
    # The site has said goodbye; a busy server takes a moment to end the last one.
    eventually(lambda: not sessions(mariadb, name), f"the sessions of {name} to end, as the site has")
