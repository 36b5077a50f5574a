"""The promises of the psycopg driver alone, tested on a real PostgreSQL."""

from __future__ import annotations

import select
import socket

import psycopg
import pytest
from psycopg.rows import dict_row

from drivers.shops import Connect, PostgreSQLShop, clean, driver_of, is_alive, value
from servers.postgresql import PostgreSQL
from unit.fakes import PATIENCE, Task
from wsgipool import drivers
from wsgipool.drivers.psycopg import PsycopgDriver
from wsgipool.drivers.psycopg_connection import ready


@pytest.fixture
def shop(postgresql: PostgreSQL, postgresql_shop: str) -> PostgreSQLShop:
    return PostgreSQLShop(postgresql, postgresql_shop)


# --- connecting ------------------------------------------------------------------------------------------------------


def test_a_connection_is_what_the_url_says(shop: PostgreSQLShop, connect: Connect) -> None:
    connection = connect()

    assert isinstance(connection, psycopg.Connection)
    assert value(connection, "SELECT current_user") == value(connection, "SELECT current_database()") == shop.user
    assert value(connection, "SELECT current_setting('application_name')") == "wsgipool:shop"
    assert not connection.autocommit


OPTIONS = "autocommit=on&prepare_threshold=none&application_name=till&options=-c%20work_mem%3D1MB"


@pytest.mark.parametrize("renewed", [False, True])
def test_the_options_reach_the_session_and_outlast_its_reset(
    renewed: bool, shop: PostgreSQLShop, connect: Connect
) -> None:
    connection = connect(OPTIONS)

    if renewed:
        connection.execute("SET application_name = 'other'")
        connection.execute("SET work_mem = '2MB'")
        connection.autocommit, connection.prepare_threshold = False, 5
        clean(driver_of(f"{shop.url}?{OPTIONS}"), connection, "session")

    assert value(connection, "SELECT current_setting('application_name')") == "till"
    assert value(connection, "SELECT current_setting('work_mem')") == "1MB"
    assert (connection.autocommit, connection.prepare_threshold) == (True, None)


def test_a_local_server_is_reached_by_its_socket(shop: PostgreSQLShop) -> None:
    by_socket = shop.url.replace("127.0.0.1", "") + f"?host={shop.server.folder}"

    with driver_of(by_socket).connect(PATIENCE) as connection:
        assert value(connection, "SELECT inet_client_addr()") is None


REFUSED = {
    "English": ("FATAL", 'password authentication failed for user "shop"'),
    "Russian": ("ВАЖНО", "пользователь shop не прошёл проверку подлинности"),
}


@pytest.mark.parametrize("language", REFUSED)
def test_a_refused_password_is_recognized_in_any_language_of_the_server(language: str) -> None:
    severity, message = REFUSED[language]
    fields = [f"S{severity}", "VFATAL", "C28P01", f"M{message}", "Fauth.c", "L334", "Rauth_failed"]
    answer = "".join(f"{field}\0" for field in fields).encode() + b"\0"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        driver = driver_of(f"postgresql://shop@127.0.0.1:{port}/orders?sslmode=disable&gssencmode=disable")
        connecting = Task(lambda: driver.connect(PATIENCE))
        serving, _ = server.accept()
        with serving:
            serving.recv(1000)
            serving.sendall(b"E" + (len(answer) + 4).to_bytes(4, "big") + answer)
            with pytest.raises(psycopg.OperationalError) as caught:
                connecting.result()

    assert driver.will_be_refused_again(caught.value)
    assert str(caught.value).endswith(f"{severity}:  28P01: {message}")


def test_errors_on_an_open_connection_are_psycopgs_own(connect: Connect) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable) as caught:
        connect().execute("SELECT * FROM nowhere")

    assert str(caught.value).startswith('relation "nowhere" does not exist')
    assert "LOCATION" not in str(caught.value)


# --- the reset -------------------------------------------------------------------------------------------------------


def test_a_reset_ends_a_transaction_that_has_failed(driver: PsycopgDriver, connect: Connect) -> None:
    connection = connect()
    with pytest.raises(psycopg.errors.DivisionByZero):
        connection.execute("SELECT 1/0")

    clean(driver, connection)

    assert value(connection, "SELECT 1") == 1


@pytest.mark.parametrize("options", ["", "autocommit=on"])
def test_a_return_outside_a_transaction_sends_nothing(options: str, driver: PsycopgDriver, connect: Connect) -> None:
    connection = connect(options)
    connection.execute("UPDATE books SET stock = 7 WHERE id = 1")
    connection.commit()

    driver.check_in(connection, "rollback")

    assert not connection.answer_is_due
    assert value(connection, "SELECT stock FROM books WHERE id = 1") == 7


