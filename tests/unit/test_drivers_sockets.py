"""Has a socket something to read: by the C library, and by Python where there is no ctypes."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from unit.fakes import PATIENCE, Task
from wsgipool.drivers import sockets
from wsgipool.drivers.sockets import Question, is_readable, seen_to_the_end


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

    assert [question(), question()] == [False, False]


def test_what_was_sent_is_there_to_read(pair: tuple[Question, socket.socket]) -> None:
    question, there = pair

    there.send(b"x")

    assert [question(), question()] == [True, True]


def test_an_end_can_be_read(pair: tuple[Question, socket.socket]) -> None:
    question, there = pair

    there.close()

    assert question()


def test_a_goodbye_waits_for_the_other_end() -> None:
    here, there = socket.socketpair()

    def say_goodbye() -> None:
        with seen_to_the_end(here.fileno(), PATIENCE):
            here.send(b"goodbye")
            here.close()

    goodbye = Task(say_goodbye)
    assert there.recv(100) == b"goodbye"
    there.send(b"an answer that nobody reads")
    time.sleep(0.02)
    assert not goodbye.done
    there.close()

    goodbye.result()


def test_a_goodbye_to_an_end_that_says_nothing_is_not_for_ever() -> None:
    here, there = socket.socketpair()
    began = time.monotonic()

    with there, seen_to_the_end(here.fileno(), 0.05):
        here.close()

    assert 0.04 < time.monotonic() - began < PATIENCE


@pytest.mark.parametrize("patience", [0.0, PATIENCE])
def test_what_is_closed_already_is_not_waited_for(patience: float) -> None:
    with seen_to_the_end(-1, patience):
        pass
