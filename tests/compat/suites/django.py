"""Django's own suite, on its backends and on those of `wsgipool.django`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from compat import running
from compat.suite import BrokenRun, Outcome, Result, Results, Suite

VERSIONS = {"4.2": "4.2.30", "5.2": "5.2.19"}
if sys.version_info >= (3, 12):
    VERSIONS["6.1"] = "6.1.3"
BACKENDS = {"pymysql": "mysql", "mysqlclient": "mysql", "postgresql": "postgresql", "sqlite": "sqlite3"}
"""The name of the backend in Django and in `wsgipool.django`, by the name in a suite's name."""

SHORT = ("django-5.2-pymysql", "django-5.2-postgresql", "django-5.2-sqlite", "django-4.2-mysqlclient")
"""The suites that `make compat` runs: each backend and each version once."""
LABELS = {
    "": ("backends", "basic", "requests_tests", "servers", "transaction_hooks", "transactions"),
    "-more": (
        *("admin_views", "db_functions", "delete", "handlers", "inspectdb", "introspection", "migrations", "queries"),
        *("schema", "select_for_update", "test_runner", "test_utils"),
    ),
}
"""The labels of Django's tests, by the ending of a suite's name."""


def run(version: str, backend: str, labels: tuple[str, ...], pooled: bool, scratch: Path) -> Results:
    """Run Django's tests; the id of a test is its dotted name."""
    source = running.sdist("django", version)
    report = scratch / "results.json"
    own_options = {"pool": True, "driver": backend} if BACKENDS[backend] == "mysql" else {"pool": True}
    with _server(backend, scratch) as server:
        common = {
            **server,
            "ENGINE": f"{'wsgipool.django' if pooled else 'django.db.backends'}.{BACKENDS[backend]}",
            "OPTIONS": own_options if pooled else {},
        }
        databases = {}
        for alias in ("default", "other"):
            # Without a name Django tests SQLite in memory, where a connection is the database and there is no pool.
            test = str(scratch / f"{alias}.sqlite3") if backend == "sqlite" else f"test_{alias}"
            databases[alias] = {**common, "NAME": alias, "TEST": {"NAME": test}}
        environment = {
            "COMPAT_BACKEND": backend,
            "COMPAT_DATABASES": json.dumps(databases),
            "COMPAT_REPORT": str(report),
            "PYTHONPATH": str(source),
        }
        # ThreadSharing of backends.sqlite closes its own connection if it comes right after a TestCase, with Django's
        # backend, too. In one process it does not come there.
        processes = 1 if backend == "sqlite" else 2
        options = ["--settings=compat.django_settings", f"--parallel={processes}", "--noinput", "-v0"]
        command = [sys.executable, "-m", "compat.django_suite", *options, *labels]
        running.run_program(command, environment, source / "tests", scratch / "log")
    results = json.loads(report.read_text()) if report.exists() else {}
    if not results:
        raise BrokenRun(f"no tests ran: {(scratch / 'log').read_text()[-6000:]}")
    return {test: Result(Outcome[outcome], detail) for test, (outcome, detail) in results.items()}


@contextmanager
def _server(backend: str, scratch: Path) -> Iterator[dict[str, Any]]:
    """Start the server, and give its address as Django's settings have it."""
    if backend == "sqlite":
        yield {}
        return
    start = running.postgresql if backend == "postgresql" else running.mariadb
    with start(scratch) as server:
        yield {
            "HOST": server.host,
            "PORT": server.port,
            "USER": "compat",
            "PASSWORD": server.password,
        }


_CHECKED = "the pool checks a connection at its checkout, in place of Django"
_HEALTH_CHECKS = {
    f"backends.base.test_base.ConnectionHealthChecksTests.{test}": _CHECKED
    for test in ("test_health_checks_enabled", "test_set_autocommit_health_checks_enabled")
}
_MYSQL = {
    **_HEALTH_CHECKS,
    "backends.mysql.tests.IsolationLevelTests.test_auto_is_null_auto_config": (
        "SET SQL_AUTO_IS_NULL is sent once for each session, so connection.queries is without it"
    ),
}
_PSYCOPG_POOL = {
    f"backends.postgresql.tests.Tests.{test}": "it is about psycopg_pool's pool, which wsgipool's replaces"
    for test in (
        "test_connect_pool",
        "test_connect_pool_set_to_true",
        "test_pooling_health_checks",
        "test_pooling_not_support_persistent_connections",
    )
}
_WRONG_SETTINGS = {
    "backends.postgresql.tests.Tests.test_connect_invalid_isolation_level": "the message names the setting",
    "backends.postgresql.tests.Tests.test_connect_role": (
        "what fails while a session is set up is ConnectFailed, an OperationalError; psycopg's error is __cause__"
    ),
}


def _expected(version: str, backend: str) -> dict[str, str]:
    """Return the differences in the first group of labels."""
    if backend == "postgresql":
        # Newer versions have a pool, and try wrong settings without it.
        return {**_HEALTH_CHECKS, **(_WRONG_SETTINGS if version == "4.2" else _PSYCOPG_POOL)}
    return {} if backend == "sqlite" else _MYSQL


def _suites() -> Iterator[Suite]:
    for version, exact in VERSIONS.items():
        for backend in BACKENDS:
            for ending, labels in LABELS.items():
                name = f"django-{version}-{backend}{ending}"
                expected = {} if ending else _expected(version, backend)
                yield Suite(name, partial(run, exact, backend, labels), expected, long=name not in SHORT)


SUITES = [*_suites()]
