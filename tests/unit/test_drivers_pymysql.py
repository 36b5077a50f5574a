"""The PyMySQL driver without a real server."""

from __future__ import annotations

import contextlib
import io
import itertools
import select
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pymysql
import pytest
from pymysql.connections import MAX_PACKET_LEN
from pymysql.constants import COMMAND, SERVER_STATUS
from pymysql.cursors import SSCursor

from unit.fakes import PATIENCE, Task
from unit.interrupts import ExceptionInjector, debris_ignored
from wsgipool import ConfigError, ConnectFailed, Pool
from wsgipool.config import DatabaseSettings, parse_url
from wsgipool.drivers import DEFAULT_READ_TIMEOUT, for_database
from wsgipool.drivers.connecting import Descriptor
from wsgipool.drivers.polling import is_readable
from wsgipool.drivers.pymysql import PyMySQLDriver
from wsgipool.drivers.pymysql.connection import PooledConnection
from wsgipool.drivers.pymysql.fast_reading import NEWEST_TESTED, FastConnection, connection_class


def driver(url: str) -> PyMySQLDriver:
    made = for_database(DatabaseSettings("shop", parse_url(url), "wsgipool.toml: databases.shop"))
    assert isinstance(made, PyMySQLDriver)
    return made


def connect_arguments(url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Return PyMySQL's arguments."""
    return recorded_connect(driver_of_recorder(url, monkeypatch), 30)


class Recorded(Exception):
    """Raised in place of a connect; it has the arguments."""


def driver_of_recorder(url: str, monkeypatch: pytest.MonkeyPatch) -> PyMySQLDriver:
    """Return a driver that raises `Recorded` in place of connecting."""

    def record(**arguments: object) -> None:
        raise Recorded(arguments)

    monkeypatch.setattr("wsgipool.drivers.pymysql.connection_class", lambda _: record)
    return driver(url)


def recorded_connect(mysql: PyMySQLDriver, timeout: float) -> dict[str, Any]:
    with pytest.raises(Recorded) as caught:
        mysql.connect(timeout)
    arguments: dict[str, Any] = caught.value.args[0]
    return arguments


@pytest.fixture
def silent_server() -> Iterator[int]:
    """The port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def unconnected(kind: type[PooledConnection] = FastConnection, **options: object) -> PooledConnection:
    return kind(defer_connect=True, **options)


KINDS: dict[str, type[PooledConnection]] = {"fast": FastConnection, "plain": PooledConnection}
"""The classes with and without the layer that reads rows faster."""


# --- the URL ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["mysql", "mysql+pymysql"])
def test_the_parts_of_the_url_are_pymysqls_arguments(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = connect_arguments(f"{scheme}://shop:s3cret@db:3307/orders", monkeypatch)

    assert arguments == {
        "host": "db",
        "port": 3307,
        "user": "shop",
        "password": b"s3cret",
        "database": "orders",
        "charset": "utf8mb4",
        "read_timeout": DEFAULT_READ_TIMEOUT,
        "write_timeout": DEFAULT_READ_TIMEOUT,
        "autocommit": False,
        "program_name": "wsgipool:shop",
        "connect_timeout": 10.0,
        "defer_connect": True,
    }


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("charset=utf8mb4", "utf8mb4"),
        ("init_command=SET%20time_zone%3D'%2B00:00'", "SET time_zone='+00:00'"),
        ("read_timeout=60", 60.0),
        ("write_timeout=0.5", 0.5),
        ("autocommit=true", True),
        ("autocommit=Off", False),
        ("ssl_disabled=1", True),
        ("program_name=shop", "shop"),
        ("connect_timeout=3", 3.0),
    ],
)
def test_an_option_becomes_the_type_that_pymysql_takes(
    option: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = connect_arguments(f"mysql://shop@db/orders?{option}", monkeypatch)

    assert arguments[option.partition("=")[0]] == value


def test_a_local_server_needs_no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = connect_arguments("mysql://shop@/orders?unix_socket=/run/mysqld/mysqld.sock", monkeypatch)

    assert arguments["unix_socket"] == "/run/mysqld/mysqld.sock"
    assert "host" not in arguments


def test_a_connect_ends_with_its_callers_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    mysql = driver_of_recorder("mysql://shop@db/orders?connect_timeout=3", monkeypatch)

    assert [recorded_connect(mysql, timeout)["connect_timeout"] for timeout in (2.0, 5.0)] == [2.0, 3.0]


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("mysql:///orders", "no host; write mysql://user@host/database, or for a local server"),
        ("mysql://shop@db/orders?charst=utf8mb4", "charst is not an option of mysql://; did you mean charset?"),
        ("mysql://shop@db/orders?colour=red", "colour is not an option of mysql://; known are: autocommit, "),
        ("mysql://shop@db/orders?cursorclass=x", "cursorclass is not an option of mysql://; it belongs to the program"),
        ("mysql://shop@db/orders?autocommit=maybe", "the option autocommit is true or false, not 'maybe'"),
        (
            "mysql://shop@db/orders?read_timeout=0",
            "read_timeout is a number of seconds above 0 and up to 86400, not '0'",
        ),
        (
            "mysql://shop@db/orders?read_timeout=1s",
            "read_timeout is a number of seconds above 0 and up to 86400, not '1s'",
        ),
        (
            "mysql://shop@db/orders?connect_timeout=nan",
            "connect_timeout is a number of seconds above 0 and up to 86400, not 'nan'",
        ),
        ("mysq://shop@db/orders", "no driver for mysq://; did you mean mysql?"),
    ],
)
def test_the_error_for_a_wrong_url_has_its_place_and_the_remedy(url: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        driver(url)

    assert str(caught.value).startswith("wsgipool.toml: databases.shop.url: ")
    assert remedy in str(caught.value)


def test_the_address_has_no_password() -> None:
    mysql = driver("mysql://shop:s3cret@db:3307/orders?charset=utf8mb4")

    assert mysql.address == "mysql://shop@db:3307/orders"
    assert "s3cret" not in repr(mysql)


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> dict[object, ssl.SSLContext]:
    """The shared contexts, emptied."""
    made: dict[object, ssl.SSLContext] = {}
    monkeypatch.setattr("wsgipool.drivers.pymysql.login._contexts", made)
    return made


def test_connections_share_a_tls_context(contexts: dict[object, ssl.SSLContext]) -> None:
    assert unconnected().ctx is unconnected().ctx
    assert len(contexts) == 1


def test_a_shared_context_leaves_tls_a_preference(contexts: dict[object, ssl.SSLContext]) -> None:  # noqa: ARG001
    connection = unconnected()

    assert (connection.ssl, connection._ssl_required) == (True, False)


def test_other_tls_settings_have_another_context(contexts: dict[object, ssl.SSLContext]) -> None:
    lax = unconnected()
    strict, strict_too = unconnected(ssl_verify_cert=True), unconnected(ssl_verify_cert=True)

    assert strict.ctx is strict_too.ctx
    assert (lax.ctx.verify_mode, strict.ctx.verify_mode) == (ssl.CERT_NONE, ssl.CERT_REQUIRED)
    assert len(contexts) == 2


def test_without_tls_no_context_is_made(contexts: dict[object, ssl.SSLContext]) -> None:
    unconnected(ssl_disabled=True)

    assert contexts == {}


def test_a_context_of_the_callers_own_is_used_as_it_is(contexts: dict[object, ssl.SSLContext]) -> None:
    own = ssl.create_default_context()

    assert unconnected(ssl=own).ctx is own
    assert contexts == {}


# --- silent servers --------------------------------------------------------------------------------------------------


def test_a_silent_server_fails_the_connect_in_time(silent_server: int) -> None:
    mysql = driver(f"mysql://shop@127.0.0.1:{silent_server}/orders")
    started = time.monotonic()

    with pytest.raises(pymysql.OperationalError):
        Task(lambda: mysql.connect(0.2)).result()

    assert time.monotonic() - started < 5


def test_the_pools_timeout_covers_a_silent_server(silent_server: int) -> None:
    mysql = driver(f"mysql://shop:s3cret@127.0.0.1:{silent_server}/orders?connect_timeout=60")
    pool = Pool(mysql, name="shop", max_size=1)
    started = time.monotonic()

    with pytest.raises(ConnectFailed, match=r"cannot connect pool 'shop' to mysql://shop@127\.0\.0\.1:") as caught:
        Task(lambda: pool.getconn(timeout=0.2)).result()

    assert time.monotonic() - started < 5
    assert isinstance(caught.value.__cause__, pymysql.OperationalError)


@pytest.fixture(params=KINDS)
def connected(request: pytest.FixtureRequest) -> Iterator[tuple[PooledConnection, socket.socket]]:
    """A connection after its handshake, and the server's end of its socket."""
    with connected_pair(KINDS[request.param]) as pair:
        yield pair


@contextlib.contextmanager
def connected_pair(kind: type[PooledConnection]) -> Iterator[tuple[PooledConnection, socket.socket]]:
    connection = unconnected(kind)
    connection._sock, server = socket.socketpair()
    connection.read_directly()
    connection.descriptor = Descriptor(connection._sock.fileno())
    connection.has_input = is_readable(connection._sock.fileno())
    connection._current_timeout = None
    connection.server_status = 0
    connection.remember()
    yield connection, server
    driver(MYSQL).close(connection)
    server.close()


MYSQL = "mysql://shop@db/orders"


def packet(number: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([number]) + payload


@contextlib.contextmanager
def replying(server: socket.socket, *replies: bytes) -> Iterator[list[bytes]]:
    """Answer each command with the next reply until the block ends; the list records the commands."""
    commands: list[bytes] = []
    ended = threading.Event()

    def reply() -> None:
        for one in replies:
            while not select.select([server], [], [], 0.01)[0]:
                if ended.is_set():
                    return
            commands.append(server.recv(1 << 16)[4:])
            server.sendall(one)

    answering = Task(reply)
    yield commands
    ended.set()
    answering.result()


def is_alive(connection: PooledConnection) -> bool:
    return driver(MYSQL).check_out(connection, threading.get_ident(), PATIENCE)


def test_a_quiet_socket_is_alive(connected: tuple[PooledConnection, socket.socket]) -> None:
    assert is_alive(connected[0])


def test_a_socket_that_the_server_has_closed_is_dead(connected: tuple[PooledConnection, socket.socket]) -> None:
    connection, server = connected
    server.close()

    assert not is_alive(connection)


def test_a_socket_with_unexpected_input_is_dead(connected: tuple[PooledConnection, socket.socket]) -> None:
    connection, server = connected
    server.send(b"1927 Connection was killed")

    assert not is_alive(connection)


OK = packet(1, b"\x00\x00\x00\x02\x00\x00\x00")
"""Nothing changed, no key, autocommit is on, no warnings."""


def test_a_connection_without_a_socket_is_dead() -> None:
    assert not is_alive(unconnected())


def test_an_error_of_set_character_set_is_raised_at_once(
    connected: tuple[PooledConnection, socket.socket],
) -> None:
    connection, server = connected
    driver(MYSQL).check_out(connection, threading.get_ident(), PATIENCE)
    refusal = packet(1, b"\xff" + (1115).to_bytes(2, "little") + b"#42000Unknown character set")

    with replying(server, refusal), pytest.raises(pymysql.OperationalError, match="Unknown character set"):
        connection.set_character_set("utf8mb4")


@pytest.fixture
def checked_out(connected: tuple[PooledConnection, socket.socket]) -> tuple[PooledConnection, socket.socket]:
    connection, _ = connected
    assert is_alive(connection)
    connection.has_input = lambda: False  # tests of packets send an answer before the query
    connection.server_status = SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT
    connection.remember()
    return connected


# --- packets ---------------------------------------------------------------------------------------------------------


_EOF = b"\xfe\0\0\x02\0"


class Pieces(io.RawIOBase):
    """A reader that returns a server's bytes in these pieces, then raises."""

    def __init__(self, *pieces: bytes | BaseException) -> None:
        self._pieces = list(pieces)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._pieces.pop(0) if self._pieces else b""
        if isinstance(piece, BaseException):
            raise piece
        if len(piece) > len(buffer):
            self._pieces.insert(0, piece[len(buffer) :])
            piece = piece[: len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)


def field(name: str) -> bytes:
    return b"\x03def\0\0\0" + bytes([len(name)]) + name.encode() + b"\0\x0c\x21\0\xff\0\0\0\xfd\0\0\0\0\0"


def answer(name: str, text: str) -> bytes:
    """Return an answer of one row, with a text of less than 64 KiB in a field of this name."""
    row = b"\xfc" + len(text).to_bytes(2, "little") + text.encode()
    payloads = [b"\x01", field(name), _EOF, row, _EOF]
    return b"".join(packet(1 + index, payload) for index, payload in enumerate(payloads))


def ask(connection: PooledConnection) -> tuple[str, tuple[tuple[str], ...]]:
    """Run a query; return the name of its field, and its rows."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT")
        return cursor.description[0][0], cursor.fetchall()


PARTS = {
    "nothing": 0,
    "a part of a header": 3,
    "a part of a column": 30,
    "all columns but the end of their end": len(packet(1, b"\x01") + packet(2, field("title")) + packet(3, _EOF)) - 1,
}
"""Lengths of pieces of an answer with one column named title."""


@pytest.mark.parametrize("length", [0, 1, 250, 8179, 8180, 8181, 8192, 20_000], ids=str)
def test_an_answer_may_come_in_any_two_pieces(length: int, checked_out: tuple[PooledConnection, socket.socket]) -> None:
    connection, _ = checked_out
    text = "x" * length
    whole = answer("title", text)
    for cut in {*range(1, 90), *range(len(whole) - 20, len(whole)), 8191, 8192, 8193} & set(range(len(whole))):
        reader: Any = io.BufferedReader(Pieces(whole[:cut], whole[cut:]))
        connection._rfile = reader

        assert ask(connection) == ("title", ((text,),))
        assert reader.read() == b""


def test_a_renamed_column_gets_its_new_name(
    checked_out: tuple[PooledConnection, socket.socket],
) -> None:
    connection, server = checked_out

    for name in ("title", "price", "title"):
        server.send(answer(name, "a"))
        assert ask(connection) == (name, (("a",),))


def test_a_command_that_is_longer_than_a_packet_is_sent_in_two(
    checked_out: tuple[PooledConnection, socket.socket],
) -> None:
    connection, server = checked_out
    text = b"x" * MAX_PACKET_LEN
    expected = b"\xff\xff\xff\0\x03" + text[1:] + b"\x01\0\0\x01" + text[:1]

    received = Task(lambda: server.recv(len(expected), socket.MSG_WAITALL))
    connection._execute_command(COMMAND.COM_QUERY, text)

    assert received.result() == expected


@pytest.mark.parametrize("first", range(5))
def test_a_packet_out_of_order_closes_the_connection(
    first: int, checked_out: tuple[PooledConnection, socket.socket]
) -> None:
    connection, server = checked_out
    payloads = [b"\x01", field("title"), _EOF, b"\x01a", _EOF]
    for index, payload in enumerate(payloads):
        server.send(packet(1 + index + (index >= first), payload))

    with pytest.raises(pymysql.InternalError, match=f"got {first + 2} expected {first + 1}"):
        ask(connection)

    assert not connection.open


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (b"\x01a\x01b\x01c", ("a", "b")),
        (b"\x01a", ("a",)),
        (b"", IndexError),
        (b"\x01a\x02b", AssertionError),
        (b"\x01a\xfd\xfa\0\0" + b"b" * 250, ("a", "b" * 250)),
        (b"\xff\x25\x05#70100end", pymysql.Error),
    ],
    ids=["a value too many", "a value too few", "no value", "a value cut off", "a length in more bytes", "an error"],
)
def test_an_irregular_row_is_read_as_by_pymysql(
    row: bytes, expected: Any, checked_out: tuple[PooledConnection, socket.socket]
) -> None:
    connection, server = checked_out
    payloads = [b"\x02", field("title"), field("author"), _EOF, row, _EOF]
    server.send(b"".join(packet(1 + index, payload) for index, payload in enumerate(payloads)))

    if isinstance(expected, tuple):
        assert ask(connection) == ("title", (expected,))
    else:
        with pytest.raises(expected):
            ask(connection)


def test_columns_without_an_end_are_read_as_by_pymysql(
    checked_out: tuple[PooledConnection, socket.socket],
) -> None:
    connection, server = checked_out
    payloads = [b"\x01", field("title"), b"\x04abcd", _EOF]
    server.send(b"".join(packet(1 + index, payload) for index, payload in enumerate(payloads)))

    with pytest.raises(AssertionError, match="Protocol error"):
        ask(connection)


@pytest.mark.parametrize("arrived", PARTS.values(), ids=PARTS)
def test_an_answer_that_takes_longer_than_read_timeout_ends_the_connection(
    arrived: int, checked_out: tuple[PooledConnection, socket.socket]
) -> None:
    connection, server = checked_out
    connection._read_timeout = 0.05
    server.send(answer("title", "a")[:arrived])

    with pytest.raises(pymysql.OperationalError, match=r"Lost connection to MySQL server during query .*timed out"):
        ask(connection)

    assert not connection.open


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("arrived", PARTS.values(), ids=PARTS)
def test_any_exception_while_an_answer_is_received_closes_the_connection(
    arrived: int, error: BaseException, checked_out: tuple[PooledConnection, socket.socket]
) -> None:
    connection, _ = checked_out
    first = [answer("title", "a")[:arrived]] if arrived else []
    reader: Any = io.BufferedReader(Pieces(*first, error))
    connection._rfile = reader

    with pytest.raises((pymysql.OperationalError, KeyboardInterrupt), match=r"Connection reset|^$"):
        ask(connection)

    assert not connection.open


# --- the layer that reads rows faster --------------------------------------------------------------------------------


def test_fast_reading_is_on_unless_the_url_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[bool] = []
    monkeypatch.setattr("wsgipool.drivers.pymysql.connection_class", wanted.append)

    for options in ("", "?fast_reading=true", "?fast_reading=false"):
        driver(MYSQL + options)

    assert wanted == [True, True, False]
    assert [connection_class(is_wanted) for is_wanted in (True, False)] == [FastConnection, PooledConnection]


def test_a_pymysql_newer_than_was_tested_reads_its_rows_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pymysql, "VERSION", (*NEWEST_TESTED[:2], NEWEST_TESTED[2] + 1, "final"))

    kinds = {connection_class(True) for _ in range(3)}

    assert kinds == {PooledConnection}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "PyMySQL itself reads the rows" in caplog.text


def test_the_installed_pymysql_is_the_newest_tested() -> None:
    # `make compat` runs PyMySQL's own tests with the installed version.
    assert pymysql.VERSION[:3] == NEWEST_TESTED


# --- the middle of an answer -----------------------------------------------------------------------------------------

_EOF_AND_MORE = b"\xfe\0\0\x0a\0"
_COLUMN = b"\x03def\0\0\0\x01n\0\x0c\x21\0\x01\0\0\0\x03\0\0\0\0\0"


def rows(number: int, end: bytes = _EOF) -> bytes:
    """Return an answer with the rows 1 and 2, whose first packet has this number."""
    payloads = [b"\x01", _COLUMN, _EOF, b"\x011", b"\x012", end]
    return b"".join(packet(number + index, payload) for index, payload in enumerate(payloads))


TWO_RESULTS = rows(1, _EOF_AND_MORE) + rows(7)
DUPLICATE = packet(1, b"\xff" + (1062).to_bytes(2, "little") + b"#23000Duplicate entry")


def read_row_by_row(connection: PooledConnection) -> None:
    with connection.cursor(SSCursor) as cursor:
        cursor.execute("SELECT n FROM numbers")
        assert cursor.fetchall() == [(1,), (2,)]


def read_both_results(connection: PooledConnection) -> None:
    connection.query("CALL two_results()")
    connection.next_result()


def read_one_result_and_go_on(connection: PooledConnection) -> None:
    connection.query("CALL two_results()")
    connection.ping()


def read_one_row_and_go_on(connection: PooledConnection) -> None:
    connection.query("SELECT n FROM numbers", unbuffered=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        connection.ping()


def insert_what_is_there(connection: PooledConnection) -> None:
    with pytest.raises(pymysql.IntegrityError):
        connection.query("INSERT INTO books VALUES (1)")


def commit_what_cannot_be(connection: PooledConnection) -> None:
    with pytest.raises(pymysql.IntegrityError):
        connection.commit()


COMMANDS: dict[str, tuple[Callable[[PooledConnection], object], *tuple[bytes, ...]]] = {
    "query": (lambda connection: connection.query("SELECT n FROM numbers"), rows(1)),
    "unbuffered query": (read_row_by_row, rows(1)),
    "two results": (read_both_results, TWO_RESULTS),
    "one of two results": (read_one_result_and_go_on, TWO_RESULTS, OK),
    "one of two rows": (read_one_row_and_go_on, rows(1), OK),
    "commit": (lambda connection: connection.commit(), OK),
    "rollback": (lambda connection: connection.rollback(), OK),
    "begin": (lambda connection: connection.begin(), OK),
    "autocommit": (lambda connection: connection.autocommit(False), OK),
    "select_db": (lambda connection: connection.select_db("orders"), OK),
    "ping": (lambda connection: connection.ping(), OK),
    "set_character_set": (lambda connection: connection.set_character_set("utf8mb4"), OK),
    "show_warnings": (lambda connection: connection.show_warnings(), rows(1)),
    "error to a query": (insert_what_is_there, DUPLICATE),
    "error to a commit": (commit_what_cannot_be, DUPLICATE),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_connection_with_all_answers_read_is_usable(
    command: str, checked_out: tuple[PooledConnection, socket.socket]
) -> None:
    connection, server = checked_out
    use, *answers = COMMANDS[command]

    with replying(server, *answers):
        use(connection)

    assert not connection.awaits_answer
    driver(MYSQL).check_in(connection, "rollback")
    assert connection._sock is not None


class Interrupt(BaseException):
    pass


PACKETS = dict.fromkeys(COMMANDS, 1) | {
    "query": 6,
    "unbuffered query": 6,
    "two results": 12,
    "one of two results": 13,
    "one of two rows": 7,
    "show_warnings": 6,
}
"""The packets of the answers to each command."""


@pytest.mark.parametrize(
    ("command", "passed"), [(command, number) for command in COMMANDS for number in range(PACKETS[command])]
)
def test_a_connection_interrupted_before_any_packet_of_an_answer_is_closed(
    command: str, passed: int, checked_out: tuple[PooledConnection, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, server = checked_out
    use, *answers = COMMANDS[command]
    left = iter(range(passed))
    kind = type(connection)
    read = kind._read_packet

    def interrupted(self: PooledConnection, *kind: Any) -> object:
        if next(left, None) is None:
            raise Interrupt
        return read(self, *kind)

    monkeypatch.setattr(kind, "_read_packet", interrupted)
    monkeypatch.setattr(FastConnection, "peek", lambda _: b"")  # so each packet is read separately
    # The end of a cursor's block would read them.
    with replying(server, *answers), pytest.raises((Interrupt, pymysql.OperationalError)):
        use(connection)
    monkeypatch.undo()

    with pytest.raises(pymysql.Error, match=r"before its answer was read|earlier error has closed"):
        driver(MYSQL).check_in(connection, None)


@pytest.mark.filterwarnings("ignore:Previous unbuffered result was left incomplete")
@pytest.mark.parametrize("command", ["query", "unbuffered query", "two results", "commit", "error to a query"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_after_an_exception_anywhere_in_a_command_no_holder_gets_its_answer(
    kind: type[PooledConnection], command: str
) -> None:
    use, *answers = COMMANDS[command]
    injector = ExceptionInjector(pymysql.connections.__file__, when_waiting=lambda: None)
    for place in itertools.count(1):
        with connected_pair(kind) as (connection, server), debris_ignored(AttributeError, pymysql.Error):
            assert is_alive(connection)
            assert connection._sock is not None
            connection.server_status = SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT
            connection.remember()
            connection._read_timeout = connection._current_timeout = 0.5
            connection._sock.settimeout(0.5)
            told = expected = "before its answer was read"
            with replying(server, *answers):
                try:
                    was_raised = injector.at(place, lambda: use(connection))
                except pymysql.OperationalError as error:
                    told, was_raised = str(error), True
            assert expected in told, f"at place {place}"

            with contextlib.suppress(pymysql.Error):
                driver(MYSQL).check_in(connection, None)
                assert is_alive(connection)
                with replying(server, answer("title", "a")):
                    assert ask(connection) == ("title", (("a",),)), f"at place {place}"
        if not was_raised:
            break
    assert place > 10


@pytest.mark.parametrize("command", COMMANDS)
def test_a_holder_that_goes_on_after_an_exception_gets_an_error_and_no_old_answer(
    command: str, checked_out: tuple[PooledConnection, socket.socket]
) -> None:
    connection, server = checked_out
    connection._execute_command(COMMAND.COM_QUERY, "UPDATE books SET stock = 0")
    use, *answers = COMMANDS[command]
    server.send(OK + b"".join(answers))

    with pytest.raises(pymysql.OperationalError, match="before its answer was read"):
        use(connection)

    assert not connection.open


def test_a_closed_connection_is_not_checked_out_again(checked_out: tuple[PooledConnection, socket.socket]) -> None:
    connection, _ = checked_out
    connection._force_close()

    with pytest.raises(pymysql.OperationalError, match="earlier error has closed"):
        driver(MYSQL).check_in(connection, "rollback")


def test_close_ends_the_session_as_the_server_expects(connected: tuple[PooledConnection, socket.socket]) -> None:
    connection, server = connected

    driver(MYSQL).close(connection)

    assert server.recv(100) == b"\x01\x00\x00\x00\x01"  # COM_QUIT


def test_after_a_fork_the_child_sends_nothing_to_the_server(connected: tuple[PooledConnection, socket.socket]) -> None:
    connection, server = connected

    driver(MYSQL).after_fork(connection)

    assert server.recv(100) == b""


def test_a_socket_that_was_being_closed_is_released_too(connected: tuple[PooledConnection, socket.socket]) -> None:
    connection, _ = connected
    assert connection._sock is not None
    assert connection._rfile is not None
    connection._rfile.close()
    connection._sock.close()
    assert connection._sock.fileno() == -1

    driver(MYSQL).after_fork(connection)

    assert not connection.open


def test_a_close_never_raises(connected: tuple[PooledConnection, socket.socket]) -> None:
    connection, server = connected
    server.close()
    mysql = driver(MYSQL)

    mysql.close(connection)
    mysql.close(connection)

    assert not connection.open


def test_an_unread_result_is_not_waited_for(
    connected: tuple[PooledConnection, socket.socket],
) -> None:
    connection, server = connected

    class Unread:
        unbuffered_active = True
        has_next = False

    connection._result = Unread()
    server.setblocking(False)

    with pytest.raises(pymysql.OperationalError, match="not read to its end"):
        driver(MYSQL).check_in(connection, "rollback")

    connection._result = None
    with pytest.raises(BlockingIOError):
        server.recv(100)
