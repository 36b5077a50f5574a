"""The end of a request, with and without mod_wsgi."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

import wsgipool
from unit.fakes import FakeConnection, FakeDatabase, Task, run_python
from wsgipool import Middleware
from wsgipool.request import WSGIApplication

pytestmark = pytest.mark.usefixtures("_no_settings")


@pytest.fixture
def database(_no_settings: None, databases: dict[str, FakeDatabase]) -> FakeDatabase:
    wsgipool.configure({"databases": {"orders": {"url": "mysql://shop@db/orders"}}})
    return databases["orders"]


class Response:
    """A response that counts how often it is closed."""

    def __init__(self, *parts: bytes | Exception) -> None:
        self.closed = 0
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            if isinstance(part, Exception):
                raise part
            yield part

    def close(self) -> None:
        self.closed += 1


def start_response(status: str, headers: list[tuple[str, str]]) -> None:
    pass


def leak() -> FakeConnection:
    connection: FakeConnection = wsgipool.pool("orders").getconn()
    return connection


def request(application: WSGIApplication, iterate: Callable[[Iterable[bytes]], object] = list) -> Any:
    """Handle a request like a server: call, iterate, close."""
    response: Any = Middleware(application)({}, start_response)
    try:
        return iterate(response)
    finally:
        response.close()


def test_the_application_gets_the_request_and_the_server_its_answer() -> None:
    seen: list[object] = []

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        seen.append(environ["PATH_INFO"])
        start_response("200 OK", [])
        return [b"a", b"b"]

    response = Middleware(application)({"PATH_INFO": "/books"}, lambda status, _: seen.append(status))

    assert list(response) == [b"a", b"b"]
    assert seen == ["/books", "200 OK"]


def test_connections_of_a_request_are_taken_back(database: FakeDatabase) -> None:
    def application(*_: object) -> Iterable[bytes]:
        leak()
        return [b"done"]

    assert request(application) == [b"done"]

    assert database.opened[0].calls == ["close"]
    assert wsgipool.pool("orders").size == 0


def test_connections_of_a_failing_application_are_taken_back(database: FakeDatabase) -> None:
    def application(*_: object) -> Iterable[bytes]:
        leak()
        raise KeyError("no such book")

    with pytest.raises(KeyError, match="no such book"):
        request(application)

    assert database.opened[0].calls == ["close"]


def test_connections_of_an_interrupted_application_are_taken_back(database: FakeDatabase) -> None:
    def application(*_: object) -> Iterable[bytes]:
        leak()
        raise SystemExit

    with pytest.raises(SystemExit):
        request(application)

    assert database.opened[0].calls == ["close"]


def test_connections_of_a_failing_response_are_taken_back(database: FakeDatabase) -> None:
    def application(*_: object) -> Iterable[bytes]:
        leak()
        return Response(b"a", KeyError("no such book"))

    with pytest.raises(KeyError, match="no such book"):
        request(application)

    assert database.opened[0].calls == ["close"]


def test_a_response_that_is_read_in_part_leaves_nothing_checked_out(database: FakeDatabase) -> None:
    def application(*_: object) -> Iterator[bytes]:
        leak()
        yield b"a"
        yield b"b"

    assert request(application, lambda response: next(iter(response))) == b"a"

    assert database.opened[0].calls == ["close"]


def test_a_response_that_is_never_read_leaves_nothing_checked_out(database: FakeDatabase) -> None:
    def application(*_: object) -> Iterable[bytes]:
        leak()
        return [b"a"]

    request(application, lambda _: None)

    assert database.opened[0].calls == ["close"]


def test_a_streamed_response_keeps_its_connection_until_it_is_closed(database: FakeDatabase) -> None:
    def application(*_: object) -> Iterator[bytes]:
        with wsgipool.connection("orders", readonly=True) as connection:
            for part in (b"a", b"b"):
                connection.execute()
                yield part

    in_use: list[int] = []

    def iterate(response: Iterable[bytes]) -> list[bytes]:
        parts = []
        for part in response:
            parts.append(part)
            in_use.append(wsgipool.pool("orders").in_use)
        return parts

    assert request(application, iterate) == [b"a", b"b"]
    assert in_use == [1, 1]
    assert database.opened[0].calls == ["execute", "execute", "rollback"]


def test_a_streamed_response_closed_early_returns_its_connection(
    database: FakeDatabase, log: pytest.LogCaptureFixture
) -> None:
    def application(*_: object) -> Iterator[bytes]:
        with wsgipool.connection("orders"):
            yield b"a"
            yield b"b"

    request(application, lambda response: next(iter(response)))

    assert database.opened[0].calls == ["rollback"]
    assert wsgipool.pool("orders").idle == 1
    assert log.messages == []


def test_the_applications_response_is_closed_once_and_before_the_request_ends(
    database: FakeDatabase,
) -> None:
    held: list[FakeConnection] = []
    still_open: list[bool] = []

    class Streaming(Response):
        def close(self) -> None:
            super().close()
            still_open.append(not held[0].closed)

    response = Streaming(b"a")

    def application(*_: object) -> Iterable[bytes]:
        held.append(leak())
        return response

    request(application)

    assert response.closed == 1
    assert still_open == [True]
    assert database.opened[0].calls == ["close"]


def test_a_failing_close_leaves_nothing_checked_out(database: FakeDatabase) -> None:
    class Failing(Response):
        def close(self) -> None:
            raise KeyError("no such book")

    def application(*_: object) -> Iterable[bytes]:
        leak()
        return Failing(b"a")

    with pytest.raises(KeyError, match="no such book"):
        request(application)

    assert database.opened[0].calls == ["close"]


def test_a_request_without_leaks_keeps_its_connection_in_the_pool(
    database: FakeDatabase, log: pytest.LogCaptureFixture
) -> None:
    def application(*_: object) -> Iterable[bytes]:
        with wsgipool.connection("orders") as connection:
            connection.execute()
        return [b"done"]

    for _ in range(3):
        request(application)

    assert database.opened[0].calls == ["execute", "commit"] * 3
    assert log.messages == []


@pytest.mark.usefixtures("database")
def test_the_end_of_a_request_takes_back_from_its_own_thread_only() -> None:
    held, done = threading.Event(), threading.Event()

    def other_request() -> bool:
        connection = leak()
        held.set()
        assert done.wait(10)
        return connection.closed

    other = Task(other_request)
    assert held.wait(10)
    request(lambda *_: [b"done"])
    done.set()

    assert other.result() is False


MOD_WSGI = """
import sys, types
requests = []
def request_data():
    if not requests:
        raise RuntimeError("no active request for thread")
    return requests[-1]
