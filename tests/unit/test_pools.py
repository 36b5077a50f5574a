"""The pools of a process: their settings, their sizes, their end."""

from __future__ import annotations

import logging
import os
import pwd
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import wsgipool
from unit.fakes import FakeDatabase, Gate, Task, eventually, run_python
from wsgipool import ConfigError, Pool, PoolClosed, PoolTimeout, _sources, pools
from wsgipool.drivers import limits
from wsgipool.httpd import process as httpd
from wsgipool.impersonation import as_user

pytestmark = pytest.mark.usefixtures("_no_settings")

ORDERS = {"databases": {"orders": {"url": "mysql://shop@db/orders"}}}
TOML = '[databases.orders]\nurl = "mysql://shop@db/orders"\n'


def orders(**table: object) -> dict[str, object]:
    return {"databases": {"orders": {"url": "mysql://shop@db/orders", **table}}}


@pytest.fixture
def serve_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make this process a child of a server with this number of threads."""

    def serve(threads: int) -> None:
        server = httpd.HttpdProcess("worker", "", "", threads, max_processes=4)
        monkeypatch.setattr(httpd, "this_process", lambda: server)

    return serve


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A WSGI script that this process has loaded."""
    module = ModuleType("__wsgi__")
    module.__file__ = str(tmp_path / "site" / "app.wsgi")
    (tmp_path / "site").mkdir()
    monkeypatch.setitem(sys.modules, "__wsgi__", module)
    return Path(module.__file__)


