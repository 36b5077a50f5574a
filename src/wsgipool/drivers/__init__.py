"""What differs between DB-API drivers: how to connect, to see whether a connection lives, to clean and to end it.

A driver knows no pool and no server. The pool calls it outside its lock, so each of these may wait for the network.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Set
from dataclasses import dataclass
from types import MethodType
from typing import Any, Generic, Literal, Protocol, TypeVar

from wsgipool.config import DatabaseSettings, DatabaseURL
from wsgipool.drivers import hints
from wsgipool.drivers.codes import Codes, is_conflict, is_out_of_service, is_refusal
from wsgipool.errors import ConfigError
from wsgipool.farewell import Farewell


class DBAPIConnection(Protocol):
    """What PEP 249 promises of every connection, as far as a pool needs it."""

    def commit(self) -> object: ...

    def rollback(self) -> object: ...

    def close(self) -> object: ...


C = TypeVar("C", bound=DBAPIConnection)

_MODULES = {
    "mysql": "wsgipool.drivers.pymysql",
    "mysql+pymysql": "wsgipool.drivers.pymysql",
    "mysql+mysqlclient": "wsgipool.drivers.mysqlclient",
    "mysql+mysqldb": "wsgipool.drivers.mysqlclient",
    "mariadb": "wsgipool.drivers.pymysql",
    "mariadb+pymysql": "wsgipool.drivers.pymysql",
    "mariadb+mysqlclient": "wsgipool.drivers.mysqlclient",
    "mariadb+mysqldb": "wsgipool.drivers.mysqlclient",
    "postgresql": "wsgipool.drivers.psycopg",
    "postgres": "wsgipool.drivers.psycopg",
    "postgresql+psycopg": "wsgipool.drivers.psycopg",
    "sqlite": "wsgipool.drivers.sqlite",
}


DRIVER_PACKAGES = frozenset({"wsgipool", "pymysql", "MySQLdb", "psycopg", "psycopg_c", "psycopg_binary"})
"""What raises errors of a database, beside the standard library."""

LEAST_PATIENCE = 0.01
"""Seconds to wait at least for an answer that should have arrived already."""

CLEANING_TIMEOUT = 0.5
"""Seconds in which a server has to clean a session, from when it was asked to: far more than a round trip to any
database. A session that takes longer, in the rollback of a long transaction, say, is closed: no holder waits for what
another has left behind."""

DEFAULT_READ_TIMEOUT = 60.0
"""Seconds to wait for a server that says nothing: longer than the 50 s of its innodb_lock_wait_timeout, so that it can
say itself what a statement waited for in vain; as long as httpd's `Timeout`, after which nobody waits for the page."""

UNREAD = "a result was not read to its end; after CALL read the rest by nextset(), or close the cursor"
"""Why a connection cannot be used again whose holder left an answer behind."""

CLOSED_BY_HOLDER = (
    "the connection was closed by close(); do not close it: leave the `with` block, or give it back by putconn"
)
CLOSED_BY_POOL = "the pool has closed the connection; use none after its return"

Reset = Literal["rollback", "session"]
"""How a returned connection is cleaned: "rollback" ends the transaction; "session" ends all that a session can keep:
user variables, SET, temporary tables, locks."""


