"""Loaded by httpd: a Flask application with SQLAlchemy's ORM, with one query a request or five.

settings.json beside it has the connection arguments and says which pool is used.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from flask import Flask, Response
from sqlalchemy import URL, Integer, NullPool, String, create_engine
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column

SETTINGS: dict[str, Any] = json.loads((Path(__file__).parent / "settings.json").read_text(encoding="utf-8"))
ARGUMENTS: dict[str, Any] = SETTINGS["arguments"]
POOLS: dict[str, dict[str, Any]] = {
    "none": {"poolclass": NullPool},
    "usual": {"pool_pre_ping": True},
    "wsgipool": {},
}

engine = create_engine(
    URL.create(
        "mysql+wsgipool" if SETTINGS["pool"] == "wsgipool" else "mysql+pymysql",
        username=ARGUMENTS["user"],
        **{key: ARGUMENTS[key] for key in ("password", "host", "port", "database")},
    ),
    **POOLS[SETTINGS["pool"]],
)
application = Flask(__name__)


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"

    id = mapped_column(Integer, primary_key=True)
    name = mapped_column(String(100))


@application.get("/lookups/<int:count>")
def lookups(count: int) -> Response:
    with Session(engine) as session:
        names = [session.get_one(Item, random.randrange(SETTINGS["items"])).name for _ in range(count)]
    return Response("\n".join(names), content_type="text/plain")