@pytest.fixture
def system_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the path /etc/wsgipool.toml, without a file."""
    path = tmp_path / "etc" / "wsgipool.toml"
    path.parent.mkdir()
    monkeypatch.setattr(pools, "SYSTEM_CONFIG", path)
    return path


# --- connections -----------------------------------------------------------------------------------------------------


def test_a_connection_comes_from_the_pool_of_its_database(databases: dict[str, FakeDatabase]) -> None:
    wsgipool.configure({"databases": {name: {"url": "mysql://db/x"} for name in ("orders", "archive")}})

    with wsgipool.connection("archive") as connection:
        assert databases["archive"].opened == [connection]

    assert databases["orders"].opened == []
    assert wsgipool.pool("archive").idle == 1


def test_a_connection_can_be_readonly(databases: dict[str, FakeDatabase]) -> None:
    wsgipool.configure(ORDERS)

    with wsgipool.connection("orders", readonly=True):
        pass

    assert databases["orders"].opened[0].calls == ["rollback"]


@pytest.mark.usefixtures("databases")
def test_a_checkout_can_have_its_own_timeout() -> None:
    wsgipool.configure(orders(timeout=5))

    with pytest.raises(wsgipool.PoolTimeout, match="within 0 s"), wsgipool.connection("orders", timeout=0):
        pass


@pytest.mark.usefixtures("databases")
def test_each_database_has_one_pool() -> None:
    wsgipool.configure(ORDERS)

    assert wsgipool.pool("orders") is wsgipool.pool("orders")
    assert len({id(Task(lambda: wsgipool.pool("orders")).result()) for _ in range(4)}) == 1


@pytest.mark.usefixtures("databases")
def test_threads_that_need_a_pool_at_the_same_time_get_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    wsgipool.configure(ORDERS)
    gate = Gate()

    def make_pool(*arguments: Any, **settings: Any) -> Pool[Any]:
        gate()
        return Pool(*arguments, **settings)

    monkeypatch.setattr(_sources, "Pool", make_pool)
    first = Task(lambda: wsgipool.pool("orders"))
    gate.wait_until_reached()
    second = Task(lambda: wsgipool.pool("orders"))
    # It has seen that there is no pool yet, and waits until the first thread has created it.
    eventually(lambda: sys._current_frames()[second.thread_id].f_code.co_name == "get")

    gate.open()

    assert first.result() is second.result()


@pytest.mark.usefixtures("databases")
@pytest.mark.parametrize("name", [None, 3, "", "a\nb", "x" * 1_000_000])
def test_a_wrong_name_is_an_error_of_one_short_line(name: str) -> None:
    wsgipool.configure(ORDERS)

    with pytest.raises(ConfigError) as caught:
        wsgipool.pool(name)

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 500


@pytest.mark.usefixtures("databases")
def test_the_error_for_an_unknown_name_suggests_a_configured_one() -> None:
    wsgipool.configure(ORDERS)

    with pytest.raises(ConfigError) as caught:
        wsgipool.pool("order")

    assert str(caught.value) == ("the mapping given to configure() has no database 'order'; did you mean orders?")


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("databases")
def test_the_same_settings_again_keep_the_pools(tmp_path: Path) -> None:
    path = tmp_path / "wsgipool.toml"
    path.write_text(TOML)
    wsgipool.configure(path)
    pool = wsgipool.pool("orders")

    wsgipool.configure(str(path))

    assert wsgipool.pool("orders") is pool


def test_other_settings_create_new_pools_and_close_the_old_ones(
    databases: dict[str, FakeDatabase],
) -> None:
    wsgipool.configure(ORDERS)
    old = wsgipool.pool("orders")
    idle, in_use = old.getconn(), old.getconn()
    old.putconn(idle)

    wsgipool.configure(orders(timeout=5))

    assert wsgipool.pool("orders") is not old
    assert idle.closed
    assert not in_use.closed
    old.putconn(in_use)
    assert databases["orders"].sessions == 0


@pytest.mark.usefixtures("databases")
def test_wrong_settings_leave_the_old_ones_in_place() -> None:
    wsgipool.configure(ORDERS)
    pool = wsgipool.pool("orders")

    with pytest.raises(ConfigError):
        wsgipool.configure(orders(max_size=0))

    assert wsgipool.pool("orders") is pool


def test_every_url_is_checked_before_the_first_request() -> None:
    with pytest.raises(ConfigError, match=r"databases\.archive\.url: no driver for mysq://"):
        wsgipool.configure({"databases": {"orders": {"url": "mysql://db/x"}, "archive": {"url": "mysq://db/x"}}})


@pytest.mark.usefixtures("databases")
def test_the_timeout_of_the_settings_is_the_pools() -> None:
    wsgipool.configure(orders(timeout=2.5))

    assert wsgipool.pool("orders").timeout == 2.5


# --- the place of the settings ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("databases")
def test_settings_are_found_without_configure(system_config: Path) -> None:
    system_config.write_text(TOML)

    with wsgipool.connection("orders") as connection:
        connection.execute()

    assert connection.calls == ["execute", "commit"]


def test_the_environment_comes_first(script: Path, system_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system_config.touch()
    (script.parent / "wsgipool.toml").touch()
    monkeypatch.setattr(httpd, "define", lambda _: "/named/by/define.toml")
    monkeypatch.setenv("WSGIPOOL_CONFIG", "/named/by/environment.toml")

    assert pools.find_config() == Path("/named/by/environment.toml")


def test_a_define_of_httpds_configuration_comes_second(
    script: Path, system_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system_config.touch()
    (script.parent / "wsgipool.toml").touch()
    monkeypatch.setattr(httpd, "define", {"WSGIPOOL_CONFIG": "/named/by/define.toml"}.get)

    assert pools.find_config() == Path("/named/by/define.toml")


def test_the_file_beside_the_wsgi_script_comes_third(script: Path, system_config: Path) -> None:
    system_config.touch()
    (script.parent / "wsgipool.toml").touch()

    assert pools.find_config() == script.parent / "wsgipool.toml"


@pytest.mark.usefixtures("script")
def test_the_file_of_the_system_comes_last(system_config: Path) -> None:
    system_config.touch()

    assert pools.find_config() == system_config


def test_an_unreadable_settings_file_is_an_error_and_not_skipped(system_config: Path) -> None:
    system_config.parent.chmod(0)

    def read() -> str:
        wsgipool.pool("orders")
        return ""

    user = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    with pytest.raises(ConfigError, match=f"{system_config} cannot be read by user id"):
        as_user(user, read)


def test_without_any_settings_the_error_names_the_places(script: Path, system_config: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        wsgipool.connection("orders")

    message = str(caught.value)
    assert f"put one at {script.parent / 'wsgipool.toml'} or {system_config}" in message
    assert "WSGIPOOL_CONFIG" in message
    assert "wsgipool.configure()" in message


def test_a_named_file_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSGIPOOL_CONFIG", "/nowhere/wsgipool.toml")

    with pytest.raises(ConfigError, match=r"/nowhere/wsgipool\.toml does not exist"):
        wsgipool.pool("orders")


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("databases")
def test_a_pool_follows_the_threads_of_its_server(serve_with: Callable[[int], None]) -> None:
    serve_with(7)
    wsgipool.configure(ORDERS)

    assert wsgipool.pool("orders").max_size == 7


@pytest.mark.usefixtures("databases")
def test_a_pool_can_have_a_share_of_the_threads(serve_with: Callable[[int], None]) -> None:
    serve_with(7)
    wsgipool.configure(orders(max_size="threads/2"))

    assert wsgipool.pool("orders").max_size == 4


@pytest.mark.usefixtures("databases")
def test_outside_a_server_a_pool_has_room_for_ten() -> None:
    wsgipool.configure(ORDERS)

    assert wsgipool.pool("orders").max_size == 10


@pytest.mark.usefixtures("databases")
def test_outside_httpd_a_number_is_not_cut(log: pytest.LogCaptureFixture) -> None:
    log.set_level(logging.WARNING, logger="wsgipool")
    wsgipool.configure(orders(max_size=25))

    assert wsgipool.pool("orders").max_size == 25
    assert log.messages == []


@pytest.mark.usefixtures("databases")
def test_a_size_above_the_threads_is_reduced_with_one_warning(
    serve_with: Callable[[int], None], log: pytest.LogCaptureFixture
) -> None:
    log.set_level(logging.WARNING, logger="wsgipool")
    serve_with(8)
    wsgipool.configure(orders(max_size=40))

    assert [wsgipool.pool("orders").max_size for _ in range(3)] == [8, 8, 8]
    assert log.messages == [
        "the mapping given to configure(): databases.orders.max_size = 40 is more than the 8 threads of this process "
        "can use; it gets 8. Leave max_size out to follow the server"
    ]


@pytest.mark.usefixtures("databases")
@pytest.mark.parametrize("max_size", [8, 3, "threads"])
def test_a_size_that_the_threads_can_use_is_no_warning(
    serve_with: Callable[[int], None], log: pytest.LogCaptureFixture, max_size: int | str
) -> None:
    log.set_level(logging.WARNING, logger="wsgipool")
    serve_with(8)
    wsgipool.configure(orders(max_size=max_size))

    wsgipool.pool("orders")

    assert log.messages == []


@pytest.mark.usefixtures("databases")
def test_the_server_and_the_chosen_sizes_are_logged_once(
    serve_with: Callable[[int], None], system_config: Path, log: pytest.LogCaptureFixture
) -> None:
    serve_with(8)
    system_config.write_text('[databases.orders]\nurl = "mysql://shop:s3cret@db/orders"\nmax_size = 3\n')

    for _ in range(2):
        wsgipool.pool("orders")
        pools.preload()

    assert log.messages == [
        "embedded in an Apache child of the worker MPM, 8 threads a process, at most 4 processes; settings from "
        f"{system_config}",
        "pool 'orders': up to 3 connections a process to mysql://shop@db/orders",
    ]


@pytest.mark.usefixtures("databases")
def test_changed_settings_of_configure_are_logged_each_time(log: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    budget = {"runtime_dir": str(tmp_path / "run"), "budget": {"connections": 2}}

    for settings in (ORDERS, ORDERS, ORDERS | budget, ORDERS | budget):
        wsgipool.configure(settings)

    given = "not in httpd; settings from the mapping given to configure()"
    pool = "pool 'orders': up to 10 connections a process to mysql://shop@db/orders"
    assert log.messages[:4] == [given, pool, given, pool]
    (within,) = log.messages[4:]
    assert within.startswith("pool 'orders': within a budget of 2 connections of this host to mysql://db:3306")


@pytest.mark.usefixtures("system_config")
def test_preload_leaves_an_unnamed_settings_file_to_the_first_request(log: pytest.LogCaptureFixture) -> None:
    pools.preload()

    assert log.messages == ["no settings yet: wsgipool.toml is looked up at the first request"]


def test_preload_takes_the_settings_beside_a_script_that_was_loaded_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wsgipool.toml").write_text('[databases.orders]\nurl = "mysql://shop@db/orders"\n')
    script = ModuleType("_mod_wsgi_0123")
    script.__file__ = str(tmp_path / "app.wsgi")
    monkeypatch.setitem(sys.modules, script.__name__, script)

    pools.preload()

    assert [each.name for each in pools.stats()] == ["orders"]


def test_settings_beside_a_script_that_is_loaded_later_replace_those_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_script(folder: str) -> None:
        script = ModuleType(f"_mod_wsgi_{folder}")
        script.__file__ = str(tmp_path / folder / "app.wsgi")
        monkeypatch.setitem(sys.modules, script.__name__, script)

    for folder in ("etc", "monitor", "shop"):
        (tmp_path / folder).mkdir()
    text = '[databases.orders]\nurl = "mysql://shop@{}/orders"\n'
    (tmp_path / "etc" / "wsgipool.toml").write_text(text.format("of-the-system"))
    (tmp_path / "shop" / "wsgipool.toml").write_text(text.format("of-the-shop"))
    monkeypatch.setattr(pools, "SYSTEM_CONFIG", tmp_path / "etc" / "wsgipool.toml")
    load_script("monitor")
    pools.preload()

    load_script("shop")

    pools.pool("orders")
    assert pools.database("orders").url.host == "of-the-shop"


def test_preload_opens_no_connection(databases: dict[str, FakeDatabase]) -> None:
    wsgipool.configure(ORDERS)

    pools.preload()

    assert databases["orders"].opened == []


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("databases")
def test_close_ends_the_pools_and_the_next_use_creates_new_ones() -> None:
    wsgipool.configure(orders(timeout=2.5))
    old = wsgipool.pool("orders")
    connection = old.getconn()
    old.putconn(connection)

    wsgipool.close()

    assert connection.closed
    with pytest.raises(PoolClosed):
        old.getconn()
    with wsgipool.connection("orders") as fresh:
        assert fresh is not connection
    assert wsgipool.pool("orders").timeout == 2.5


def test_close_before_any_use_does_nothing() -> None:
    wsgipool.close()


@pytest.mark.usefixtures("databases")
def test_reclaim_takes_back_from_all_pools() -> None:
    wsgipool.configure({"databases": {name: {"url": "mysql://db/x"} for name in ("orders", "archive")}})

    def forgetful_handler() -> int:
        for name in ("orders", "archive"):
            wsgipool.pool(name).getconn()
        return pools.reclaim(threading.get_ident())

    assert Task(forgetful_handler).result() == 2


def test_reclaim_before_any_use_does_nothing() -> None:
    assert pools.reclaim(1) == 0


def test_connections_are_closed_when_the_process_ends() -> None:
    program = """
