"""The driver for any callable that returns a DB-API connection."""

from __future__ import annotations

import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unit.fakes import PATIENCE, Task
from wsgipool import ConfigError, Pool
from wsgipool.drivers import CallableDriver
from wsgipool.errors import PLAIN_ERRORS, errors_of


@pytest.fixture
def driver(tmp_path: Path) -> CallableDriver[sqlite3.Connection]:
    return CallableDriver(lambda: sqlite3.connect(tmp_path / "shop.db", check_same_thread=False))


def test_well_known_attributes_are_restored(driver: CallableDriver[sqlite3.Connection]) -> None:
    connection = driver.connect(1)
    connection.row_factory = sqlite3.Row
    driver.remember(connection)
    connection.row_factory = None
    connection.text_factory = bytes
    connection.isolation_level = None

    driver.check_in(connection, "rollback")

    assert [connection.row_factory, connection.text_factory, connection.isolation_level] == [sqlite3.Row, str, ""]
    driver.close(connection)


def test_a_pool_without_configure_restores_the_attributes_too(driver: CallableDriver[sqlite3.Connection]) -> None:
    pool = Pool(driver, name="shop", max_size=1)
    with pool.connection() as connection:
        connection.row_factory = sqlite3.Row

    with pool.connection() as again:
        assert again is connection
        assert again.row_factory is None
    pool.close()


class Connection:
    """A connection that shows autocommit in one of the DB-API modules' ways."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize(
    "attributes",
    [{"autocommit": True}, {"get_autocommit": lambda: True}, {"isolation_level": None, "in_transaction": False}],
)
def test_a_transaction_on_a_connection_in_autocommit_is_refused(attributes: dict[str, Any]) -> None:
    driver = CallableDriver(lambda: Connection(**attributes))

    with pytest.raises(ConfigError, match="turn autocommit off there, or name the database by its URL"):
        driver.begin(driver.connect(1))


@pytest.mark.parametrize(
    "attributes",
    [{}, {"autocommit": False}, {"autocommit": print}, {"get_autocommit": lambda: False}, {"isolation_level": None}],
)
def test_begin_does_nothing_on_other_connections(attributes: dict[str, Any]) -> None:
    driver = CallableDriver(lambda: Connection(**attributes))

    driver.begin(driver.connect(1))


# --- the end of a session --------------------------------------------------------------------------------------------


class Networked(Connection):
    """A connection with a socket that can reconnect."""

    def __init__(self, ours: socket.socket) -> None:
        super().__init__()
        self.ours = ours
        self.pings: list[bool] = []

    def fileno(self) -> int:
        return int(self.ours.fileno())

    def ping(self, reconnect: bool = True) -> None:
        self.pings.append(reconnect)
        self.ours.sendall(b"ping")
        self.ours.recv(100)


class Hidden(Connection):
    """A connection with its socket in an attribute, like PyMySQL's."""

    def __init__(self, ours: socket.socket) -> None:
        super().__init__(_sock=ours)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, servers = socket.socketpair()
    with ours, servers:
        yield ours, servers


def check_out(driver: CallableDriver[Any], connection: Any) -> bool:
    return driver.check_out(connection, threading.get_ident(), PATIENCE)


@pytest.mark.parametrize("kind", [Networked, Hidden])
def test_a_connection_that_the_server_has_ended_is_not_checked_out(
    kind: Any, ends: tuple[socket.socket, socket.socket]
) -> None:
    driver = CallableDriver[Any](lambda: kind(ends[0]))
    connection = driver.connect(PATIENCE)
    assert check_out(driver, connection)

    ends[1].close()

    assert not check_out(driver, connection)


@pytest.mark.parametrize("kind", [Networked, Hidden])
def test_the_new_socket_of_a_reconnected_connection_is_checked(
    kind: Any, ends: tuple[socket.socket, socket.socket]
) -> None:
    driver = CallableDriver[Any](lambda: kind(ends[0]))
    connection = driver.connect(PATIENCE)
    ends[1].close()
    ours, servers = socket.socketpair()
    with ours, servers:
        connection.ours = connection._sock = ours
        assert check_out(driver, connection)
        servers.close()
        assert not check_out(driver, connection)
    assert not check_out(driver, connection)


