"""Locks of scope "database": GET_LOCK on real MariaDB and MySQL, as each driver does it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import MySQLdb.cursors
import pymysql.cursors
import pytest
from pymysql.constants import FIELD_TYPE

import wsgipool
from servers.mysql import MySQL
from servers.postgresql import PostgreSQL
from unit.fakes import PATIENCE, Task, eventually
from unit.test_locks import in_a_child, run_at_random
from wsgipool import (
    ConfigError,
    LockLost,
    LockOrderError,
    Locks,
    LockTimeout,
    Pool,
    PoolDeadlock,
    drivers,
)
from wsgipool.config import DatabaseSettings, parse_url
from wsgipool.demo.mariadb import MariaDB, Server
from wsgipool.locks import host_lock, named

MakeLocks = Callable[[], Locks]


def pool_of(url: str, max_size: int = 4) -> Pool[Any]:
    settings = DatabaseSettings(name="shop", url=parse_url(url), origin="the test")
    return Pool(drivers.for_database(settings), name="shop", max_size=max_size, timeout=PATIENCE)


@pytest.fixture(params=["mysql://", "mysql+mysqlclient://"])
def url(mariadb_shop: str, request: pytest.FixtureRequest) -> str:
    return mariadb_shop.replace("mysql+mysqlclient://", request.param)


@pytest.fixture
def pools(url: str) -> Iterator[Callable[[], Pool[Any]]]:
    """A function that makes pools; each stands for another host."""
    made: list[Pool[Any]] = []

    def make() -> Pool[Any]:
        made.append(pool_of(url))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


def locks_of(pool: Pool[Any]) -> Locks:
    return Locks(scope="database", database=pool)


def _dictionaries(connection: Any) -> None:
    connection.cursorclass = _cursors(connection).DictCursor


def _unbuffered(connection: Any) -> None:
    connection.cursorclass = _cursors(connection).SSCursor


def _texts(connection: Any) -> None:
    _convert(connection, lambda value: str(int(value)))


def _bytes(connection: Any) -> None:
    _convert(connection, lambda value: b"%d" % int(value))


def _cursors(connection: Any) -> Any:
    return pymysql.cursors if isinstance(connection, pymysql.connections.Connection) else MySQLdb.cursors


def _convert(connection: Any, convert: Callable[[Any], object]) -> None:
    """Replace all numbers that are read."""
    for kind in (FIELD_TYPE.LONG, FIELD_TYPE.LONGLONG, FIELD_TYPE.NEWDECIMAL, FIELD_TYPE.DECIMAL):
        if isinstance(connection, pymysql.connections.Connection):
            connection.decoders = {**connection.decoders, kind: convert}
        else:
            connection.converter = {**connection.converter, kind: convert}


def is_free(locks: Locks, name: str) -> bool:
    """Return whether another thread gets the lock at once, apart from the time for its connect."""

    def take() -> bool:
        try:
            with locks.hold(name, timeout=0.3):
                return True
        except LockTimeout:
            return False

    return Task(take).result()


def kill_all(mariadb: MariaDB) -> None:
    """End all sessions of the test's user."""
    with mariadb.admin() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id FROM information_schema.processlist WHERE user LIKE 'driven_shop%'")
        for (session,) in cursor.fetchall():
            cursor.execute(f"KILL {session}")


def locks_held(server: Server) -> list[str]:
    """Return the names of the test's locks that any session holds."""
    with server.admin() as connection, connection.cursor() as cursor:
        if isinstance(server, MySQL):
            cursor.execute(
                "SELECT object_name FROM performance_schema.metadata_locks WHERE object_type = 'USER LEVEL LOCK'"
            )
        else:
            cursor.execute("INSTALL SONAME 'metadata_lock_info'")
            cursor.execute(
                "SELECT table_schema FROM information_schema.metadata_lock_info WHERE lock_type = 'User lock'"
            )
        names = [str(name) for (name,) in cursor.fetchall() if name.startswith("wsgipool.")]
        if not isinstance(server, MySQL):
            cursor.execute("UNINSTALL SONAME 'metadata_lock_info'")
        return names


def test_another_host_waits_for_the_lock_until_its_release(pools: Callable[[], Pool[Any]]) -> None:
    here, there = locks_of(pools()), locks_of(pools())

    with here.hold("Stock of Emma", "orders"):
        assert not is_free(there, "Stock of Emma")
        assert not is_free(there, "orders")
        assert is_free(there, "stock of emma")
        waiter = Task(lambda: there.hold("orders", timeout=PATIENCE).__enter__())
    waiter.result()


def test_no_connection_comes_back_with_a_lock(pools: Callable[[], Pool[Any]], mariadb: MariaDB) -> None:
    pool = pools()
    here = locks_of(pool)
    with here.hold("stock", "orders"):
        assert pool.in_use == 2
        assert len(locks_held(mariadb)) == 2

    assert (pool.in_use, pool.idle) == (0, 2)
    assert not locks_held(mariadb)