import atexit
atexit.register(lambda: print("at the end", database.sessions))  # the first to register is the last to run

import wsgipool
from unit.fakes import FakeDatabase
database = FakeDatabase()
from wsgipool import drivers
drivers.for_database = lambda _: database
wsgipool.configure({"databases": {"orders": {"url": "mysql://db/orders"}}})
with wsgipool.connection("orders"):
    print("in use", database.sessions)
"""

    assert run_python(program) == "in use 1\nat the end 0\n"


def test_mod_wsgis_shutdown_closes_connections_even_while_locks_are_held() -> None:
    program = """
import sys, types
callbacks = []
server = types.ModuleType("mod_wsgi")
server.process_group, server.application_group = "shop", ""
server.threads_per_process, server.maximum_processes = 4, 2
server.subscribe_shutdown = callbacks.append
server.request_data = dict
sys.modules["mod_wsgi"] = server

import wsgipool
from unit.fakes import FakeDatabase
from wsgipool import _collection, drivers
database = FakeDatabase()
drivers.for_database = lambda _: database
wsgipool.configure({"databases": {"orders": {"url": "mysql://db/orders"}}})
with wsgipool.connection("orders"):
    pass
pool = wsgipool.pool("orders")
with _collection.lock, pool._state.lock:
    for callback in callbacks:
        callback("process_stopping", shutdown_reason="shutdown_signal")
