"""The end of a request: whatever its thread still holds, connections and locks, is taken back.

Under mod_wsgi that needs nothing of the application. `mod_wsgi.request_data()` is a dictionary for each request,
which is dropped when the request has ended, however it ends: after the response's `close()`, on its own thread. What
lies in it is then told. (mod_wsgi's events say the same, but a subscriber makes each request pay for three of them,
whether it borrows or not.) Elsewhere a PEP 3333 middleware does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from threading import get_ident
from typing import Any
from weakref import ref

from wsgipool import process
from wsgipool.httpd import process as httpd
from wsgipool.locks import block, holding

WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Middleware:
    """Wraps a WSGI application (PEP 3333) so that a request leaves no connection and no lock behind.

    For servers other than mod_wsgi; under mod_wsgi it steps aside. The server must call the application, iterate over
    its response and close it on one thread, as all but asynchronous servers do.
    """

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if _told_by_mod_wsgi:
            # That is seen to already, and the server may look at the response itself: its length, a file to send.
            return self._application(environ, start_response)
        thread_id = get_ident()
        try:
            response = self._application(environ, start_response)
        except BaseException:
            _reclaim(thread_id)
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
            _reclaim(self._thread_id)


class _Request:
    """Lies in the dictionary of a request that borrows or holds something, and ends with it."""

    __slots__ = ("__weakref__",)


class _Watch(ref[_Request]):
    """Has what its thread still holds at the end of the request taken back, unless it is dropped before."""

    __slots__ = ("thread_id",)

    thread_id: int


def _end(watch: _Watch) -> None:
    # Where somebody has kept the dictionary, what the thread holds now may be a later request's, which has its own.
    if get_ident() == watch.thread_id and _Request not in (_request_data() or {}):
        _reclaim(get_ident())


def _reclaim(thread_id: int) -> None:
    try:
        # First: a lock of a database is given back on the connection that has it.
        holding.reclaim(thread_id)
    finally:
        process.reclaim(thread_id)


def _request_data() -> dict[object, Any] | None:
    """Return the dictionary of the request that this thread serves, or None where it serves none."""
    try:
        data: dict[object, Any] = _server.request_data()
    except RuntimeError:
        return None
    return data


def _watch() -> _Watch | None:
    """Return a watch on the request that this thread serves, if any. It is called at each loan, so it is all in one."""
    try:
        data: dict[object, Any] = _server.request_data()
    except RuntimeError:
        return None
    request: _Request | None = data.get(_Request)
    if request is None:
        request = data[_Request] = _Request()
    watch = _Watch(request, _end)
    watch.thread_id = get_ident()
    return watch


def _watch_to_the_end() -> None:
    """Have what this thread still holds at the end of its request taken back."""
    watch = _watch()
    if watch is not None:
        _server.request_data()[_Watch] = watch


_server: Any = httpd.mod_wsgi()
_told_by_mod_wsgi = hasattr(_server, "request_data")
if _told_by_mod_wsgi:
    process.watch = _watch
    block.before_block = _watch_to_the_end
