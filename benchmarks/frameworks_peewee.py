"""Loaded by httpd: plain WSGI with peewee, with one query a request or five.

settings.json beside it has the connection arguments and says which pool is used.
"""

from __future__ import annotations

import importlib
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from peewee import CharField, Model, MySQLDatabase
from playhouse.pool import PooledMySQLDatabase

SETTINGS: dict[str, Any] = json.loads((Path(__file__).parent / "settings.json").read_text(encoding="utf-8"))

if SETTINGS["pool"] == "wsgipool":
    # From here on PyMySQL's connect(), which peewee calls, is pooled.
    importlib.import_module("wsgipool.pymysql").install()

database_class = PooledMySQLDatabase if SETTINGS["pool"] == "usual" else MySQLDatabase
database = database_class(**SETTINGS["arguments"])


class Item(Model):
    name = CharField(100)

    class Meta:
        database = database


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    count = int(environ["PATH_INFO"].rpartition("/")[2])
    with database.connection_context():
        names = [Item.get_by_id(random.randrange(SETTINGS["items"])).name for _ in range(count)]
    body = "\n".join(names).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
