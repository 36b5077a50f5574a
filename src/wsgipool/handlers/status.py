"""The status page: the pools, locks and caches of all processes of the host, and what is wrong with them.

The page is HTML, plain text with `?auto`, or JSON with `?json` or if the request prefers it. It shows names, numbers,
places in the code and paths of URLs. apache/status.conf restricts access to it.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

import wsgipool
from wsgipool import pools
from wsgipool.handlers.known_hosts import is_known_host
from wsgipool.handlers.status_page import auto, page
from wsgipool.handlers.status_page.sessions import Servers
from wsgipool.handlers.status_page.view import View
from wsgipool.records import plain
from wsgipool.scoreboard import findings, reading
from wsgipool.scoreboard.document import document

_METHODS = ("GET", "HEAD")
_TEXT, _HTML, _JSON = "text/plain; charset=utf-8", "text/html; charset=utf-8", "application/json"

_servers = Servers()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    method = environ.get("REQUEST_METHOD", "GET")
    nonce = secrets.token_urlsafe(16)
    headers = []
    if not is_known_host(environ):
        status, content_type = "421 Misdirected Request", _TEXT
        text = (
            f"This page does not answer to the name {environ['HTTP_HOST'][:255]!r}. Use localhost, an IP address, or "
            "the server's ServerName.\n"
        )
    elif method not in _METHODS:
        status, content_type = "405 Method Not Allowed", _TEXT
        text = f"This page supports only {' and '.join(_METHODS)}.\n"
        headers.append(("Allow", ", ".join(_METHODS)))
    else:
        status, content_type, text = _answer(_kind(environ), nonce)
    body = text.encode("utf-8", "backslashreplace")
    start_response(
        status,
        [
            *headers,
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", _policy(nonce)),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
        ],
    )
    return [] if method == "HEAD" else [body]


def _policy(nonce: str) -> str:
    """Return what a browser may do with the page: apply its one style, run its one script, and ask for new numbers."""
    return (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _kind(environ: dict[str, Any]) -> str:
    """Return what is requested: "auto", "json", "fragment" or "html"."""
    query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    if "format" in query:
        return "json" if query["format"][-1] == "json" else "html"
    named = next((kind for kind in ("auto", "json", "fragment") if kind in query), None)
    accepted = str(environ.get("HTTP_ACCEPT", ""))
    return named or ("json" if "application/json" in accepted and "text/html" not in accepted else "html")


def _answer(kind: str, nonce: str) -> tuple[str, str, str]:
    """Return the status, the content type and the text of the page."""
    try:
        view = _view()
    except wsgipool.ConfigError as error:
        return ("503 Service Unavailable", *_failure(kind, str(error), nonce))
    if kind == "json":
        return "200 OK", _JSON, json.dumps(_document(view), indent=1)
    if kind == "auto":
        return "200 OK", _TEXT, auto.lines(view)
    return "200 OK", _HTML, page.changing(view) if kind == "fragment" else page.whole(view, nonce)


def _failure(kind: str, error: str, nonce: str) -> tuple[str, str]:
    if kind == "json":
        return _JSON, json.dumps({"error": error}, indent=1)
    if kind in ("auto", "fragment"):  # the script shows the status only
        return _TEXT, f"Error: {error}\n"
    return _HTML, page.failed(socket.gethostname(), error, nonce)


def _document(view: View) -> dict[str, Any]:
    return {
        "hostname": view.hostname,
        "pid": view.pid,
        "version": view.version,
        "servers": plain(view.servers),
        **document(view.host, view.locks),
    }


def _view() -> View:
    host, locks = reading.host(pools.runtime_dir())
    databases = host.databases()
    return View(
        hostname=socket.gethostname(),
        pid=os.getpid(),
        version=wsgipool.__version__,
        host=host,
        databases=[each for each in databases if each.pools],
        ended=[each for each in databases if not each.pools],
        findings=findings.findings(host),
        locks=locks,
        servers=_servers.sessions(),
    )