class Driver(Protocol[C]):
    """One database, by one DB-API module.

    Timeouts are in seconds. What raises does so with the driver's own errors, and means that the connection cannot be
    used again, unless it says otherwise.
    """

    @property
    def address(self) -> str:
        """Where it connects to, without secrets."""

    def connect(self, timeout: float, pipeline: bool = True) -> C:
        """Open a connection within `timeout`.

        With `pipeline=False` no command is sent before the answer to the one before it was read, here and in
        `check_in`: some proxies want that.
        """

    def remember(self, connection: C) -> None:
        """Note the state of a new connection, after the program's `configure`: `check_in` restores it.

        That is what its holders can change on the Python object, such as the class of its cursors, and no reset on the
        server undoes.
        """

    def check_out(self, connection: C, thread_id: int, timeout: float) -> bool:
        """Give a connection to a thread, which alone may use it from now on, and return whether it can be used.

        The answer to the cleaning that `check_in` has begun is read here, to its end, within `CLEANING_TIMEOUT` from
        when it was sent: it proves the connection alive. Otherwise the state of the socket does. One that is not clean
        in time, or has something to read that nobody asked for, cannot be used.
        """

    def check_in(self, connection: C, how: Reset | None, pipeline: bool = True) -> None:
        """Take a connection from its thread and restore its Python state; begin to clean its session as `how` says.

        With `pipeline=False` the cleaning is waited for here, for `CLEANING_TIMEOUT`. Raises where the connection must
        not be used again: a result that was not read to its end, a server that can do no work (`is_out_of_service`).
        """

    def begin(self, connection: C) -> None:
        """Begin a transaction where each statement would be committed by itself; otherwise do nothing."""

    def set_read_timeout(self, connection: C, seconds: float) -> None:
        """Let the statements of this checkout take so long; `check_in` restores what was. Raises ConfigError where the
        driver cannot do that.
        """

    def ping(self, connection: C, timeout: float) -> None:
        """Ask the server for a sign of life."""

    def close(self, connection: C) -> Farewell:
        """End the session with the goodbye that the server expects. Never raises an Exception.

        What is returned tells when the server has ended it as well; whoever does not want to know closes that.
        """

    def abandon(self, connection: C) -> None:
        """Let go of a connection inherited through a fork, without a word to the server: it is the parent's."""

    def will_be_refused_again(self, error: BaseException) -> bool:
        """Tell whether a failed connect would fail again until somebody mends it: a wrong password, say."""

    def can_run_again(self, error: BaseException) -> bool:
        """Return whether a transaction that failed so can be run again: a deadlock, a lock that took too long."""

    def is_out_of_service(self, error: BaseException) -> bool:
        """Return whether a statement that failed so shows that the server can do no work, so that the connection should
        not be lent again.
        """


def for_database(settings: DatabaseSettings) -> Driver[Any]:
    """Return the driver that the URL's scheme names, its options checked. Raises ConfigError."""
    scheme = settings.url.scheme
    if scheme not in _MODULES:
        raise ConfigError(f"{settings.origin}.url: {hints.no_driver(scheme, _MODULES)}")
    try:
        module = importlib.import_module(_MODULES[scheme])
    except ImportError as error:
        raise ConfigError(f"{settings.origin}.url: {scheme}:// needs a module that is not here: {error}") from error
    driver = module.driver(settings)
    driver.out_of_service = settings.close_on_errors
    made: Driver[Any] = driver
    return made


def family(url: DatabaseURL) -> str:
    """Return "mysql" (MariaDB too), "postgresql" or "sqlite", or what else a scheme begins with."""
    name = url.scheme.partition("+")[0]
    return {"mariadb": "mysql", "postgres": "postgresql"}.get(name, name)


def is_pymysql(url: DatabaseURL) -> bool:
    """Return whether a URL is for PyMySQL."""
    return _MODULES.get(url.scheme) == "wsgipool.drivers.pymysql"


@dataclass(frozen=True)
class Place:
    """Where a server listens: a host and a port, or a Unix socket; PostgreSQL's is a folder and a port."""

    host: str | None
    port: int | None
    socket: str | None


def place_of(url: DatabaseURL) -> Place | None:
    """Return where the driver connects to; None where there is no server. Raises ConfigError for what cannot be."""
    if family(url) not in ("mysql", "postgresql"):
        return None
    name = {"mysql": "mysql_options", "postgresql": "psycopg_options"}[family(url)]
    module = importlib.import_module(f"wsgipool.drivers.{name}")
    place: Place = module.place_of(url, "the database URL")
    return place


def server_of(url: DatabaseURL) -> str | None:
    """Return a name for the server of a database, the same for all databases that are there; None where there is none.

    Two names or addresses of one machine are two servers. The budget counts by it, and so must whoever says what the
    budget will do.
    """
    try:
        place = place_of(url)
    except (ConfigError, ImportError):
        # Nothing will connect; it needs a name all the same.
        file = next(
            (f"{name}={url.options[name]}" for name in ("read_default_file", "service") if name in url.options), None
        )
        return f"{family(url)}://{file or url.host or ''}"
    if place is None:
        return None
    if place.socket is not None:
        return f"{family(url)}://{place.socket}{'' if place.port is None else f':{place.port}'}"
    return f"{family(url)}://{(place.host or '').lower()}:{place.port}"


