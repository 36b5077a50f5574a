"""A page for the administrator: the locks of all processes of the host, and the pools of the one that answers.

HTML for people; JSON where the request accepts that rather, or asks for it by `?format=json`. It shows names and
numbers only. Who may see it is said in apache/status.conf.
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
from wsgipool import process
from wsgipool.locks.book import report_of_host
from wsgipool.locks.statistics import COLUMNS, LockReport, as_cells

_POOL_COLUMNS = (
    "name", "max_size", "size", "idle", "in_use", "waiting", "loans", "waits", "wait_seconds", "timeouts", "refused",
    "opened", "connect_failures",
)  # fmt: skip

_STYLE = (
    "body{font:15px/1.5 sans-serif;margin:2em;color:#222}table{border-collapse:collapse;margin-bottom:2em}"
    "th,td{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}th:first-child,td:first-child,"
    "table.locks th:last-child,table.locks td:last-child{text-align:left}"
)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    try:
        status, document = "200 OK", _document()
    except wsgipool.ConfigError as error:
        status, document = "503 Service Unavailable", {"error": str(error)}
    if _wants_json(environ):
        content_type, text = "application/json", json.dumps(document, indent=1)
    else:
        content_type, text = "text/html; charset=utf-8", _page(document)
    body = text.encode()
    start_response(
        status,
        [
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"),
            ("X-Content-Type-Options", "nosniff"),
        ],
    )
    return [body]


def _document() -> dict[str, Any]:
    report, processes = report_of_host(process.runtime_dir())
    return {
        "pid": os.getpid(),
        "processes": processes,
        "locks": [{**asdict(lock), "share_contended": lock.share_contended} for lock in report.locks],
        "pools": [{**asdict(stats), "closed": dict(stats.closed)} for stats in process.stats()],
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
            LockReport(**{key: value for key, value in lock.items() if key != "share_contended"})
            for lock in document["locks"]
        ]
        body = (
            f"<h2>Locks of {document['processes']} processes</h2>"
            f"{_table('locks', COLUMNS, [as_cells(lock) for lock in locks])}"
            f"<h2>Pools of process {document['pid']}</h2>"
            f"{_table('pools', _POOL_COLUMNS, [_pool_cells(pool) for pool in document['pools']])}"
            "<p>Times of locks are right to a factor of two. The numbers of other processes are up to about a second "
            "old.</p>"
        )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>wsgipool</title>'
        f"<style>{_STYLE}</style></head><body><h1>wsgipool</h1>{body}</body></html>\n"
    )


def _pool_cells(pool: dict[str, Any]) -> list[str]:
    return [
        "" if pool[column] is None else f"{pool[column]:.3g}" if column == "wait_seconds" else str(pool[column])
        for column in _POOL_COLUMNS
    ]


def _table(name: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "<p>None so far.</p>"
    head = "".join(f"<th>{escape(column.replace('_', ' '))}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="{name}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
