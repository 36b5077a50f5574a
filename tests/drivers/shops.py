"""A shop with a table of books, by mysqlclient on MariaDB and MySQL or psycopg on PostgreSQL, and how they differ."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import MySQLdb
import MySQLdb.cursors
import psycopg

from servers.sql import ISOLATION, numbers
from unit.fakes import PATIENCE, eventually
from wsgipool import Pool, drivers
from wsgipool.config import DatabaseSettings, parse_url
from wsgipool.demo.mariadb import Server

Connect = Callable[..., Any]
"""A function that connects to the shop by a URL with these options."""
MakePool = Callable[..., Pool[Any]]


def settings_of(url: str) -> DatabaseSettings:
    return DatabaseSettings("shop", parse_url(url), "wsgipool.toml: databases.shop")


def driver_of(url: str) -> drivers.Driver[Any]:
    return drivers.for_database(settings_of(url))


def run(connection: Any, *statements: str) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def value(connection: Any, query: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


def clean(driver: drivers.Driver[Any], connection: Any, how: drivers.Reset = "rollback") -> None:
    driver.check_in(connection, how)
    driver.check_out(connection, threading.get_ident(), PATIENCE)


def is_alive(driver: drivers.Driver[Any], connection: Any) -> bool:
    return driver.check_out(connection, threading.get_ident(), PATIENCE)


class Shop:
    """One database: `server` is a MariaDB, a MySQL or a PostgreSQL."""

    dbapi: Any
    session: str
    """The SQL expression for the number of the current session."""
    sessions: str
    """The SQL query that counts the sessions with a number."""
    end: str
    nap: bytes
    """A statement that takes half a second and has no rows."""
    deadlock: int | str
    lock_timeout: int | str
    leftovers: ClassVar[dict[str, tuple[str, str]]]
    """The kinds of session state, each with a statement that sets it and a query that reads it."""

    def __init__(self, server: Any, url: str) -> None:
        self.server = server
        self.url = url
        self.driver = driver_of(url)
        self.user = url.rpartition("/")[2]

    def session_of(self, connection: Any) -> int:
        """Return the number of a session without asking the server."""
        raise NotImplementedError

    def code(self, error: Any) -> int | str:
        raise NotImplementedError

    def unread(self, connection: Any) -> Iterator[Any]:
        """Run an unbuffered query with more rows than can be read."""
        raise NotImplementedError

    def sees_session_end(self, session: int) -> contextlib.AbstractContextManager[None]:
        """Check that a session ends within the block, and as the server expects it."""
        raise NotImplementedError

    def kill(self, session: int) -> None:
        """End a session as an administrator does, and wait for its end."""
        with self.server.admin() as admin:
            run(admin, self.end.format(session))
        self.await_end(session)

    def await_end(self, session: int) -> None:
        with self.server.admin() as admin:
            eventually(lambda: not value(admin, self.sessions.format(session)))


class MariaDBShop(Shop):
    dbapi = MySQLdb
    session = "CONNECTION_ID()"
    sessions = "SELECT count(*) FROM information_schema.processlist WHERE id = {}"
    end = "KILL {}"
    nap = b"DO SLEEP(0.5)"
    deadlock = 1213
    lock_timeout = 1205
    leftovers: ClassVar = {
        "user variable": ("SET @discount = 1", "SELECT @discount IS NOT NULL"),
        "setting": ("SET time_zone = '+03:00'", "SELECT @@time_zone = '+03:00'"),
        "isolation level": (
            "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            f"SELECT {ISOLATION} = 'SERIALIZABLE'",
        ),
        "lock": ("DO GET_LOCK('till', 0)", "SELECT IS_USED_LOCK('till') = CONNECTION_ID()"),
        "database": ("USE information_schema", "SELECT database() = 'information_schema'"),
    }

    def session_of(self, connection: Any) -> int:
        return int(connection.thread_id())

    def code(self, error: Any) -> int | str:
        return int(error.args[0])

    def unread(self, connection: Any) -> Iterator[Any]:
        cursor = connection.cursor(MySQLdb.cursors.SSCursor)
        cursor.execute(f"SELECT seq, repeat('x', 1000) FROM {numbers(10**8)}")
        return iter(cursor)

    @contextlib.contextmanager
    def sees_session_end(self, session: int) -> Iterator[None]:
        def aborted() -> str:
            with self.server.admin() as admin, admin.cursor() as cursor:
                cursor.execute("SHOW GLOBAL STATUS LIKE 'Aborted_clients'")
                return str(cursor.fetchone()[1])

        before = aborted()
        yield
        self.await_end(session)
        assert aborted() == before


class MySQLShop(MariaDBShop):
    lock_timeout = 3572  # its own number for NOWAIT


class PostgreSQLShop(Shop):
    dbapi = psycopg
    session = "pg_backend_pid()"
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE pid = {}"
    end = "SELECT pg_terminate_backend({})"
    nap = b"DO 'BEGIN PERFORM pg_sleep(0.5); END'"
    deadlock = "40P01"
    lock_timeout = "55P03"
    leftovers: ClassVar = {
        "setting": ("SET TIME ZONE 'Asia/Tokyo'", "SELECT current_setting('TimeZone') = 'Asia/Tokyo'"),
        "lock": ("SELECT pg_advisory_lock(1)", "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory'"),
        "temporary table": ("CREATE TEMPORARY TABLE basket (id INT)", "SELECT to_regclass('basket') IS NOT NULL"),
        "role": ("SELECT set_config('role', current_user, false)", "SELECT current_setting('role') <> 'none'"),
        "prepared statement": ("PREPARE one AS SELECT 1", "SELECT count(*) > 0 FROM pg_prepared_statements"),
        "listener": ("LISTEN orders", "SELECT count(*) > 0 FROM pg_listening_channels()"),
    }

    def session_of(self, connection: Any) -> int:
        return int(connection.info.backend_pid)

    def code(self, error: Any) -> int | str:
        return str(error.sqlstate)

    def unread(self, connection: Any) -> Iterator[Any]:
        return iter(connection.cursor().stream("SELECT * FROM generate_series(1, 1000000)"))

    @contextlib.contextmanager
    def sees_session_end(self, session: int) -> Iterator[None]:
        logged = self.server.log.stat().st_size
        yield

        def last_words() -> list[str]:
            lines = self.server.log.read_bytes()[logged:].decode().splitlines()
            return [line.partition("LOG:  ")[2].partition(":")[0] for line in lines if f"[{session}]" in line]

        eventually(lambda: "disconnection" in last_words())
        assert last_words() == ["disconnection"]


_numbers = itertools.count(1)


def new_name() -> str:
    """Return a name for a test's database and user."""
    return f"driven_shop{next(_numbers)}"


@contextlib.contextmanager
def shop_on(server: Server) -> Iterator[str]:
    """The URL of a new database on MariaDB or MySQL with a table of books; at the end all its sessions have ended."""
    name = new_name()
    url = server.create_database(name)
    with server.admin(name) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE books (id INT PRIMARY KEY, stock INT NOT NULL) ENGINE=InnoDB")
        cursor.execute("INSERT INTO books VALUES (1, 10), (2, 20)")
    yield url.replace("mysql://", "mysql+mysqlclient://")
    with server.admin() as connection, connection.cursor() as cursor:
        eventually(lambda: not cursor.execute("SELECT 1 FROM information_schema.processlist WHERE user = %s", (name,)))
