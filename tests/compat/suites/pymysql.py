"""PyMySQL's own tests, with `pymysql.connect` as it is, and pooled by `install()`, with fast_reading on and off."""

from __future__ import annotations

import json
import os
import subprocess
from functools import partial
from pathlib import Path

from compat.running import TESTS, fetched, mariadb, run_pytest
from compat.suite import Results, Suite
from wsgipool.demo.mariadb import MariaDB


def run(fast_reading: str, pooled: bool, scratch: Path) -> Results:
    """Run PyMySQL's package `tests`, which is from Debian: what PyPI has of PyMySQL is without it."""
    script = TESTS.parent / "scripts/fetch-debian-source"
    fetch = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL)
    source = fetched("pymysql-trixie-source", lambda made: fetch([str(script), "python-pymysql", str(made)]))
    folder = source / "pymysql"
    with mariadb(scratch, {"local_infile": 1}) as server:
        environment = {
            "COMPAT_POOLED": str(pooled),
            "COMPAT_FAST_READING": fast_reading,
            "COMPAT_DATABASES": _databases(server),
            "COMPAT_TESTS": str(folder),
        }
        plugins = ["-p", "compat.pooled", "-p", "compat.pymysql_tests"]
        plain = [*plugins, "-c", os.devnull, f"--rootdir={folder}", "-W", "ignore::DeprecationWarning"]
        return run_pytest([*plain, str(folder / "tests")], environment, folder, scratch)


def _databases(server: MariaDB) -> str:
    """Create the databases for PyMySQL's tests, and return the tests' connection settings as JSON."""
    common = {"host": server.host, "port": server.port, "user": "compat", "passwd": server.password}
    with server.admin() as admin, admin.cursor() as cursor:
        for name in ("test1", "test2"):
            cursor.execute(f"CREATE DATABASE {name}")
    first = {**common, "database": "test1", "use_unicode": True, "local_infile": True}
    return json.dumps([first, {**common, "database": "test2"}])


SUITES = [
    Suite("pymysql", partial(run, "true")),
    Suite("pymysql-own-reading", partial(run, "false")),
]
