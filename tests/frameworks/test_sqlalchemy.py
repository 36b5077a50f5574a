"""SQLAlchemy's engines on MariaDB and MySQL: `create_engine("mysql+wsgipool://...")`."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pymysql
import pytest
from sqlalchemy import Engine, create_engine, event, exc, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

import wsgipool
from frameworks.conftest import GeneralLog
from frameworks.sqlalchemy_engines import Events, MakeEngine, name_of, pool_of, scalar
from servers.sql import ISOLATION
from unit.fakes import PATIENCE, HolderThread, Task
from wsgipool.demo.mariadb import Server
from wsgipool.sqlalchemy import Pool, PoolTimeout

SESSION = "SELECT CONNECTION_ID()"


@pytest.fixture
def url(mysql_url: str) -> str:
    return mysql_url.replace("mysql+mysqlclient://", "mysql+wsgipool://")


@pytest.fixture
def make_engine(url: str) -> Iterator[MakeEngine]:
    engines: list[Engine] = []

    def make(query: str = "", **arguments: Any) -> Engine:
        engines.append(create_engine(url + query, **arguments))
        return engines[-1]

    yield make
    for engine in engines:
        engine.dispose()


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    return make_engine()


# --- events ----------------------------------------------------------------------------------------------------------


def test_a_session_fires_connect_once_and_each_checkout_its_events(engine: Engine) -> None:
    events = Events(engine)

    sessions = {scalar(engine, SESSION) for _ in range(3)}

    assert len(sessions) == 1
    assert events.taken() == ["connect", *["checkout", "reset", "checkin"] * 3]


def test_the_info_of_a_connection_lives_as_long_as_its_session(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.info["shop"] = "open"
    with engine.connect() as connection:
        assert connection.info["shop"] == "open"
        connection.invalidate()
        connection.rollback()
        connection.scalar(text("SELECT 1"))
        assert "shop" not in connection.info


def test_do_connect_can_change_the_arguments_of_each_connect(engine: Engine, make_engine: MakeEngine) -> None:
    outdated = make_engine(connect_args={"password": "outdated"})

    @event.listens_for(outdated, "do_connect")
    def refresh(_dialect: object, _record: object, _arguments: object, parameters: dict[str, Any]) -> None:
        parameters["password"] = engine.url.password

    assert scalar(outdated) == 1
    assert pool_of(outdated).stats().opened == 1


def test_a_failed_listener_of_connect_leaves_no_session_behind(engine: Engine, database_server: Server) -> None:
    @event.listens_for(engine, "connect")
    def fail(*_: object) -> None:
        raise KeyError("no such shop")

    with pytest.raises(KeyError, match="no such shop"):
        scalar(engine)

    assert pool_of(engine).size == 0
    assert sessions_of(engine, database_server) == 0


@pytest.mark.parametrize("name", ["do_connect", "connect"])
def test_a_listener_can_use_an_engine_with_a_null_pool(make_engine: MakeEngine, name: str) -> None:
    engine, other = make_engine(), make_engine(poolclass=NullPool)

    @event.listens_for(engine, name)
    def ask(*_: object) -> None:
        scalar(other)

    assert scalar(engine, SESSION) == scalar(engine, SESSION)


def test_a_listener_of_checkout_can_ask_for_another_connection(engine: Engine) -> None:
    first = scalar(engine, SESSION)
    events = Events(engine)
    refused: list[object] = []

    @event.listens_for(engine, "checkout")
    def refuse_once(_connection: object, _record: object, _proxy: object) -> None:
        if not refused:
            refused.append(True)
            raise exc.DisconnectionError

    second = scalar(engine, SESSION)
    third = scalar(engine, SESSION)

    assert second == third != first
    assert events.counts() == {"connect": 1, "checkout": 3, "invalidate": 1, "close": 1, "reset": 2, "checkin": 2}
    assert pool_of(engine).size == 1


def sessions_of(engine: Engine, server: Server) -> int:
    query = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = %s AND command <> 'Killed'"
    with server.admin() as admin, admin.cursor() as cursor:
        cursor.execute(query, (name_of(engine),))
        row = cursor.fetchone()
    assert row is not None
    return int(row[0])


# --- the end of a connection -----------------------------------------------------------------------------------------


def test_an_invalidated_connection_is_closed_and_replaced(engine: Engine) -> None:
    events = Events(engine)
    with engine.connect() as connection:
        first = connection.scalar(text(SESSION))
        connection.invalidate()
        assert pool_of(engine).size == 0
        connection.rollback()
        assert connection.scalar(text(SESSION)) != first

    assert events.counts() == {"connect": 2, "checkout": 2, "invalidate": 1, "close": 1, "reset": 1, "checkin": 2}


def test_a_softly_invalidated_connection_is_closed_at_its_next_checkout(engine: Engine) -> None:
    first = scalar(engine, SESSION)
    proxy = engine.raw_connection()
    proxy.invalidate(soft=True)
    proxy.close()
    assert pool_of(engine).size == 1

    assert scalar(engine, SESSION) != first
    assert pool_of(engine).size == 1


def test_a_detached_connection_counts_until_it_is_closed(make_engine: MakeEngine) -> None:
    engine = make_engine(pool_settings={"max_size": 1})
    events = Events(engine)
    connection = engine.connect()
    connection.detach()
    pool_of(engine).timeout = 0.0

    with pytest.raises(exc.TimeoutError):
        Task(lambda: scalar(engine)).result()
    connection.close()
    pool_of(engine).timeout = PATIENCE

    assert scalar(engine) == 1
    assert events.counts()["close"] == 0
    assert pool_of(engine).stats().opened == 2


def test_a_disposed_engine_goes_on_with_new_connections(engine: Engine) -> None:
    events = Events(engine)
    with engine.connect() as held:
        in_use = held.scalar(text(SESSION))
        idle = Task(lambda: scalar(engine, SESSION)).result()
        engine.dispose()
        assert events.counts()["close"] == 1
        assert held.scalar(text(SESSION)) == in_use
    assert pool_of(engine).size == 0

    assert scalar(engine, SESSION) not in (in_use, idle)
    assert events.counts()["connect"] == 1


def test_a_connection_that_the_server_has_ended_is_replaced(engine: Engine, database_server: Server) -> None:
    events = Events(engine)
    first = scalar(engine, SESSION)
    kill(database_server, first)

    assert scalar(engine, SESSION) != first
    assert events.counts()["close"] == 1


def test_a_session_that_ends_during_use_is_a_disconnect(engine: Engine, database_server: Server) -> None:
    with engine.connect() as connection:
        kill(database_server, connection.scalar(text(SESSION)))
        with pytest.raises(exc.OperationalError) as caught:
            connection.execute(text("SELECT 1"))
        assert caught.value.connection_invalidated
        connection.rollback()
        assert connection.scalar(text("SELECT 1")) == 1


def kill(server: Server, session: int) -> None:
    with server.admin() as admin, admin.cursor() as cursor:
        cursor.execute(f"KILL {session}")


# --- transactions ----------------------------------------------------------------------------------------------------


def test_a_return_rolls_back_once_and_only_an_open_transaction(
    make_engine: MakeEngine, general_log: GeneralLog
) -> None:
    engine = make_engine()
    scalar(engine)  # SQLAlchemy's first connect asks for the server's version and more
    before = len(general_log.statements_of(name_of(engine)))

    with engine.begin() as connection:
        connection.execute(text("SELECT 2"))
    with engine.connect() as connection:
        connection.execute(text("SELECT 3"))
    with Session(engine) as session:
        session.execute(text("SELECT 4"))
    raw = engine.raw_connection()
    raw.cursor().execute("SELECT 5")
    raw.close()
    scalar(engine, "SELECT 6")  # reads the answer to the last ROLLBACK

    statements = general_log.statements_of(name_of(engine))[before:]
    assert statements == [
        *("SELECT 2", "COMMIT", "SELECT 3", "ROLLBACK", "SELECT 4", "ROLLBACK"),
        *("SELECT 5", "ROLLBACK AND NO CHAIN NO RELEASE", "SELECT 6", "ROLLBACK"),
    ]


@pytest.mark.parametrize(("reset", "stock"), [("commit", 11), ("rollback", 10), (None, 11)])
def test_pool_reset_on_return_decides_about_an_open_transaction(
    make_engine: MakeEngine, reset: str | None, stock: int
) -> None:
    engine = make_engine(pool_reset_on_return=reset)

    raw = engine.raw_connection()
    raw.cursor().execute("UPDATE books SET stock = 11 WHERE id = 1")
    raw.close()

    raw = engine.raw_connection()  # the same session
    cursor = raw.cursor()
    cursor.execute("SELECT stock FROM books WHERE id = 1")
    assert cursor.fetchone() == (stock,)
    raw.rollback()
    raw.close()
    assert scalar(engine, "SELECT stock FROM books WHERE id = 1") == (11 if reset == "commit" else 10)


def test_an_update_that_changes_nothing_counts_its_rows(engine: Engine) -> None:
    with engine.begin() as connection:
        assert connection.execute(text("UPDATE books SET stock = stock")).rowcount == 2


def test_an_isolation_level_ends_with_its_connection_or_stays_in_its_engine(
    engine: Engine, make_engine: MakeEngine
) -> None:
    serializable = make_engine(isolation_level="SERIALIZABLE")
    level = f"SELECT {ISOLATION}"

    for _ in range(2):
        with engine.connect().execution_options(isolation_level="READ UNCOMMITTED") as connection:
            assert connection.scalar(text(level)) == "READ-UNCOMMITTED"
        assert scalar(engine, level) == "REPEATABLE-READ"
        assert scalar(serializable, level) == "SERIALIZABLE"


def test_an_engine_in_autocommit_stays_in_it(make_engine: MakeEngine) -> None:
    engine = make_engine(isolation_level="AUTOCOMMIT")

    for stock in (11, 12):
        with engine.connect() as connection:
            connection.execute(text(f"UPDATE books SET stock = {stock} WHERE id = 1"))
        assert scalar(engine, "SELECT stock FROM books WHERE id = 1") == stock
    assert scalar(engine, "SELECT @@autocommit") == 1


# --- threads ---------------------------------------------------------------------------------------------------------


def test_no_two_threads_share_a_connection(make_engine: MakeEngine) -> None:
    engine = make_engine(pool_settings={"max_size": 4})
    in_use: set[int] = set()
    lock = threading.Lock()

    def sell(_: int) -> None:
        with engine.begin() as connection:
            session = connection.scalar(text(SESSION))
            with lock:
                assert session not in in_use
                in_use.add(session)
            connection.execute(text("UPDATE books SET stock = stock + 1 WHERE id = 1"))
            with lock:
                in_use.remove(session)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(sell, range(320)))

    assert scalar(engine, "SELECT stock FROM books WHERE id = 1") == 330
    stats = pool_of(engine).stats()
    assert stats.opened <= 4
    assert stats.in_use == 0


def test_a_session_that_another_threads_collector_ends_returns_its_connection(engine: Engine) -> None:
    def forget() -> int:
        session = Session(engine, info={})
        session.info["itself"] = session  # a cycle, which only the collector ends
        connection = session.connection(execution_options={"isolation_level": "SERIALIZABLE"})
        return int(connection.scalar(text(SESSION)) or 0)

    gc.disable()
    try:
        with ThreadPoolExecutor(1) as thread:
            session = thread.submit(forget).result()
            assert pool_of(engine).in_use == 1
            gc.collect()
            assert pool_of(engine).in_use == 0
    finally:
        gc.enable()

    assert scalar(engine, SESSION) == session
    assert scalar(engine, f"SELECT {ISOLATION}") == "REPEATABLE-READ"


def test_a_connection_is_refused_to_other_threads(engine: Engine) -> None:
    with engine.connect() as connection:
        with pytest.raises(exc.InterfaceError) as caught:
            Task(lambda: connection.execute(text("SELECT 1"))).result()

        assert isinstance(caught.value.orig, wsgipool.WrongThread)
        assert not caught.value.connection_invalidated
        assert connection.scalar(text("SELECT 1")) == 1


# --- requests --------------------------------------------------------------------------------------------------------


def test_a_connection_that_a_request_forgets_is_taken_back_alone(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    events = Events(engine)
    forgotten = engine.connect()
    request(lambda: forgotten.execute(text("SELECT 1")))
    assert "checked out at" in caplog.text, caplog.text
    assert "test_sqlalchemy.py" in caplog.text
    assert events.counts() == {"connect": 1, "checkout": 1, "close": 1}
    assert pool_of(engine).size == 0
    other = scalar(engine, SESSION)

    with pytest.raises(exc.InterfaceError, match="its pool has closed it") as caught:
        forgotten.execute(text("SELECT 1"))

    assert not caught.value.connection_invalidated
    forgotten.close()
    assert scalar(engine, SESSION) == other


def test_a_session_that_outlives_its_request_can_be_used_after_a_rollback(engine: Engine) -> None:
    session = Session(engine)
    request(lambda: session.execute(text("SELECT 1")))

    with pytest.raises(exc.InterfaceError):
        session.execute(text("SELECT 1"))
    session.rollback()

    assert session.scalar(text("SELECT 1")) == 1
    session.close()
    assert pool_of(engine).in_use == 0


def request(visit: Any) -> None:
    def application(_environ: Any, _start_response: Any) -> list[bytes]:
        visit()
        return []

    response: Any = wsgipool.Middleware(application)({}, lambda *_: None)
    response.close()


# --- errors ----------------------------------------------------------------------------------------------------------


def test_a_timeout_is_sqlalchemys_and_ours(make_engine: MakeEngine) -> None:
    engine = make_engine(pool_size=1, max_overflow=0)
    holder = HolderThread(engine.connect, lambda connection: connection.close())

    pool_of(engine).timeout = 0.01
    with pytest.raises(exc.TimeoutError, match=r"0\.01 s") as caught:
        engine.connect()

    assert isinstance(caught.value, PoolTimeout)
    assert isinstance(caught.value, wsgipool.PoolTimeout)
    holder.give_back()


def test_a_failed_connect_is_an_operational_error(make_engine: MakeEngine) -> None:
    engine = make_engine(connect_args={"password": "wrong"})

    with pytest.raises(exc.OperationalError, match="Access denied") as caught:
        engine.connect()

    assert isinstance(caught.value.orig, wsgipool.ConnectFailed)
    assert isinstance(caught.value.orig.__cause__, pymysql.OperationalError)
    assert not caught.value.connection_invalidated


def test_a_thread_that_would_wait_for_itself_is_told(make_engine: MakeEngine) -> None:
    engine = make_engine(pool_settings={"max_size": 1})

    with engine.connect(), pytest.raises(exc.OperationalError) as caught:
        engine.connect()

    assert isinstance(caught.value.orig, wsgipool.PoolDeadlock)


# --- engines and pools -----------------------------------------------------------------------------------------------


def test_each_engine_has_a_pool_of_its_own(make_engine: MakeEngine) -> None:
    first, second = make_engine(), make_engine()

    @event.listens_for(first, "connect")
    def prepare(connection: Any, _record: object) -> None:
        connection.cursor().execute("SET @prepared = 1")

    assert [scalar(engine, "SELECT @prepared") for engine in (first, second, first)] == [1, None, 1]
    assert pool_of(first).stats().opened == pool_of(second, 2).stats().opened == 1


def test_a_new_engine_gets_the_pool_of_an_equal_one_that_is_gone(url: str) -> None:
    for _ in range(5):
        engine = create_engine(url)
        assert scalar(engine) == 1
        engine.dispose()
        name = engine.pool.status()
        del engine
        gc.collect()
    assert f"'{url.rpartition('/')[2]}'" in name


def test_engines_of_single_requests_share_a_pool_but_no_session(url: str, database_server: Server) -> None:
    sessions = set()
    for number in range(5):
        engine = create_engine(url)

        @event.listens_for(engine, "connect")
        def prepare(connection: Any, _record: object, number: int = number) -> None:
            connection.cursor().execute("SET @prepared = %s", (number,))

        assert [scalar(engine, "SELECT @prepared") for _ in range(2)] == [number] * 2
        sessions.add(scalar(engine, SESSION))
        assert pool_of(engine).size == sessions_of(engine, database_server) == 1
        if number < 4:
            del engine, prepare
            gc.collect()
    assert len(sessions) == 5
    engine.dispose()


def test_the_pool_can_have_another_name(make_engine: MakeEngine) -> None:
    engine = make_engine(pool_logging_name=f"pool_of_{id(make_engine)}")

    scalar(engine)

    assert wsgipool.pool(f"pool_of_{id(make_engine)}").size == 1


def test_null_pool_opens_a_connection_each_time(make_engine: MakeEngine) -> None:
    engine = make_engine(poolclass=NullPool)

    assert scalar(engine, SESSION) != scalar(engine, SESSION)


def test_the_pool_serves_the_connections_of_any_driver(url: str) -> None:
    engine = create_engine(url.replace("+wsgipool", "+pymysql"), poolclass=Pool)
    events = Events(engine)

    assert scalar(engine, SESSION) == scalar(engine, SESSION)
    with engine.connect() as connection:
        connection.invalidate()
        assert connection.scalar(text("SELECT 1")) == 1
    engine.dispose()

    assert events.counts() == {"connect": 2, "checkout": 4, "reset": 3, "checkin": 4, "invalidate": 1, "close": 2}


def test_a_creator_of_the_program_serves_the_dialect(engine: Engine, database_server: Server) -> None:
    def creator() -> Any:
        return database_server.admin()

    other = create_engine("mysql+wsgipool://", creator=creator, pool_logging_name=f"{name_of(engine)}-created")
    assert scalar(other, SESSION) == scalar(other, SESSION)
    other.dispose()


def test_the_numbers_of_the_pool(make_engine: MakeEngine) -> None:
    engine = make_engine(pool_size=2, max_overflow=1, pool_timeout=PATIENCE)
    pool: Any = engine.pool
    scalar(engine)

    with engine.connect():
        assert (pool.size(), pool.checkedin(), pool.checkedout(), pool.overflow()) == (3, 0, 1, -2)
    assert (pool.size(), pool.checkedin(), pool.checkedout(), pool.overflow()) == (3, 1, 0, -2)
    assert "1 idle of max_size 3" in pool.status()
    assert pool.timeout() == PATIENCE
