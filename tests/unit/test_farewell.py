"""When has a server ended a session? Seen on a socket of which the test has the other end."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from unit.fakes import PATIENCE, Task, eventually
from wsgipool import farewell as module
from wsgipool.farewell import Farewell


@pytest.fixture(params=[socket.AF_UNIX, socket.AF_INET])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our end of a connection and the server's."""
    if request.param == socket.AF_UNIX:
        here, there = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            here = socket.create_connection(listener.getsockname())
            there, _ = listener.accept()
    with here, there:
        yield here, there


def say(here: socket.socket) -> Farewell:
    """Say goodbye as a driver does."""
    farewell = Farewell(here.fileno())
    here.send(b"goodbye")
    here.close()
    farewell.hang_up()
    return farewell


def send_for_ever(there: socket.socket) -> None:
    while True:
        there.send(bytes(65536))


def test_a_session_is_over_when_the_server_has_closed_its_side(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    farewell = say(here)
    waiter = Task(lambda: farewell.wait(PATIENCE))
    assert there.recv(100) == b"goodbye"
    there.send(b"an answer that nobody reads")
    time.sleep(0.02)
    assert not waiter.done

    there.close()

    assert waiter.result()
    assert farewell.is_over()
    assert 0.02 <= farewell.seconds < PATIENCE


def test_the_server_hears_that_nothing_more_comes_though_we_still_look(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    here, there = ends
    farewell = say(here)

    assert [there.recv(100), there.recv(100)] == [b"goodbye", b""]
    assert not farewell.is_over()


def test_a_wait_for_a_server_that_says_nothing_ends(ends: tuple[socket.socket, socket.socket]) -> None:
    began = time.monotonic()

    assert not say(ends[0]).wait(0.05)
    assert 0.04 < time.monotonic() - began < PATIENCE


def test_a_session_that_the_server_resets_is_over(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    farewell = say(here)

    there.close()  # with our goodbye unread in it

    assert farewell.wait(PATIENCE)


def test_a_server_that_does_not_come_to_an_end_is_taken_for_gone(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST", 0.05)
    farewell = say(ends[0])

    assert not farewell.is_over()
    eventually(farewell.is_over)
    assert farewell.seconds == 0.0, "not seen"


def test_an_answer_that_nobody_wants_is_not_read_for_ever(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    farewell = Farewell(here.fileno(), unseen=0.0)
    here.close()
    farewell.hang_up()

    sender = Task(lambda: send_for_ever(there))

    eventually(lambda: farewell.is_over() and sender.done)
    with pytest.raises(ConnectionError):
        sender.result()


def test_without_a_socket_some_time_has_to_do() -> None:
    began = time.monotonic()
    farewell = Farewell(-1, unseen=0.1)

    assert not farewell.is_over()
    assert farewell.wait(PATIENCE)
    assert 0.1 <= time.monotonic() - began < PATIENCE
    assert farewell.seconds == 0.0


def test_a_farewell_that_nobody_looks_at_keeps_no_socket(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    farewell = say(here)
    assert there.recv(100) == b"goodbye"

    del farewell

    with pytest.raises(ConnectionError):
        send_for_ever(there)


def test_what_a_signal_handler_raises_is_no_end_of_a_session(ends: tuple[socket.socket, socket.socket]) -> None:
    farewell = say(ends[0])

    def strike(place: int) -> bool:
        """Raise at the n-th step of a look, as a handler of SIGALRM may; return whether there is such a step."""
        steps = 0

        def on_step(frame: FrameType, event: str, _: object) -> Any:
            nonlocal steps
            frame.f_trace_opcodes = True
            steps += event == "opcode"
            if steps == place:
                raise TimeoutError
            return on_step

        sys.settrace(lambda frame, *_: on_step if frame.f_code is Farewell.is_over.__code__ else None)
        try:
            assert not farewell.is_over()
        except TimeoutError:
            return True
        finally:
            sys.settrace(None)
        return False

    places = 0
    while strike(places + 1):
        places += 1
    assert places > 10
    assert not farewell.is_over()
