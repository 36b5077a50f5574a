"""SQLite by the standard library's sqlite3: `sqlite:////var/lib/shop/shop.db` (four slashes: an absolute path)."""

from __future__ import annotations

import functools
import os
import sqlite3
import stat
import sys
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wsgipool import showing
from wsgipool.config import DatabaseSettings, DatabaseURL
from wsgipool.drivers import (
    CLOSED_BY_HOLDER,
    CLOSED_BY_POOL,
    IN_THE_POOL,
    Holder,
    HolderDriver,
    Reset,
    delete_attributes,
)
from wsgipool.drivers.session_end import SessionEnd
from wsgipool.drivers.url_options import SECONDS_OR_0, Option, check_arguments, convert
from wsgipool.errors import ConfigError, errors_of

DEFAULT_BUSY_TIMEOUT = 5.0
"""Seconds that a statement waits for another connection's lock; sqlite3's default."""

_OPTIONS: Mapping[str, Option] = {"timeout": SECONDS_OR_0}


def driver(settings: DatabaseSettings, **more: Any) -> SQLiteDriver:
    """Return the driver for one `[databases.NAME]`, with more arguments for sqlite3. Raise ConfigError."""
    url, where = settings.url, f"{settings.origin}.url"
    options = convert(url, _OPTIONS, where)
    if any(part is not None for part in (url.host, url.port, url.user, url.password)):
        raise ConfigError(
            f"{where}: a file has no host, user or password; write sqlite:////path/to/file.db, with four slashes"
        )
    # The message does not repeat the text: it may be a secret.
    if not url.database.startswith("/"):
        # This refuses ":memory:", too: each connection would see an empty database of its own.
        raise ConfigError(f"{where}: the path is not absolute; write sqlite:////path/to/file.db, with four slashes")
    path = Path(url.database)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, PermissionError):
        pass  # SQLite creates the file; this user may not be the user of the processes
    except OSError as error:
        raise ConfigError(f"{where}: {showing.path(path)}: {error.strerror}; write the path of a file") from None
    else:
        if not stat.S_ISREG(mode):
            raise ConfigError(f"{where}: {showing.path(path)} is not a regular file; write the path of a file")
    return SQLiteDriver(path, {"timeout": options.get("timeout", DEFAULT_BUSY_TIMEOUT), **more})


def from_arguments(database: str | os.PathLike[str], **arguments: Any) -> tuple[SQLiteDriver, DatabaseURL]:
    """Return a driver that opens a file as `sqlite3.connect(database, ...)` does, and its URL.

    The default of `timeout` is sqlite3's, 5 s.

    Raises:
        ConfigError: sqlite3 has no such argument, or the database is in memory.
    """
    known = ("timeout", "detect_types", "isolation_level", "cached_statements")
    check_arguments("sqlite", arguments, (*known, "autocommit") if sys.version_info >= (3, 12) else known)
    path = Path(database)
    if str(database) in ("", ":memory:"):
        raise ConfigError(
            f"sqlite: {str(database)!r} is no file, so each connection would see an empty database; name a file"
        )
    path = path.absolute()
    return SQLiteDriver(path, arguments), DatabaseURL("sqlite", database=str(path))


