"""SQLite by the standard library's sqlite3: `sqlite:////var/lib/shop/shop.db` (four slashes: an absolute path)."""

from __future__ import annotations

import functools
import os
import sqlite3
import stat
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wsgipool import showing
from wsgipool.config import DatabaseSettings
from wsgipool.drivers import CLOSED_BY_HOLDER, CLOSED_BY_POOL, PlainDriver, Reset, delete_attributes
from wsgipool.drivers.options import SECONDS_OR_0, Option, convert
from wsgipool.errors import ConfigError
from wsgipool.farewell import Farewell

DEFAULT_BUSY_TIMEOUT = 5.0
"""Seconds that a statement waits for another connection's lock; sqlite3's own default."""

_OPTIONS: Mapping[str, Option] = {"timeout": SECONDS_OR_0}


def driver(settings: DatabaseSettings) -> SQLiteDriver:
    """Return the driver for one `[databases.NAME]`. Raises ConfigError."""
    url, where = settings.url, f"{settings.origin}.url"
    options = convert(url, _OPTIONS, where)
    if any(part is not None for part in (url.host, url.port, url.user, url.password)):
        raise ConfigError(
            f"{where}: a file has no host, user or password; write sqlite:////path/to/file.db, with four slashes"
        )
    # Not quoted: what is no path may be anything.
    if not url.database.startswith("/"):
        # ":memory:" too: each connection would see an empty database of its own.
        raise ConfigError(
            f"{where}: what follows the slashes is not the absolute path of a file; write sqlite:////path/to/file.db, "
            "with four slashes"
        )
    path = Path(url.database)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, PermissionError):
        pass  # SQLite makes the file; whether it can is seen as the user of the processes
    except OSError as error:
        raise ConfigError(f"{where}: {showing.path(path)}: {error.strerror}; write the path of a file") from None
    else:
        if not stat.S_ISREG(mode):
            raise ConfigError(f"{where}: {showing.path(path)} is not a regular file; write the path of a file")
    return SQLiteDriver(path, options.get("timeout", DEFAULT_BUSY_TIMEOUT))


class SQLiteDriver(PlainDriver["PooledConnection"]):
    """Opens a file with sqlite3; see `wsgipool.drivers.Driver`.

    A fork's child keeps what it inherits open for ever: closing it there would release the parent's POSIX locks
    (https://sqlite.org/howtocorrupt.html, 2.6).
    """

    def __init__(self, path: Path, busy_timeout: float) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self.address = f"sqlite:///{path}"

    def connect(self, timeout: float, pipeline: bool = True) -> PooledConnection:  # noqa: ARG002 - opening a file does not wait
        # The pool sees to it that one thread at a time has the connection; sqlite3 would insist on the first.
        try:
            connection: PooledConnection = sqlite3.connect(
                self._path, timeout=self._busy_timeout, check_same_thread=False, factory=PooledConnection
            )
        except sqlite3.OperationalError as error:
            error.args = (f"{error}{self._obstacle()}",)
            raise
        return connection

    def remember(self, connection: PooledConnection) -> None:
        connection.remember()

    def check_out(self, connection: PooledConnection, thread_id: int, timeout: float) -> bool:  # noqa: ARG002
        return not connection.is_closed

    def check_in(self, connection: PooledConnection, how: Reset | None, pipeline: bool = True) -> None:  # noqa: ARG002
        """End the transaction and the reading of rows, and restore the attributes.

        Raises where the holder has changed what only a new connection undoes: a PRAGMA, a function, an attached file.
        """
        connection.refuse_closed()
        connection.close_cursors()
        if how is not None:
            connection.rollback()
        connection.restore()

    def begin(self, connection: PooledConnection) -> None:
        """Begin a transaction on a connection in autocommit, at once for writing: of two readers one cannot write."""
        since_312: Any = connection
        if getattr(connection, "autocommit", False) is True:  # commit() would do nothing
            since_312.autocommit = False
        elif connection.isolation_level is None and not connection.in_transaction:
            connection.execute("BEGIN IMMEDIATE")

    def close(self, connection: PooledConnection) -> Farewell:
        connection.closed_by = CLOSED_BY_POOL
        return super().close(connection)

    def _obstacle(self) -> str:
        """Return why this process cannot open the file, as far as its folder tells."""
        user, folder = f"user {os.geteuid()}", self._path.parent
        if not os.access(folder, os.F_OK):
            return f": there is no {folder}, or {user} may not see it"
        if not os.access(folder, os.W_OK | os.X_OK):
            return f": {user} may make no files in {folder}, and SQLite needs some beside the database"
        return ""

    def can_run_again(self, error: BaseException) -> bool:
        return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_BUSY


