"""`register`: pools that are created in code and belong to the process, like those of the settings."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pymysql.cursors import DictCursor

import wsgipool
from unit.fakes import FakeDatabase, Task, eventually, run_python
from wsgipool import ConfigError, Pool, PoolClosed, PoolTimeout, drivers, pools
from wsgipool.config import DatabaseURL
from wsgipool.drivers import limits
from wsgipool.httpd import process as httpd

pytestmark = pytest.mark.usefixtures("_no_settings")

ORDERS = {"databases": {"orders": {"url": "mysql://shop@db/orders"}}}


NUMBER: Any = 3


class ServerDatabase(FakeDatabase):
    """A driver with a server, like one made from keyword arguments."""

    server = "mysql://db:3306"
    account = "shop"


def with_budget(folder: Path, connections: int | str = 1) -> dict[str, object]:
    return {**ORDERS, "runtime_dir": str(folder / "run"), "budget": {"connections": connections}}


# --- a registered pool -----------------------------------------------------------------------------------------------


def test_a_registered_pool_is_reached_by_its_name(database: FakeDatabase) -> None:
    pool = wsgipool.register("legacy", database, max_size=3, timeout=2.5)

    with wsgipool.connection("legacy") as connection:
        assert database.opened == [connection]
    assert wsgipool.pool("legacy") is pool
    assert (pool.name, pool.max_size, pool.timeout) == ("legacy", 3, 2.5)
    assert wsgipool.transaction("legacy", lambda connection: connection.calls) == ["commit", "commit"]


def test_a_callable_makes_the_connections(database: FakeDatabase) -> None:
    wsgipool.register("legacy", lambda: database.connect(1.0))

    with wsgipool.connection("legacy") as connection:
        assert database.opened == [connection]


def test_a_url_names_the_database(databases: dict[str, FakeDatabase]) -> None:
    wsgipool.register("legacy", "mysql://shop@db/legacy")

    with wsgipool.connection("legacy") as connection:
        assert databases["legacy"].opened == [connection]


def test_settings_and_registered_pools_work_together(
    database: FakeDatabase, databases: dict[str, FakeDatabase]
) -> None:
    wsgipool.register("legacy", database)
    wsgipool.configure(ORDERS)

    with wsgipool.connection("orders"), wsgipool.connection("legacy"):
        pass

    assert (databases["orders"].sessions, database.sessions) == (1, 1)
    assert sorted(stats.name for stats in pools.stats()) == ["legacy", "orders"]


@pytest.mark.parametrize("threads", [1, 7])
def test_a_registered_pool_by_default_follows_the_threads_of_the_process(
    database: FakeDatabase, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    server = httpd.HttpdProcess("worker", "", "", threads, max_processes=4)
    monkeypatch.setattr(httpd, "this_process", lambda: server)

    pool = wsgipool.register("legacy", database, min_size=2)

    assert (pool.min_size, pool.max_size) == (min(2, threads), threads)


def test_the_end_of_a_request_takes_back_from_registered_pools_too(database: FakeDatabase) -> None:
    pool = wsgipool.register("legacy", database)

    def forgetful_handler() -> int:
        pool.getconn()
        return pools.reclaim(threading.get_ident())

    assert Task(forgetful_handler).result() == 1
    assert database.sessions == 0


def test_under_mod_wsgi_a_registered_pool_asks_for_the_requests_token(
    database: FakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "request_token", object)

    assert wsgipool.register("legacy", database).request_token is object


def test_close_ends_registered_pools_and_the_next_use_creates_new_ones(database: FakeDatabase) -> None:
    pool = wsgipool.register("legacy", database, timeout=2.5)
    with wsgipool.connection("legacy"):
        pass

    wsgipool.close()

    assert database.sessions == 0
    with pytest.raises(PoolClosed):
        pool.getconn()
    assert wsgipool.pool("legacy").timeout == 2.5


def test_a_registered_pool_closes_idle_connections_at_the_end_of_the_process() -> None:
    program = """
import atexit
atexit.register(lambda: print("at the end", database.sessions))  # the first to register is the last to run

import wsgipool
from unit.fakes import FakeDatabase
database = FakeDatabase()
with wsgipool.register("legacy", database).connection():
    print("in use", database.sessions)
