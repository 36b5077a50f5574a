"""What `wsgipool serve` adds to each process: the page for requests that get no connection."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

import wsgipool
from unit.fakes import FakeDatabase
from wsgipool.handlers.serve import PAGE, Unavailable

Environ = dict[str, Any]
ENVIRON = {"REQUEST_METHOD": "GET", "PATH_INFO": "/orders"}


class Server:
    """Calls an application as a WSGI server does, and keeps the last status."""

    def __init__(self) -> None:
        self.status = ""
        self.is_sent = False

    def start_response(self, status: str, headers: object, exc_info: Any = None) -> None:  # noqa: ARG002
        if exc_info is not None and self.is_sent:
            raise exc_info[1]
        assert not self.status or exc_info is not None, "the response has begun already"
        self.status = status

    def get(self, application: Callable[..., Iterable[bytes]]) -> bytes:
        body = b""
        for part in Unavailable().middleware(application)(ENVIRON, self.start_response):
            self.is_sent = True
            body += part
        return body


@pytest.fixture
def server() -> Server:
    return Server()


def fails(error: Exception) -> Callable[..., Iterable[bytes]]:
    def application(*_: object) -> Iterable[bytes]:
        raise error

    return application


class OperationalError(Exception):
    """An error of a framework's own class."""


def test_a_request_without_a_connection_is_answered_503(server: Server) -> None:
    assert server.get(fails(wsgipool.ConnectFailed("no"))) == PAGE
    assert server.status == "503 Service Unavailable"


def test_an_error_that_a_missing_connection_has_caused_is_answered_503(server: Server) -> None:
    error = OperationalError()
    error.__cause__ = wsgipool.ConnectFailed("no")

    assert server.get(fails(error)) == PAGE


def test_a_generator_that_gets_no_connection_is_answered_503(server: Server) -> None:
    def application(_: Environ, start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [])
        raise wsgipool.PoolTimeout("no")
        yield b""

    assert server.get(application) == PAGE
    assert server.status == "503 Service Unavailable"


def test_a_response_that_is_partly_sent_ends_with_the_error(server: Server) -> None:
    def application(_: Environ, start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"part"
        raise wsgipool.PoolTimeout("no")

    with pytest.raises(wsgipool.PoolTimeout):
        server.get(application)


def test_other_errors_of_the_application_are_raised(server: Server) -> None:
    with pytest.raises(ZeroDivisionError):
        server.get(fails(ZeroDivisionError()))


def test_a_response_that_is_no_generator_stays_as_it_is() -> None:
    response = [b"here"]

    assert Unavailable().middleware(lambda *_: response)(ENVIRON, lambda *_: None) is response


def test_a_failed_connect_is_logged_by_the_pool_alone(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.get(fails(wsgipool.ConnectFailed("no")))

    assert caplog.records == []


@pytest.mark.usefixtures("_no_settings")
def test_timeouts_are_logged_once_until_a_request_gets_a_connection(
    database: FakeDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    timed_out = Unavailable().middleware(fails(wsgipool.PoolTimeout("all are busy")))

    def lines() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]

    for _ in range(3):
        timed_out(ENVIRON, lambda *_: None)
    assert lines() == ["503 for GET '/orders': all are busy"]

    wsgipool.register("served", database)
    with wsgipool.connection("served"):
        pass
    for _ in range(3):
        timed_out(ENVIRON, lambda *_: None)

    assert len(lines()) == 2
