"""The pool's connection reads any answer as PyMySQL does: in any pieces, valid or damaged.

So the pool may read answers in its own way.
"""

from __future__ import annotations

import io
import itertools
import socket
from typing import Any

import pymysql
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pymysql.connections import Connection
from pymysql.constants import FIELD_TYPE, SERVER_STATUS

from unit.test_drivers_pymysql import Pieces, field, packet
from wsgipool.drivers.pymysql.connection import PooledConnection
from wsgipool.drivers.pymysql.fast_reading import FastConnection

VALUES: dict[int, st.SearchStrategy[bytes]] = {
    FIELD_TYPE.LONG: st.integers(-(2**31), 2**31).map(lambda number: b"%d" % number),
    FIELD_TYPE.DOUBLE: st.floats(allow_nan=False, allow_infinity=False).map(lambda number: repr(number).encode()),
    FIELD_TYPE.NEWDECIMAL: st.decimals(allow_nan=False, allow_infinity=False, places=2).map(lambda n: str(n).encode()),
    FIELD_TYPE.DATETIME: st.datetimes().map(lambda moment: moment.isoformat(" ").encode()),
    FIELD_TYPE.TIMESTAMP: st.just(b"0000-00-00 00:00:00"),
    FIELD_TYPE.VAR_STRING: st.text(max_size=20).map(str.encode)
    | st.integers(240, 9000).map(lambda length: b"x" * length),
    FIELD_TYPE.BLOB: st.binary(max_size=300),
    FIELD_TYPE.NULL: st.nothing(),
}
"""The values that a server sends for a column of each type, if not NULL."""

UTF8, BINARY = 33, 63
"""Character sets of a column."""


def said_with_its_length(value: bytes | None) -> bytes:
    if value is None:
        return b"\xfb"
    if len(value) < 251:
        return bytes([len(value)]) + value
    return b"\xfc" + len(value).to_bytes(2, "little") + value


def end(warnings: int, status: int) -> bytes:
    return b"\xfe" + warnings.to_bytes(2, "little") + status.to_bytes(2, "little")


def numbered(payloads: list[bytes], first: int = 1) -> bytes:
    numbers = [first, *range(2, 1 + len(payloads))]
    return b"".join(packet(number % 256, payload) for number, payload in zip(numbers, payloads, strict=True))


@st.composite
def results(draw: st.DrawFn, status: int) -> list[bytes]:
    """Return the packets of a result."""
    kinds = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=4))
    payloads = [bytes([len(kinds)])]
    for kind in kinds:
        name = said_with_its_length(draw(st.sampled_from(["id", "title", "preis_€"])).encode())
        charset = draw(st.sampled_from([UTF8, BINARY])).to_bytes(2, "little")
        payloads.append(b"\x03def\0\0\0%b\0\x0c%b\xff\0\0\0%c" % (name, charset, kind) + bytes(5))
    payloads.append(end(0, status))
    for _ in range(draw(st.integers(0, 6))):
        payloads.append(b"".join(said_with_its_length(draw(st.none() | VALUES[kind])) for kind in kinds))
    return [*payloads, draw(st.just(end(3, status)) | st.just(KILLED))]


OK = b"\0\x03\x07\x02\0\x01\0"
"""An OK packet: 3 changed rows, the new key 7, one warning."""
KILLED = b"\xff\x25\x05#70100Query execution was interrupted"


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Return the bytes of an answer: any results, then an end. Half of the answers have a wrong byte."""
    more = SERVER_STATUS.SERVER_MORE_RESULTS_EXISTS | SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT
    payloads: list[bytes] = []
    for _ in range(draw(st.integers(0, 2))):
        payloads += draw(results(more))
    payloads += draw(results(SERVER_STATUS.SERVER_STATUS_IN_TRANS) | st.sampled_from([[OK], [KILLED]]))
    packets = [packet((1 + index) % 256, payload) for index, payload in enumerate(payloads)]
    if draw(st.booleans()):
        number = draw(st.integers(0, len(packets) - 1))
        broken = bytearray(packets[number])
        # The beginning matters most.
        place = draw(st.integers(0, 4) | st.integers(0, len(broken) - 1))
        broken[place] = draw(st.sampled_from([0, 1, (broken[place] + 1) % 256, 254, 255]) | st.integers(0, 255))
        packets[number] = bytes(broken)
    return b"".join(packets)


def outcomes(kind: Any, pieces: list[bytes]) -> list[object]:
    """Return the results that a connection reads from these pieces, up to the end or the first error."""
    connection = kind(defer_connect=True, ssl_disabled=True)
    connection._sock = socket.socket()
    reader = connection._rfile = io.BufferedReader(Pieces(*pieces))
    connection._current_timeout = None
    connection.server_status = 0
    connection._next_seq_id = 1
    seen: list[object] = []
    try:
        connection._read_query_result()
        while True:
            result = connection._result
            seen.append(
                [
                    result.rows,
                    result.description,
                    [field.__dict__ for field in result.fields] if result.description else None,
                    result.affected_rows,
                    result.insert_id,
                    result.warning_count % 65536,  # PyMySQL reads large numbers as negative
                    connection.server_status,
                    connection._next_seq_id,
                ]
            )
            if not result.has_next:
                return [*seen, reader.read()]
            connection._read_query_result()
    except pymysql.Error as error:
        return [*seen, error.args, connection.open]
    except Exception:
        return [*seen, "not an answer", connection.open]
    finally:
        connection._force_close()


@example(answer=numbered([b"\x01", field("n"), end(0, 0), b"\x011", end(0, 0)], first=0), cuts=[])
@example(answer=numbered([b"\x01", field("n"), end(0, 0), b"\x011", end(0, 0)[:1], end(0, 0)]), cuts=[])
@settings(max_examples=settings().max_examples // 4)
@given(answer=answers(), cuts=st.lists(st.integers(0, 10_000), max_size=5))
def test_an_answer_is_read_as_by_pymysql(answer: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(answer), *(cut % len(answer) for cut in cuts)})
    pieces = [answer[start:stop] for start, stop in itertools.pairwise(places)]

    expected = outcomes(Connection, pieces)
    assert outcomes(FastConnection, pieces) == expected
    assert outcomes(PooledConnection, pieces) == expected
