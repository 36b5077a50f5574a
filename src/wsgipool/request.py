"""The end of a request: whatever its thread still holds is taken back.

Under mod_wsgi that needs nothing of the application: `request_finished` fires on the request's own thread, after the
response's `close()`, however the request ends. Elsewhere a PEP 3333 middleware does the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from wsgipool import process
from wsgipool.httpd.process import mod_wsgi

WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Middleware:
    """Wraps a WSGI application (PEP 3333) so that a request leaves no connection behind.

    For servers other than mod_wsgi; under mod_wsgi it steps aside. The server must call the application, iterate over
    its response and close it on one thread, as all but asynchronous servers do.
    """

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if mod_wsgi() is not None:
            # The event does it, and the server may look at the response itself: its length, a file to send.
            return self._application(environ, start_response)
        thread_id = threading.get_ident()
        try:
            response = self._application(environ, start_response)
        except BaseException:
            process.reclaim(thread_id)
            raise
        return _Response(response, thread_id)


class _Response:
    """The application's response, whose `close()` ends the request."""

    def __init__(self, response: Iterable[bytes], thread_id: int) -> None:
        self._response = response
        self._thread_id = thread_id

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._response)

    def close(self) -> None:
        try:
            close = getattr(self._response, "close", None)
            if close is not None:
                close()
        finally:
            process.reclaim(self._thread_id)


def _on_event(name: str, **_: object) -> None:
    if name == "request_finished":
        process.reclaim(threading.get_ident())


def _subscribe() -> None:
    server = mod_wsgi()
    if server is not None:
        server.subscribe_events(_on_event)


_subscribe()