print(pool.max_size, database.sessions)
"""

    assert run_python(program) == "4 0\n"


CHILD = """
import sys, types
server, apache = types.ModuleType("mod_wsgi"), types.ModuleType("apache")
server.process_group, server.application_group = {group!r}, ""
server.threads_per_process, server.maximum_processes = 4, 2
apache.mpm_name = {mpm!r}
sys.modules["mod_wsgi"], sys.modules["apache"] = server, apache

import wsgipool
from unit.fakes import FakeDatabase, eventually
from wsgipool import drivers
from wsgipool._background import background
from wsgipool.httpd import process as httpd
database, state, checks = FakeDatabase(), 1, 0
drivers.for_database = lambda _: database
def ask(code):
    global checks
    checks += code == 13
    return state if code == 13 else None
httpd._ask_mpm = ask
wsgipool.configure({{"databases": {{"orders": {{"url": "mysql://db/orders"}}}}}})
pool = wsgipool.pool("orders")

class CountingTask:
    times = 0
    def maintain(self):
        self.times += 1

def let_maintenance_run(times):
    task = CountingTask()
    for time in range(times):
        background.register(task)
        eventually(lambda: task.times > time)
"""


@pytest.mark.parametrize("mpm", ["worker", "event"])
def test_after_a_graceful_restart_old_children_serve_without_idle_connections(mpm: str) -> None:
    program = f"""{CHILD.format(group="", mpm=mpm)}
