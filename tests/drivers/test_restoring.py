"""The next holder does not find a holder's changes of the connection object, however it was returned."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from typing import Any

import MySQLdb
import MySQLdb.cursors
import psycopg
import pytest
from MySQLdb.constants import FIELD_TYPE
from psycopg.adapt import Loader
from psycopg.rows import dict_row

from drivers.shops import Connect, MariaDBShop, PostgreSQLShop, Shop, driver_of, run, value
from unit.fakes import PATIENCE, Task
from wsgipool import drivers
from wsgipool.config import parse_url
from wsgipool.drivers.mysqlclient import MySQLClientDriver
from wsgipool.drivers.psycopg import PsycopgDriver

Change = Callable[[Any], object]


class Text(Loader):
    def load(self, data: Any) -> str:
        return bytes(data).decode()


class SpecialConnectionCursor(MySQLdb.cursors.DictCursor):
    pass


MARIADB: dict[str, Change] = {
    "cursorclass": lambda ours: setattr(ours, "cursorclass", MySQLdb.cursors.DictCursor),
    "converter": lambda ours: setattr(ours, "converter", {}),
    "converter in place": lambda ours: ours.converter.update({FIELD_TYPE.LONG: str, FIELD_TYPE.LONGLONG: str}),
    "a list of converters": lambda ours: ours.converter.update({FIELD_TYPE.LONG: [(128, str)]}),
    "encoders": lambda ours: setattr(ours, "encoders", {}),
    "encoders in place": lambda ours: ours.encoders.update({int: lambda *_: "'odd'"}),
    "encoding": lambda ours: setattr(ours, "encoding", "latin1"),
    "messages": lambda ours: ours.messages.append("hello"),
    "executemany_fallback": lambda ours: setattr(ours, "executemany_fallback", "multi"),
    "an attribute of one's own": lambda ours: setattr(ours, "current_user", "Emma"),
    "a method": lambda ours: setattr(ours, "query", lambda *_: None),
    "autocommit": lambda ours: ours.autocommit(True),
    "autocommit by SQL": lambda ours: run(ours, "SET autocommit = 1"),
    "character set": lambda ours: ours.set_character_set("latin1"),
    "character set by SQL": lambda ours: run(ours, "SET NAMES latin1"),
    "collation": lambda ours: ours.set_character_set("utf8mb4", "utf8mb4_bin"),
}

POSTGRESQL: dict[str, Change] = {
    "autocommit": lambda ours: setattr(ours, "autocommit", True),
    "isolation_level": lambda ours: setattr(ours, "isolation_level", psycopg.IsolationLevel.SERIALIZABLE),
    "read_only": lambda ours: setattr(ours, "read_only", True),
    "deferrable": lambda ours: setattr(ours, "deferrable", True),
    "row_factory": lambda ours: setattr(ours, "row_factory", dict_row),
    "cursor_factory": lambda ours: setattr(ours, "cursor_factory", psycopg.ClientCursor),
    "server_cursor_factory": lambda ours: setattr(ours, "server_cursor_factory", psycopg.RawServerCursor),
    "prepare_threshold": lambda ours: setattr(ours, "prepare_threshold", 0),
    "prepared_max": lambda ours: setattr(ours, "prepared_max", 1),
    "adapters": lambda ours: ours.adapters.register_loader("int4", Text),
    "notice handler": lambda ours: ours.add_notice_handler(print),
    "notify handler": lambda ours: ours.add_notify_handler(print),
    "the pool's handlers": lambda ours: ours._notice_handlers.clear(),
    "libpq's handler": lambda ours: setattr(ours.pgconn, "notice_handler", None),
    "client_encoding": lambda ours: ours.execute("SET client_encoding TO latin1"),
    "read timeout": lambda ours: setattr(ours, "read_timeout", 0.01),
    "an attribute of one's own": lambda ours: setattr(ours, "current_user", "Emma"),
    "a method": lambda ours: setattr(ours, "execute", lambda *_: None),
}


def state(connection: Any) -> list[Any]:
    """Return the state that a holder finds."""
    if isinstance(connection, MySQLdb.connections.Connection):
        with connection.cursor() as cursor:
            cursor.execute("SELECT %s, 'ж', @@autocommit, @@collation_connection, @@character_set_client", (1,))
            rows = cursor.fetchall()
        known = {**vars(connection), "converter": connection.converter, "server": connection.character_set_name()}
        return [rows, connection.get_autocommit(), {name: repr(each) for name, each in known.items()}]
    rows = connection.execute("SELECT 1::int4 AS one, 'ж' AS letter, current_setting('client_encoding')").fetchall()
    connection.rollback()
    names = (
        *("autocommit", "isolation_level", "read_only", "deferrable", "row_factory", "cursor_factory", "read_timeout"),
        *("server_cursor_factory", "prepare_threshold", "prepared_max", "_notice_handlers", "_notify_handlers"),
    )
    return [
        rows,
        {name: repr(getattr(connection, name)) for name in names},
        set(vars(connection)),
        connection.pgconn.notice_handler,
        connection.adapters.get_loader(23, psycopg.pq.Format.TEXT),
    ]


SHOPS: dict[str, tuple[type[Shop], dict[str, Change]]] = {
    "mariadb": (MariaDBShop, MARIADB),
    "postgresql": (PostgreSQLShop, POSTGRESQL),
}


@pytest.fixture
def shop(request: pytest.FixtureRequest) -> Shop:
    server = request.param
    return SHOPS[server][0](request.getfixturevalue(server), request.getfixturevalue(f"{server}_shop"))


@pytest.mark.parametrize("pipeline", [True, False])
@pytest.mark.parametrize("configured", [False, True])
@pytest.mark.parametrize("shop", SHOPS, indirect=True)
def test_the_next_holder_finds_the_configured_state(
    configured: bool, pipeline: bool, shop: Shop, connect: Connect
) -> None:
    changes = SHOPS["mariadb" if isinstance(shop, MariaDBShop) else "postgresql"][1]
    hows: tuple[drivers.Reset | None, ...] = (None, "rollback", "session")
    connection = connect()
    if configured:
        connection.cursorclass = SpecialConnectionCursor
        connection.row_factory = dict_row
        connection.autocommit(True) if isinstance(shop, MariaDBShop) else setattr(connection, "autocommit", True)
    shop.driver.remember(connection)
    before = state(connection)

    for change in changes:
        for how in hows:
            changes[change](connection)
            if how is None:
                connection.commit()
            shop.driver.check_in(connection, how, pipeline)
            assert shop.driver.check_out(connection, threading.get_ident(), PATIENCE)

            assert state(connection) == before, (change, how)


@pytest.mark.parametrize("shop", ["mariadb"], indirect=True)
def test_change_user_of_the_last_holder_closes_the_connection(shop: Shop, connect: Connect) -> None:
    connection = connect()
    connection.change_user(shop.user, parse_url(shop.url).password, "information_schema")

    with pytest.raises(MySQLdb.ProgrammingError, match=r"change_user\(\) was called"):
        shop.driver.check_in(connection, "rollback")


@pytest.mark.parametrize("shop", ["mariadb"], indirect=True)
def test_a_ping_does_not_connect_again(shop: Shop, connect: Connect) -> None:
    connection = connect()
    shop.kill(shop.session_of(connection))

    with pytest.raises(MySQLdb.OperationalError):
        connection.ping(True)

    with pytest.raises(MySQLdb.OperationalError):
        value(connection, "SELECT 1")


@pytest.mark.parametrize("shop", ["mariadb"], indirect=True)
def test_no_database_stays_selected_if_the_url_names_none(shop: Shop) -> None:
    driver: MySQLClientDriver = driver_of(shop.url.removesuffix(shop.user))  # type: ignore[assignment]
    connection = driver.connect(PATIENCE)
    connection.select_db("information_schema")

    driver.check_in(connection, "session")

    assert value(connection, "SELECT DATABASE()") is None
    driver.close(connection)


@pytest.mark.parametrize("shop", ["mariadb"], indirect=True)
def test_an_empty_sql_mode_is_set_and_costs_no_session(shop: Shop, connect: Connect) -> None:
    driver = driver_of(f"{shop.url}?sql_mode=")
    connection = connect("sql_mode=")

    for _ in range(2):
        assert value(connection, "SELECT @@sql_mode") == ""
        driver.check_in(connection, "session")


@pytest.mark.parametrize("shop", ["mariadb"], indirect=True)
def test_an_init_command_of_several_statements_outlasts_a_session_reset(shop: Shop, connect: Connect) -> None:
    options = "init_command=SET%20@a%3D1;SELECT%20@a;SET%20@b%3D2"
    connection = connect(options)

    driver_of(f"{shop.url}?{options}").check_in(connection, "session")

    assert value(connection, "SELECT @a + @b") == 3


@pytest.mark.parametrize("shop", ["postgresql"], indirect=True)
def test_the_next_holder_does_not_get_notifications_for_the_last(shop: Shop, connect: Connect) -> None:
    listening, other = connect(), connect()
    listening.autocommit = other.autocommit = True
    listening.execute("LISTEN orders")
    other.execute("NOTIFY orders, 'secret'")
    listening.execute("SELECT 1")

    shop.driver.check_in(listening, "session")
    shop.driver.check_out(listening, threading.get_ident(), PATIENCE)

    assert list(listening.notifies(timeout=0)) == []


@pytest.mark.parametrize("shop", ["postgresql"], indirect=True)
def test_a_trace_ends_with_its_holder(shop: Shop, connect: Connect) -> None:
    connection = connect()
    with tempfile.TemporaryFile() as trace:
        connection.pgconn.trace(trace.fileno())
        connection.execute("SELECT 1")

        shop.driver.check_in(connection, "rollback")
        shop.driver.check_out(connection, threading.get_ident(), PATIENCE)
        connection.execute("SELECT 'secret'")

        trace.seek(0)
        assert b"secret" not in trace.read()


@pytest.mark.parametrize("shop", ["postgresql"], indirect=True)
@pytest.mark.parametrize("how", [None, "rollback"])
def test_a_generator_that_holds_the_connections_lock_makes_it_unusable(
    how: drivers.Reset | None, shop: Shop, connect: Connect
) -> None:
    listening, other = connect("autocommit=on"), connect("autocommit=on")
    listening.execute("LISTEN orders")
    other.execute("NOTIFY orders")
    notifications = listening.notifies()
    next(notifications)

    with pytest.raises(psycopg.OperationalError, match="was not read to its end"):
        Task(lambda: shop.driver.check_in(listening, how)).result()

    notifications.close()


@pytest.mark.parametrize("shop", ["postgresql"], indirect=True)
def test_a_global_adapter_registered_after_the_connect_does_not_change_a_connection(
    shop: Shop, connect: Connect
) -> None:
    driver = shop.driver
    assert isinstance(driver, PsycopgDriver)
    connection = connect()
    connection.adapters.register_loader("int4", Text)
    driver.remember(connection)

    driver.check_in(connection, "rollback")

    assert connection.execute("SELECT 1::int4").fetchone() == ("1",)
