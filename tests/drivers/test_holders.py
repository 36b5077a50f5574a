"""The holder of a connection and its close(), for each driver on a real server or a file."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import MySQLdb
import psycopg
import pymysql
import pytest

from drivers.shops import MakePool, MariaDBShop, PostgreSQLShop, driver_of, run, shop_on, value
from unit.fakes import PATIENCE, HolderThread, Task, eventually
from wsgipool import ConnectFailed, Pool, PoolTimeout, WrongThread
from wsgipool.config import parse_url
from wsgipool.drivers import CallableDriver, Driver
from wsgipool.errors import errors_of

MODULES: dict[str, Any] = {
    "pymysql": pymysql,
    "mysqlclient": MySQLdb,
    "psycopg": psycopg,
    "sqlite": sqlite3,
    "a callable of PyMySQL": pymysql,
    "a callable of mysqlclient": MySQLdb,
    "a callable of psycopg": psycopg,
}


def answers(connection: Any) -> bool:
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute("SELECT 1")
        return bool(cursor.fetchone() == (1,))


@dataclass
class Checkout:
    """A connection with a hook, held by this thread."""

    driver: Driver[Any]
    connection: Any
    module: Any
    calls: list[int] = field(default_factory=list)
    """The threads on which the hook was called."""
    hook: Callable[[], object] = lambda: None
    """The hook's other action."""

    def on_close(self) -> None:
        self.calls.append(threading.get_ident())
        self.hook()

    def check_out(self) -> bool:
        return self.driver.check_out(self.connection, threading.get_ident(), PATIENCE)

    def works(self) -> bool:
        return answers(self.connection)


@pytest.fixture(scope="module")
def mysql_url(mariadb_server: Any) -> Iterator[str]:
    with shop_on(mariadb_server) as url:
        yield url


def callable_of(module: Any, address: str) -> CallableDriver[Any]:
    url = parse_url(address)
    arguments = {"user": url.user, "password": url.password, "host": url.host, "port": url.port}
    arguments["dbname" if module is psycopg else "database"] = url.database
    return CallableDriver(lambda: module.connect(**arguments))


@pytest.fixture(params=MODULES)
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Driver[Any]:
    kind, module = request.param, MODULES[request.param]
    if module is sqlite3:
        return driver_of(f"sqlite:///{tmp_path}/shop.db")
    if module is psycopg:
        url = request.getfixturevalue("postgresql_shop")
        return driver_of(url) if kind == "psycopg" else callable_of(module, url)
    url = request.getfixturevalue("mysql_url")
    if kind.startswith("a callable"):
        return callable_of(module, url)
    return driver_of(url.replace("+mysqlclient", "") if module is pymysql else url)


@pytest.fixture
def held(driver: Driver[Any], request: pytest.FixtureRequest) -> Iterator[Checkout]:
    module = MODULES[request.node.callspec.params["driver"]]
    held = Checkout(driver, driver.connect(PATIENCE), module)
    assert driver.set_close_hook(held.connection, held.on_close)
    driver.remember(held.connection)
    assert held.check_out()
    yield held
    driver.close(held.connection)


def test_a_close_by_the_holder_calls_the_hook_and_ends_nothing(held: Checkout) -> None:
    held.connection.close()

    assert held.calls == [threading.get_ident()]
    assert held.works()


def test_a_hook_may_return_the_connection(held: Checkout) -> None:
    held.hook = lambda: held.driver.check_in(held.connection, "rollback")

    held.connection.close()
    with contextlib.suppress(held.module.Error):
        held.connection.close()

    assert len(held.calls) == 1
    assert held.check_out()
    assert held.works()


def test_a_hook_may_end_the_session(held: Checkout) -> None:
    held.hook = lambda: held.driver.close(held.connection)

    held.connection.close()
    with contextlib.suppress(held.module.Error):
        held.connection.close()

    assert len(held.calls) == 1
    with pytest.raises(held.module.Error):
        held.works()


def test_a_former_holder_cannot_close_the_next_ones_connection(held: Checkout) -> None:
    held.driver.check_in(held.connection, "rollback")
    with contextlib.suppress(held.module.Error):
        held.connection.close()
    checked_out, done = threading.Event(), threading.Event()

    def hold() -> bool:
        assert held.check_out()
        checked_out.set()
        assert done.wait(PATIENCE)
        return held.works()

    other = Task(hold)
    assert checked_out.wait(PATIENCE)
    with contextlib.suppress(held.module.Error):
        held.connection.close()
    done.set()

    assert other.result()
    assert held.calls == []


