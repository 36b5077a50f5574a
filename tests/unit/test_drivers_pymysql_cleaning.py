"""The cleaning of a PyMySQL connection between two holders, with a scripted server."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pymysql
import pytest
from pymysql.constants import FIELD_TYPE, SERVER_STATUS
from pymysql.cursors import DictCursor

from unit.fakes import PATIENCE, Task
from unit.test_drivers_pymysql import KINDS, MYSQL, answer, connected_pair, driver, packet, replying
from wsgipool.drivers import CLEANING_TIMEOUT
from wsgipool.drivers.pymysql.connection import PooledConnection

Ends = tuple[PooledConnection, socket.socket]

IN_TRANSACTION = b"\x00\x00\x00\x01\x00\x00\x00"
AUTOCOMMIT = b"\x00\x00\x00\x02\x00\x00\x00"
"""Payloads of OK packets: nothing changed, no key, the status, no warnings."""


def refusal(code: int, state: str, text: str) -> bytes:
    return b"\xff" + code.to_bytes(2, "little") + b"#" + state.encode() + text.encode()


@pytest.fixture(params=KINDS)
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """A connection that a thread holds and has used, and the server's end of its socket."""
    with connected_pair(KINDS[request.param]) as (connection, server):
        assert check_out(connection)
        with replying(server, packet(1, bytes(7))):
            connection.ping()
        yield connection, server


def check_out(connection: PooledConnection) -> bool:
    return driver(MYSQL).check_out(connection, threading.get_ident(), PATIENCE)


def check_in(connection: PooledConnection, how: Any = "rollback", pipeline: bool = True) -> None:
    driver(MYSQL).check_in(connection, how, pipeline)


def sent(server: socket.socket) -> list[bytes]:
    """Return the commands sent to the server so far, without their headers."""
    server.setblocking(False)
    try:
        received = server.recv(1 << 16)
    except BlockingIOError:
        received = b""
    commands = []
    while received:
        length = int.from_bytes(received[:3], "little")
        commands.append(received[4 : 4 + length])
        received = received[4 + length :]
    return commands


# --- the answer to the cleaning --------------------------------------------------------------------------------------


@pytest.mark.parametrize("read_timeout", [None, 30.0])
def test_the_answer_to_a_rollback_proves_a_connection_alive(ends: Ends, read_timeout: float | None) -> None:
    connection, server = ends
    driver(MYSQL).set_read_timeout(connection, read_timeout or PATIENCE)
    check_in(connection)
    assert sent(server) == [b"\x03ROLLBACK AND NO CHAIN NO RELEASE"]
    server.send(packet(1, AUTOCOMMIT))

    assert check_out(connection)
    assert connection.server_status == SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT


def test_an_unused_connection_is_returned_without_a_rollback(ends: Ends) -> None:
    connection, server = ends
    check_in(connection)
    assert sent(server) == [b"\x03ROLLBACK AND NO CHAIN NO RELEASE"]
    server.send(packet(1, bytes(7)))

    assert check_out(connection)
    check_in(connection)

    assert sent(server) == []


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_an_ended_transaction_is_not_rolled_back(ends: Ends, end: str) -> None:
    connection, server = ends
    with replying(server, packet(1, bytes(7))):
        getattr(connection, end)()

    check_in(connection)

    assert sent(server) == []
    assert check_out(connection)


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_transaction_that_follows_an_ended_one_is_rolled_back(ends: Ends, end: str) -> None:
    connection, server = ends
    with replying(server, packet(1, bytes(7))):
        getattr(connection, end)()
    with replying(server, packet(1, bytes(7))):
        connection.query("SELECT 1")

    check_in(connection)

    assert sent(server) == [b"\x03ROLLBACK AND NO CHAIN NO RELEASE"]


def test_a_chained_transaction_is_rolled_back(ends: Ends) -> None:
    connection, server = ends
    with replying(server, packet(1, IN_TRANSACTION)):
        connection.commit()  # with completion_type = CHAIN

    check_in(connection)

    assert sent(server) == [b"\x03ROLLBACK AND NO CHAIN NO RELEASE"]


def test_the_answer_to_a_rollback_may_arrive_in_parts(ends: Ends) -> None:
    connection, server = ends
    check_in(connection)
    server.send(packet(1, AUTOCOMMIT)[:5])
    reader = Task(lambda: driver(MYSQL).check_out(connection, threading.get_ident(), PATIENCE))
    server.send(packet(1, AUTOCOMMIT)[5:])

    assert reader.result()


def test_the_answer_to_a_rollback_may_have_a_text(ends: Ends) -> None:
    connection, server = ends
    check_in(connection)
    server.send(packet(1, AUTOCOMMIT + b"so be it"))

    assert check_out(connection)


@pytest.mark.parametrize("how", ["rollback", "session"])
def test_a_close_by_the_server_after_its_answer_is_noticed(ends: Ends, how: str) -> None:
    connection, server = ends
    check_in(connection, how)
    server.send(packet(1, AUTOCOMMIT) * len(sent(server)))
    server.close()

    with contextlib.suppress(pymysql.OperationalError):
        assert not check_out(connection)


