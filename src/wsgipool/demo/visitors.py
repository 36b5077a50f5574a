"""Visitors of the bookshop: requests over HTTP, many at once, sent by `wsgipool demo` itself.

A browser would send six at a time, and then have no connection left for the page that shows what happens.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

_TIMEOUT = 60.0
_PAUSE = 0.1


@dataclass(frozen=True)
class Request:
    """A request to send."""

    path: str
    method: str = "GET"


@dataclass(frozen=True)
class Visit:
    """A request that was sent, and its answer."""

    status: int
    """The status of the answer; 0 if there was none."""
    seconds: float
    answer: dict[str, Any] = field(default_factory=dict)


class Visitors:
    """Sends requests to one site."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port

    def visit(self, request: Request) -> Visit:
        """Send a request on a new HTTP connection, and read the answer's JSON."""
        started = time.monotonic()
        status, answer = 0, {}
        connection = http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT)
        headers = {"Accept": "application/json", "Connection": "close"}
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            connection.request(request.method, request.path, headers=headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
            status = response.status
        return Visit(status, time.monotonic() - started, answer)

    def come(self, requests: Sequence[Request], at_once: int) -> list[Visit]:
        """Send requests, at most `at_once` at the same time."""
        with ThreadPoolExecutor(at_once) as executor:
            return list(executor.map(self.visit, requests))

    @contextlib.contextmanager
    def coming(self, request: Request, at_once: int) -> Iterator[list[Visit]]:
        """Send a request again and again during a `with` block; the list is complete at its end."""
        visits: list[Visit] = []
        closing = threading.Event()

        def come_again() -> None:
            while not closing.wait(_PAUSE):
                visits.append(self.visit(request))

        with ThreadPoolExecutor(at_once) as executor:
            for _ in range(at_once):
                executor.submit(come_again)
            try:
                yield visits
            finally:
                closing.set()
