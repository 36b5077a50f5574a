"""What the dialects of wsgipool have in common; each is one of SQLAlchemy's beside it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import exc
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.engine.interfaces import ConnectArgsType
from sqlalchemy.engine.url import URL
from sqlalchemy.util import coerce_kw_type

from wsgipool.errors import WrongThread
from wsgipool.showing import shown
from wsgipool.sqlalchemy._opening import ConnectingDialect
from wsgipool.sqlalchemy.pool import Pool


class PooledDialect(ConnectingDialect, DefaultDialect):
    """A dialect whose engines use pools of wsgipool."""

    driver = "wsgipool"
    poolclass = Pool

    @classmethod
    def get_async_dialect_cls(cls, url: URL) -> Any:
        """Refuse an asynchronous engine."""
        raise exc.InvalidRequestError(f"{url.drivername} is for threads, and there is no asyncio dialect of wsgipool")

    @classmethod
    def load_provisioning(cls) -> None:
        """Load what SQLAlchemy's test suite does to a database before its tests."""
        sqlalchemys = next(kind for kind in cls.__mro__ if kind.__module__.startswith("sqlalchemy.dialects."))
        __import__(f"{sqlalchemys.__module__.rpartition('.')[0]}.provision")

    def create_connect_args(self, url: URL, _translate_args: Any = None) -> ConnectArgsType:
        """Return the arguments of ``connect`` for a URL; one with ``?name=`` names a database of the settings file."""
        name = url.query.get("name")
        if name is not None:
            if any((url.username, url.password, url.host, url.port, url.database)):
                raise exc.ArgumentError(
                    f"the URL names the database {shown(name)} of the settings file, which has the address; write "
                    f"{url.drivername}://?name=..., without an address"
                )
            self.database = str(name)
            # Flask-SQLAlchemy adds a charset.
            url = url.difference_update_query(["name"])
        positional, by_keyword = super().create_connect_args(url)
        arguments = dict(by_keyword)
        coerce_kw_type(arguments, "autocommit", bool)  # PyMySQL and psycopg take a text as it is
        return positional, arguments

    def do_rollback(self, dbapi_connection: Any) -> None:
        """Roll back, unless the pool has taken the connection back, at the end of its request."""
        try:
            super().do_rollback(dbapi_connection)  # type: ignore[no-untyped-call]
        except Exception:
            if not _is_taken_back(dbapi_connection):
                raise

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        """Return whether the server has ended the session.

        The misuse of a connection is none: other connections of the engine are sound then.
        """
        if isinstance(e, WrongThread) or _is_taken_back(connection):
            return False
        return bool(super().is_disconnect(e, connection, cursor))


def _is_taken_back(proxy: Any) -> bool:
    """Return whether the pool has closed the connection of a checkout."""
    record = getattr(proxy, "_connection_record", None)  # as SQLAlchemy's own dialects use it
    return record is not None and record.dbapi_connection is None and proxy.dbapi_connection is not None
