"""Passwords by Basic authentication: handlers/auth.py beside mod_authn_dbd, on the same table in one real MariaDB.

Each way has an httpd of its own, and one at a time is under load. The page is a static file, so that little else costs
time. The stored passwords are {SHA}, the cheapest format that both know: the rest of a request stays visible.
"""

from __future__ import annotations

import base64
import hashlib
import json
from contextlib import nullcontext
from pathlib import Path

import pymysql

from benchmarks import report
from benchmarks.database import Database
from benchmarks.httpd import CREDENTIALS, Shape, beside, compared, without_preload
from benchmarks.measuring import Run
from wsgipool.httpd import express

DBD = "mod_authn_dbd"
UNCACHED, CACHED = "wsgipool, cache_seconds = 0", "wsgipool, cache_seconds = 60"
OPEN = "no password"
PAGE = "/page.txt"
USERS = 1000
QUERY = "SELECT password FROM users WHERE name = %s"
SHAPE = Shape("event")

_MODULES = {DBD: ("dbd", "authn_dbd"), UNCACHED: (), CACHED: (), OPEN: ()}
_SECONDS = {UNCACHED: 0, CACHED: 60}


def measure(run: Run) -> list[report.Table]:
    return [
        report.Table(
            name="auth",
            title=(
                f"httpd, event MPM, {SHAPE.processes} processes x {SHAPE.threads} threads: a static page behind Basic "
                f"authentication, {{SHA}} passwords of {USERS} users in MariaDB"
            ),
            columns=["requests/s", f"rate x {DBD}", "CPU µs/request", f"CPU x {DBD}"],
            rows=beside(DBD, *compared(run, started, dict.fromkeys(_MODULES, PAGE), rounds=15, shape=SHAPE)),
            plotted=[f"rate x {DBD}", f"CPU x {DBD}"],
            reference=1.0,
            notes=[
                "both ask the same query, in autocommit mode, by as many connections as threads",
                "CPU: of httpd's processes and the Python in them, not of MariaDB and wrk beside them",
            ],
        )
    ]


def started(name: str, database: Database) -> express.Httpd:
    """Start an httpd for one way."""
    create_users(database)
    folder = database.folder / f"auth-{list(_MODULES).index(name)}"
    folder.mkdir()
    (folder / "page.txt").write_text("a page\n", encoding="ascii")
    (folder / "app.wsgi").write_text("application = None\n", encoding="ascii")
    (folder / "auth.conf").write_text(apache_lines(name, database, folder), encoding="utf-8")
    (folder / "wsgipool.toml").write_text(settings(name, database), encoding="utf-8")
    site = express.Site(
        script=folder / "app.wsgi",
        config=folder / "wsgipool.toml",
        folder=folder,
        mode=SHAPE.mode,
        processes=SHAPE.processes,
        threads=SHAPE.threads,
        host="127.0.0.1",
        port=express.free_port(),
        log_folder=folder,
        express_options=["--include-file", str(folder / "auth.conf")],
    )
    httpd = express.Httpd(site)
    with nullcontext() if name in _SECONDS else without_preload(folder):
        try:
            httpd.start()
        except BaseException:
            httpd.stop()
            raise
    return httpd


def create_users(database: Database) -> None:
    """Create the table, if it is missing."""
    user, password = CREDENTIALS
    digest = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    stored = "{SHA}" + base64.b64encode(digest).decode()
    rows = [(user, stored), *((f"user{number}", stored) for number in range(USERS - 1))]
    with pymysql.connect(**database.arguments(), autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE IF NOT EXISTS users (name VARCHAR(100) COLLATE utf8mb4_bin PRIMARY KEY, password TEXT)"
        )
        cursor.executemany("INSERT IGNORE INTO users VALUES (%s, %s)", rows)


def settings(name: str, database: Database) -> str:
    url = json.dumps(database.url(options="?autocommit=true"))
    return (
        f"[databases.users]\nurl = {url}\n"
        f"[auth]\ndatabase = 'users'\npassword_query = '{QUERY}'\ncache_seconds = {_SECONDS.get(name, 0)}\n"
    )


def apache_lines(name: str, database: Database, folder: Path) -> str:
    arguments = database.arguments()
    provider = {
        DBD: f'AuthBasicProvider dbd\nAuthDBDUserPWQuery "{QUERY}"',
        OPEN: None,
    }.get(name, f'AuthBasicProvider wsgi\nWSGIAuthUserScript "{express.PACKAGE}/handlers/auth.py"')
    lines = [
        f"<IfModule !{module}_module>\n"
        f"LoadModule {module}_module ${{MOD_WSGI_MODULES_DIRECTORY}}/mod_{module}.so\n"
        "</IfModule>"
        for module in ("auth_basic", "authz_user", *_MODULES[name])
    ]
    if name == DBD:
        lines += [
            "DBDriver mysql",
            f'DBDParams "host={arguments["host"]},port={arguments["port"]},user={arguments["user"]},'
            f'pass={arguments["password"]},dbname={arguments["database"]}"',
            f"DBDMin {SHAPE.threads}\nDBDKeep {SHAPE.threads}\nDBDMax {SHAPE.threads}",
        ]
    lines.append(f'Alias {PAGE} "{folder}{PAGE}"')
    if provider is not None:
        lines.append(f'<Location {PAGE}>\nAuthType Basic\nAuthName "x"\n{provider}\nRequire valid-user\n</Location>')
    else:
        lines.append(f"<Location {PAGE}>\nRequire all granted\n</Location>")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    report.main(measure)
