"""The URLs and arguments of SQLAlchemy's `create_engine`, and engines in processes of their own."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import create_engine, exc, make_url

import wsgipool
from frameworks.sqlalchemy_engines import pool_of, row, scalar
from unit.fakes import eventually, run_python
from wsgipool.demo.mariadb import LocalServer
from wsgipool.sqlalchemy import Pool

NOWHERE = "mysql+wsgipool://shop:secret@127.0.0.1:1/orders"


@pytest.fixture
def url(mysql_url: str) -> str:
    return mysql_url.replace("mysql+mysqlclient://", "mysql+wsgipool://")


def size(**arguments: Any) -> int:
    pool = create_engine(NOWHERE, **arguments).pool
    assert isinstance(pool, Pool)
    return pool.size()


# --- the settings of the pool ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "max_size"),
    [
        ({}, 10),
        ({"pool_size": 3, "max_overflow": 4}, 7),
        ({"pool_size": 3}, 13),
        ({"max_overflow": 0}, 5),
        ({"pool_settings": {"max_size": 2}}, 2),
        ({"pool_settings": {"max_size": "threads/2"}}, 5),
    ],
)
def test_the_size_of_the_pool(arguments: dict[str, Any], max_size: int) -> None:
    assert size(**arguments) == max_size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pool_size": 0}, "a pool without a limit could take all connections"),
        ({"max_overflow": -1}, "a pool without a limit could take all connections"),
        ({"pool_use_lifo": False}, "the connection that was returned last is always used first"),
        ({"pool_size": 3, "pool_settings": {"max_size": 2}}, "give max_size, or pool_size and max_overflow"),
        ({"pool_size": "3"}, "pool_size = '3': it must be a whole number"),
        ({"max_overflow": 2.5}, "max_overflow = 2.5: it must be a whole number"),
        ({"pool_timeout": "5"}, "pool_timeout = '5': it must be a number of seconds"),
        ({"pool_timeout": -1}, "pool_timeout must be at least 0 seconds, is -1"),
        ({"pool_recycle": "5"}, "pool_recycle = '5': it must be a number of seconds"),
        ({"pool_settings": 3}, "pool_settings = 3: it must be a dictionary"),
        ({"pool_settings": {"max_size": 0}}, "max_size must be a whole number from 1"),
        ({"pool_settings": {"max_waitng": 2}}, "pool_settings.max_waitng is not a setting; .*max_waiting"),
        ({"pool_settings": {"reset": "session"}}, "reset is not a setting; write pool_reset_on_return"),
        ({"pool_settings": {"timeout": 3}}, "timeout is not a setting; write pool_timeout"),
        ({"pool_settings": {"url": NOWHERE}}, "url is not a setting; it is a part of the engine's URL"),
    ],
)
def test_an_argument_that_cannot_be_honoured_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(exc.ArgumentError, match=message):
        create_engine(NOWHERE, **arguments)


def test_an_engine_that_cannot_connect_can_be_disposed_of() -> None:
    create_engine(NOWHERE, connect_args={"ssl_ca": "/no/such/file"}).dispose()


def test_pool_recycle_limits_the_age_of_a_connection(url: str) -> None:
    engine = create_engine(url, pool_recycle=0.1, pool_use_lifo=True)

    scalar(engine)
    eventually(lambda: pool_of(engine).size == 0)

    assert pool_of(engine).stats().closed == {"lifetime": 1}


def test_pool_pre_ping_asks_the_server_at_each_checkout(url: str) -> None:
    engine = create_engine(url, pool_pre_ping=True)

    # MariaDB and MySQL count pings, and log none.
    pings = [row(engine, "SHOW SESSION STATUS LIKE 'Com_admin_commands'")[1] for _ in range(3)]

    assert pings == ["0", "1", "2"]
    engine.dispose()


# --- URLs ------------------------------------------------------------------------------------------------------------


def test_the_url_of_another_driver_needs_one_change(url: str, database_server: LocalServer) -> None:
    address = make_url(url)
    options = {"charset": "latin1", "unix_socket": str(database_server.folder / "server.sock"), "autocommit": "true"}
    urls = [
        address.set(drivername=driver, host="", port=None, query=options)
        for driver in ("mysql+pymysql", "mysql+wsgipool", f"{database_server.kind.lower()}+wsgipool")
    ]
    seen = set()
    for each in urls:
        engine = create_engine(each)
        with engine.connect() as connection:
            raw: Any = connection.connection.driver_connection
            seen.add((raw.charset, raw.unix_socket, raw.client_flag, raw.autocommit_mode))
        engine.dispose()

    assert len(seen) == 1


def test_an_encoded_password_and_connect_args_are_understood(url: str, database_server: LocalServer) -> None:
    address = make_url(url)
    with database_server.admin() as admin, admin.cursor() as cursor:
        cursor.execute(f"ALTER USER {address.username} IDENTIFIED BY 'p@ss/w:rd%'")
    engine = create_engine(
        f"mysql+wsgipool://{address.username}:p%40ss%2Fw%3Ard%25@{address.host}:{address.port}",
        connect_args={"database": address.database, "init_command": "SET @shop = 'open'"},
    )

    assert scalar(engine, "SELECT @shop") == "open"
    assert wsgipool.pool(str(address.database)).size == 1
    engine.dispose()


def test_an_unknown_argument_of_the_driver_is_named() -> None:
    with pytest.raises(wsgipool.ConfigError, match="charst"):
        scalar(create_engine(f"{NOWHERE}?charst=utf8mb4"))


def test_many_equal_engines_cause_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    engines = [create_engine(NOWHERE, pool_logging_name="many", pool_timeout=7) for _ in range(12)]
    for engine in engines:
        engine.pool.status()

    [message] = caplog.messages
    assert message.startswith("10 engines with equal arguments are in use, pool 'many' among them")
    assert "secret" not in message


def test_the_pool_shows_no_password() -> None:
    engine = create_engine(NOWHERE)
    assert "secret" not in repr(vars(engine.pool)) + repr(engine) + engine.pool.status()


@pytest.mark.parametrize("name", ["mysql", "mariadb", "postgresql"])
def test_an_engine_for_asyncio_is_refused(name: str) -> None:
    with pytest.raises(exc.InvalidRequestError, match="no asyncio dialect of wsgipool"):
        make_url(f"{name}+wsgipool://shop@127.0.0.1:1/orders").get_dialect(True)  # as create_async_engine does


def test_a_dialect_for_asyncio_is_refused() -> None:
    with pytest.raises(exc.ArgumentError, match="is for threads"):
        create_engine("postgresql+psycopg_async://shop@127.0.0.1:1/orders", poolclass=Pool)


# --- databases of the settings file ----------------------------------------------------------------------------------


def test_an_engine_of_a_named_database_follows_the_settings(url: str) -> None:
    program = f"""