assert not background.is_running
held = pool.getconn()
with wsgipool.connection("orders"):
    pass
eventually(lambda: checks > 1)
print(pool.idle, pool.in_use)
state = 2
eventually(lambda: pool.idle == 0)
print(database.sessions)
with wsgipool.connection("orders"):
    pass
pool.putconn(held)
print(database.sessions, len(database.opened))
"""
    assert run_python(program).splitlines() == ["1 1", "1", "0 3"]


def test_without_connections_a_process_does_not_check_for_graceful_restarts() -> None:
    program = f"""{CHILD.format(group="", mpm="worker")}
with wsgipool.connection("orders"):
    pass
eventually(lambda: checks > 0)
pool.drain()
eventually(lambda: pool.size == 0)
let_maintenance_run(1)
before = checks
let_maintenance_run(3)
print(checks - before)
"""
    assert run_python(program) == "0\n"


@pytest.mark.parametrize(("group", "mpm"), [("shop", "worker"), ("", "prefork")])
def test_daemon_and_prefork_processes_do_not_check_for_graceful_restarts(group: str, mpm: str) -> None:
    program = f"""{CHILD.format(group=group, mpm=mpm)}
with wsgipool.connection("orders"):
    let_maintenance_run(3)
print(checks)
"""
    assert run_python(program) == "0\n"


def test_a_forks_child_has_free_locks_and_pools_of_its_own() -> None:
    program = """
import os
import wsgipool
from unit.fakes import FakeDatabase
from wsgipool import _collection, drivers
database = FakeDatabase()
drivers.for_database = lambda _: database
wsgipool.configure({"databases": {name: {"url": "mysql://db/x"} for name in ("orders", "archive")}})
with wsgipool.connection("orders"):
    pass
_collection.lock.acquire()
child = os.fork()
if child == 0:
    with wsgipool.connection("orders") as connection:
        print("inherited", connection is database.opened[0], flush=True)
    with wsgipool.connection("archive"):
        wsgipool.close()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""

    assert run_python(program) == "inherited False\n"


