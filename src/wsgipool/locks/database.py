"""A lock that keeps out all hosts that use a database: GET_LOCK of MySQL and MariaDB, on a connection of the pool.

The connection is checked out with the lock and returned after it, so the pool never has one that holds a lock. After an
error or an asynchronous exception the connection is closed, and the server ends the lock with the session.

https://mariadb.com/kb/en/get_lock/ and https://dev.mysql.com/doc/refman/8.4/en/locking-functions.html: names have at
most 64 characters and no case, and are the whole server's; so ours carry a hash of the name and one of the database.
And they are one server's only, so servers that share their data with others are refused. Each statement that takes a
lock asks for that, too: a statement of its own may go to another server, through a proxy or after a failover.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import time
from contextlib import AbstractContextManager
from time import monotonic
from typing import Any

from wsgipool import process
from wsgipool.drivers.codes import Codes, is_one_of
from wsgipool.errors import ConfigError, ConnectFailed, LockLost, PoolTimeout
from wsgipool.loan import describe
from wsgipool.pool import Pool

_SLICE = 1.0
"""Seconds that one statement waits at most: less than a usual read_timeout. An asynchronous exception strikes then."""
_PAUSE = 0.01
"""Seconds before the next statement where a server waits for whole seconds only."""

_WSREP_ON, _HAS_PROVIDER, _IN_GROUP, _READ_ONLY = 1, 2, 4, 8
_GALERA = _WSREP_ON | _HAS_PROVIDER

_FLAGS = f"""(SELECT SUM(CASE LOWER(VARIABLE_NAME)
 WHEN 'wsrep_on' THEN {_WSREP_ON} * (VARIABLE_VALUE IN ('ON', '1'))
 WHEN 'wsrep_provider' THEN {_HAS_PROVIDER} * (VARIABLE_VALUE NOT IN ('', 'none'))
 WHEN 'group_replication_group_name' THEN {_IN_GROUP} * (VARIABLE_VALUE <> '')
 WHEN 'read_only' THEN {_READ_ONLY} * (VARIABLE_VALUE NOT IN ('OFF', '0')) END)
 FROM %s
 WHERE VARIABLE_NAME IN ('wsrep_on', 'wsrep_provider', 'group_replication_group_name', 'read_only'))"""  # noqa: S608
# Both tables may be read by everybody. MariaDB reads comments that begin with M!, MySQL those that begin with !.
_AND_FLAGS = (
    f" /*M!100100 , {_FLAGS % 'information_schema.GLOBAL_VARIABLES'} */"
    f" /*!50700 , {_FLAGS % 'performance_schema.global_variables'} */"
)
_NO_SUCH_TABLE: Codes = {1142, 1143, 1146, 1682}
"""It is missing, broken, or hidden from the user, against what both servers document."""

_DRIVERS = ("pymysql", "MySQLdb")


class _Unusable(BaseException):
    """Makes a block close its connection: the next holder might get the lock, too."""


class DatabaseLock:
    """One lock of a database; see `wsgipool.locks.plan.Outer`. It is never shared."""

    def __init__(self, name: str, database: str | Pool[Any]) -> None:
        # The database is the one that USE has chosen, which only the server knows. MySQL 9 has no SHA1().
        self._name = f"CONCAT('{_lock_name(name)}', LEFT(SHA2(COALESCE(DATABASE(), ''), 256), 12))"
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
            raise self._explained(error, connection) from error
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
        database = self._pool().name
        try:
            released, why_not = _ask_beside_flags(connection, f"SELECT RELEASE_LOCK({self._name})")
            if released != 1:
                reason = f"the server of database {database!r} says that the session does not hold it"
            else:
                reason = why_not and f"the server of database {database!r} {why_not}"
        except Exception as error:
            reason = f"its session with database {database!r} has ended ({describe(error)})"
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
            f"the lock {self._plain_name!r} was lost while it was held, since {reason}: others may have had it at the "
            "same time. What was done under it should be looked at, or undone"
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
            if self._take_within(connection, min(remaining, _SLICE)):
                return True
            if deadline is not None and monotonic() >= deadline:
                (session,) = _ask(connection, f"SELECT IS_USED_LOCK({self._name})")
                self._last_holder = f"held by session {session} of the database server" if session else ""
                return False
            if monotonic() - asked < _PAUSE:
                time.sleep(_PAUSE)

    def _take_within(self, connection: Any, seconds: float) -> bool:
        """Return whether the server gave the lock within a slice. Raises ConfigError where it would keep out nobody."""
        # MySQL rounds to whole seconds, also up: it gets none of a fraction.
        take = f"SELECT GET_LOCK({self._name}, {int(seconds)} /*M!100100 + {seconds % 1:.3f} */)"
        taken, why_not = _ask_beside_flags(connection, take)
        if why_not:
            raise self._refused(why_not)
        if taken is None:
            raise ConfigError(f"the database server could not take the lock {self._plain_name!r}, and does not say why")
        if taken not in (0, 1):
            raise ConfigError(
                f"the database server should answer 1 or 0 to the lock {self._plain_name!r}, and the answer reads "
                f"{taken}; a converter or decoder of pool {self._pool().name!r} may have changed it"
            )
        return bool(taken)

    def _refused(self, why: str) -> ConfigError:
        return ConfigError(
            f'the lock {self._plain_name!r} is of scope "database", which takes GET_LOCK, and the server of pool '
            f"{self._pool().name!r} {why}"
        )

    def _explained(self, error: Exception, connection: Any) -> Exception:
        if isinstance(error, ConfigError):
            return error
        if "pxc_strict_mode" in str(error):
            return self._refused(_SHARED.format("is a node of a Percona XtraDB Cluster"))
        if _driver_of(connection) is not None:
            return error
        return ConfigError(
            f'the lock {self._plain_name!r} is of scope "database", which takes GET_LOCK of MySQL or MariaDB; pool '
            f"{self._pool().name!r} is of another kind ({describe(error)})"
        )


_SHARED = (
    "{}, which shares its data with others: a lock keeps out only those on the same node. Instead let the transaction "
    "itself change a row that stands for the lock, UPDATE locks SET turns = turns + 1 WHERE name = ..., and run it by "
    "wsgipool.transaction(..., retry=3)"
)


def _ask_beside_flags(connection: Any, statement: str) -> tuple[int | None, str]:
    """Return the answer, and why a lock on the server that gave it would keep out nobody, or ""."""
    try:
        answer, flags = _ask(connection, statement + _AND_FLAGS)
    except Exception as error:
        if not is_one_of(_NO_SUCH_TABLE, error):
            raise
        (answer,), flags = _ask(connection, statement), None
    return answer, _why_no_lock(flags or 0)


def _why_no_lock(flags: int) -> str:
    """Return why a lock on a server with these flags would keep out nobody, or ""."""
    if flags & _GALERA == _GALERA:
        return _SHARED.format("is a node of a Galera cluster (wsrep_on, wsrep_provider)")
    if flags & _IN_GROUP:
        return _SHARED.format("is a member of Group Replication (group_replication_group_name)")
    if flags & _READ_ONLY:
        return (
            "is read_only, a replica or no longer the primary: a lock there keeps out nobody who uses the primary. "
            "Let the URL name the primary, or a proxy that finds it"
        )
    return ""


def _ask(connection: Any, statement: str) -> tuple[int | None, ...]:
    cursor = _plain_cursor(connection)
    try:
        cursor.execute(statement)
        return tuple(_number(value) for value in cursor.fetchone())
    finally:
        cursor.close()


def _plain_cursor(connection: Any) -> Any:
    """Return a cursor whose rows are tuples, whatever class the connection makes its cursors of by now."""
    driver = _driver_of(connection)
    return connection.cursor() if driver is None else importlib.import_module(f"{driver}.cursors").Cursor(connection)


def _driver_of(connection: Any) -> str | None:
    modules = (kind.__module__.partition(".")[0] for kind in type(connection).__mro__)
    return next((module for module in modules if module in _DRIVERS), None)


def _number(value: Any) -> int | None:
    """Return the number that a column holds, also where a converter has made something else of it."""
    if value is None:
        return None
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(
            f"the database server should answer a number, and the answer reads {value!r}; a converter or a class of "
            "cursors may have changed it"
        ) from None


def _close(block: AbstractContextManager[Any]) -> None:
    block.__exit__(_Unusable, _Unusable(), None)


def _lock_name(name: str) -> str:
    readable = re.sub(r"[^a-z0-9_.-]", "-", name.lower())
    return f"wsgipool.{readable[:24]}.{hashlib.sha256(name.encode()).hexdigest()[:12]}."
