"""The status page: the locks of all processes of the host, and the pools of the process that answers.

The page is HTML, or JSON if the request prefers it or has `?format=json`. It shows names and numbers only.
apache/status.conf restricts access to it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from html import escape
from typing import Any
from urllib.parse import parse_qs

import wsgipool
from wsgipool import pools
from wsgipool.handlers.known_hosts import is_known_host
from wsgipool.locks.statistics import COLUMNS, LockRow, as_cells
from wsgipool.scoreboard import reading
from wsgipool.wording import counted, rounded

_METHODS = ("GET", "HEAD")
_POOL_COLUMNS = (
    "name", "max_size", "size", "idle", "in_use", "waiting", "checkouts", "waits", "wait_seconds", "timeouts",
    "refused", "opened", "connect_failures",
)  # fmt: skip

_STYLE = (
    "body{font:15px/1.5 sans-serif;margin:2em;color:#222}table{border-collapse:collapse;margin-bottom:2em}"
    "th,td{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}th:first-child,td:first-child,"
    "table.locks th:last-child,table.locks td:last-child{text-align:left}"
)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    method = environ.get("REQUEST_METHOD", "GET")
    headers = []
    if not is_known_host(environ):
        status, content_type = "421 Misdirected Request", "text/plain; charset=utf-8"
        text = (
            f"This page does not answer to the name {environ['HTTP_HOST'][:255]!r}. Use localhost, an IP address, or "
            "the server's ServerName.\n"
        )
    elif method not in _METHODS:
        status, content_type = "405 Method Not Allowed", "text/plain; charset=utf-8"
        text = f"This page supports only {' and '.join(_METHODS)}.\n"
        headers.append(("Allow", ", ".join(_METHODS)))
    else:
        status, content_type, text = _answer(environ)
    body = text.encode("utf-8", "backslashreplace")
    start_response(
        status,
        [
            *headers,
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
            ("X-Content-Type-Options", "nosniff"),
        ],
    )
    return [] if method == "HEAD" else [body]


def _answer(environ: dict[str, Any]) -> tuple[str, str, str]:
    """Return the status, the content type and the text of the page."""
    try:
        status, document = "200 OK", _document()
    except wsgipool.ConfigError as error:
        status, document = "503 Service Unavailable", {"error": str(error)}
    if _wants_json(environ):
        return status, "application/json", json.dumps(document, indent=1)
    return status, "text/html; charset=utf-8", _page(document)


def _document() -> dict[str, Any]:
    host, report = reading.host(pools.runtime_dir())
    return {
        "pid": os.getpid(),
        "processes": len(host.processes),
        "locks": [{**asdict(lock), "share_contended": lock.share_contended} for lock in report.locks],
        "pools": [{**asdict(stats), "closed": dict(stats.closed)} for stats in pools.stats()],
    }


def _wants_json(environ: dict[str, Any]) -> bool:
    named = parse_qs(environ.get("QUERY_STRING", "")).get("format")
    if named:
        return str(named[-1]) == "json"
    accepted = str(environ.get("HTTP_ACCEPT", ""))
    return "application/json" in accepted and "text/html" not in accepted


def _page(document: dict[str, Any]) -> str:
    if "error" in document:
        body = f"<p>{escape(document['error'])}</p>"
    else:
        locks = [
            LockRow(**{key: value for key, value in lock.items() if key != "share_contended"})
            for lock in document["locks"]
        ]
        body = (
            f"<h2>Locks of {counted(document['processes'], 'process')}</h2>"
            f"{_table('locks', COLUMNS, [as_cells(lock) for lock in locks])}"
            f"<h2>Pools of process {document['pid']}</h2>"
            f"{_table('pools', _POOL_COLUMNS, [_pool_cells(pool) for pool in document['pools']])}"
            "<p>Times of locks are exact to a factor of two. The numbers of other processes are up to about a second "
            "old.</p>"
        )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>wsgipool</title>'
        f"<style>{_STYLE}</style></head><body><h1>wsgipool</h1>{body}</body></html>\n"
    )


def _pool_cells(pool: dict[str, Any]) -> list[str]:
    return [
        "" if pool[column] is None else rounded(pool[column], 3) if column == "wait_seconds" else str(pool[column])
        for column in _POOL_COLUMNS
    ]


def _table(name: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "<p>None so far.</p>"
    head = "".join(f"<th>{escape(column.replace('_', ' '))}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="{name}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
