"""A socket whose timeout the kernel keeps behaves as one with Python's timeout."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from time import monotonic

import pytest

from unit.fakes import PATIENCE, Task
from wsgipool.drivers.timed_socket import TimedSocket

SHORT = 0.05

Ends = tuple[TimedSocket, socket.socket]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def ends(listener: socket.socket) -> Iterator[Ends]:
    """A connected socket with a timeout of `PATIENCE`, and its other end."""
    with TimedSocket() as ours:
        ours.settimeout(PATIENCE)
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
        with theirs:
            yield ours, theirs


def test_python_does_not_poll(ends: Ends) -> None:
    ours, _ = ends

    assert socket.socket.gettimeout(ours) is None
    assert ours.gettimeout() == PATIENCE


@pytest.mark.parametrize("seconds", [SHORT, 1e-9])
def test_a_receive_ends_after_the_timeout(ends: Ends, seconds: float) -> None:
    ours, _ = ends
    ours.settimeout(seconds)
    began = monotonic()

    with pytest.raises(TimeoutError, match=r"^timed out$"):
        Task(lambda: ours.recv_into(bytearray(1))).result()

    assert monotonic() - began >= seconds


def test_a_send_ends_after_the_timeout_if_the_other_end_takes_nothing(ends: Ends) -> None:
    ours, _ = ends
    ours.settimeout(SHORT)

    with pytest.raises(TimeoutError, match=r"^timed out$"):
        Task(lambda: ours.sendall(bytes(1 << 26))).result()


def test_data_in_time_is_received_and_sent(ends: Ends) -> None:
    ours, theirs = ends
    received = bytearray(5)
    receiving = Task(lambda: ours.recv_into(received))
    theirs.sendall(b"hello")
    ours.sendall(b"bye")

    assert receiving.result() == 5
    assert received == b"hello"
    assert theirs.recv(3) == b"bye"


def test_with_a_timeout_of_0_no_call_waits(ends: Ends) -> None:
    ours, _ = ends
    ours.settimeout(0.0)

    with pytest.raises(BlockingIOError):
        ours.recv_into(bytearray(1))
    with pytest.raises(BlockingIOError):
        ours.sendall(bytes(1 << 26))


def test_a_timeout_can_follow_0_and_be_removed(ends: Ends) -> None:
    ours, theirs = ends
    ours.settimeout(0.0)
    ours.settimeout(SHORT)
    with pytest.raises(TimeoutError):
        ours.recv_into(bytearray(1))

    ours.settimeout(None)
    receiving = Task(lambda: ours.recv_into(bytearray(1)))

    assert not receiving.is_done_within(2 * SHORT)
    theirs.sendall(b"!")
    assert receiving.result() == 1


def test_a_connect_ends_after_the_timeout() -> None:
    with socket.socket() as full, TimedSocket() as ours:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for other in waiting:
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        ours.settimeout(SHORT)

        with pytest.raises(TimeoutError):
            Task(lambda: ours.connect(full.getsockname())).result()
        for other in waiting:
            other.close()


def test_a_tls_handshake_ends_after_the_timeout(ends: Ends) -> None:
    ours, _ = ends
    ours.settimeout(SHORT)
    context = ssl.create_default_context()

    with pytest.raises(TimeoutError):
        Task(lambda: context.wrap_socket(ours, server_hostname="db")).result()


def test_the_end_of_the_connection_is_no_timeout(ends: Ends) -> None:
    ours, theirs = ends
    theirs.close()

    assert ours.recv_into(bytearray(1)) == 0
