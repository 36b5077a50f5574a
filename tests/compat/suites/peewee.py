"""peewee's own tests on MariaDB: with `pymysql.connect` as it is, and pooled by `install()`."""

from __future__ import annotations

import os
import subprocess
from functools import partial
from pathlib import Path

from compat.running import TESTS, fetched, mariadb, run_pytest
from compat.suite import Results, Suite


def run(pooled: bool, scratch: Path) -> Results:
    """Run peewee's package `tests`, with its own peewee: what PyPI has of peewee is without the tests."""
    script = TESTS.parent / "scripts/fetch-debian-source"
    fetch = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL)
    folder = fetched("peewee-trixie", lambda made: fetch([str(script), "peewee", str(made)]))
    with mariadb(scratch) as server:
        with server.admin() as admin, admin.cursor() as cursor:
            cursor.execute("CREATE DATABASE peewee_test")
        environment = {
            "COMPAT_POOLED": str(pooled),
            "PEEWEE_TEST_BACKEND": "mysql",
            "PEEWEE_MYSQL_HOST": server.host,
            "PEEWEE_MYSQL_PORT": str(server.port),
            "PEEWEE_MYSQL_USER": "compat",
            "PEEWEE_MYSQL_PASSWORD": server.password,
            "PYTHONPATH": str(folder),
        }
        plain = ["-p", "compat.pooled", "-c", os.devnull, f"--rootdir={folder}", "-o", "python_files=__init__.py"]
        return run_pytest(
            [*plain, "-p", "no:warnings", str(folder / "tests/__init__.py")], environment, folder, scratch
        )


SUITES = [Suite("peewee", run)]