def test_a_session_reset_restores_psycopgs_settings(driver: PsycopgDriver, connect: Connect) -> None:
    connection = connect()
    connection.autocommit = connection.read_only = connection.deferrable = True
    connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    connection.row_factory = dict_row

    clean(driver, connection, "session")

    assert not connection.autocommit
    assert [connection.isolation_level, connection.read_only, connection.deferrable] == [None, None, None]
    assert connection.execute("SELECT 1 AS one").fetchone() == (1,)


@pytest.mark.parametrize("how", ["rollback", "session"])
def test_statements_that_psycopg_has_prepared_end_with_a_reset(
    how: drivers.Reset, driver: PsycopgDriver, connect: Connect
) -> None:
    connection = connect()

    for kind in ("INT", "TEXT"):
        connection.execute(f"CREATE TEMPORARY TABLE basket (item {kind})")
        for _ in range(8):  # prepared at the sixth
            connection.execute("SELECT * FROM basket")
        clean(driver, connection, how)

    assert value(connection, "SELECT count(*) FROM books") == 2


def test_an_open_pipeline_makes_a_connection_unusable(driver: PsycopgDriver, connect: Connect) -> None:
    connection = connect()
    left_open = connection.pipeline()
    left_open.__enter__()

    with pytest.raises(psycopg.OperationalError, match="a pipeline was left open"):
        driver.check_in(connection, "rollback")


@pytest.mark.parametrize("statement", [None, "SELECT 1"])
def test_an_open_transaction_block_makes_a_connection_unusable(
    statement: str | None, driver: PsycopgDriver, connect: Connect
) -> None:
    connection = connect()
    left_open = connection.transaction()
    left_open.__enter__()
    if statement is None:
        connection.pgconn.exec_(b"ROLLBACK")

    with pytest.raises(psycopg.ProgrammingError, match="forbidden within a Transaction"):
        clean(driver, connection)


def test_an_error_in_answer_to_a_command_is_raised(driver: PsycopgDriver, connect: Connect) -> None:
    connection = connect()
    connection.send(b"DISCARD NOTHING")

    with pytest.raises(psycopg.OperationalError, match="syntax error"):
        is_alive(driver, connection)


# --- alive or not ----------------------------------------------------------------------------------------------------


def test_a_notification_is_a_sign_of_life_and_reaches_its_handler(driver: PsycopgDriver, connect: Connect) -> None:
    listening, other = connect("autocommit=on"), connect("autocommit=on")
    heard: list[str] = []
    listening.add_notify_handler(lambda notification: heard.append(notification.payload))
    listening.execute("LISTEN orders")
    other.execute("NOTIFY orders, 'one book'")
    assert ready(listening.fileno(), select.POLLIN, PATIENCE)

    assert is_alive(driver, listening)

    assert heard == ["one book"]


def test_the_reason_for_the_end_is_enough_even_before_the_end(driver: PsycopgDriver) -> None:
    """The server sends the reason for a session's end, and closes the socket a moment later."""
    fatal = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        url = f"postgresql://shop@127.0.0.1:{port}/orders?sslmode=disable&gssencmode=disable"
        connecting = Task(lambda: driver_of(url).connect(PATIENCE))
        serving, _ = server.accept()
        with serving:
            serving.recv(1000)
            serving.sendall(b"R\0\0\0\x08\0\0\0\0" + b"Z\0\0\0\x05I")
            connection = connecting.result()
            serving.sendall(b"E" + (len(fatal) + 4).to_bytes(4, "big") + fatal)
            assert ready(connection.fileno(), select.POLLIN, PATIENCE)

            assert not is_alive(driver, connection)

    driver.close(connection)


def test_a_ping_begins_no_transaction(driver: PsycopgDriver, connect: Connect) -> None:
    connection = connect()

    driver.ping(connection, PATIENCE)
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


# --- errors ----------------------------------------------------------------------------------------------------------


def test_a_serialization_failure_can_be_run_again(driver: PsycopgDriver, connect: Connect) -> None:
    one, other = connect(), connect("autocommit=on")
    one.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    one.execute("SELECT 1")
    other.execute("UPDATE books SET stock = 2 WHERE id = 1")

    with pytest.raises(psycopg.OperationalError) as caught:
        one.execute("UPDATE books SET stock = 1 WHERE id = 1")

    assert caught.value.sqlstate == "40001"
    assert driver.can_run_again(caught.value)
