"""A database for a site."""

from __future__ import annotations

import itertools

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