class PooledConnection(sqlite3.Connection):
    """sqlite3's connection, which knows its open cursors and what its holder has changed."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.is_closed = False
        self.closed_by = CLOSED_BY_HOLDER
        self.extended_by: str | None = None
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()
        self._remembered: dict[str, Any] = {}
        self._state: dict[str, Any] | None = {}
        self._names = frozenset(vars(self)) | {"_names"}

    def remember(self) -> None:
        """Note what `restore` restores."""
        self.close_cursors()
        self.extended_by = None
        self._remembered = {name: getattr(self, name) for name in _ATTRIBUTES if hasattr(self, name)}
        self._names = frozenset(vars(self))
        # Some of it has to be read from the file, and who opens it does not wait for another's lock.
        cursor = sqlite3.Cursor(self)
        [(busy_timeout,)] = cursor.execute("PRAGMA busy_timeout").fetchall()
        cursor.execute("PRAGMA busy_timeout = 0")
        try:
            self._state = self._read_state()
        except sqlite3.OperationalError:
            self._state = None
        finally:
            cursor.execute(f"PRAGMA busy_timeout = {busy_timeout}")
        if self._state is not None:
            self._state["PRAGMA busy_timeout"] = [(busy_timeout,)]

    def restore(self) -> None:
        """Restore the attributes. Raises where the rest is not as it was remembered."""
        delete_attributes(self, but=self._names)
        for name, value in self._remembered.items():
            if getattr(self, name) != value:
                if name == "isolation_level" and self.in_transaction:
                    raise sqlite3.ProgrammingError("a transaction is open")  # sqlite3 would commit it
                setattr(self, name, value)
        if self.extended_by is not None:
            raise sqlite3.ProgrammingError(f"{self.extended_by}() was called, which belongs into configure=")
        if self._state is None:
            raise sqlite3.OperationalError("it was opened while another had the file locked")
        for question, now in self._read_state().items() if self._state else ():
            if now != self._state[question]:
                raise sqlite3.ProgrammingError(f"{question} gives {now}, and gave {self._state[question]} before")

    def close_cursors(self) -> None:
        """Close the cursors and blobs that are open still: one in the middle of its rows keeps a lock on the file."""
        for one in list(self._open):
            one.close()
        self._open.clear()

    def refuse_closed(self) -> None:
        if self.is_closed:
            raise sqlite3.ProgrammingError(self.closed_by)

    def cursor(self, factory: Any = sqlite3.Cursor) -> Any:
        self.refuse_closed()
        cursor = super().cursor(factory)
        self._open.add(cursor)
        return cursor

    # sqlite3's own do not call cursor().

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        cursor: sqlite3.Cursor = self.cursor().execute(*arguments)
        return cursor

    def executemany(self, *arguments: Any) -> sqlite3.Cursor:
        cursor: sqlite3.Cursor = self.cursor().executemany(*arguments)
        return cursor

    def executescript(self, *arguments: Any) -> sqlite3.Cursor:
        cursor: sqlite3.Cursor = self.cursor().executescript(*arguments)
        return cursor

    def blobopen(self, *arguments: Any, **options: Any) -> sqlite3.Blob:
        blob = super().blobopen(*arguments, **options)
        self._open.add(blob)
        return blob

    def commit(self) -> None:
        self.refuse_closed()
        super().commit()

    def rollback(self) -> None:
        self.refuse_closed()
        super().rollback()

    def close(self) -> None:
        super().close()
        self.is_closed = True

    def _read_state(self) -> dict[str, Any]:
        cursor = sqlite3.Cursor(self)  # not by cursor(): that would take the row_factory
        return {question: cursor.execute(question).fetchall() for question in _STATE}


def _extending(name: str) -> Callable[..., Any]:
    """Return a method of sqlite3's that cannot be undone, which says so."""
    method = getattr(sqlite3.Connection, name)

    @functools.wraps(method)
    def extending(connection: PooledConnection, *arguments: Any, **options: Any) -> Any:
        connection.extended_by = name
        return method(connection, *arguments, **options)

    return extending


for _name in (
    *("create_function", "create_aggregate", "create_window_function", "create_collation", "deserialize"),
    *("set_authorizer", "set_progress_handler", "set_trace_callback"),
    *("enable_load_extension", "load_extension", "setlimit", "setconfig"),
):
    if hasattr(sqlite3.Connection, _name):  # some came with Python 3.12, some depend on how it was built
        setattr(PooledConnection, _name, _extending(_name))

_ATTRIBUTES = ("isolation_level", "autocommit", "row_factory", "text_factory")
_PRAGMAS = (
    *("foreign_keys", "defer_foreign_keys", "recursive_triggers", "ignore_check_constraints", "automatic_index"),
    *("query_only", "busy_timeout", "locking_mode", "journal_mode", "synchronous", "cache_size", "temp_store"),
    *("read_uncommitted", "secure_delete", "reverse_unordered_selects", "trusted_schema", "writable_schema"),
    *("legacy_alter_table", "count_changes", "full_column_names", "short_column_names", "empty_result_callbacks"),
    # ATTACHed files, and whether there are temporary tables
    "database_list",
)
_STATE = (*(f"PRAGMA {name}" for name in _PRAGMAS), "SELECT 'a' LIKE 'A'")
"""Questions about what a session keeps, none of which waits for a lock once the schema is known."""
