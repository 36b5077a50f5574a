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
"""Modules whose tests run on MariaDB and on MySQL; the others test Apache, files and commands."""
MODE_ON_MYSQL = "daemon"
"""The only mode in which a test of all modes runs on MySQL, since modes do not matter to the server."""

_numbers = itertools.count(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    variants = [_variant(item) for item in items]
    for item in items:
        if item.path.parent != Path(__file__).parent:
            continue
        if item.path.stem not in ON_BOTH_KINDS:
            item.add_marker(pytest.mark.mariadb_only("the kind of server does not matter to it"))
        elif parameters(item).get("mode", MODE_ON_MYSQL) != MODE_ON_MYSQL:
            item.add_marker(pytest.mark.mariadb_only("one mode is enough on MySQL"))
        # The MPM event is worker and a thread that listens. In containers, where no run is short, both run.
        if parameters(item).get("mode") == "worker" and _variant(item, mode="event") in variants and not IN_CONTAINERS:
            item.add_marker("compat")


def _variant(item: pytest.Item, **changes: object) -> tuple[str, dict[str, object]]:
    """Return a test's function and its parameters, some of them changed."""
    return item.nodeid.partition("[")[0], {**parameters(item), **changes}


@pytest.fixture
def folder(servers_folder: Path) -> Path:
    """A new folder for one httpd."""
    folder = servers_folder / f"site{next(_numbers)}"
    folder.mkdir(mode=0o755)
    return folder


@pytest.fixture
def place(folder: Path) -> Place:
    """The place where the test's httpd runs; a test with this fixture runs on a plain machine and in containers."""
    return Containers(Compose(), folder) if IN_CONTAINERS else ThisMachine(folder)


if IN_CONTAINERS:

    @pytest.fixture(scope="session")
    def mariadb(servers_folder: Path) -> Iterator[Server]:
        """A server that sites in other containers can reach, instead of this machine's."""
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
    # The site has ended its sessions; a busy server may need a moment to notice.
    eventually(lambda: not sessions(mariadb, name), f"the sessions of {name} to end, as the site has")
