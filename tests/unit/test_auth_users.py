"""`[auth]`: users, digests and groups by queries, on a real SQLite file."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

import wsgipool
from wsgipool import config, pools
from wsgipool.auth import users as module
from wsgipool.auth.users import LookupFailed, Users
from wsgipool.errors import ConfigError

SHA = "{SHA}W8r/fyL/UzygmbNAjq2HbA67qac="
"""`htpasswd -nbs ann 'open sesame'`"""
RIGHT = b"open sesame"
DIGEST = hashlib.md5(b"ann:club:open sesame", usedforsecurity=False).hexdigest()

PASSWORD_QUERY = "SELECT password FROM users WHERE name = %s"
REALM_QUERY = "SELECT digest FROM users WHERE name = %(user)s AND realm = %(realm)s"
GROUP_QUERY = "SELECT team FROM teams WHERE name = %(user)s ORDER BY team"


class Table:
    """The file with the users, changed by an administrator."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run(
            "CREATE TABLE users (name TEXT, password, realm TEXT, digest TEXT);"
            "CREATE TABLE teams (name TEXT, team TEXT);"
        )

    def run(self, script: str) -> None:
        connection = sqlite3.connect(self.path)
        connection.executescript(script)
        connection.close()

    def add(self, name: str, password: str | bytes | None = SHA) -> None:
        connection = sqlite3.connect(self.path)
        with connection:
            connection.execute("INSERT INTO users VALUES (?, ?, 'club', ?)", (name, password, DIGEST.upper()))
        connection.close()


@pytest.fixture
def table(tmp_path: Path) -> Table:
    table = Table(tmp_path / "users.db")
    table.add("ann")
    return table


@pytest.fixture
def _configured(table: Table, _no_settings: None) -> Iterator[None]:
    with pools.override({"databases": {"site": {"url": f"sqlite:///{table.path}"}}}):
        yield


def users(cache_seconds: float = 60, **queries: str) -> Users:
    given = {"password_query": PASSWORD_QUERY, "realm_query": REALM_QUERY, "group_query": GROUP_QUERY, **queries}
    auth = config.load(
        {
            "databases": {"site": {"url": "sqlite:////unused"}},
            "auth": {"database": "site", "cache_seconds": cache_seconds, **given},
        }
    ).auth
    assert auth is not None
    return Users(auth)


pytestmark = pytest.mark.usefixtures("_configured")


def test_a_right_password_is_accepted_and_a_wrong_one_is_not() -> None:
    assert users().check_password(b"ann", RIGHT) is True
    assert users().check_password(b"ann", b"open sesamE") is False
    assert users().check_password(b"ann", b"") is False


def test_an_unknown_user_is_none_so_that_httpd_can_ask_its_next_provider() -> None:
    assert users().check_password(b"bob", RIGHT) is None


@pytest.mark.parametrize("password", [None, "", "!", "*"])
def test_a_user_without_a_password_cannot_log_in(password: str | None, table: Table) -> None:
    table.add("eve", password)

    for tried in (b"", b"!", b"*", b"None", RIGHT):
        assert not users().check_password(b"eve", tried)


def test_the_password_may_be_stored_as_bytes(table: Table) -> None:
    table.add("bob", SHA.encode())

    assert users().check_password(b"bob", RIGHT) is True


def test_a_name_outside_ascii_is_utf8(table: Table) -> None:
    table.add("Zoë")

    assert users().check_password("Zoë".encode(), RIGHT) is True
    assert users().check_password("Zoë".encode("latin-1"), RIGHT) is None


@pytest.mark.parametrize(
    "name", [b"", b"ann ", b" ann", b"ann\0", b"\0", b"ann\n", b"\xff", b"a" * 256, b"a" * 100_000]
)
def test_a_name_that_databases_read_differently_is_that_of_no_user(name: bytes, table: Table) -> None:
    if len(name) < 1000 and b"\xff" not in name:
        table.add(name.decode())

    assert users().check_password(name, RIGHT) is None
    assert users().realm_hash(name, b"club") is None
    assert users().groups(name) == []


@pytest.mark.parametrize("name", [b"' OR '1'='1", b'" OR 1=1 -- ', b"%s", b"%(user)s", b"an%", b"a:nn", b"\\"])
def test_a_name_is_a_value_and_no_part_of_the_query(name: bytes) -> None:
    assert users().check_password(name, RIGHT) is None


def test_two_rows_of_one_name_let_nobody_in(table: Table) -> None:
    table.add("ann")

    with pytest.raises(LookupFailed, match="password_query returned 2 rows for one user; it must return one at most"):
        users().check_password(b"ann", RIGHT)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("SELECT password FROM nowhere WHERE name = %s", "password_query failed in database 'site': .*nowhere"),
        ("SELECT name, password FROM users WHERE name = %s", "password_query returned 2 columns; it must return one"),
        ("SELECT 1 FROM users WHERE name = %s", "password_query returned a int; its column must be text"),
    ],
)
def test_a_wrong_query_lets_nobody_in_and_says_why(query: str, reason: str) -> None:
    with pytest.raises(LookupFailed, match=reason):
        users(password_query=query).check_password(b"ann", RIGHT)


