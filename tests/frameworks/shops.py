"""A database for a site, and what its server says of the site's sessions."""

from __future__ import annotations

import itertools

from httpd.harness import Administered, eventually, sessions, status
from wsgipool.demo.mariadb import Server

_numbers = itertools.count(1)


def new_shop(mariadb: Server) -> str:
    """Return the URL of a new database with a table of notes; its user has the database's name."""
    name = f"framed_shop{next(_numbers)}"
    url = mariadb.create_database(name)
    with mariadb.admin(name) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE notes (id INT AUTO_INCREMENT PRIMARY KEY, text VARCHAR(100)) ENGINE=InnoDB")
    return url


def user_of(url: str) -> str:
    return url.rpartition("/")[2]


class AbortedClients:
    """The sessions that ended without COM_QUIT, counted when all sessions of the shop have ended."""

    def __init__(self, mariadb: Administered, url: str) -> None:
        self._mariadb = mariadb
        self._user = user_of(url)
        self._before = status(mariadb, "Aborted_clients")

    def count(self) -> int:
        eventually(lambda: not sessions(self._mariadb, self._user), "the sessions to end")
        return status(self._mariadb, "Aborted_clients") - self._before
