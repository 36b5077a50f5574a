from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from drivers.shops import shop_on
from wsgipool.demo.mariadb import Server


class GeneralLog:
    """The statements that a MariaDB or MySQL has received."""

    def __init__(self, admin: Any) -> None:
        self._admin = admin

    def statements_of(self, user: str) -> list[str]:
        """Return the statements of a user's sessions that the fixture's time has seen, in their order."""
        with self._admin.cursor() as cursor:
            cursor.execute(
                "SELECT CONVERT(argument USING utf8mb4) FROM mysql.general_log WHERE user_host LIKE %s AND "
                "command_type IN ('Query', 'Execute', 'Ping', 'Reset Connection', 'Prepare', 'Init DB')",
                (f"{user}[%",),
            )
            return [statement for (statement,) in cursor.fetchall()]


@pytest.fixture
def general_log(database_server: Server) -> Iterator[GeneralLog]:
    """The log of the server's statements, in a table for the time of the test."""
    with database_server.admin() as connection:
        with connection.cursor() as cursor:
            cursor.execute("SET GLOBAL log_output = 'TABLE'")
            cursor.execute("SET GLOBAL general_log = 1")
        yield GeneralLog(connection)
        with connection.cursor() as cursor:
            cursor.execute("SET GLOBAL general_log = 0")
            cursor.execute("TRUNCATE mysql.general_log")


@pytest.fixture
def mysql_url(database_server: Server) -> Iterator[str]:
    """The URL of a new database on MariaDB or MySQL."""
    with shop_on(database_server) as url:
        yield url