def test_the_driver_ends_the_session_despite_a_hook(held: Checkout) -> None:
    held.driver.close(held.connection)

    assert held.calls == []
    with pytest.raises(held.module.Error):
        held.works()


def test_adopt_makes_the_calling_thread_the_holder(held: Checkout) -> None:
    def adopt() -> bool:
        held.driver.adopt(held.connection, threading.get_ident())
        works = held.works()
        held.connection.close()
        return works

    adopting = Task(adopt)

    assert adopting.result()
    assert held.calls == [adopting.thread_id]
    with contextlib.suppress(held.module.Error):
        held.connection.close()
    assert held.calls == [adopting.thread_id]


def test_the_errors_are_the_modules(held: Checkout) -> None:
    assert held.driver.errors is errors_of(held.module.OperationalError, held.module.InterfaceError)


@pytest.mark.parametrize("driver", ["pymysql"], indirect=True)
def test_another_thread_gets_pymysqls_own_error_and_wsgipools(held: Checkout) -> None:
    with pytest.raises(pymysql.InterfaceError, match="may be used by thread") as caught:
        Task(held.works).result()

    assert isinstance(caught.value, WrongThread)


@pytest.mark.parametrize("driver", ["pymysql"], indirect=True)
def test_a_close_after_the_return_is_pymysqls_usual_error(held: Checkout) -> None:
    held.driver.check_in(held.connection, "rollback")

    assert not held.connection.open
    with pytest.raises(pymysql.Error, match="Already closed"):
        held.connection.close()


# --- any callable ----------------------------------------------------------------------------------------------------


CALLABLES = [kind for kind in MODULES if kind.startswith("a callable")]


@pytest.fixture
def kill(held: Checkout, request: pytest.FixtureRequest) -> Callable[[], None]:
    """A function that ends a session on the server's side."""
    if held.module is psycopg:
        statement = f"SELECT pg_terminate_backend({held.connection.info.backend_pid})"
        server = request.getfixturevalue("postgresql")
    else:
        statement = f"KILL {held.connection.thread_id()}"
        server = request.getfixturevalue("mariadb_server")

    def kill() -> None:
        with server.admin() as admin, admin.cursor() as cursor:
            cursor.execute(statement)

    return kill


@pytest.mark.parametrize("driver", CALLABLES, indirect=True)
def test_a_killed_connection_is_not_checked_out(held: Checkout, kill: Callable[[], None]) -> None:
    held.driver.check_in(held.connection, "rollback")
    assert held.check_out()
    held.driver.check_in(held.connection, "rollback")

    kill()

    eventually(lambda: not held.check_out())


@pytest.mark.parametrize("driver", CALLABLES, indirect=True)
def test_a_ping_of_a_dead_connection_fails_and_does_not_reconnect(held: Checkout, kill: Callable[[], None]) -> None:
    held.driver.ping(held.connection, PATIENCE)
    assert held.works()
    kill()

    with pytest.raises(held.module.Error):
        held.driver.ping(held.connection, PATIENCE)
    with pytest.raises(held.module.Error):
        held.works()


# --- in a pool -------------------------------------------------------------------------------------------------------

ON_A_SERVER = [kind for kind in MODULES if kind != "sqlite"]


@pytest.fixture
def make_pool(driver: Driver[Any]) -> Iterator[MakePool]:
    pools: list[Pool[Any]] = []

    def make(**settings: Any) -> Pool[Any]:
        pools.append(Pool(driver, name="shop", timeout=3 * PATIENCE, **settings))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture
def module(request: pytest.FixtureRequest) -> Any:
    return MODULES[request.node.callspec.params["driver"]]


def stock(connection: Any) -> int:
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute("SELECT stock FROM books WHERE id = 1")
        return int(cursor.fetchone()[0])