import wsgipool
from sqlalchemy import create_engine, text

address = {url!r}.replace("+wsgipool", "")
elsewhere = address.rpartition("/")[0] + "/information_schema"
engine = create_engine("mysql+wsgipool://?name=orders")
for changed in ({{"url": address, "max_size": 3}}, {{"url": elsewhere, "max_size": 4}}, {{"url": address}}):
    wsgipool.configure({{"databases": {{"orders": changed}}}})
    with engine.connect() as connection:
        print(connection.scalar(text("SELECT DATABASE()")), engine.pool.size())
"""
    database = str(make_url(url).database)
    assert run_python(program).splitlines() == [f"{database} 3", "information_schema 4", f"{database} 10"]


def test_a_pool_of_a_dropped_engine_opens_no_connection(url: str) -> None:
    program = f"""
import gc, logging
import wsgipool
from sqlalchemy import create_engine, text
from unit.fakes import eventually

engine = create_engine({url!r}, pool_settings={{"min_size": 1}})
with engine.connect() as connection:
    connection.execute(text("SELECT 1"))
pool = wsgipool.pool(engine.url.database)
engine.dispose()
eventually(lambda: pool.idle == 1)
logging.getLogger("wsgipool").setLevel(logging.CRITICAL)
del engine, connection
gc.collect()
pool.drain()
eventually(lambda: pool.stats().connect_failures > 0 and pool.size == 0)
"""
    assert run_python(program) == ""


def test_a_url_can_name_a_database_of_the_settings_file(url: str) -> None:
    program = f"""