def test_a_refused_rollback_ends_the_connection(ends: Ends) -> None:
    connection, server = ends
    check_in(connection)
    server.send(packet(1, refusal(1317, "70100", "interrupted")))

    with pytest.raises(pymysql.OperationalError, match="interrupted"):
        check_out(connection)

    assert not connection.open


def test_no_holder_waits_for_a_long_rollback(ends: Ends) -> None:
    connection, _ = ends
    check_in(connection)
    began = time.monotonic()

    with pytest.raises(pymysql.OperationalError, match="did not clean the session within"):
        check_out(connection)

    assert time.monotonic() - began < CLEANING_TIMEOUT + PATIENCE / 2
    assert not connection.open


@pytest.mark.parametrize(
    "reply",
    [
        packet(1, b"\x01"),
        answer("title", "rows"),
        packet(1, AUTOCOMMIT) + packet(1, AUTOCOMMIT),
        packet(1, AUTOCOMMIT[:3] + b"\x0a\x00\x00\x00"),
        packet(2, AUTOCOMMIT),
        packet(1, b"\xfe\x00\x00\x02\x00"),
        b"\xff\xff\xff\x01",
        (2_000_000).to_bytes(3, "little") + packet(1, AUTOCOMMIT)[3:],
        packet(1, b""),
    ],
    ids=[
        "columns", "rows", "two answers", "more results", "a number too high", "an end", "16 MiB", "2 MB", "no byte"
    ],
)  # fmt: skip
@pytest.mark.parametrize("how", ["rollback", "session"])
def test_only_an_ok_is_accepted_as_the_answer_to_a_reset(ends: Ends, reply: bytes, how: str) -> None:
    connection, server = ends
    check_in(connection, how)
    if how == "session":
        reply = packet(1, AUTOCOMMIT) * (len(sent(server)) - 1) + reply
    server.sendall(reply)

    with pytest.raises((pymysql.Error, IndexError)):
        check_out(connection)

    assert not connection.open


def test_a_server_that_sends_slowly_gains_no_time(ends: Ends) -> None:
    connection, server = ends
    check_in(connection)
    ended = threading.Event()

    def trickle() -> None:
        for byte in packet(1, AUTOCOMMIT + b"x" * 200):
            if ended.wait(CLEANING_TIMEOUT / 3):
                return
            server.send(bytes([byte]))

    sender = Task(trickle)
    began = time.monotonic()
    with pytest.raises(pymysql.OperationalError, match="did not clean the session within"):
        check_out(connection)
    took = time.monotonic() - began
    ended.set()
    sender.result()

    assert took < CLEANING_TIMEOUT * 20


def test_without_pipeline_each_command_waits_for_the_answer_to_the_one_before(ends: Ends) -> None:
    connection, server = ends

    with replying(server, *[packet(1, AUTOCOMMIT)] * 4) as commands:
        check_in(connection, "session", pipeline=False)

    assert [command[:14] for command in commands[1:]] == [
        b"\x1f",
        b"\x03SET NAMES utf",
        b"\x03SET AUTOCOMMI",
    ]
    assert check_out(connection)


# --- unexpected answers --------------------------------------------------------------------------------------------


def test_an_unexpected_answer_is_not_taken_for_the_next_one(ends: Ends) -> None:
    connection, server = ends

    with connection.cursor() as cursor:
        with replying(server, answer("title", "A") + answer("title", "A again")):
            cursor.execute("SELECT 'A'")
        assert cursor.fetchall() == (("A",),)
        with pytest.raises(pymysql.OperationalError, match="unexpected answer"):
            cursor.execute("SELECT 'B'")

    assert not connection.open


def test_an_unexpected_answer_closes_the_connection_before_its_next_holder(ends: Ends) -> None:
    connection, server = ends
    with replying(server, answer("title", "A") + answer("title", "A again")):
        connection.query("SELECT 'A'")

    with pytest.raises(pymysql.OperationalError, match="unexpected answer"):
        driver(MYSQL).check_in(connection, None)


def test_a_later_unexpected_answer_closes_the_connection_before_its_next_holder(ends: Ends) -> None:
    connection, server = ends
    driver(MYSQL).check_in(connection, None)
    server.send(answer("title", "A again"))

    assert not check_out(connection)


@pytest.mark.parametrize(
    ("words", "code"),
    [(packet(0, refusal(4031, "HY000", "disconnected by the server because of inactivity")), 4031), (b"", 2006)],
)
def test_the_error_of_an_ended_session_has_the_servers_reason(ends: Ends, words: bytes, code: int) -> None:
    connection, server = ends
    server.send(words)
    server.shutdown(socket.SHUT_WR)

    with pytest.raises(pymysql.OperationalError) as caught:
        connection.query("SELECT 1")

    assert caught.value.args[0] == code
    with pytest.raises(pymysql.OperationalError, match=r"earlier error has closed.*putconn"):
        connection.query("SELECT 1")


