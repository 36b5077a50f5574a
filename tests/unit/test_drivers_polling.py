"""The check whether a socket has input or its end: by poll(2), or by Python without ctypes."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from wsgipool.drivers import polling
from wsgipool.drivers.polling import Predicate, is_readable


@pytest.fixture(params=["ctypes", "select"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "select":
        monkeypatch.setattr(polling, "_poll", None)


@pytest.fixture
def pair(_way: None) -> Iterator[tuple[Predicate, socket.socket]]:
    """The check of a socket, and the socket's other end."""
    here, there = socket.socketpair()
    with here, there:
        yield is_readable(here.fileno()), there


def test_a_quiet_socket_has_nothing_to_read(pair: tuple[Predicate, socket.socket]) -> None:
    question, _ = pair

    assert not any([question(), question()])


def test_sent_data_is_readable(pair: tuple[Predicate, socket.socket]) -> None:
    question, there = pair

    there.send(b"x")

    assert all([question(), question()])


@pytest.mark.parametrize("how", ["properly", "at once"])
@pytest.mark.parametrize("family", ["TCP", "Unix"])
@pytest.mark.usefixtures("_way")
def test_the_end_of_file_is_readable(family: str, how: str) -> None:
    if family == "Unix":
        here, there = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            here = socket.create_connection(server.getsockname())
            there, _ = server.accept()
    with here, there:
        question = is_readable(here.fileno())

        if how == "at once":  # over TCP: by a reset
            there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        there.close()

        assert question()
