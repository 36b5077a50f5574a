"""The end of a session, observed on a socket whose other end is the test's."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from unit.fakes import PATIENCE, Task, eventually
from wsgipool.drivers import session_end as module
from wsgipool.drivers.session_end import SessionEnd


@pytest.fixture(params=[socket.AF_UNIX, socket.AF_INET])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The client's end of a connection and the server's."""
    if request.param == socket.AF_UNIX:
        here, there = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            here = socket.create_connection(listener.getsockname())
            there, _ = listener.accept()
    with here, there:
        yield here, there


def say(here: socket.socket) -> SessionEnd:
    """Send the last command, as a driver does."""
    session_end = SessionEnd(here.fileno())
    here.send(b"quit")
    here.close()
    session_end.shut_down_writing()
    return session_end


def send_for_ever(there: socket.socket) -> None:
    while True:
        there.send(bytes(65536))


def test_a_session_is_over_when_the_server_has_closed_its_side(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    session_end = say(here)
    waiter = Task(lambda: session_end.wait(PATIENCE))
    assert there.recv(100) == b"quit"
    there.send(b"an answer that nobody reads")
    time.sleep(0.02)
    assert not waiter.done

    there.close()

    assert waiter.result()
    assert session_end.is_over()
    assert 0.02 <= session_end.seconds < PATIENCE


def test_the_server_sees_the_end_of_file_while_the_session_end_is_observed(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    here, there = ends
    session_end = say(here)

    assert [there.recv(100), there.recv(100)] == [b"quit", b""]
    assert not session_end.is_over()


def test_a_wait_for_a_silent_server_ends(ends: tuple[socket.socket, socket.socket]) -> None:
    began = time.monotonic()

    assert not say(ends[0]).wait(0.05)
    assert 0.04 < time.monotonic() - began < PATIENCE


def test_a_session_that_the_server_resets_is_over(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    session_end = say(here)

    there.close()  # with the last command unread

    assert session_end.wait(PATIENCE)


def test_a_session_whose_end_never_comes_counts_as_ended(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_WAIT", 0.05)
    session_end = say(ends[0])

    assert not session_end.is_over()
    eventually(session_end.is_over)
    assert session_end.seconds == 0.0, "not seen"


def test_an_unwanted_endless_answer_is_not_read_forever(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    session_end = SessionEnd(here.fileno(), assumed_after=0.0)
    here.close()
    session_end.shut_down_writing()

    sender = Task(lambda: send_for_ever(there))

    eventually(lambda: session_end.is_over() and sender.done)
    with pytest.raises(ConnectionError):
        sender.result()


def test_without_a_socket_the_session_counts_as_ended_after_a_time() -> None:
    began = time.monotonic()
    session_end = SessionEnd(-1, assumed_after=0.1)

    assert not session_end.is_over()
    assert session_end.wait(PATIENCE)
    assert 0.1 <= time.monotonic() - began < PATIENCE
    assert session_end.seconds == 0.0


def test_a_discarded_session_end_keeps_no_socket(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    session_end = say(here)
    assert there.recv(100) == b"quit"

    del session_end

    with pytest.raises(ConnectionError):
        send_for_ever(there)


def test_an_exception_of_a_signal_handler_is_not_a_session_end(ends: tuple[socket.socket, socket.socket]) -> None:
    session_end = say(ends[0])

    def raise_at(place: int) -> bool:
        """Raise at the n-th step of is_over(), as a signal handler may; return whether there is such a step."""
        steps = 0

        def on_step(frame: FrameType, event: str, _: object) -> Any:
            nonlocal steps
            frame.f_trace_opcodes = True
            steps += event == "opcode"
            if steps == place:
                raise TimeoutError
            return on_step

        sys.settrace(lambda frame, *_: on_step if frame.f_code is SessionEnd.is_over.__code__ else None)
        try:
            assert not session_end.is_over()
        except TimeoutError:
            return True
        finally:
            sys.settrace(None)
        return False

    places = 0
    while raise_at(places + 1):
        places += 1
    assert places > 10
    assert not session_end.is_over()
