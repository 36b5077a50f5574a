"""Deadlines for calls into C libraries, by a shutdown of their socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from unit.fakes import PATIENCE, Task
from wsgipool.drivers.connecting import Descriptor
from wsgipool.drivers.deadline import shut_down_after


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def test_a_read_that_takes_too_long_ends_with_the_socket(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = ends

    def wait() -> bytes:
        with shut_down_after(0.05, Descriptor(ours.fileno())):
            return ours.recv(100)

    assert Task(wait).result() == b""


def test_a_block_that_ends_in_time_keeps_its_socket_and_leaves_no_thread(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, other = ends
    threads = threading.active_count()

    with shut_down_after(PATIENCE, Descriptor(ours.fileno())):
        other.send(b"answer")
        assert ours.recv(100) == b"answer"

    assert threading.active_count() == threads
    ours.send(b"next question")
    assert other.recv(100) == b"next question"


def test_a_socket_that_was_closed_meanwhile_is_left_alone(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = ends
    descriptor = Descriptor(ours.fileno())
    ours.close()

    descriptor.shut_down()
