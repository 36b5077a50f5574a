from __future__ import annotations

import os
import pwd
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unit.fakes import Task, run_python
from wsgipool import ConfigError, ConnectFailed, Pool, drivers
from wsgipool.config import DatabaseSettings, load, parse_url
from wsgipool.drivers import Driver, Reset, for_database
from wsgipool.impersonation import as_user


def driver(url: str) -> Driver[sqlite3.Connection]:
    return for_database(DatabaseSettings("shop", parse_url(url), "wsgipool.toml: databases.shop"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


def test_it_opens_the_file(file: Path) -> None:
    connection = driver(f"sqlite:///{file}").connect(1)
    connection.execute("CREATE TABLE books (title)")
    connection.close()

    assert file.stat().st_size > 0


def test_its_address_is_the_url(file: Path) -> None:
    assert driver(f"sqlite:///{file}").address == f"sqlite:///{file}"


def test_a_connection_may_serve_one_thread_after_the_other(file: Path) -> None:
    pool = Pool(driver(f"sqlite:///{file}"), name="shop", max_size=1)

    def one() -> int:
        with pool.connection() as connection:
            return int(connection.execute("SELECT 1").fetchone()[0])

    assert [Task(one).result() for _ in range(2)] == [1, 1]
    pool.close()


def test_a_file_that_was_replaced_is_opened_again(file: Path) -> None:
    pool = Pool(driver(f"sqlite:///{file}"), name="shop", max_size=1)
    with pool.connection() as connection:
        connection.execute("CREATE TABLE books (title)")
    with sqlite3.connect(file.with_name("backup.db")) as backup:
        backup.execute("CREATE TABLE restored (title)")
    backup.close()
    file.with_name("backup.db").replace(file)

    with pool.connection() as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("restored",)]
    pool.close()


def test_reset_ends_the_transaction(file: Path) -> None:
    sqlite = driver(f"sqlite:///{file}")
    connection = sqlite.connect(1)
    connection.execute("CREATE TABLE books (title)")
    connection.execute("INSERT INTO books VALUES ('Emma')")

    sqlite.check_in(connection, "rollback")

    assert not connection.in_transaction
    assert connection.execute("SELECT count(*) FROM books").fetchone() == (0,)
    sqlite.close(connection)


def test_a_close_never_raises(file: Path) -> None:
    sqlite = driver(f"sqlite:///{file}")
    connection = sqlite.connect(1)

    sqlite.close(connection)
    sqlite.close(connection)

    with pytest.raises(sqlite3.ProgrammingError):
        sqlite.check_in(connection, "rollback")


@pytest.mark.parametrize(("option", "milliseconds"), [("", 5000), ("?timeout=0.25", 250), ("?timeout=0", 0)])
def test_a_statement_waits_for_a_lock_as_long_as_the_option_says(file: Path, option: str, milliseconds: int) -> None:
    sqlite = driver(f"sqlite:///{file}{option}")
    connection = sqlite.connect(1)

    assert connection.execute("PRAGMA busy_timeout").fetchone() == (milliseconds,)
    sqlite.close(connection)


def test_connect_failed_names_the_file_and_why_it_cannot_be_opened(tmp_path: Path) -> None:
    pool = Pool(driver(f"sqlite:///{tmp_path}/nowhere/shop.db"), name="shop", max_size=1)

    with pytest.raises(ConnectFailed) as caught:
        pool.getconn()

    assert f"{tmp_path}/nowhere/shop.db: OperationalError: unable to open database file" in str(caught.value)
    assert f": there is no {tmp_path}/nowhere, or user {os.geteuid()} has no access to it" in str(caught.value)


def test_a_folder_without_write_permission_is_named() -> None:
    def connect() -> str:
        try:
            driver("sqlite:////usr/shop.db").connect(1)
        except sqlite3.OperationalError as error:
            return str(error)
        return ""

    user = pwd.getpwuid(os.geteuid()).pw_name
    complaint = as_user("nobody" if user == "root" else user, connect)

    assert "unable to open database file: user " in complaint
    assert " may not create files in /usr, and SQLite needs some beside the database" in complaint


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("sqlite:///shop.db", "the path is not absolute; write sqlite:////path/to"),
        ("sqlite:///data/shop.db", "the path is not absolute"),
        ("sqlite:///:memory:", "the path is not absolute"),
        ("sqlite:///file:/srv/shop.db", "the path is not absolute"),
        ("sqlite:///~/shop.db", "the path is not absolute"),
        ("sqlite://", "the path is not absolute"),
        (
            "sqlite://localhost/shop.db",
            "a file has no host, user or password; write sqlite:////path/to/file.db, with four",
        ),
        ("sqlite://:33/shop.db", "a file has no host, user or password"),
        ("sqlite://shop@/shop.db", "a file has no host, user or password"),
        ("sqlite:////", "/ is not a regular file; write the path of a file"),
        ("sqlite:////usr", "/usr is not a regular file; write the path of a file"),
        ("sqlite:////usr/", "/usr is not a regular file; write the path of a file"),
        ("sqlite:////dev/null", "/dev/null is not a regular file; write the path of a file"),
        ("sqlite:////etc/passwd/shop.db", "/etc/passwd/shop.db: Not a directory; write the path of a file"),
        (f"sqlite:////{'x' * 300}", "File name too long; write the path of a file"),
        ("sqlite:////shop.db?timout=1", "timout is not an option of sqlite://; did you mean timeout?"),
        ("sqlite:////shop.db?mode=memory", "mode is not an option of sqlite://; known are: timeout"),
        ("sqlite:////shop.db?uri=true", "uri is not an option of sqlite://; known are: timeout"),
        ("sqlite:////shop.db?timeout=", "the option timeout has no value; write one, or leave the option out"),
        ("sqlite:////shop.db?timeout=long", "the option timeout is a number of seconds from 0 to 86400, not 'long'"),
        ("sqlite:////shop.db?timeout=nan", "the option timeout is a number of seconds from 0 to 86400, not 'nan'"),
        ("sqlite:////shop.db?timeout=inf", "the option timeout is a number of seconds from 0 to 86400, not 'inf'"),
        ("sqlite:////shop.db?timeout=-1", "the option timeout is a number of seconds from 0 to 86400, not '-1'"),
        ("sqlite:////shop.db?timeout=1e9", "the option timeout is a number of seconds from 0 to 86400, not '1e9'"),
        ("sqlite:////shop.db?timeout=86401", "the option timeout is a number of seconds from 0 to 86400, not '86401'"),
        ("sqlite:////shop.db?timeout=+5", "the option timeout is a number of seconds from 0 to 86400, not '+5'"),
        ("sqlte:////shop.db", "no driver for sqlte://; did you mean sqlite?"),
    ],
)
def test_the_error_for_a_wrong_url_has_its_place_and_the_remedy(url: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        driver(url)

    assert str(caught.value).startswith("wsgipool.toml: databases.shop.url: ")
    assert remedy in str(caught.value)


def test_a_password_from_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret")
    settings = load({"databases": {"shop": {"url": "sqlite:////shop.db", "password_file": f"{tmp_path}/password"}}})

    with pytest.raises(ConfigError, match="a file has no host, user or password"):
        for_database(settings.databases["shop"])


def test_a_path_is_kept_to_the_last_character(tmp_path: Path) -> None:
    folder = tmp_path / "a+b c@d%e"
    folder.mkdir()

    connection = driver(f"sqlite:///{tmp_path}/a+b c@d%25e/sh%20öp.db").connect(1)
    connection.execute("CREATE TABLE books (title)")
    connection.close()

    assert [file.name for file in folder.iterdir()] == ["sh öp.db"]


def test_a_forks_child_leaves_the_parents_transaction_alone(file: Path) -> None:
    program = f"""
import os, sqlite3
from wsgipool import Pool
from wsgipool.config import DatabaseSettings, load, parse_url
from wsgipool.drivers import for_database

pool = Pool(for_database(DatabaseSettings("shop", parse_url("sqlite:///{file}"), "")), name="shop", max_size=1)
with pool.connection() as connection:
    connection.execute("CREATE TABLE books (title)")
    connection.execute("INSERT INTO books VALUES ('Emma')")
    child = os.fork()
    if child == 0:
        os._exit(pool.size)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
with pool.connection() as connection:
    print(connection.execute("SELECT title FROM books").fetchall())
"""

    assert run_python(program) == "[('Emma',)]\n"


# --- state that a holder leaves --------------------------------------------------------------------------------------


def returned(sqlite: Driver[sqlite3.Connection], connection: sqlite3.Connection) -> None:
    sqlite.check_in(connection, "rollback")
    assert sqlite.check_out(connection, 1, 1)


ATTRIBUTES: dict[str, Callable[[Any], object]] = {
    "row_factory": lambda ours: setattr(ours, "row_factory", sqlite3.Row),
    "text_factory": lambda ours: setattr(ours, "text_factory", bytes),
    "isolation_level": lambda ours: setattr(ours, "isolation_level", None),
    "an attribute of one's own": lambda ours: setattr(ours, "current_user", "Emma"),
    "a method": lambda ours: setattr(ours, "execute", lambda *_: None),
}
if sys.version_info >= (3, 12):
    ATTRIBUTES["autocommit"] = lambda ours: setattr(ours, "autocommit", True)


@pytest.mark.parametrize("change", ATTRIBUTES)
@pytest.mark.parametrize("how", [None, "rollback", "session"])
def test_the_next_holder_finds_the_configured_attributes(how: Reset | None, change: str, file: Path) -> None:
    sqlite = driver(f"sqlite:///{file}")
    connection = sqlite.connect(1)
    connection.row_factory = lambda _, row: list(row)
    sqlite.remember(connection)
    before = vars(connection).keys() - {"_open"}

    ATTRIBUTES[change](connection)
    sqlite.check_in(connection, how)

    assert connection.execute("SELECT 'Emma'").fetchone() == ["Emma"]
    assert connection.isolation_level is not None
    assert vars(connection).keys() - {"_open"} == before
    sqlite.close(connection)


def test_a_pool_without_configure_restores_the_attributes_too(file: Path) -> None:
    pool = Pool(driver(f"sqlite:///{file}"), name="shop", max_size=1)
    with pool.connection() as connection:
        connection.row_factory = sqlite3.Row

    with pool.connection() as again:
        assert again is connection
        assert again.row_factory is None
    pool.close()


if sys.version_info >= (3, 12):

    def test_a_return_without_a_reset_commits_nothing(file: Path) -> None:
        sqlite = drivers.driver("sqlite", file, autocommit=True)
        connection = sqlite.connect(1)
        connection.execute("CREATE TABLE books (title)")
        sqlite.begin(connection)
        connection.execute("INSERT INTO books VALUES ('Emma')")

        sqlite.check_in(connection, None)

        assert connection.autocommit is True
        assert connection.execute("SELECT count(*) FROM books").fetchone() == (0,)
        sqlite.close(connection)


CHANGES: dict[str, Callable[[Any], object]] = {
    "foreign_keys": lambda ours: ours.execute("PRAGMA foreign_keys = ON"),
    "query_only": lambda ours: ours.execute("PRAGMA query_only = ON"),
    "busy_timeout": lambda ours: ours.execute("PRAGMA busy_timeout = 1"),
    "synchronous": lambda ours: ours.execute("PRAGMA synchronous = OFF"),
    "journal_mode": lambda ours: ours.execute("PRAGMA journal_mode = MEMORY"),
    "case_sensitive_like": lambda ours: ours.execute("PRAGMA case_sensitive_like = ON"),
    "an attached file": lambda ours: ours.execute("ATTACH ':memory:' AS other"),
    "a temporary table": lambda ours: ours.execute("CREATE TEMPORARY TABLE basket (id)"),
    "a function": lambda ours: ours.create_function("price", 0, lambda: 1),
    "an aggregate": lambda ours: ours.create_aggregate("price", 1, object),
    "a collation": lambda ours: ours.create_collation("NOCASE", lambda one, other: (one > other) - (one < other)),
    "an authorizer": lambda ours: ours.set_authorizer(lambda *_: sqlite3.SQLITE_OK),
    "a progress handler": lambda ours: ours.set_progress_handler(lambda: 1, 1),
    "a trace": lambda ours: ours.set_trace_callback(print),
    "a limit": lambda ours: ours.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 100),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_only_a_new_connection_undoes_closes_the_connection(change: str, file: Path) -> None:
    sqlite = driver(f"sqlite:///{file}")
    connection = sqlite.connect(1)
    returned(sqlite, connection)

    CHANGES[change](connection)

    with pytest.raises(sqlite3.Error):
        sqlite.check_in(connection, "rollback")
    sqlite.close(connection)


@pytest.mark.parametrize(
    "change", sorted(CHANGES.keys() - {"a progress handler", "a limit"})
)  # these stop every statement
def test_a_change_by_configure_costs_no_connection(change: str, file: Path) -> None:
    sqlite = driver(f"sqlite:///{file}")
    connection = sqlite.connect(1)
    CHANGES[change](connection)
    connection.commit()
    sqlite.remember(connection)

    for _ in range(2):
        connection.execute("SELECT 1").fetchone()
        sqlite.check_in(connection, "rollback")

    sqlite.close(connection)


def rows_left(connection: Any) -> Any:
    rows = connection.execute("SELECT title FROM books")
    rows.fetchone()
    return rows


def rows_left_by_a_cursor(connection: Any) -> Any:
    rows = connection.cursor()
    rows.execute("SELECT title FROM books")
    rows.fetchone()
    return rows


def rows_of_a_factory_that_raises(connection: Any) -> Any:
    def refuse(*_: object) -> None:
        raise sqlite3.DataError("refused")

    connection.row_factory = refuse
    rows = connection.execute("SELECT title FROM books")
    with pytest.raises(sqlite3.DataError, match="refused"):
        rows.fetchone()
    return rows


@pytest.mark.parametrize("leave", [rows_left, rows_left_by_a_cursor, rows_of_a_factory_that_raises])
def test_unread_rows_keep_no_lock_and_reach_no_later_holder(leave: Callable[[Any], Any], file: Path) -> None:
    sqlite = driver(f"sqlite:///{file}?timeout=0.1")
    connection, other = sqlite.connect(1), sqlite.connect(1)
    other.execute("CREATE TABLE books (title)")
    other.executemany("INSERT INTO books VALUES (?)", [("Emma",), ("Persuasion",)])
    other.commit()
    sqlite.remember(connection)
    rows = leave(connection)

    returned(sqlite, connection)

    other.execute("DELETE FROM books")
    other.commit()  # would fail with a reader's lock
    assert connection.execute("SELECT count(*) FROM books").fetchone() == (0,)
    with pytest.raises(sqlite3.ProgrammingError):
        rows.fetchone()
    for one in (connection, other):
        sqlite.close(one)


def test_a_file_locked_at_the_connect_is_not_waited_for_and_used_once(file: Path) -> None:
    sqlite = driver(f"sqlite:///{file}?timeout=60")
    other = sqlite.connect(1)
    other.execute("CREATE TABLE books (title)")
    other.commit()
    other.execute("BEGIN EXCLUSIVE")

    connection = Task(lambda: sqlite.connect(1)).result()
    other.rollback()

    assert connection.execute("PRAGMA busy_timeout").fetchone() == (60_000,)
    with pytest.raises(sqlite3.OperationalError, match="another connection had it locked"):
        sqlite.check_in(connection, "rollback")
    for one in (connection, other):
        sqlite.close(one)


# --- transactions and messages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("end", "rows"), [("commit", 2), ("rollback", 0)])
def test_begin_makes_statements_in_autocommit_one_transaction(end: str, rows: int, file: Path) -> None:
    sqlite = driver(f"sqlite:///{file}")
    connection = sqlite.connect(1)
    connection.isolation_level = None
    connection.execute("CREATE TABLE books (title)")

    sqlite.begin(connection)
    connection.execute("INSERT INTO books VALUES ('Emma')")
    connection.execute("INSERT INTO books VALUES ('Persuasion')")
    getattr(connection, end)()

    assert connection.execute("SELECT count(*) FROM books").fetchone() == (rows,)
    sqlite.close(connection)


def test_the_error_after_a_close_by_hand_names_the_remedy(file: Path) -> None:
    pool = Pool(driver(f"sqlite:///{file}"), name="shop", max_size=1)

    def close_in_block() -> None:
        with pool.connection() as connection:
            connection.close()

    with pytest.raises(ValueError, match="Do not close it: leave the `with` block, or return it once by putc"):
        close_in_block()
    with pool.connection() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    pool.close()


def test_a_connection_that_the_pool_has_closed_says_so(file: Path) -> None:
    sqlite = driver(f"sqlite:///{file}")
    connection = sqlite.connect(1)
    sqlite.close(connection)

    with pytest.raises(sqlite3.ProgrammingError, match="the pool has closed the connection; use none after its return"):
        connection.execute("SELECT 1")
