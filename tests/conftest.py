"""For all tests: the MariaDB and the MySQL that they share; SIGTERM ends a run as Ctrl-C does, so servers are stopped.

A test that uses `database_server`, itself or by another fixture, runs on both. The markers mariadb_only and mysql_only
choose one of them, and give the reason.

And how long those search that could search for ever: with pytest's --stress fifty times as long, beside the tests that
take minutes.
"""

import gc
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from httpd.place import IN_CONTAINERS
from servers.kinds import KINDS, runs_on_its_kind
from servers.mysql import MySQL
from wsgipool.demo.mariadb import LocalServer, MariaDB

signal.signal(signal.SIGTERM, signal.default_int_handler)

# A slow machine is no failure. What failed is printed with all its steps, so it needs no folder to be kept in.
_COMMON = settings(deadline=None, print_blob=True, database=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples each time: a change that fails has itself to blame, and who repeats the run sees what failed.
settings.register_profile("usual", _COMMON, max_examples=1000, derandomize=True)
# Others each time: this is for finding what the thousand do not.
settings.register_profile("stress", _COMMON, max_examples=50_000)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--stress", action="store_true", help="search fifty times as long: see `make stress`")


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("stress" if config.getoption("--stress") else "usual")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server_kind" in metafunc.fixturenames and not IN_CONTAINERS:
        metafunc.parametrize("server_kind", KINDS.values(), ids=KINDS, indirect=True, scope="module")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if not _runs(item, config)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _runs(item: pytest.Item, config: pytest.Config) -> bool:
    """Tell whether a test is wanted, and has what it needs here: this machine, containers, or either."""
    if item.get_closest_marker("stress") and not config.getoption("--stress"):
        return False
    if not runs_on_its_kind(item):
        return False
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


@pytest.fixture(scope="session")
def effort(request: pytest.FixtureRequest) -> int:
    """How many times as long as usual a test shall search."""
    return 50 if request.config.getoption("--stress") else 1


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
