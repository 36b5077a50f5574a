"""Engines for the tests of SQLAlchemy."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event, text

from wsgipool import Pool, pools

MakeEngine = Callable[..., Engine]
"""A function that creates an engine on the test's database; its arguments are those of `create_engine`."""

EVENTS = ("connect", "checkout", "checkin", "reset", "close", "invalidate", "soft_invalidate", "detach")


def name_of(engine: Engine) -> str:
    """Return the name of the test's database, which is that of its first engine's pool."""
    return str(engine.url.database)


def pool_of(engine: Engine, number: int = 1) -> Pool[Any]:
    """Return the pool of wsgipool behind the first engine on a database, or behind a later one."""
    return pools.pool(name_of(engine) + ("" if number == 1 else f"-{number}"))


def row(engine: Engine, query: str) -> Any:
    with engine.connect() as connection:
        return connection.execute(text(query)).one()


def scalar(engine: Engine, query: str = "SELECT 1") -> Any:
    return row(engine, query)[0]


class Events:
    """The events that an engine has fired."""

    def __init__(self, engine: Engine) -> None:
        self._lock = threading.Lock()
        self.names: list[str] = []
        for name in EVENTS:
            event.listen(engine, name, self._noting(name))

    def _noting(self, name: str) -> Callable[..., None]:
        def note(*_: object) -> None:
            with self._lock:
                self.names.append(name)

        return note

    def taken(self) -> list[str]:
        """Return the names since the last call."""
        with self._lock:
            names, self.names = self.names, []
        return names

    def counts(self) -> Counter[str]:
        return Counter(self.taken())
