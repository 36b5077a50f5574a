"""A lock that keeps out all hosts that use a database: GET_LOCK of MySQL and MariaDB, on a connection of the pool.

The connection is borrowed with the lock and given back after it, so the pool never has one that holds a lock. What is
in doubt, after an error or an exception from outside, is closed, and the server ends the lock with the session.

https://mariadb.com/kb/en/get_lock/ and https://dev.mysql.com/doc/refman/8.4/en/locking-functions.html: names have at
most 64 characters and no case, and are the whole server's; so ours carry a hash of the name and one of the database.
"""

from __future__ import annotations

import hashlib
import re
import time
from contextlib import AbstractContextManager
from time import monotonic
from typing import Any

from wsgipool import process
from wsgipool.errors import ConfigError, ConnectFailed, LockLost, PoolTimeout
from wsgipool.loan import describe
from wsgipool.pool import Pool

_SLICE = 1.0
"""Seconds that one statement waits at most: less than any read_timeout, and an exception from outside is heard then."""
_PAUSE = 0.01
"""Seconds before the next statement where a server waits for whole seconds only."""

_NAME = "CONCAT(%s, LEFT(SHA1(COALESCE(DATABASE(), '')), 12))"
_TAKE = f"SELECT GET_LOCK({_NAME}, %s)"
_GIVE_BACK = f"SELECT RELEASE_LOCK({_NAME})"
_WHO = f"SELECT IS_USED_LOCK({_NAME})"


class _Unusable(BaseException):
    """Tells a loan's block to close its connection: whoever borrowed it next might get the lock too."""


class DatabaseLock:
    """One lock of a database; see `wsgipool.locks.plan.Outer`. It is never shared."""

    def __init__(self, name: str, database: str | Pool[Any]) -> None:
        self._name = _lock_name(name)
        self._plain_name = name
        self._database = database
        self._taken: dict[int, tuple[AbstractContextManager[Any], Any]] = {}
        self._last_holder = ""

    def take(self, thread_id: int, shared: bool, deadline: float | None, place: str) -> bool:  # noqa: ARG002 - see above
        block = self._pool().connection(None if deadline is None else max(0.0, deadline - monotonic()), readonly=True)
        try:
            connection = block.__enter__()
        except (PoolTimeout, ConnectFailed) as error:
            if deadline is None or monotonic() < deadline:
                raise
            self._last_holder = f"there was no connection in time to ask for it ({error})"
            return False
        self._taken[thread_id] = block, connection
        has_it = False
        try:
            has_it = self._wait(connection, deadline)
        except Exception as error:
            raise self._explained(error) from error
        finally:
            if not has_it:
                del self._taken[thread_id]
                # Timed out in vain or not, what is closed holds nothing.
                _close(block)
        return has_it

    def give_back(self, thread_id: int) -> None:
        taken = self._taken.get(thread_id)
        if taken is None:
            return
        block, connection = taken
        try:
            (released,) = _ask(connection, _GIVE_BACK, self._name)
            reason = "" if released == 1 else "the server says that the session does not hold it"
        except Exception as error:
            reason = describe(error)
        except BaseException:
            self._taken.pop(thread_id, None)
            _close(block)
            raise
        self._taken.pop(thread_id, None)
        if not reason:
            block.__exit__(None, None, None)
            return
        _close(block)
        raise LockLost(
            f"the lock {self._plain_name!r} was lost while it was held, since its session with database "
            f"{self._pool().name!r} has ended ({reason}): others may have had it at the same time. What was done under "
            "it should be looked at, or undone"
        )

    def describe_holder(self) -> str:
        return self._last_holder or "held by another session"

    def forget(self) -> None:
        self._taken.clear()  # the pool leaves its connections to the parent

    def _pool(self) -> Pool[Any]:
        return process.pool(self._database) if isinstance(self._database, str) else self._database

    def _wait(self, connection: Any, deadline: float | None) -> bool:
        while True:
            remaining = _SLICE if deadline is None else max(0.0, deadline - monotonic())
            asked = monotonic()
            (answer,) = _ask(connection, _TAKE, self._name, min(remaining, _SLICE))
            if answer == 1:
                return True
            if answer is None:
                raise ConfigError(
                    f"the database server could not take the lock {self._plain_name!r}, and does not say why"
                )
            if deadline is not None and monotonic() >= deadline:
                (session,) = _ask(connection, _WHO, self._name)
                self._last_holder = f"held by session {session} of the database server" if session else ""
                return False
            if monotonic() - asked < _PAUSE:
                time.sleep(_PAUSE)

    def _explained(self, error: Exception) -> Exception:
        module = type(error).__module__.partition(".")[0]
        if module in ("pymysql", "MySQLdb") or isinstance(error, ConfigError):
            return error
        return ConfigError(
            f'the lock {self._plain_name!r} is of scope "database", which takes GET_LOCK of MySQL or MariaDB; pool '
            f"{self._pool().name!r} is of another kind ({describe(error)})"
        )


def _ask(connection: Any, statement: str, *arguments: object) -> tuple[Any, ...]:
    cursor = connection.cursor()
    try:
        cursor.execute(statement, arguments)
        answer: tuple[Any, ...] = tuple(cursor.fetchone())
        return answer
    finally:
        cursor.close()


def _close(block: AbstractContextManager[Any]) -> None:
    block.__exit__(_Unusable, _Unusable(), None)


def _lock_name(name: str) -> str:
    readable = re.sub(r"[^a-z0-9_.-]", "-", name.lower())
    return f"wsgipool.{readable[:24]}.{hashlib.sha256(name.encode()).hexdigest()[:12]}."
