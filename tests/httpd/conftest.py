from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from httpd.containers import Compose, Containers
from httpd.harness import eventually, sessions
from httpd.place import IN_CONTAINERS, Place, ThisMachine
from servers.kinds import parameters
from wsgipool.demo.mariadb import Server

ON_BOTH_KINDS = ("test_outages", "test_pools", "test_restarts")
"""Modules whose tests run on MariaDB and on MySQL. What others test is Apache, files and commands."""
MODE_ON_MYSQL = "daemon"
"""The mode that a test of all modes runs in on MySQL: modes do not matter to a server."""

_numbers = itertools.count(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent != Path(__file__).parent:
            continue
        if item.path.stem not in ON_BOTH_KINDS:
            item.add_marker(pytest.mark.mariadb_only("the kind of server does not matter to it"))
        elif parameters(item).get("mode", MODE_ON_MYSQL) != MODE_ON_MYSQL:
            item.add_marker(pytest.mark.mariadb_only("one mode is enough on MySQL"))


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