# --- an exception of the program is no answer ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [pymysql.DataError("1"), pymysql.OperationalError(2013, "lost"), pymysql.Error(), ValueError(), KeyError()]
)
def test_a_converter_that_raises_leaves_no_answer_for_the_next_statement(ends: Ends, error: Exception) -> None:
    connection, server = ends

    def convert(_text: str) -> None:
        raise error

    connection.decoders = {**connection.decoders, FIELD_TYPE.VAR_STRING: convert}
    with replying(server, answer("title", "A")), pytest.raises(type(error)):
        connection.query("SELECT 'A'")

    with pytest.raises(pymysql.OperationalError, match="before its answer was read"):
        connection.query("SELECT 'B'")
    with pytest.raises(pymysql.Error):
        check_in(connection)


def test_a_refused_statement_is_followed_by_the_next_one(ends: Ends) -> None:
    connection, server = ends
    error = packet(1, refusal(1064, "42000", "You have an error in your SQL syntax"))

    with replying(server, error, answer("title", "B")):
        with pytest.raises(pymysql.ProgrammingError):
            connection.query("SELECT")
        with connection.cursor() as cursor:
            cursor.execute("SELECT 'B'")
            assert cursor.fetchall() == (("B",),)


# --- changes by a holder ---------------------------------------------------------------------------------------------


def _changes() -> dict[str, Any]:
    def decoders(connection: Any) -> None:
        connection.decoders = {**connection.decoders, FIELD_TYPE.LONG: str}

    def decoders_in_place(connection: Any) -> None:
        connection.decoders[FIELD_TYPE.LONG] = str

    def encoders_in_place(connection: Any) -> None:
        connection.encoders.clear()

    def method(connection: Any) -> None:
        connection.cursor = None

    def attribute(name: str, value: object) -> Any:
        return lambda connection: setattr(connection, name, value)

    names = {
        "cursorclass": DictCursor, "use_unicode": False, "_read_timeout": 0.001, "_write_timeout": 0.001,
        "init_command": "garbage", "sql_mode": "garbage", "max_allowed_packet": 1, "autocommit_mode": None,
        "encoding": "ascii", "_local_infile": True, "a_mark_of_its_own": 1,
    }  # fmt: skip
    return {
        **{name: attribute(name, value) for name, value in names.items()},
        **{one.__name__: one for one in (decoders, decoders_in_place, encoders_in_place, method)},
    }


def public(connection: PooledConnection) -> dict[str, object]:
    unlike = ("decoders", "encoders")
    return {name: value for name, value in vars(connection).items() if name[0] != "_" and name not in unlike}


@pytest.mark.parametrize("how", ["rollback", "session", None])
@pytest.mark.parametrize("change", _changes())
def test_a_holders_changes_of_the_object_are_restored(ends: Ends, change: str, how: str | None) -> None:
    connection, server = ends
    before = public(connection)
    settings = (dict(connection.decoders), dict(connection.encoders), connection._read_timeout)

    for _ in range(2):
        _changes()[change](connection)
        check_in(connection, how)
        server.send(packet(1, IN_TRANSACTION) * len(sent(server)))
        assert check_out(connection)
        with replying(server, packet(1, bytes(7))):
            connection.ping()

        after = public(connection)
        assert after.keys() == before.keys()
        assert {name for name in after if after[name] != before[name]} <= {"sent_at", "server_status"}
        assert (connection.decoders, connection.encoders, connection._read_timeout) == settings


@pytest.mark.parametrize("how", ["rollback", None])
def test_a_holders_autocommit_is_restored(ends: Ends, how: str | None) -> None:
    connection, server = ends
    with replying(server, packet(1, AUTOCOMMIT)):
        connection.autocommit(True)

    check_in(connection, how)

    assert sent(server) == [b"\x03SET AUTOCOMMIT = 0"]


def test_a_holders_character_set_is_restored_on_both_sides(ends: Ends) -> None:
    connection, server = ends
    with replying(server, packet(1, AUTOCOMMIT)):
        connection.set_character_set("latin1")

    check_in(connection, None)

    assert b"\x03SET NAMES utf8mb4" in sent(server)
    assert (connection.charset, connection.encoding) == ("utf8mb4", "utf8")


@pytest.mark.parametrize("code", [1047, 1053, 1290, 1836, 3032, 3100, 3101])
def test_a_connection_of_a_server_that_can_do_no_work_is_closed(ends: Ends, code: int) -> None:
    connection, server = ends
    with replying(server, packet(1, refusal(code, "HY000", "no"))), pytest.raises(pymysql.Error):
        connection.query("UPDATE books SET stock = 0")

    with pytest.raises(pymysql.Error) as caught:
        check_in(connection)

    assert caught.value.args[0] == code


def test_any_sqlstate_of_a_connection_exception_counts(ends: Ends) -> None:
    connection, server = ends
    with replying(server, packet(1, refusal(9999, "08S01", "no"))), pytest.raises(pymysql.Error):
        connection.query("UPDATE books SET stock = 0")

    with pytest.raises(pymysql.Error):
        check_in(connection)