def test_a_timeout_names_the_holder_and_keeps_no_connection(pools: Callable[[], Pool[Any]]) -> None:
    pool = pools()
    here, there = locks_of(pool), locks_of(pools())

    with there.hold("stock"), pytest.raises(LockTimeout, match=r"'stock' of database 'shop' .*held by session \d+ of"):
        here.hold("stock", timeout=0.1).__enter__()

    assert pool.in_use == 0
    assert is_free(here, "stock")


def test_a_thread_without_time_to_connect_times_out(pools: Callable[[], Pool[Any]]) -> None:
    here = locks_of(pools())

    with pytest.raises(
        LockTimeout, match=r"within 0 s .* no connection was free in time to ask for it \(no connection of pool"
    ):
        here.hold("stock", timeout=0).__enter__()

    assert is_free(here, "stock")


def test_reading_is_writing_to_a_database(pools: Callable[[], Pool[Any]]) -> None:
    here, there = locks_of(pools()), locks_of(pools())

    with here.hold(read="stock"):
        with here.hold("stock"):
            assert not is_free(there, "stock")
        with pytest.raises(LockTimeout):
            there.hold(read="stock", timeout=0.3).__enter__()


def test_a_session_that_ended_while_it_held_a_lock_is_reported(
    pools: Callable[[], Pool[Any]], mariadb: MariaDB
) -> None:
    pool = pools()
    here = locks_of(pool)

    with pytest.raises(LockLost, match="the lock 'stock' was lost while it was held"):
        here.requires("stock")(lambda: kill_all(mariadb))()

    assert pool.in_use == 0
    assert is_free(here, "stock")


def test_the_functions_own_error_takes_precedence_over_a_lost_lock(
    pools: Callable[[], Pool[Any]], mariadb: MariaDB
) -> None:
    here = locks_of(pools())

    @here.requires("stock")
    def work() -> None:
        kill_all(mariadb)
        raise KeyError("on purpose")

    with pytest.raises(KeyError, match="on purpose"):
        work()


def test_the_locks_of_two_databases_of_a_server_are_two(pools: Callable[[], Pool[Any]], mariadb: MariaDB) -> None:
    elsewhere = mariadb.create_database("driven_elsewhere" + str(time.monotonic_ns()))
    other = pool_of(elsewhere)
    try:
        with locks_of(pools()).hold("stock"):
            assert is_free(locks_of(other), "stock")
    finally:
        other.close()


@pytest.mark.parametrize("change", [_dictionaries, _unbuffered, _texts, _bytes], ids=lambda change: change.__name__)
def test_a_lock_works_on_a_connection_that_configure_has_changed(
    change: Callable[[Any], None], url: str, pools: Callable[[], Pool[Any]]
) -> None:
    settings = DatabaseSettings(name="shop", url=parse_url(url), origin="the test")
    changed: Pool[Any] = Pool(drivers.for_database(settings), name="shop", max_size=2, configure=change)
    try:
        with locks_of(changed).hold("stock", timeout=PATIENCE):
            assert not is_free(locks_of(pools()), "stock")
        with locks_of(pools()).hold("stock"):
            assert not is_free(locks_of(changed), "stock")
    finally:
        changed.close()


def set_read_only(mariadb: MariaDB, value: int) -> None:
    with mariadb.admin() as connection, connection.cursor() as cursor:
        cursor.execute(f"SET GLOBAL read_only = {value}")


def test_a_replicas_lock_is_refused_until_it_is_the_primary(pools: Callable[[], Pool[Any]], mariadb: MariaDB) -> None:
    pool = pools()
    here = locks_of(pool)
    with here.hold("stock"):
        """The pool has a connection from the time when the server was the primary."""
    set_read_only(mariadb, 1)
    try:
        with pytest.raises(ConfigError, match="is read_only, a replica or no longer the primary"):
            here.hold("stock").__enter__()
        assert pool.size == 0
    finally:
        set_read_only(mariadb, 0)

    with here.hold("stock"):
        assert pool.in_use == 1


def test_a_lock_on_a_server_that_is_no_longer_the_primary_is_lost(
    pools: Callable[[], Pool[Any]], mariadb: MariaDB
) -> None:
    here = locks_of(pools())
    try:
        with (
            pytest.raises(
                LockLost, match="was lost while it was held, since the server of database 'shop' is read_only"
            ),
            here.hold("stock"),
        ):
            set_read_only(mariadb, 1)
    finally:
        set_read_only(mariadb, 0)