@pytest.mark.parametrize("driver", ON_A_SERVER, indirect=True)
def test_close_returns_the_connection_rolled_back(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1, close_returns=True)
    connection = pool.getconn()
    before = stock(connection)
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute("UPDATE books SET stock = stock + 1 WHERE id = 1")
    waiting = Task(lambda: stocks_of_next(pool))
    eventually(lambda: pool.waiting == 1)

    connection.close()

    assert waiting.result() == (connection, before)
    assert pool.stats().opened == 1


def stocks_of_next(pool: Pool[Any]) -> tuple[Any, int]:
    with pool.connection() as connection:
        return connection, stock(connection)


def test_a_second_close_does_not_touch_the_next_holder(make_pool: MakePool, module: Any) -> None:
    pool = make_pool(max_size=1, close_returns=True)
    connection = pool.getconn()
    connection.close()

    checked_out, done = threading.Event(), threading.Event()

    def hold() -> bool:
        held = pool.getconn()
        checked_out.set()
        assert done.wait(PATIENCE)
        works = answers(held)
        pool.putconn(held)
        return works and held is connection

    next_holder = Task(hold)
    assert checked_out.wait(PATIENCE)

    with contextlib.suppress(module.Error):
        connection.close()
    with pytest.raises(module.InterfaceError, match="return your own connections once"):
        pool.putconn(connection)
    done.set()

    assert next_holder.result()
    assert pool.stats().opened == 1


def test_close_frees_the_slot_without_close_returns(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    connection = pool.getconn()

    connection.close()

    assert pool.size == 0
    with pool.connection() as another:
        assert another is not connection


def test_a_block_whose_connection_was_closed_returns_nothing(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1, close_returns=True)

    with pytest.raises(ValueError, match="not checked out"), pool.connection() as connection:
        connection.close()

    assert (pool.size, pool.idle) == (1, 1)


def test_an_adopted_connection_works_and_goes_back(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    connection = pool.getconn()

    def adopt() -> bool:
        pool.adopt(connection)
        works = answers(connection)
        pool.putconn(connection)
        return works

    assert Task(adopt).result()
    assert (pool.size, pool.idle) == (1, 1)


def test_a_timeout_of_a_pool_is_the_modules_operational_error(make_pool: MakePool, module: Any) -> None:
    pool = make_pool(max_size=1)
    holder = HolderThread(pool.getconn, pool.putconn)

    with pytest.raises(module.OperationalError, match="became free within 0 s") as caught:
        pool.getconn(timeout=0)

    assert isinstance(caught.value, PoolTimeout)
    holder.give_back()


@pytest.mark.parametrize(
    ("connect", "module"),
    [
        (driver_of("mysql://shop@127.0.0.1:1/orders"), pymysql),
        (driver_of("mysql+mysqlclient://shop@127.0.0.1:1/orders"), MySQLdb),
        (driver_of("postgresql://shop@127.0.0.1:1/orders"), psycopg),
        (lambda: pymysql.connect(host="127.0.0.1", port=1), pymysql),
        (lambda: MySQLdb.connect(host="127.0.0.1", port=1), MySQLdb),
        (lambda: psycopg.connect(host="127.0.0.1", port=1), psycopg),
    ],
)
def test_a_failed_connect_of_a_pool_is_the_modules_operational_error(connect: Any, module: Any) -> None:
    pool = Pool(connect, name="shop", max_size=1, timeout=PATIENCE)

    with pytest.raises(module.OperationalError, match="cannot connect pool 'shop'") as caught:
        pool.getconn()

    assert isinstance(caught.value, ConnectFailed)
    assert isinstance(caught.value.__cause__, module.OperationalError)


@pytest.mark.parametrize("driver", ON_A_SERVER, indirect=True)
def test_a_pool_replaces_a_connection_that_the_server_has_killed(
    make_pool: MakePool, module: Any, request: pytest.FixtureRequest
) -> None:
    pool = make_pool(max_size=1)
    with pool.connection() as connection:
        number = connection.info.backend_pid if module is psycopg else connection.thread_id()
    server = request.getfixturevalue("postgresql" if module is psycopg else "mariadb_server")
    kind = PostgreSQLShop if module is psycopg else MariaDBShop

    with server.admin() as admin:
        run(admin, kind.end.format(number))
        eventually(lambda: not value(admin, kind.sessions.format(number)))

    with pool.connection() as another:
        assert another is not connection
        assert value(another, "SELECT 1") == 1
    assert pool.stats().closed == {"broken": 1}
