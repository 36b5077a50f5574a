"""The kinds of servers that tests run on, and which of their tests run on one kind only."""

from __future__ import annotations

import pytest

from servers.mysql import MySQL
from wsgipool.demo.mariadb import MariaDB

KINDS = {"mariadb": MariaDB, "mysql": MySQL}


def parameters(item: pytest.Item) -> dict[str, object]:
    """Return the parameters of a test and of its fixtures, by name."""
    return item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}


def runs_on_its_kind(item: pytest.Item) -> bool:
    """Return whether the test's markers allow the kind of server in its parameters."""
    kind = parameters(item).get("server_kind")
    if kind is MySQL:
        return item.get_closest_marker("mariadb_only") is None
    if kind is MariaDB:
        return item.get_closest_marker("mysql_only") is None
    return True


def needs_mysql(item: pytest.Item) -> bool:
    """Return whether a test runs on MySQL, the tests' own or one that the workers share."""
    return parameters(item).get("server_kind") is MySQL or "mysql_server" in getattr(item, "fixturenames", ())