def test_the_settings_of_a_database_are_those_of_its_pool(databases: dict[str, FakeDatabase]) -> None:
    wsgipool.configure(orders(max_size=1, max_waiting=7, max_connecting=3, max_idle=5, reset="session"))
    pool = wsgipool.pool("orders")
    with wsgipool.connection("orders"):
        pass

    assert (pool.max_size, pool.max_waiting, pool.max_connecting, pool.max_idle) == (1, 7, 3, 5.0)
    assert databases["orders"].opened[0].calls == ["commit", "reset_session"]


@pytest.mark.usefixtures("databases")
def test_log_slow_is_a_setting_of_a_database(log: pytest.LogCaptureFixture) -> None:
    wsgipool.configure(orders(log_slow=0.000001))

    with wsgipool.connection("orders"):
        pass

    assert " in test_log_slow_is_a_setting_of_a_database connected for 0.0 s to fake://database" in log.text


def test_close_returns_is_a_setting_of_a_database(databases: dict[str, FakeDatabase]) -> None:
    wsgipool.configure(orders(close_returns=True))
    pool = wsgipool.pool("orders")

    pool.getconn().close()

    assert databases["orders"].opened[0].calls == ["rollback"]
    assert pool.idle == 1


def test_min_size_is_limited_by_the_threads_of_the_process(
    databases: dict[str, FakeDatabase], serve_with: Callable[[int], None]
) -> None:
    serve_with(1)
    wsgipool.configure(orders(min_size=3))

    pool = wsgipool.pool("orders")

    assert (pool.min_size, pool.max_size) == (1, 1)
    eventually(lambda: databases["orders"].sessions == 1)


def test_a_transaction_runs_on_the_pool_of_its_name(databases: dict[str, FakeDatabase]) -> None:
    wsgipool.configure(orders())

    assert wsgipool.transaction("orders", lambda connection: connection.calls) == ["commit"]
    assert databases["orders"].opened[0].calls == ["commit"]


# --- the budget of the host ------------------------------------------------------------------------------------------


def with_budget(folder: Path, **budget: object) -> dict[str, object]:
    return {
        "runtime_dir": str(folder / "run"),
        "budget": {"connections": 2, **budget},
        "databases": {
            "orders": {"url": "mysql://shop@db/orders"},
            "archive": {"url": "mysql+mysqlclient://reader@DB:3306/archive"},
            "elsewhere": {"url": "mysql://shop@other/orders"},
            "file": {"url": "sqlite:////var/lib/shop.db"},
        },
    }


@pytest.mark.usefixtures("databases")
def test_databases_of_one_server_share_its_budget(tmp_path: Path) -> None:
    wsgipool.configure(with_budget(tmp_path))
    held = [wsgipool.pool("orders").getconn(), wsgipool.pool("archive").getconn()]

    with pytest.raises(PoolTimeout, match="the budget of this host is used up: 2 of 2 connections to mysql://db:3306"):
        wsgipool.pool("archive").getconn(timeout=0.05)

    wsgipool.pool("elsewhere").getconn()
    assert len(held) == 2


@pytest.mark.usefixtures("databases")
def test_a_database_without_a_server_has_no_budget(tmp_path: Path) -> None:
    wsgipool.configure(with_budget(tmp_path))

    assert wsgipool.pool("file").permits is None


@pytest.mark.usefixtures("databases")
def test_a_budget_that_cannot_be_kept_is_an_error_of_configure(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o755)

    with pytest.raises(ConfigError, match="is open to others"):
        wsgipool.configure(with_budget(tmp_path))


@pytest.mark.usefixtures("databases")
def test_an_automatic_budget_asks_the_server_at_the_first_connect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wsgipool.configure(with_budget(tmp_path, connections="auto", hosts=2, reserve=4))
    monkeypatch.setattr(limits, "sessions_allowed", lambda *_: (12, 10))
    pool = wsgipool.pool("orders")

    held = [pool.getconn() for _ in range(3)]

    with pytest.raises(PoolTimeout, match="3 of 3 connections"):
        pool.getconn(timeout=0.05)
    assert len(held) == 3
