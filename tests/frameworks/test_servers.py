"""The middleware under gunicorn, waitress and uWSGI: what a request takes goes back at its end, however it ends.

The tests of a server share one process of it. They follow each other, so each finds the pool without holders.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests

from frameworks.harness import UWSGI, Gunicorn, Waitress, WSGIServer
from frameworks.shops import new_shop
from httpd.harness import LONG, connections_by_process, eventually, overlaps
from wsgipool.demo.mariadb import Server

pytestmark = pytest.mark.mariadb_only("what a server does with a response does not depend on the database")

KINDS = [Gunicorn, Waitress, UWSGI]
THREADS = 12
"""More than the ten connections that a pool has outside httpd by default."""


@pytest.fixture(scope="module", params=KINDS, ids=[kind.name for kind in KINDS])
def server(
    request: pytest.FixtureRequest, mariadb: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WSGIServer]:
    folder = tmp_path_factory.mktemp("server")
    kind: type[WSGIServer] = request.param
    with kind(folder, new_shop(mariadb), threads=THREADS, settings={"max_size": THREADS}) as server:
        yield server


def in_use(server: WSGIServer) -> int:
    count: int = server.get("/counts")["in_use"]
    return count


def expect_nothing_in_use(server: WSGIServer) -> None:
    """Wait until the last request has ended: a visitor has its answer a moment earlier."""
    eventually(lambda: in_use(server) == 0, "the connection to be returned")


def fail(server: WSGIServer, path: str) -> None:
    """Send a request whose handler raises an error. uWSGI closes the connection then, without an answer."""
    with suppress(requests.ConnectionError):
        assert server.request(path).status_code == 500


@contextmanager
def begun(server: WSGIServer, path: str) -> Iterator[Iterator[bytes]]:
    """The rest of a response whose first byte has come; at the end of the block the visitor is gone."""
    with requests.get(f"{server.url}{path}", stream=True, timeout=LONG) as response:
        parts = response.iter_content(1)
        assert response.status_code == 200
        assert next(parts)
        yield parts


def test_a_streaming_response_returns_its_connection_at_its_end(server: WSGIServer, tmp_path: Path) -> None:
    file = tmp_path / "until"
    with begun(server, f"/stream?until={file}") as parts:
        during = in_use(server)
        file.touch()
        rest = b"".join(parts)

    assert during == 1
    assert rest
    expect_nothing_in_use(server)


def test_a_visitor_who_leaves_gives_the_connection_back(server: WSGIServer) -> None:
    with begun(server, "/endless"):
        during = in_use(server)

    assert during == 1
    expect_nothing_in_use(server)


def test_a_leaked_connection_is_taken_back_at_the_end_of_its_request(server: WSGIServer) -> None:
    leaked = server.get("/leak")["connection"]

    expect_nothing_in_use(server)
    assert server.get("/hold")["connection"] != leaked


def test_an_error_takes_back_what_the_request_holds(server: WSGIServer) -> None:
    fail(server, "/leak-and-fail")

    expect_nothing_in_use(server)


def test_an_error_in_a_block_returns_the_connection_rolled_back(server: WSGIServer) -> None:
    used = server.get("/hold")["connection"]
    fail(server, "/write-and-fail?text=lost")

    expect_nothing_in_use(server)
    assert server.get("/hold")["connection"] == used


def test_a_file_is_sent_whole(server: WSGIServer) -> None:
    assert server.request("/file").content == (Path(__file__).parent / "app.py").read_bytes()


def test_each_thread_has_a_connection_of_its_own(server: WSGIServer) -> None:
    answers = server.load(lambda _: "/hold?seconds=0.2", requests=3 * THREADS, clients=THREADS)

    assert all(answer["own_rows"] for answer in answers)
    assert overlaps(answers) == []
    assert answers[0]["max_size"] == THREADS
    assert [len(used) <= THREADS for used in connections_by_process(answers).values()] == [True]
    assert len({answer["thread"] for answer in answers}) > THREADS // 2