def test_a_query_that_the_settings_lack_is_named() -> None:
    auth = config.load(
        {
            "databases": {"site": {"url": "sqlite:////unused"}},
            "auth": {"database": "site", "password_query": PASSWORD_QUERY},
        }
    ).auth
    assert auth is not None

    with pytest.raises(ConfigError, match="the settings have no realm_query"):
        Users(auth).realm_hash(b"ann", b"club")


def test_a_hash_of_another_format_lets_nobody_in_and_is_not_logged(
    table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    table.add("eve", "s3cret")

    assert users().check_password(b"eve", b"s3cret") is False
    assert "user 'eve' has none of the formats" in caplog.text
    assert "s3cret" not in caplog.text


# --- what is remembered ----------------------------------------------------------------------------------------------


def test_an_accepted_password_is_remembered_until_its_time_is_over(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    known = users(cache_seconds=60)
    assert known.check_password(b"ann", RIGHT) is True
    table.run("DELETE FROM users")

    now[0] = 59.9
    assert known.check_password(b"ann", RIGHT) is True
    assert known.check_password(b"ann", b"wrong") is None, "another password must be looked up"
    now[0] = 60.1
    assert known.check_password(b"ann", RIGHT) is None


def test_a_refusal_is_not_remembered(table: Table) -> None:
    known = users()
    assert known.check_password(b"bob", RIGHT) is None

    table.add("bob")

    assert known.check_password(b"bob", RIGHT) is True


def test_without_seconds_nothing_is_remembered(table: Table) -> None:
    known = users(cache_seconds=0)
    assert known.check_password(b"ann", RIGHT) is True
    assert known.groups(b"ann") == []

    table.run("DELETE FROM users; INSERT INTO teams VALUES ('ann', 'crew')")

    assert known.check_password(b"ann", RIGHT) is None
    assert known.groups(b"ann") == [b"crew"]


def test_the_memory_is_bounded(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REMEMBERED", 2)
    table.run("DELETE FROM users")
    for name in ("ann", "bob", "cleo"):
        table.add(name)
    known = users()
    assert [known.check_password(name, RIGHT) for name in (b"ann", b"bob", b"cleo")] == [True] * 3

    table.run("DELETE FROM users")

    assert [known.check_password(name, RIGHT) for name in (b"ann", b"bob", b"cleo")] == [None, True, True]


def test_the_parts_of_what_is_remembered_cannot_be_shifted(table: Table) -> None:
    table.add("an")
    known = users()
    assert known.check_password(b"ann", RIGHT) is True

    assert known.check_password(b"an", b"n" + RIGHT) is False


# --- digest and groups -----------------------------------------------------------------------------------------------


def test_a_digest_is_that_of_the_user_and_the_realm() -> None:
    assert users().realm_hash(b"ann", b"club") == DIGEST
    assert users().realm_hash(b"ann", b"pub") is None
    assert users().realm_hash(b"bob", b"club") is None


def test_a_digest_that_is_none_lets_nobody_in(table: Table) -> None:
    table.run("UPDATE users SET digest = 'open sesame'")

    with pytest.raises(LookupFailed, match="realm_query must return 32 hexadecimal digits") as caught:
        users().realm_hash(b"ann", b"club")

    assert "open sesame" not in str(caught.value)


def test_groups_are_the_rows_of_the_query(table: Table) -> None:
    table.run("INSERT INTO teams VALUES ('ann', 'crew'), ('ann', 'Zürich'), ('ann', NULL), ('ann', ''), ('bob', 'all')")

    assert users().groups(b"ann") == [b"Z\xc3\xbcrich", b"crew"]
    assert users().groups(b"cleo") == []


def test_a_group_with_nul_is_left_out_since_httpd_would_cut_it(table: Table) -> None:
    table.run("INSERT INTO teams VALUES ('ann', 'admin' || char(0) || 'x')")

    assert users().groups(b"ann") == []


def test_no_connection_stays_checked_out() -> None:
    known = users(cache_seconds=0)
    known.check_password(b"ann", RIGHT)
    known.realm_hash(b"ann", b"club")
    known.groups(b"ann")

    stats = wsgipool.pool("site").stats()
    assert (stats.checkouts, stats.in_use) == (3, 0)


def test_a_database_that_is_down_is_an_error_without_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    url = "mysql://ann:s3cret@127.0.0.1:1/users"
    with pools.override({"databases": {"site": {"url": url}}}), pytest.raises(LookupFailed) as caught:
        users().check_password(b"ann", RIGHT)

    assert "password_query failed in database 'site': ConnectFailed: cannot connect" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value) + caplog.text
    assert "open sesame" not in str(caught.value) + caplog.text
