"""Apache's own authentication by `handlers/auth.py`: real httpd, Basic and Digest, users in a real database."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from requests.auth import AuthBase, HTTPBasicAuth, HTTPDigestAuth

from httpd.harness import LONG, ExpressSite, Settings, running_site, sessions
from wsgipool.demo.mariadb import Server
from wsgipool.httpd.express import PACKAGE

PASSWORD = "öpen: sesame"
BCRYPT = "$2y$05$dW/8M.uIRvD04yLTkEqNQu3bxJ/BPT.bdYuvry71Cs9pNCY0Jift."
"""`htpasswd -nbB cleo 'open sesame'`"""

_WHO = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [environ["REMOTE_USER"].encode("latin-1")]
"""

_MODULES = "".join(
    f"<IfModule !{name}_module>\n"
    f"    LoadModule {name}_module ${{MOD_WSGI_MODULES_DIRECTORY}}/mod_{name}.so\n"
    f"</IfModule>\n"
    for name in ("auth_basic", "auth_digest", "authz_user")
)

_LINES = f"""
{_MODULES}
<Location "/basic">
    AuthType Basic
    AuthName "club"
    AuthBasicProvider wsgi
    WSGIAuthUserScript "{PACKAGE}/handlers/auth.py"
    Require valid-user
</Location>
<Location "/basic/edit">
    WSGIAuthGroupScript "{PACKAGE}/handlers/auth.py"
    Require wsgi-group editors "Zürich office"
</Location>
<Location "/digest">
    AuthType Digest
    AuthName "club"
    AuthDigestProvider wsgi
    WSGIAuthUserScript "{PACKAGE}/handlers/auth.py"
    Require valid-user
</Location>
"""

_AUTH: Settings = {
    "database": "shop",
    "password_query": "SELECT password FROM users WHERE name = %s",
    "realm_query": "SELECT digest FROM users WHERE name = %(user)s AND 'club' = %(realm)s",
    "group_query": "SELECT team FROM teams WHERE name = %s",
    "cache_seconds": 0,
}


@pytest.fixture
def users(shop: str, mariadb: Server) -> str:
    """The database of a site, with its users."""
    name = urlsplit(shop).path.strip("/")
    with mariadb.admin(name) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE users (name VARCHAR(100) COLLATE utf8mb4_bin, password TEXT, digest CHAR(32))")
        cursor.execute("CREATE TABLE teams (name VARCHAR(100) COLLATE utf8mb4_bin, team VARCHAR(100))")
        for user, stored in {"ann": sha(PASSWORD), "Zoë": sha("x"), "eve": "!", "bob": None, "cleo": BCRYPT}.items():
            digest = hashlib.md5(f"{user}:club:{PASSWORD}".encode(), usedforsecurity=False).hexdigest()
            cursor.execute("INSERT INTO users VALUES (%s, %s, %s)", (user, stored, digest))
        cursor.execute("INSERT INTO teams VALUES ('ann', 'editors'), ('Zoë', 'Zürich office')")
        connection.commit()
    return shop


def sha(password: str) -> str:
    return "{SHA}" + base64.b64encode(hashlib.sha1(password.encode(), usedforsecurity=False).digest()).decode()


@contextmanager
def site_with_users(folder: Path, mode: str, url: str, **auth: str | int) -> Iterator[ExpressSite]:
    lines, script = folder / "auth.conf", folder / "who.wsgi"
    script_line = f'{PACKAGE}/handlers/auth.py"'
    # In daemon mode the script has a sub-interpreter of its own, in Apache's children.
    in_place = f"{script_line} application-group=passwords" if mode == "daemon" else script_line
    lines.write_text(_LINES.replace(script_line, in_place), encoding="utf-8")
    script.write_text(_WHO, encoding="utf-8")
    with running_site(
        folder,
        mode,
        {"shop": url},
        processes=2,
        threads=1 if mode == "prefork" else 4,
        settings={"timeout": 5},
        auth={**_AUTH, **auth},
        script=script,
        express_options=("--include-file", str(lines)),
    ) as site:
        yield site


def ask(site: ExpressSite, path: str, auth: AuthBase | None = None) -> requests.Response:
    return requests.get(site.url + path, auth=auth, timeout=LONG)


def basic(user: str, password: str) -> HTTPBasicAuth:
    return HTTPBasicAuth(user.encode(), password.encode())


