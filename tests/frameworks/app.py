"""Loaded by other servers than httpd: the application of tests/httpd in the middleware, with three more handlers.

With the variable CONNECTS_AT_IMPORT it checks a connection out while it is imported, and then waits until the pool's
maintenance has nothing to do. uWSGI without its fork hooks forks at any moment: if another thread runs Python then, the
new process waits for ever for the interpreter's lock.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import wsgipool
from httpd.app import site_under_test
from httpd.harness import eventually


def handlers(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    match environ["PATH_INFO"]:
        case "/endless":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return endless()
        case "/leak-and-fail":
            wsgipool.pool("shop").getconn()
            raise RuntimeError("on purpose, with a connection checked out")
        case "/file":
            start_response("200 OK", [("Content-Type", "text/plain")])
            response: Iterable[bytes] = environ["wsgi.file_wrapper"](Path(__file__).open("rb"), 1000)  # noqa: SIM115
            return response
    return site_under_test.application(environ, start_response)


def endless() -> Iterator[bytes]:
    with wsgipool.connection("shop"):
        while True:
            yield b"more\n" * 10_000


def runs_other_threads() -> bool:
    places = [
        frame.f_code.co_name for thread, frame in sys._current_frames().items() if thread != threading.get_ident()
    ]
    return any(place != "wait" for place in places)


application = wsgipool.Middleware(handlers)

if "CONNECTS_AT_IMPORT" in os.environ:
    with wsgipool.connection("shop") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    eventually(lambda: not runs_other_threads(), "the pool's maintenance to wait")