import wsgipool
from sqlalchemy import create_engine, exc, text

address = {url!r}.replace("+wsgipool", "")
wsgipool.configure({{"databases": {{
    "orders": {{"url": address, "max_size": 3, "timeout": 7}},
    "sessions": {{"url": address, "reset": "session"}},
    "archive": {{"url": "sqlite:////nowhere"}},
}}}})
engine = create_engine("mysql+wsgipool://?name=orders", pool_recycle=60)
with engine.begin() as connection:
    print(connection.execute(text("UPDATE books SET stock = stock")).rowcount)
print(engine.pool.size(), engine.pool.timeout(), wsgipool.pool("orders").size, wsgipool.pool("orders-2").size)
for wrong in ("mysql+wsgipool://shop@db/?name=orders", "mysql+wsgipool://?name=sessions",
              "mysql+wsgipool://?name=archive", "mysql+wsgipool://?name=order"):
    try:
        create_engine(wrong).connect()
    except (exc.ArgumentError, wsgipool.ConfigError) as error:
        print(error)
"""
    refusals = [
        "the URL names the database 'orders' of the settings file",
        "sessions.reset: an engine prepares each session once",
        "archive.url is of sqlite://, which this dialect does not have",
        "has no database 'order'",
    ]

    lines = run_python(program).splitlines()

    assert lines[:2] == ["2", "3 7.0 0 1"]
    assert [refusal in line for refusal, line in zip(refusals, lines[2:], strict=True)] == [True] * 4


# --- processes -------------------------------------------------------------------------------------------------------


def test_the_package_does_not_import_sqlalchemy() -> None:
    assert run_python("import sys, wsgipool; print('sqlalchemy' in sys.modules)") == "False\n"


def test_a_fork_needs_no_dispose(url: str) -> None:
    program = f"""
import gc, os
from sqlalchemy import create_engine, text

engine = create_engine({url!r})
session = text("SELECT CONNECTION_ID()")

def current():
    with engine.connect() as connection:
        return connection.scalar(session)

inherited = engine.connect()
held, idle = inherited.scalar(session), current()
child = os.fork()
if child == 0:
    status = 1
    try:
        own = current()
        assert own == current() and own not in (held, idle)
        inherited.close()
        del inherited
        gc.collect()
        engine.dispose()
        assert current() not in (own, held, idle)
        status = 0
    finally:
        os._exit(status)
assert os.waitpid(child, 0)[1] == 0
assert inherited.scalar(session) == held
inherited.close()
print({{current(), current()}} <= {{held, idle}})
"""
    assert run_python(program) == "True\n"


def test_engines_keep_to_the_budget(url: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("runtime", numbered=True)
    folder.chmod(0o700)
    program = f"""
import wsgipool
from concurrent.futures import ThreadPoolExecutor
from sqlalchemy import create_engine, exc, text
from unit.fakes import HolderThread

wsgipool.configure({{"runtime_dir": {str(folder)!r}, "budget": {{"connections": 2}}}})
engines = [create_engine({url!r}, pool_timeout=0.5) for _ in range(2)]
held = [HolderThread(engine.connect, lambda connection: connection.close()) for engine in engines]
held[0].connection.detach()
for engine in engines:
    try:
        engine.connect()
    except exc.TimeoutError as error:
        assert "budget" in str(error), error
    else:
        raise AssertionError("a third connection")
for each in held:
    each.give_back()
for engine in engines:
    assert engine.connect().scalar(text("SELECT 1")) == 1
print(sum(pool.opened for pool in wsgipool.pools.stats()))
"""
    assert run_python(program) in ("3\n", "4\n")