@pytest.mark.mysql_only("MariaDB has no Group Replication")
def test_a_member_of_group_replication_is_refused(pools: Callable[[], Pool[Any]], mariadb: Server) -> None:
    with mariadb.admin() as connection, connection.cursor() as cursor:
        cursor.execute("INSTALL PLUGIN group_replication SONAME 'group_replication.so'")
        try:
            cursor.execute("SET GLOBAL group_replication_group_name = 'aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa'")
            with pytest.raises(ConfigError, match="the server of pool 'shop' is a member of Group Replication"):
                locks_of(pools()).hold("stock").__enter__()
        finally:
            cursor.execute("UNINSTALL PLUGIN group_replication")


def test_a_nonblocking_request_at_an_exhausted_pool_fails_at_once(url: str) -> None:
    pool = pool_of(url, max_size=1)
    with locks_of(pool).hold("stock"), pytest.raises(PoolDeadlock):
        pool.getconn()
    pool.close()


def test_the_database_is_named_as_in_the_settings(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsgipool.pools._current", None)
    monkeypatch.setattr(named, "_beyond_process", {})
    wsgipool.configure({"databases": {"shop": {"url": url}}})
    here = Locks(scope="database", database="shop")

    with here.hold("stock"):
        assert not is_free(Locks(scope="database", database=wsgipool.pool("shop")), "stock")
    wsgipool.close()


def test_locks_of_a_request_are_released_before_its_connection_is_returned(
    url: str, pools: Callable[[], Pool[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    wsgipool.configure({"databases": {"shop": {"url": url, "max_size": 1}}})
    here, there = Locks(scope="database", database="shop"), locks_of(pools())
    left: list[Any] = []

    def application(_environ: object, _start_response: object) -> list[bytes]:
        left.append(here.hold("stock"))
        left[0].__enter__()
        return []

    try:
        response = wsgipool.Middleware(application)({}, lambda *_: None)
        held_before_the_end = not is_free(there, "stock")
        response.close()  # type: ignore[attr-defined]

        assert held_before_the_end
        assert is_free(there, "stock")
        assert wsgipool.pool("shop").in_use == 0
        assert "was still held at the end of the request" in caplog.text
        assert "not returned" not in caplog.text
    finally:
        wsgipool.close()


def test_locks_of_a_database_come_before_all_others(pools: Callable[[], Pool[Any]]) -> None:
    here, inner = locks_of(pools()), Locks()
    with here.hold("z"), inner.hold("a"):
        pass
    with inner.hold("a"), pytest.raises(LockOrderError, match="'z' of database 'shop' is wanted"):
        here.hold("z").__enter__()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forks_child_leaves_the_parents_lock_alone(pools: Callable[[], Pool[Any]]) -> None:
    here, there = locks_of(pools()), locks_of(pools())
    block = here.hold("stock")
    block.__enter__()

    in_a_child(lambda: block.__exit__(None, None, None))

    assert not is_free(there, "stock")
    block.__exit__(None, None, None)
    assert is_free(there, "stock")


HOLD = """
import time
import wsgipool
wsgipool.configure({{"databases": {{"shop": {{"url": {url!r}}}}}}})
with wsgipool.Locks(scope="database", database="shop").hold("stock"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_holder_that_is_killed_frees_the_lock(url: str, pools: Callable[[], Pool[Any]]) -> None:
    here = locks_of(pools())
    python = subprocess.Popen([sys.executable, "-c", HOLD.format(url=url)], stdout=subprocess.PIPE, text=True)
    assert python.stdout is not None
    assert python.stdout.readline() == "held\n"
    assert not is_free(here, "stock")

    os.kill(python.pid, signal.SIGKILL)
    python.communicate()

    eventually(lambda: is_free(here, "stock"))


def test_other_databases_have_no_such_locks(postgresql: PostgreSQL, postgresql_shop: str) -> None:
    assert postgresql
    pool = pool_of(postgresql_shop)
    with pytest.raises(
        ConfigError, match="needs GET_LOCK of MySQL or MariaDB; pool 'shop' has another kind of database"
    ):
        locks_of(pool).hold("stock").__enter__()
    assert pool.in_use == 0
    pool.close()


def test_32_threads_at_random_in_all_scopes_never_hang_and_keep_their_data(
    mariadb_shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, effort: int
) -> None:
    monkeypatch.setattr(host_lock, "runtime_dir", lambda: tmp_path / "run")
    monkeypatch.setattr(named, "_beyond_process", {})
    # At most two a thread, and one that was being opened.
    pool = pool_of(mariadb_shop.replace("mysql+mysqlclient://", "mysql://"), max_size=96)
    here = Locks()
    for name in ("database a", "database b"):
        here.group(name, database=pool)
    for name in ("host a", "host b"):
        here.group(name, scope="host")

    order = ["database a", "database b", "host a", "host b", "process a", "process b"]
    assert run_at_random(here, order, seconds=2 if effort == 1 else 60) > 1

    assert pool.in_use == 0
    pool.close()
