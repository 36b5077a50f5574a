"""The end of a request: connections and locks that its thread still holds are taken back.

Under mod_wsgi the application needs no change. Each request has a dictionary, `mod_wsgi.request_data()`. It is dropped
on the request's thread after the response's `close()`, in whatever way the request ends. An object in the dictionary is
dropped with it, which calls the callbacks of its weak references.

mod_wsgi's events report the end, too. But a subscriber costs each request three events, even without a checkout.

Under other servers a PEP 3333 middleware does the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from threading import get_ident
from typing import Any
from weakref import ref

from wsgipool import _runtime, pools
from wsgipool.httpd import process as httpd
from wsgipool.locks import context, holding

WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Middleware:
    """A WSGI middleware (PEP 3333) that takes back connections and locks at the end of each request.

    It is for servers other than mod_wsgi; under mod_wsgi it does nothing. The server must call the application, iterate
    over its response and close it on one thread, as all but asynchronous servers do.

    Args:
        application: The WSGI application.
    """

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Call the application.

        Args:
            environ: The environment of the request.
            start_response: The server's function that begins the response.

        Returns:
            The application's response. Its ``close()`` ends the request.
        """
        if _has_request_data:
            # mod_wsgi reports the end. It may need the original response, for its length or for a file to send.
            return self._application(environ, start_response)
        _runtime.notice_fork()
        thread_id = get_ident()
        try:
            response = self._application(environ, start_response)
        except BaseException:
            _reclaim(thread_id)
            raise
        return _Response(response, thread_id)


class _Response:
    """A wrapper of the application's response. Its `close()` ends the request."""

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
    """A marker in the dictionary of a request, dropped with it."""

    __slots__ = ("__weakref__",)


class _Token(ref[_Request]):
    """A weak reference whose callback takes back everything that the thread holds at the end of the request.

    A token that is dropped before does nothing.
    """

    __slots__ = ("thread_id",)

    thread_id: int


def _end(token: _Token) -> None:
    # If the dictionary was kept alive, the thread may serve a later request by now, with a token of its own.
    if get_ident() == token.thread_id and _Request not in (_request_data() or {}):
        _reclaim(get_ident())


def _reclaim(thread_id: int) -> None:
    try:
        # First the locks, because a database lock is released on its connection.
        holding.reclaim(thread_id)
    finally:
        pools.reclaim(thread_id)


def _request_data() -> dict[object, Any] | None:
    """Return the dictionary of the request that this thread serves, or None if it serves none."""
    try:
        data: dict[object, Any] = _server.request_data()
    except RuntimeError:
        return None
    return data


def _token() -> _Token | None:
    """Return a token for the request that this thread serves, or None.

    Each checkout calls this. So it repeats the code of `_request_data`, to save a call.
    """
    try:
        data: dict[object, Any] = _server.request_data()
    except RuntimeError:
        return None
    request: _Request | None = data.get(_Request)
    if request is None:
        request = data[_Request] = _Request()
    token = _Token(request, _end)
    token.thread_id = get_ident()
    return token


def _register_holder() -> None:
    """Take back the locks of this thread at the end of its request."""
    token = _token()
    if token is not None:
        _server.request_data()[_Token] = token


_server: Any = httpd.mod_wsgi()
_has_request_data = hasattr(_server, "request_data")
if _has_request_data:
    pools.request_token = _token
    context.before_block = _register_holder
elif "uwsgi" in sys.modules:
    # Code outside requests may come first in a forked worker: that of a timer, a mule or a spooler.
    pools.request_token = _runtime.notice_fork
