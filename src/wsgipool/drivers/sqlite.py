"""SQLite by the standard library's sqlite3: `sqlite:////var/lib/shop/shop.db` (four slashes: an absolute path)."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Mapping
from pathlib import Path

from wsgipool import showing
from wsgipool.config import DatabaseSettings
from wsgipool.drivers import PlainDriver
from wsgipool.drivers.options import SECONDS_OR_0, Option, convert
from wsgipool.errors import ConfigError

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


class SQLiteDriver(PlainDriver[sqlite3.Connection]):
    """Opens a file with sqlite3; see `wsgipool.drivers.Driver`.

    A fork's child keeps what it inherits open for ever: closing it there would release the parent's POSIX locks
    (https://sqlite.org/howtocorrupt.html, 2.6).
    """

    def __init__(self, path: Path, busy_timeout: float) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self.address = f"sqlite:///{path}"

    def connect(self, timeout: float, pipeline: bool = True) -> sqlite3.Connection:  # noqa: ARG002 - opening a file does not wait
        # The pool sees to it that one thread at a time has the connection; sqlite3 would insist on the first.
        try:
            return sqlite3.connect(self._path, timeout=self._busy_timeout, check_same_thread=False)
        except sqlite3.OperationalError as error:
            error.args = (f"{error}{self._obstacle()}",)
            raise

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