"""
    assert run_python(program) == "in use 1\nat the end 0\n"


def test_a_pool_created_after_httpds_shutdown_keeps_no_connection() -> None:
    program = """
import wsgipool
from unit.fakes import FakeDatabase
from wsgipool import _runtime
_runtime.end()  # mod_wsgi's shutdown; the last requests are still running
database = FakeDatabase()
with wsgipool.register("legacy", database).connection():
    print("in use", database.sessions)
print("returned", database.sessions)
"""
    assert run_python(program) == "in use 1\nreturned 0\n"


def test_the_registered_pool_of_a_forks_child_is_empty() -> None:
    program = """
import os
import wsgipool
from unit.fakes import FakeDatabase
database = FakeDatabase()
pool = wsgipool.register("legacy", database)
with pool.connection():
    pass
child = os.fork()
if child == 0:
    print(wsgipool.pool("legacy") is pool, pool.size, flush=True)
    with wsgipool.connection("legacy") as connection:
        print(connection is database.opened[0], flush=True)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(pool.idle)
"""
    assert run_python(program) == "True 0\nFalse\n1\n"


# --- the same name again ---------------------------------------------------------------------------------------------


def test_an_equal_call_returns_the_same_pool(database: FakeDatabase, log: pytest.LogCaptureFixture) -> None:
    pool = wsgipool.register("legacy", database, timeout=2.5)

    assert wsgipool.register("legacy", database, timeout=2.5) is pool
    assert log.messages == ["pool 'legacy': up to 10 connections a process to fake://database"]


def test_an_equal_driver_returns_the_same_pool() -> None:
    """This happens in a WSGI script that mod_wsgi reloads."""

    def register(host: str) -> Pool[Any]:
        return wsgipool.register("legacy", drivers.driver("pymysql", host=host, cursorclass=DictCursor))

    pool = register("db")

    assert register("db") is pool
    assert register("replica") is not pool


@pytest.mark.parametrize("change", ["connect", "settings"])
def test_another_call_replaces_the_pool_and_closes_the_old_one(database: FakeDatabase, change: str) -> None:
    old = wsgipool.register("legacy", database)
    idle, in_use = old.getconn(), old.getconn()
    old.putconn(idle)

    new = (
        wsgipool.register("legacy", FakeDatabase())
        if change == "connect"
        else wsgipool.register("legacy", database, timeout=5)
    )

    assert wsgipool.pool("legacy") is new
    assert new is not old
    assert (idle.closed, in_use.closed) == (True, False)
    old.putconn(in_use)
    assert database.sessions == 0


@pytest.mark.usefixtures("databases")
def test_a_name_of_the_settings_cannot_be_registered(database: FakeDatabase) -> None:
    wsgipool.configure(ORDERS)

    with pytest.raises(ConfigError) as caught:
        wsgipool.register("orders", database)

    assert str(caught.value) == (
        "the mapping given to configure(): databases.orders: register() creates a pool of that name, too; choose "
        "another name for one of them"
    )


@pytest.mark.usefixtures("databases")
def test_settings_cannot_have_the_name_of_a_registered_pool(database: FakeDatabase) -> None:
    pool = wsgipool.register("orders", database)

    with pytest.raises(ConfigError, match=r"databases\.orders: register\(\) creates a pool of that name, too"):
        wsgipool.configure(ORDERS)

    assert wsgipool.pool("orders") is pool


@pytest.mark.usefixtures("databases")
def test_register_compares_its_name_with_an_unread_settings_file(
    tmp_path: Path, database: FakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "wsgipool.toml"
    file.write_text('[databases.orders]\nurl = "mysql://shop@db/orders"\n')
    monkeypatch.setenv(pools.CONFIG_VARIABLE, str(file))

    with pytest.raises(ConfigError, match="choose another name"):
        wsgipool.register("orders", database)


# --- wrong calls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, 3, "", "a\nb", " a", "x" * 1_000_000])
def test_a_wrong_name_is_an_error_of_one_short_line(name: Any, database: FakeDatabase) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a pool") as caught:
        wsgipool.register(name, database)

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 500


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: wsgipool.register("legacy", NUMBER), TypeError, "must be a callable, a driver or a URL, is a number"),
        (lambda: wsgipool.register("legacy", "mysq://db/x"), ConfigError, r"register\('legacy'\).*no driver for mysq"),
        (lambda: wsgipool.register("legacy", "db"), ConfigError, r"register\('legacy'\): the URL"),
        (lambda: wsgipool.register("legacy", FakeDatabase(), max_size=0), ValueError, "max_size"),
        (lambda: wsgipool.register("legacy", FakeDatabase(), min_sice=1), TypeError, "min_sice"),
    ],
)
def test_a_wrong_call_raises_a_clear_error_and_registers_nothing(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()

    assert pools.stats() == []
    with pytest.raises(ConfigError):
        wsgipool.pool("legacy")


def test_a_wrong_second_call_leaves_the_first_pool_in_place(database: FakeDatabase) -> None:
    pool = wsgipool.register("legacy", database)

    with pytest.raises(ValueError, match="max_size"):
        wsgipool.register("legacy", database, max_size=0)

    assert wsgipool.pool("legacy") is pool


def test_the_error_for_an_unregistered_name_names_the_remedies(database: FakeDatabase) -> None:
    wsgipool.register("legacy", database)

    with pytest.raises(ConfigError, match=r"no settings: .*wsgipool\.configure\(\), or .*wsgipool\.register\(\)"):
        wsgipool.pool("legcy")


@pytest.mark.usefixtures("databases")
def test_an_unknown_name_is_compared_with_registered_names_too(database: FakeDatabase) -> None:
    wsgipool.configure(ORDERS)
    wsgipool.register("legacy", database)

    with pytest.raises(ConfigError, match="no database 'legcy'; did you mean legacy"):
        wsgipool.pool("legcy")


# --- the budget of the host ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("databases")
@pytest.mark.parametrize("connect", ["mysql://reader@DB:3306/archive", ServerDatabase()])
def test_a_registered_pool_shares_the_budget_of_its_server(tmp_path: Path, connect: FakeDatabase | str) -> None:
    wsgipool.configure(with_budget(tmp_path))
    pool = wsgipool.register("legacy", connect)

    with (
        wsgipool.connection("orders"),
        pytest.raises(PoolTimeout, match="the budget of this host is used up: 1 of 1 connections to mysql://db:3306"),
    ):
        pool.getconn(timeout=0.05)


@pytest.mark.usefixtures("databases")
def test_a_callable_has_no_budget(tmp_path: Path) -> None:
    wsgipool.configure(with_budget(tmp_path))

    assert wsgipool.register("legacy", lambda: FakeDatabase().connect(1.0)).permits is None


@pytest.mark.usefixtures("databases")
def test_an_automatic_budget_asks_its_server_before_the_pools_own_configure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def sessions_allowed(url: DatabaseURL, _: object) -> tuple[int, None]:
        asked.append(url.scheme)
        return 9, None

    monkeypatch.setattr(limits, "sessions_allowed", sessions_allowed)
    wsgipool.configure(with_budget(tmp_path, "auto"))

    wsgipool.register("legacy", ServerDatabase(), configure=lambda _: asked.append("configure")).getconn()

    assert asked == ["mysql", "configure"]


@pytest.mark.usefixtures("databases")
def test_other_settings_keep_a_registered_pool_unless_its_budget_changes(tmp_path: Path) -> None:
    registered = wsgipool.register("legacy", ServerDatabase())
    wsgipool.configure(ORDERS)
    assert wsgipool.pool("legacy") is registered

    wsgipool.configure(with_budget(tmp_path, 3))

    within = wsgipool.pool("legacy")
    assert within is not registered
    assert within.permits is not None
    wsgipool.configure({**with_budget(tmp_path, 3), "databases": {"other": {"url": "mysql://db/other"}}})
    assert wsgipool.pool("legacy") is within
    assert wsgipool.pool("legacy").permits is within.permits


def test_a_registered_pool_keeps_its_min_size(database: FakeDatabase) -> None:
    wsgipool.register("legacy", database, min_size=1)

    eventually(lambda: database.sessions == 1)
