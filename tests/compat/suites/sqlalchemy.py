"""SQLAlchemy's own tests, with `mysql+pymysql`, `mariadb+pymysql` and `postgresql+psycopg`, and with our dialects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from compat.running import mariadb, postgresql, run_pytest, sdist
from compat.suite import Results, Suite

VERSION, OLDER_VERSION = "2.1.9", "2.0.58"

_SCHEMAS = ("test_schema", "test_schema_2")

_RETURNS = "the return rolls back below the dialect, without waiting: do_rollback is not called for it"
_PINGS = "the pool pings and replaces the connection itself: SQLAlchemy's pre-ping, and its events, are not used"
_MODULE = "the tests give a module that connects to nothing, and our dialect connects by the driver of wsgipool"
_OWN = "a listener of do_connect cannot return a connection of its own: the pool would not know it"

_DIALECT_SUITE = {
    f"test.dialect.test_suite.AutocommitIsolationTest::test_autocommit_block[{case}]": _RETURNS
    for case in ("block_rollback-false", "not_block_rollback-engine", "not_block_rollback-false",
                 "not_block_rollback-option")
}  # fmt: skip

_ENGINE = {
    **{
        f"test.engine.test_transaction.ResetAgentTest::{test}": _RETURNS
        for test in (
            *("test_begin_begin_nested_rollback_commit", "test_begin_begin_nested_rollback_rollback"),
            *("test_begin_commit", "test_begin_nested_trans_close_one", "test_begin_nested_trans_close_two"),
            *("test_begin_nested_trans_rollback", "test_begin_rollback", "test_reset_agent_no_conn_transaction"),
            *("test_reset_via_agent_begin_twophase_commit", "test_reset_via_agent_begin_twophase_rollback"),
            "test_trans_close",
        )
    },
    **{
        f"test.engine.test_reconnect.RealPrePingEventHandlerTest::{test}": _PINGS
        for test in (
            *("test_control", "test_event_handler_can_downgrade_disconnect"),
            "test_event_handler_didnt_upgrade_disconnect",
        )
    },
    "test.engine.test_execute.DialectEventTest::test_connect_do_connect": _OWN,
    "test.engine.test_execute.DialectEventTest::test_connect_replace_params": _MODULE,
    "test.engine.test_parseconnect.CreateEngineTest::test_password_object_str[False]": _MODULE,
    "test.engine.test_execute.HandleErrorTest::test_alter_invalidate_pool_stays_true": (
        "a record of a connection that lies in the pool cannot connect again: the next checkout replaces it"
    ),
}

_LARGE_SUITE = {"test.orm.test_transaction.SessionTransactionTest::test_no_rollback_in_committed_state": _RETURNS}


def run(driver: str, tests: Sequence[str], pooled: bool, scratch: Path, version: str = VERSION) -> Results:
    """Run some of the tests with a driver."""
    source = sdist("sqlalchemy", version)
    environment = {"PYTHONPATH": str(source / "lib"), "PYTHONDONTWRITEBYTECODE": "1"}
    plugin = ["-p", "compat.sqlalchemy_pooled"] if pooled else []
    with _database(driver, scratch) as address:
        arguments = [*plugin, "--maxfail=10000", "--tb=short", "--dburi", f"{driver}://{address}", *tests]
        results = run_pytest(arguments, environment, source, scratch)
    # The names of classes end with the driver and the version of the server.
    return {re.sub(r"_\w+\+\w+?_[\d_]+::", "::", test): result for test, result in results.items()}


@contextmanager
def _database(driver: str, scratch: Path) -> Iterator[str]:
    """Start a server with the databases that the tests need, and return the address for a URL."""
    if driver.startswith("postgresql"):
        with postgresql(scratch) as server:
            with server.admin() as admin:
                admin.execute("CREATE DATABASE test OWNER compat")
            with server.admin("test") as admin:
                for name in _SCHEMAS:
                    admin.execute(f"CREATE SCHEMA {name} AUTHORIZATION compat")
                for extension in ("hstore", "citext"):
                    admin.execute(f"CREATE EXTENSION {extension}")
            yield f"compat:{server.password}@{server.host}:{server.port}/test"
    else:
        with mariadb(scratch) as server:
            with server.admin() as admin, admin.cursor() as cursor:
                for name in ("test", *_SCHEMAS):
                    cursor.execute(f"CREATE DATABASE {name}")
            yield f"compat:{server.password}@{server.host}:{server.port}/test?charset=utf8mb4"


_SUITE, _LARGE = ["test/dialect/test_suite.py"], ["test/sql", "test/orm", "test/ext", "--backend-only"]

SUITES = [
    Suite("sqlalchemy", partial(run, "mariadb+pymysql", _SUITE), _DIALECT_SUITE),
    Suite("sqlalchemy-2.0", partial(run, "mariadb+pymysql", _SUITE, version=OLDER_VERSION), _DIALECT_SUITE, long=True),
    Suite("sqlalchemy-engine", partial(run, "mariadb+pymysql", ["test/engine", "test/base"]), _ENGINE, long=True),
    Suite("sqlalchemy-mysql", partial(run, "mysql+pymysql", ["test/dialect/mysql"]), long=True),
    Suite("sqlalchemy-large", partial(run, "mariadb+pymysql", _LARGE), _LARGE_SUITE, long=True),
    Suite("sqlalchemy-postgresql", partial(run, "postgresql+psycopg", _SUITE), _DIALECT_SUITE, long=True),
]