@pytest.mark.parametrize("mode", ["prefork", "event", "daemon"])
def test_only_a_right_password_opens_the_site(mode: str, folder: Path, users: str, mariadb: Server) -> None:
    with site_with_users(folder, mode, users) as site:
        right = ask(site, "/basic", basic("ann", PASSWORD))
        in_utf8 = ask(site, "/basic", basic("Zoë", "x"))
        by_apr = ask(site, "/basic", basic("cleo", "open sesame"))
        refused = {
            (user, password): ask(site, "/basic", basic(user, password)).status_code
            for user, password in [
                ("ann", "wrong"), ("cleo", "open sesamE"), ("ann", ""), ("ann", "x" * 5000), ("Ann", PASSWORD),
                ("ann ", PASSWORD), ("nobody", PASSWORD), ("", ""), ("", PASSWORD), ("eve", "!"), ("bob", ""),
                ("bob", "None"), ("' OR ''='", "x"), ("x" * 1000, "x"),
            ]
        }  # fmt: skip
        not_utf8 = ask(site, "/basic", HTTPBasicAuth(b"Zo\xeb", b"x"))
        without = ask(site, "/basic")
        log = site.log()
        name = urlsplit(users).path.strip("/")
        assert len(sessions(mariadb, name)) <= (2 if mode == "prefork" else 8)

    assert (right.status_code, right.text) == (200, "ann")
    assert (in_utf8.status_code, in_utf8.text) == (200, "Zoë")
    assert (by_apr.status_code, by_apr.text) == (200, "cleo")
    assert set(refused.values()) == {401}, refused
    assert (not_utf8.status_code, without.status_code) == (401, 401)
    assert without.headers["WWW-Authenticate"] == 'Basic realm="club"'
    assert "Traceback" not in log
    assert not re.search("sesame|SHA|wrong", log)


@pytest.mark.parametrize("mode", ["prefork", "event"])
def test_digest_asks_for_the_hash_of_user_realm_and_password(mode: str, folder: Path, users: str) -> None:
    with site_with_users(folder, mode, users) as site:
        answers = {
            (user, password): ask(site, "/digest", HTTPDigestAuth(user, password)).status_code
            for user, password in [("ann", PASSWORD), ("ann", "wrong"), ("nobody", PASSWORD)]
        }
        log = site.log()

    assert answers == {("ann", PASSWORD): 200, ("ann", "wrong"): 401, ("nobody", PASSWORD): 401}
    assert "Traceback" not in log


def test_only_members_of_a_group_see_its_pages(folder: Path, users: str, mariadb: Server) -> None:
    with site_with_users(folder, "event", users) as site:
        member = ask(site, "/basic/edit", basic("ann", PASSWORD))
        member_in_utf8 = ask(site, "/basic/edit", basic("Zoë", "x"))
        with mariadb.admin(urlsplit(users).path.strip("/")) as connection, connection.cursor() as cursor:
            cursor.execute("DELETE FROM teams")
            connection.commit()
        former = ask(site, "/basic/edit", basic("ann", PASSWORD))

    assert (member.status_code, member_in_utf8.status_code, former.status_code) == (200, 200, 401)


def test_a_database_that_fails_lets_nobody_in_and_says_why_in_the_log(
    folder: Path, users: str, mariadb: Server
) -> None:
    name = urlsplit(users).path.strip("/")
    with site_with_users(folder, "prefork", users) as site:
        assert ask(site, "/basic", basic("ann", PASSWORD)).status_code == 200
        with mariadb.admin(name) as connection, connection.cursor() as cursor:
            cursor.execute("RENAME TABLE users TO members")
        failed = ask(site, "/basic", basic("ann", PASSWORD))
        failed_digest = ask(site, "/digest", HTTPDigestAuth("ann", PASSWORD))
        with mariadb.admin(name) as connection, connection.cursor() as cursor:
            cursor.execute("RENAME TABLE members TO users")
        again = ask(site, "/basic", basic("ann", PASSWORD))
        log = site.log()

    assert (failed.status_code, failed_digest.status_code, again.status_code) == (500, 500, 200)
    assert "auth: password_query failed in database 'shop'" in log
    assert "sesame" not in log


def test_an_accepted_password_is_remembered_for_as_long_as_the_settings_say(
    folder: Path, users: str, mariadb: Server
) -> None:
    with site_with_users(folder, "prefork", users, cache_seconds=3600) as site, requests.Session() as visitor:
        visitor.auth = basic("ann", PASSWORD)
        first = visitor.get(site.url + "/basic", timeout=LONG)  # one keep-alive connection has one child of prefork
        with mariadb.admin(urlsplit(users).path.strip("/")) as connection, connection.cursor() as cursor:
            cursor.execute("DROP TABLE users")
        again = visitor.get(site.url + "/basic", timeout=LONG)
        visitor.auth = basic("ann", "wrong")
        wrong = visitor.get(site.url + "/basic", timeout=LONG)

    assert (first.status_code, again.status_code, wrong.status_code) == (200, 200, 500)
