"""Sockets that are registered at their creation, and hosts with several addresses."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unit.fakes import PATIENCE, Task
from wsgipool.drivers.connecting import Descriptor, connect_tcp, connect_unix

Resolve = Callable[..., None]


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def abyss() -> Iterator[Any]:
    """An address that never answers: the queue of its listener is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        before = [socket.socket() for _ in range(4)]
        for one in before:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield listener.getsockname()
        for one in before:
            one.close()


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Resolve every host to these addresses."""

    def resolve(*addresses: Any) -> None:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

    return resolve


def nothing(_: Descriptor) -> None:
    pass


def test_an_address_that_never_answers_leaves_time_for_the_next(
    resolve: Resolve, abyss: Any, server: socket.socket
) -> None:
    resolve(abyss, server.getsockname())
    began = time.monotonic()

    with connect_tcp("db", 3306, None, 1.0, nothing) as ours:
        assert time.monotonic() - began < 1.0
        assert ours.getpeername() == server.getsockname()


def test_all_addresses_have_one_timeout(resolve: Resolve, abyss: Any) -> None:
    resolve(abyss, abyss, abyss)
    began = time.monotonic()

    with pytest.raises(TimeoutError):
        connect_tcp("db", 3306, None, 0.3, nothing)

    assert 0.3 <= time.monotonic() - began < 0.3 * 3


def test_a_socket_connects_from_the_bind_address(server: socket.socket) -> None:
    with connect_tcp("127.0.0.1", server.getsockname()[1], "127.0.0.2", PATIENCE, nothing) as ours:
        assert ours.getsockname()[0] == "127.0.0.2"


def test_a_unix_socket_is_registered_too(tmp_path: Path) -> None:
    noted: list[Descriptor] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "mysqld.sock"))
        server.listen()

        with connect_unix(str(tmp_path / "mysqld.sock"), PATIENCE, noted.append) as ours:
            assert [descriptor.number() for descriptor in noted] == [ours.fileno()]


def test_who_forks_waits_until_a_socket_that_is_made_is_noted(server: socket.socket) -> None:
    made, noted = threading.Event(), threading.Event()

    def note(_: Descriptor) -> None:
        made.set()
        assert noted.wait(PATIENCE)

    def fork() -> int:
        child = os.fork()
        if child == 0:
            os._exit(0)
        return os.waitpid(child, 0)[1]

    opening = Task(lambda: connect_tcp("127.0.0.1", server.getsockname()[1], None, PATIENCE, note).close())
    assert made.wait(PATIENCE)
    forking = Task(fork)
    try:
        assert not forking.is_done_within(0.1)
    finally:
        noted.set()
    assert forking.result() == 0
    opening.result()


def test_a_number_that_belongs_to_another_file_is_left_alone(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb", buffering=0) as log:
        with socket.socket() as ours:
            number = ours.fileno()
            descriptor = Descriptor(number)
            assert descriptor.number() == number
        os.dup2(log.fileno(), number)
        try:
            assert descriptor.number() == -1
            descriptor.redirect_to_devnull()
            os.write(number, b"still there")
        finally:
            os.close(number)

    assert (tmp_path / "log").read_bytes() == b"still there"


def test_a_socket_is_redirected_even_if_no_descriptor_is_free() -> None:
    here, there = socket.socketpair()
    with here, there, every_descriptor_taken():
        descriptor = Descriptor(here.fileno())

        descriptor.redirect_to_devnull()

        os.write(here.fileno(), b"x")
        assert there.recv(1) == b"", "the other end has been closed"


@contextlib.contextmanager
def every_descriptor_taken() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as taken:
        taken.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208 - a Path would open one more
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, limits[1]))
        with contextlib.suppress(OSError):
            while True:
                taken.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        yield
