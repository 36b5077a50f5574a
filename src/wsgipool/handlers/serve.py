"""What `wsgipool serve` adds to each process that runs Python; WSGIImportScript loads this script.

A request that gets no connection is answered 503. Without that, mod_wsgi would answer 500 and log a traceback for each
request while the database is down. The pool logs once that it cannot connect, and once that it can again.

With --reload, mod_wsgi-express's monitor restarts the process when a loaded module or the settings file changes. The
option --reload-on-changes would start the monitor at the end of the application's script: not if a module has failed,
and before the settings file can be added, so that a change in the first second would be missed.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Iterable
from types import GeneratorType
from typing import Any

from wsgipool import pools
from wsgipool.errors import ConnectFailed, PoolDeadlock, PoolError
from wsgipool.httpd import process

logger = logging.getLogger("wsgipool")

PAGE = (
    b"<!DOCTYPE html><title>503 Service Unavailable</title><h1>Service unavailable</h1>"
    b"<p>The site has no connection to its database at the moment. Please try again in a few seconds.</p>\n"
)
_HEADERS = [
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Length", str(len(PAGE))),
    ("Cache-Control", "no-store"),
    ("Retry-After", "5"),
]

StartResponse = Callable[..., Any]
WSGIApplication = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


class Unavailable:
    """Answers the requests of one process whose application raises a PoolError, or an error that one has caused."""

    def __init__(self) -> None:
        self._checkouts = -1

    def middleware(self, application: WSGIApplication) -> WSGIApplication:
        """Return the application with the 503 page."""

        def answer(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
            try:
                response = application(environ, start_response)
            except Exception as error:
                if not _pool_error(error):
                    raise
                return self._answer(error, environ, start_response)
            # The code of a generator runs when the response is read. Others stay as they are: mod_wsgi recognizes
            # a file to send, and the length of a list.
            return self._read(response, environ, start_response) if isinstance(response, GeneratorType) else response

        return answer

    def _read(
        self, response: Iterable[bytes], environ: dict[str, Any], start_response: StartResponse
    ) -> Iterable[bytes]:
        try:
            yield from response
        except Exception as error:
            if not _pool_error(error):
                raise
            yield from self._answer(error, environ, start_response)

    def _answer(self, error: Exception, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        # With exc_info, the server raises the error again if a part of the response is sent already (PEP 3333).
        start_response("503 Service Unavailable", _HEADERS, sys.exc_info())
        cause = _pool_error(error)
        if not isinstance(cause, ConnectFailed):  # the pool has logged that
            self._log(f"503 for {environ.get('REQUEST_METHOD')} {environ.get('PATH_INFO')!r}: {cause}")
        return [PAGE]

    def _log(self, message: str) -> None:
        """Log a message, unless no request has had a connection since the last one."""
        checkouts = sum(each.checkouts for each in pools.stats())
        if checkouts != self._checkouts:
            logger.warning("%s", message)
        self._checkouts = checkouts


def _pool_error(error: Exception) -> PoolError | None:
    """Return the PoolError that an error is, or that has caused it: Django and SQLAlchemy raise an OperationalError.

    A PoolDeadlock is a mistake of the program, whose traceback is needed.
    """
    cause = error.__cause__ if type(error).__name__ == "OperationalError" else None
    found = next((each for each in (error, cause) if isinstance(each, PoolError)), None)
    return None if isinstance(found, PoolDeadlock) else found


def _monitor_files() -> None:
    reloader = importlib.import_module("mod_wsgi.express.reloader")
    settings = process.define("WSGIPOOL_CONFIG")
    if settings:
        reloader.track_changes(settings)
    reloader.start_reloader()


def _subscribe() -> None:
    """Have mod_wsgi call the application through the 503 page, however it was loaded."""
    unavailable = Unavailable()

    def replace_application(name: str, *, application_object: Any = None, **_: object) -> dict[str, Any] | None:
        if name != "request_started":
            return None
        return {"application_object": unavailable.middleware(application_object)}

    _server.subscribe_events(replace_application)


_server: Any = process.mod_wsgi()
if _server is not None:
    _subscribe()
    if process.define("WSGIPOOL_RELOAD") is not None:
        _monitor_files()