class PlainDriver(Generic[C]):
    """What PEP 249 and the servers' codes can promise of any driver: a base for those that can do more."""

    address: str

    out_of_service: Codes = frozenset()
    """Codes, beside those that every server has, after which a connection is not lent again."""

    def remember(self, connection: C) -> None:
        """PEP 249 knows no state but the session's."""

    def check_out(self, connection: C, thread_id: int, timeout: float) -> bool:  # noqa: ARG002
        # PEP 249 has no way to ask, and its connections do not know who uses them.
        return True

    def check_in(self, connection: C, how: Reset | None, pipeline: bool = True) -> None:  # noqa: ARG002
        # There is nothing but the transaction that PEP 249 could end.
        if how is not None:
            connection.rollback()

    def begin(self, connection: C) -> None:
        """A connection of PEP 249 is in a transaction always."""

    def set_read_timeout(self, connection: C, seconds: float) -> None:  # noqa: ARG002
        raise ConfigError(f"read_timeout: {self.address} has no such timeout that could be changed for one checkout")

    def ping(self, connection: C, timeout: float) -> None:
        """PEP 249 has no way to ask."""

    def close(self, connection: C) -> Farewell:
        close_quietly(connection)
        return Farewell(unseen=0.0)  # PEP 249 knows no server

    def abandon(self, connection: C) -> None:
        keep_forever(connection)

    def will_be_refused_again(self, error: BaseException) -> bool:
        return is_refusal(error)

    def can_run_again(self, error: BaseException) -> bool:
        return is_conflict(error)

    def is_out_of_service(self, error: BaseException) -> bool:
        return is_out_of_service(error, self.out_of_service)


class CallableDriver(PlainDriver[C]):
    """Any callable that returns a DB-API connection."""

    def __init__(self, connect: Callable[[], C]) -> None:
        self.address = "a callable"
        self._connect = connect
        self._remembered: dict[int, dict[str, Any]] = {}

    def connect(self, timeout: float, pipeline: bool = True) -> C:  # noqa: ARG002 - PEP 249 knows no timeout
        return self._connect()

    def remember(self, connection: C) -> None:
        attributes = {name: getattr(connection, name, _NONE) for name in _KNOWN_ATTRIBUTES}
        # `autocommit` is a method where it is no setting: PyMySQL's and mysqlclient's.
        self._remembered[id(connection)] = {
            name: value
            for name, value in attributes.items()
            if value is not _NONE and not isinstance(value, MethodType)
        }

    def check_in(self, connection: C, how: Reset | None, pipeline: bool = True) -> None:
        super().check_in(connection, how, pipeline)
        for name, value in self._remembered.get(id(connection), {}).items():
            if getattr(connection, name) != value:
                setattr(connection, name, value)

    def begin(self, connection: C) -> None:
        """PEP 249 has no BEGIN: refuse a connection that is known to commit each statement by itself."""
        ask = getattr(connection, "get_autocommit", None)
        is_autocommit = (
            getattr(connection, "autocommit", None) is True
            or (callable(ask) and bool(ask()))
            # sqlite3's; elsewhere None is the server's default
            or (hasattr(connection, "in_transaction") and getattr(connection, "isolation_level", "") is None)
        )
        if is_autocommit:
            raise ConfigError(
                f"{self.address} returned a connection in autocommit, whose statements cannot be rolled back together; "
                "turn autocommit off there, or name the database by its URL"
            )

    def close(self, connection: C) -> Farewell:
        self._remembered.pop(id(connection), None)
        return super().close(connection)

    def abandon(self, connection: C) -> None:
        self._remembered.pop(id(connection), None)
        super().abandon(connection)


_KNOWN_ATTRIBUTES = ("cursorclass", "cursor_factory", "row_factory", "text_factory", "isolation_level", "autocommit")
"""What many DB-API modules let a program set on a connection."""
_NONE = object()


def delete_attributes(connection: object, but: Set[str]) -> None:
    """Delete what a holder has set on a connection that it did not have before."""
    for name in vars(connection).keys() - but:
        delattr(connection, name)


def close_quietly(connection: DBAPIConnection) -> None:
    """Close a connection that nobody will use again, whatever state it is in."""
    with contextlib.suppress(Exception):  # it is broken, or was closed before; either way it is gone
        connection.close()


def keep_forever(connection: object) -> None:
    """Keep a connection from being collected, where its destructor would end the parent's session.

    A list would not do: the interpreter empties it at its end, and the destructors run.
    """
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
