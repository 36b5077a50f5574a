"""For all tests: the servers that they share, one of each kind a worker, and which tests a run has.

A test that uses `database_server`, itself or by another fixture, runs on MariaDB and on MySQL. The markers mariadb_only
and mysql_only choose one of them, and give the reason. `make test` has MariaDB, `make compat` has the tests on MySQL:
they have the marker compat, as have those of tests/cluster.

Searches take a moment in `make test`. With --stress they take 200 times as long.
"""

import gc
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from httpd.place import IN_CONTAINERS
from servers.ending import Ending
from servers.kinds import KINDS, needs_mysql, runs_on_its_kind
from servers.mysql import MySQL
from servers.ports import use_own_ports
from servers.postgresql import PostgreSQL
from wsgipool.demo.mariadb import LocalServer, MariaDB

WORKERS_PER_CORE = 2
"""Half of the time of the tests is waiting: for timeouts, for servers that start and that end."""
STRESS = 200
"""How many times as long searches take with --stress."""

# A slow machine is no failure. A failure is printed with all its steps, so it needs no folder to be kept in.
_COMMON = settings(deadline=None, print_blob=True, database=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples each time: a second run sees the same failure.
settings.register_profile("usual", _COMMON, max_examples=250, derandomize=True)
# Other examples each time.
settings.register_profile("stress", _COMMON, max_examples=50_000)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--stress", action="store_true", help=f"search {STRESS} times as long: see `make stress`")


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("stress" if config.getoption("--stress") else "usual")
    use_own_ports()
    config.pluginmanager.register(Ending())


@pytest.hookimpl(optionalhook=True)  # without xdist nobody asks
def pytest_xdist_auto_num_workers() -> int:
    return WORKERS_PER_CORE * (os.cpu_count() or 1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server_kind" in metafunc.fixturenames and not IN_CONTAINERS:
        metafunc.parametrize("server_kind", KINDS.values(), ids=KINDS, indirect=True, scope="module")


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = [item for item in items if runs_on_its_kind(item) and _runs_here(item)]
    config.hook.pytest_deselected(items=list(set(items).difference(wanted)))
    items[:] = wanted
    for item in items:
        if needs_mysql(item) or item.path.parent.name == "cluster":
            item.add_marker("compat")


def _runs_here(item: pytest.Item) -> bool:
    """Return whether a test has what it needs here: this machine, containers, or either."""
    fixtures = getattr(item, "fixturenames", ())
    if IN_CONTAINERS:
        return "place" in fixtures or "compose" in fixtures
    return "compose" not in fixtures


@pytest.fixture(scope="module", autouse=True)
def _imports_frozen() -> None:
    """Spare the collector what was imported: many tests call it, some a thousand times."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _unlocked_log() -> Iterator[None]:
    """Give pytest's log handlers new locks after each test.

    `logging.Handler.handle` takes the lock before its `try`. Some tests raise asynchronous exceptions. One between the
    two leaves it locked, and all threads that log in later tests would wait for it.
    """
    yield
    for handler in logging.getLogger().handlers:
        handler.createLock()


@pytest.fixture(scope="session")
def effort(request: pytest.FixtureRequest) -> int:
    """How many times as long as in `make test` a test shall search."""
    return STRESS if request.config.getoption("--stress") else 1


@pytest.fixture(scope="session")
def servers_folder() -> Iterator[Path]:
    """A folder that the servers' users can enter: pytest's own are closed to all but the user who runs it."""
    with tempfile.TemporaryDirectory(prefix="wsgipool-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture(scope="module")
def server_kind(request: pytest.FixtureRequest) -> type[LocalServer]:
    """The kind of server that the test runs on, for a server of its own.

    It is MariaDB for a fixture that a test asks for only while it runs, by getfixturevalue.
    """
    kind: type[LocalServer] = getattr(request, "param", MariaDB)
    return kind


@pytest.fixture(scope="session")
def mariadb_server(servers_folder: Path) -> Iterator[LocalServer]:
    with _shared(MariaDB, servers_folder / "mariadb") as server:
        yield server


@pytest.fixture(scope="session")
def mysql_server(servers_folder: Path) -> Iterator[LocalServer]:
    with _shared(MySQL, servers_folder / "mysql") as server:
        yield server


@pytest.fixture(scope="session")
def postgresql(servers_folder: Path) -> Iterator[PostgreSQL]:
    folder = servers_folder / "postgresql"
    folder.mkdir()
    settings = {"log_disconnections": "on", "deadlock_timeout": "50ms", "autovacuum": "off", "shared_buffers": "16MB"}
    with PostgreSQL(folder, settings) as server:
        server.start()
        yield server


@pytest.fixture(scope="module")
def database_server(server_kind: type[LocalServer], request: pytest.FixtureRequest) -> LocalServer:
    """The server of all tests that do it no harm, MariaDB and MySQL; each test has a database and a user of its own."""
    server: LocalServer = request.getfixturevalue("mariadb_server" if server_kind is MariaDB else "mysql_server")
    return server


@pytest.fixture(scope="module")
def mariadb(database_server: LocalServer) -> LocalServer:
    """`database_server`, so MariaDB and MySQL: its name from when there was one kind."""
    return database_server


@contextmanager
def _shared(kind: type[LocalServer], folder: Path) -> Iterator[LocalServer]:
    folder.mkdir()
    settings: dict[str, str | int] = {
        "max_connections": 200,
        "loose_ssl": 0,  # which newer MariaDBs offer of themselves: a proxy counts the bytes of the protocol
        "innodb_fast_shutdown": 2,  # its data is thrown away
    }
    with kind(folder, settings) as server:
        server.start()
        yield server