class SQLiteDriver(HolderDriver["PooledConnection"]):
    """The driver for sqlite3; see `wsgipool.drivers.Driver`.

    The child of a fork keeps inherited files open for ever. Closing them would release the parent's POSIX locks
    (https://sqlite.org/howtocorrupt.html, 2.6).
    """

    errors = errors_of(sqlite3.OperationalError, sqlite3.InterfaceError)

    def __init__(self, path: Path, arguments: Mapping[str, Any]) -> None:
        """Take the path of the file and the other arguments of `sqlite3.connect()`."""
        self._path = path
        self._arguments = dict(arguments)
        self.address = f"sqlite:///{path}"

    def connect(self, timeout: float, pipeline: bool = True) -> PooledConnection:  # noqa: ARG002 - opening a file does not wait
        # The pool gives the connection to one thread at a time; sqlite3's own check would accept only the first thread.
        try:
            connection: PooledConnection = sqlite3.connect(
                self._path, **self._arguments, check_same_thread=False, factory=PooledConnection
            )
        except sqlite3.OperationalError as error:
            error.args = (f"{error}{self._obstacle()}",)
            raise
        try:
            connection.remember()
            connection.file = self._file()
        except BaseException:
            connection.end()
            raise
        return connection

    def check_out(self, connection: PooledConnection, thread_id: int, timeout: float) -> bool:  # noqa: ARG002
        """Return whether the connection is open, and its file still the one of this path: a backup may be back."""
        connection.holder.thread_id = thread_id
        return not connection.is_closed and connection.file == self._file()

    def check_in(self, connection: PooledConnection, how: Reset | None, pipeline: bool = True) -> None:  # noqa: ARG002
        """Close the cursors, end the transaction and restore the attributes.

        Raise if only a new connection undoes the holder's change: a PRAGMA, a function, an attached file.
        """
        connection.refuse_closed()
        connection.close_cursors()
        if how is not None:
            connection.rollback()
        connection.restore()
        connection.holder.thread_id = IN_THE_POOL

    def begin(self, connection: PooledConnection) -> None:
        """Begin a transaction on a connection in autocommit, for writing: a reader may fail to become a writer."""
        if getattr(connection, "autocommit", False) is True:  # an attribute since Python 3.12
            connection.autocommit = False  # type: ignore[attr-defined,unused-ignore]
        elif connection.isolation_level is None and not connection.in_transaction:
            connection.execute("BEGIN IMMEDIATE")

    def close(self, connection: PooledConnection) -> SessionEnd:
        connection.closed_by = CLOSED_BY_POOL
        return super().close(connection)

    def _file(self) -> tuple[int, int] | None:
        """Return what identifies the file of the path, or None if there is none."""
        try:
            status = os.stat(self._path)  # noqa: PTH116 - at each checkout; Path.stat() takes twice as long
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _obstacle(self) -> str:
        """Return the reason in the file's folder why this process cannot open the file."""
        user, folder = f"user {os.geteuid()}", self._path.parent
        if not os.access(folder, os.F_OK):
            return f": there is no {folder}, or {user} has no access to it"
        if not os.access(folder, os.W_OK | os.X_OK):
            return f": {user} may not create files in {folder}, and SQLite needs some beside the database"
        return ""

    def can_run_again(self, error: BaseException) -> bool:
        return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_BUSY


class PooledConnection(sqlite3.Connection):
    """A sqlite3 connection that knows its open cursors and its holder's changes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Open a file with sqlite3's arguments."""
        super().__init__(*arguments, **options)
        self.holder = Holder()
        self.is_closed = False
        self.closed_by = CLOSED_BY_HOLDER
        self.extended_by: str | None = None
        self.file: tuple[int, int] | None = None
        """What identifies the file that was opened."""
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()
        self._remembered: dict[str, Any] = {}
        self._state: dict[str, Any] | None = {}
        self._names = frozenset(vars(self)) | {"_names"}

    def remember(self) -> None:
        """Note the state for `restore`."""
        self.close_cursors()
        self.extended_by = None
        self._remembered = {name: getattr(self, name) for name in _ATTRIBUTES if hasattr(self, name)}
        self._names = frozenset(vars(self))
        # A part of the state is read from the file. Do not wait for another connection's lock on it.
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
        """Restore the attributes. Raise if the rest of the state has changed."""
        delete_attributes(self, but=self._names)
        for name, value in self._remembered.items():
            if getattr(self, name) != value:
                if name == "isolation_level" and self.in_transaction:
                    raise sqlite3.ProgrammingError("a transaction is open")  # sqlite3 would commit it
                if name == "autocommit" and value is True:
                    super().rollback()  # sqlite3 would commit the open transaction
                setattr(self, name, value)
        if self.extended_by is not None:
            raise sqlite3.ProgrammingError(f"{self.extended_by}() was called; call it in configure=")
        if self._state is None:
            raise sqlite3.OperationalError("the file was opened while another connection had it locked")
        for query, now in self._read_state().items() if self._state else ():
            if now != self._state[query]:
                raise sqlite3.ProgrammingError(f"{query} returns {now}, and returned {self._state[query]} before")

    def close_cursors(self) -> None:
        """Close all open cursors and blobs: an unread cursor keeps a lock on the file."""
        for one in list(self._open):
            one.close()
        self._open.clear()

    def refuse_closed(self) -> None:
        """Raise if the connection is closed."""
        if self.is_closed:
            raise sqlite3.ProgrammingError(self.closed_by)

    def cursor(self, factory: Any = sqlite3.Cursor) -> Any:
        self.refuse_closed()
        cursor = super().cursor(factory)
        self._open.add(cursor)
        return cursor

    # sqlite3's methods do not call cursor().

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
        self.holder.close(self.end)

    def end(self) -> None:
        """Close the file without calling the hook."""
        super().close()
        self.is_closed = True

    def _read_state(self) -> dict[str, Any]:
        cursor = sqlite3.Cursor(self)  # cursor() would use the row_factory
        return {query: cursor.execute(query).fetchall() for query in _STATE}


def _extending(name: str) -> Callable[..., Any]:
    """Return a sqlite3 method that also records its call, because its effect cannot be undone."""
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
    if hasattr(sqlite3.Connection, _name):  # some need Python 3.12 or a build option
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
"""Queries for the state of a session. None waits for a lock once the schema is known."""
