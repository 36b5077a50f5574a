"""The status page of a host that was made up, served by this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from wsgipool.handlers import status


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Write nothing to stderr."""


class ServedPage:
    """A server of the status page that counts the refreshes."""

    def __init__(self) -> None:
        self.refreshes = 0
        self._server = make_server("127.0.0.1", 0, self._answer, handler_class=_Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.url = f"http://127.0.0.1:{self._server.server_port}/wsgipool-status"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop the server; a second call does nothing."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.refreshes += environ["QUERY_STRING"] == "fragment"
        return status.application(environ, start_response)


@contextmanager
def served_page() -> Iterator[ServedPage]:
    served = ServedPage()
    served.start()
    try:
        yield served
    finally:
        served.stop()
