"""Is a socket open, has it something to read: by its state, by the C library, by Python where there is no ctypes."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from wsgipool.drivers import sockets
from wsgipool.drivers.sockets import OPEN, Question, is_readable, state_of


@pytest.fixture(params=["ctypes", "select"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "select":
        monkeypatch.setattr(sockets, "_poll", None)


@pytest.fixture
def pair(_way: None) -> Iterator[tuple[Question, socket.socket]]:
    """The question about a socket, and its other end."""
    here, there = socket.socketpair()
    with here, there:
        yield is_readable(here.fileno()), there


def test_a_quiet_socket_has_nothing_to_read(pair: tuple[Question, socket.socket]) -> None:
    question, _ = pair

    assert not any([question(), question()])


def test_what_was_sent_is_there_to_read(pair: tuple[Question, socket.socket]) -> None:
    question, there = pair

    there.send(b"x")

    assert all([question(), question()])


def test_an_end_can_be_read(pair: tuple[Question, socket.socket]) -> None:
    question, there = pair

    there.close()

    assert question()


# --- is it open ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["TCP", "TCP by poll", "Unix"])
def ends(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection."""
    if request.param == "TCP by poll":
        monkeypatch.setattr(sockets, "_TCP_INFO", None)
    if request.param == "Unix":
        here, there = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            here = socket.create_connection(server.getsockname())
            there, _ = server.accept()
    with here, there:
        yield here, there


def test_a_quiet_socket_is_open(ends: tuple[socket.socket, socket.socket]) -> None:
    assert state_of(ends[0])() == OPEN


@pytest.mark.parametrize("how", ["properly", "at once"])
def test_a_socket_whose_other_end_was_closed_is_not_open(how: str, ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    state = state_of(here)

    if how == "at once":  # over TCP by a reset
        there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    there.close()

    assert state() != OPEN