server = types.ModuleType("mod_wsgi")
server.process_group, server.application_group = "shop", ""
server.threads_per_process, server.maximum_processes = 4, 2
server.subscribe_shutdown = lambda _: None
server.request_data = request_data
sys.modules["mod_wsgi"] = server

import wsgipool
from unit.fakes import FakeDatabase
from wsgipool import drivers
database = FakeDatabase()
drivers.for_database = lambda _: database
wsgipool.configure({"databases": {"orders": {"url": "mysql://db/orders"}}})
pool = wsgipool.pool("orders")
"""


def under_mod_wsgi(program: str) -> str:
    """Run a program with a fake mod_wsgi; `requests` has the dictionary of the request, if there is one."""
    return run_python(MOD_WSGI + program)


def test_under_mod_wsgi_requests_end_without_help_of_the_application() -> None:
    program = """
requests.append({})
pool.getconn()
pool.getconn()
print(pool.in_use)
requests.pop()
print(pool.in_use, database.sessions)
"""

    assert under_mod_wsgi(program) == "2\n0 0\n"


def test_under_mod_wsgi_each_request_takes_back_its_own() -> None:
    program = """
for number in range(3):
    requests.append({})
    with pool.connection() as connection:
        pass
    pool.getconn()
    requests.pop()
    print(pool.in_use, len(database.opened))
"""

    assert under_mod_wsgi(program) == "0 1\n0 2\n0 3\n"


def test_under_mod_wsgi_a_checkout_outside_requests_is_not_taken_back() -> None:
    program = """
kept = pool.getconn()
print(pool.in_use, kept.closed)
"""

    assert under_mod_wsgi(program) == "1 False\n"


def test_a_request_dictionary_that_is_kept_alive_affects_no_later_request() -> None:
    program = """
requests.append(kept := {})
with pool.connection():
    pass
requests.pop()
requests.append({})
pool.getconn()
kept.clear()
print(pool.in_use)
requests.pop()
print(pool.in_use)
"""

    assert under_mod_wsgi(program) == "1\n0\n"


def test_a_mod_wsgi_without_request_data_leaves_it_to_the_middleware() -> None:
    program = """
import sys, types
server = types.ModuleType("mod_wsgi")
server.process_group = "shop"
sys.modules["mod_wsgi"] = server
import wsgipool
wsgipool.configure({"databases": {"orders": {"url": "sqlite:////nowhere.db"}}})
print(type(wsgipool.Middleware(lambda environ, start_response: [])({}, None)).__name__)
"""
    assert run_python(program) == "_Response\n"


def test_the_middleware_does_nothing_under_mod_wsgi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsgipool.request._has_request_data", True)
    response = [b"one part, whose length the server uses"]

    assert Middleware(lambda *_: response)({}, start_response) is response


UWSGI = """
import ctypes, os, sys, types
sys.modules["uwsgi"] = types.ModuleType("uwsgi")

import wsgipool
from unit.fakes import FakeDatabase
from wsgipool import drivers
drivers.for_database = lambda _: FakeDatabase()
wsgipool.configure({"databases": {"orders": {"url": "mysql://db/orders"}}})
with wsgipool.connection("orders") as of_the_parent:
    pass
wsgipool._background.background.stop()  # a thread that waits for the GIL during the fork could stop the child

def use(*_):
    with wsgipool.connection("orders") as connection:
        print(connection is of_the_parent, flush=True)
    return []

child = ctypes.PyDLL(None).fork()  # as uWSGI forks: the functions of os.register_at_fork are not called
if child:
    os.waitpid(child, 0)
"""


@pytest.mark.parametrize("call", ["use()", "wsgipool.Middleware(use)({}, None)"])
def test_a_worker_that_uwsgi_forks_uses_no_connection_of_its_parent(call: str) -> None:
    assert run_python(f"{UWSGI}{call}") == "False\nTrue\n"


def test_a_worker_that_uwsgi_forks_ends_no_session_of_its_parent() -> None:
    assert run_python(f"{UWSGI}wsgipool._runtime.end(); print(of_the_parent.closed)") == "False\nTrue\n"
