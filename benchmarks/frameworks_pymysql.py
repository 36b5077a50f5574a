"""Loaded by httpd: old code, which connects in each request, with one query a request or five.

settings.json beside it has the connection arguments and says which pool is used.
"""

from __future__ import annotations

import importlib
import json
import random
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from dbutils.pooled_db import PooledDB

SETTINGS: dict[str, Any] = json.loads((Path(__file__).parent / "settings.json").read_text(encoding="utf-8"))

pymysql: Any = importlib.import_module("wsgipool.pymysql" if SETTINGS["pool"] == "wsgipool" else "pymysql")
connect: Callable[[], Any] = partial(pymysql.connect, **SETTINGS["arguments"])
if SETTINGS["pool"] == "usual":
    connect = PooledDB(pymysql, **SETTINGS["arguments"]).connection


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    count = int(environ["PATH_INFO"].rpartition("/")[2])
    with closing(connect()) as connection, connection.cursor() as cursor:
        body = "\n".join(lookup(cursor) for _ in range(count)).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def lookup(cursor: Any) -> str:
    cursor.execute(SETTINGS["lookup"], (random.randrange(SETTINGS["items"]),))
    name: str = cursor.fetchone()[0]
    return name