def test_another_file_with_the_number_of_a_closed_socket_is_not_taken_for_it(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    driver = CallableDriver[Any](lambda: Networked(ends[0]))
    connection = driver.connect(PATIENCE)
    number = connection.fileno()
    connection.fileno = lambda: number
    ends[0].close()
    others = socket.socketpair()
    with others[0], others[1]:
        assert number in (others[0].fileno(), others[1].fileno())
        assert not check_out(driver, connection)


def test_a_connection_without_a_socket_is_checked_out() -> None:
    driver = CallableDriver[Any](Connection)

    assert check_out(driver, driver.connect(PATIENCE))


# --- signs of life ---------------------------------------------------------------------------------------------------


def test_a_ping_never_connects_again(ends: tuple[socket.socket, socket.socket]) -> None:
    driver = CallableDriver[Any](lambda: Networked(ends[0]))
    connection = driver.connect(PATIENCE)
    ends[1].sendall(b"pong")

    driver.ping(connection, PATIENCE)

    assert connection.pings == [False]


def test_a_server_that_does_not_answer_a_ping_is_not_waited_for(ends: tuple[socket.socket, socket.socket]) -> None:
    driver = CallableDriver[Any](lambda: Networked(ends[0]))
    connection = driver.connect(PATIENCE)
    began = time.monotonic()

    driver.ping(connection, 0.1)

    assert time.monotonic() - began < PATIENCE
    assert not check_out(driver, connection)


def test_a_module_without_a_ping_is_pinged_by_a_select(driver: CallableDriver[sqlite3.Connection]) -> None:
    connection = driver.connect(PATIENCE)
    connection.isolation_level = None
    statements: list[str] = []
    connection.set_trace_callback(statements.append)

    driver.ping(connection, PATIENCE)

    assert statements == ["SELECT 1"]
    connection.close()
    with pytest.raises(sqlite3.ProgrammingError):
        driver.ping(connection, PATIENCE)


def test_an_object_without_a_cursor_is_not_pinged() -> None:
    driver = CallableDriver[Any](Connection)

    driver.ping(driver.connect(PATIENCE), PATIENCE)


# --- close() by the holder -------------------------------------------------------------------------------------------


class Closing(Connection):
    closed = 0

    def close(self) -> None:
        self.closed += 1


def test_a_connection_whose_attributes_cannot_be_read_is_closed() -> None:
    class Unreadable(Closing):
        @property
        def autocommit(self) -> bool:  # asks the server, as in mysql.connector
            raise OSError("the server has ended the session")

    connection = Unreadable()

    with pytest.raises(OSError, match="ended the session"):
        CallableDriver[Any](lambda: connection).connect(PATIENCE)

    assert connection.closed == 1


@pytest.fixture
def hooked() -> tuple[CallableDriver[Any], Any, list[str]]:
    """A driver, its connection, and the calls of its hook."""
    driver = CallableDriver[Any](Closing)
    connection = driver.connect(PATIENCE)
    calls: list[str] = []
    assert driver.set_close_hook(connection, lambda: calls.append("closed"))
    return driver, connection, calls


def test_a_close_by_the_holder_calls_the_hook(hooked: tuple[CallableDriver[Any], Any, list[str]]) -> None:
    driver, connection, calls = hooked
    check_out(driver, connection)

    connection.close()

    assert (calls, connection.closed) == (["closed"], 0)


def test_a_close_by_a_former_holder_has_no_effect(hooked: tuple[CallableDriver[Any], Any, list[str]]) -> None:
    driver, connection, calls = hooked
    check_out(driver, connection)
    driver.check_in(connection, None)
    connection.close()
    Task(lambda: check_out(driver, connection)).result()
    connection.close()

    assert (calls, connection.closed) == ([], 0)


def test_the_drivers_close_ends_the_session_despite_a_hook(
    hooked: tuple[CallableDriver[Any], Any, list[str]],
) -> None:
    driver, connection, calls = hooked
    check_out(driver, connection)

    driver.close(connection)

    assert (calls, connection.closed) == ([], 1)


def test_the_thread_that_adopts_a_connection_is_its_holder(
    hooked: tuple[CallableDriver[Any], Any, list[str]],
) -> None:
    driver, connection, calls = hooked
    check_out(driver, connection)

    def adopt_and_close() -> None:
        driver.adopt(connection, threading.get_ident())
        connection.close()

    Task(adopt_and_close).result()
    assert calls == ["closed"]
    connection.close()
    assert calls == ["closed"]


def test_an_object_that_allows_no_attribute_has_no_hook(driver: CallableDriver[sqlite3.Connection]) -> None:
    connection = driver.connect(PATIENCE)

    assert driver.set_close_hook(connection, lambda: None) is False

    driver.close(connection)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.commit()


# --- errors ----------------------------------------------------------------------------------------------------------


SQLITE_ERRORS = errors_of(sqlite3.OperationalError, sqlite3.InterfaceError)


def test_the_first_connection_makes_the_errors_those_of_its_module(
    driver: CallableDriver[sqlite3.Connection],
) -> None:
    before = driver.errors

    driver.close(driver.connect(PATIENCE))

    assert (before, driver.errors) == (PLAIN_ERRORS, SQLITE_ERRORS)


def test_the_first_error_names_the_module_too(tmp_path: Path) -> None:
    driver = CallableDriver(lambda: sqlite3.connect(tmp_path / "no folder" / "shop.db"))

    with pytest.raises(sqlite3.OperationalError):
        driver.connect(PATIENCE)

    assert driver.errors is SQLITE_ERRORS


def test_objects_of_no_module_have_the_plain_errors() -> None:
    driver = CallableDriver[Any](Connection)
    driver.connect(PATIENCE)

    assert driver.errors is PLAIN_ERRORS
