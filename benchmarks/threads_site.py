"""Loaded by httpd: one handler that computes, one that waits for a database.

settings.json beside it says how much the first computes and how long the second waits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import wsgipool

SETTINGS: dict[str, Any] = json.loads((Path(__file__).parent / "settings.json").read_text(encoding="utf-8"))


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = HANDLERS[environ["PATH_INFO"]]().encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def compute() -> str:
    total = 0
    for number in range(SETTINGS["steps"]):
        total = (total * 31 + number) % 1_000_003
    return str(total)


def wait() -> str:
    with wsgipool.connection("shop", readonly=True) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT SLEEP(%s)", (SETTINGS["wait"],))
        return str(cursor.fetchone()[0])


HANDLERS = {"/compute": compute, "/wait": wait}
