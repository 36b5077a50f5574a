"""A lock that excludes all hosts that use a database: GET_LOCK of MySQL and MariaDB, on a connection of the pool.

The connection is checked out before the lock is taken and returned after its release, so no idle connection holds a
lock. After an error or an asynchronous exception the connection is closed, and the server releases the lock.

Lock names have at most 64 characters, ignore case, and are shared by all databases of a server. So ours contain a hash
of the name and a hash of the database. The locks exist on one server only, so servers that share their data with
others are refused. Each statement that takes a lock also checks this: a separate statement may reach another server,
through a proxy or after a failover.

https://mariadb.com/kb/en/get_lock/
https://dev.mysql.com/doc/refman/8.4/en/locking-functions.html
"""

from __future__ import annotations

import hashlib
import importlib
import re
import time
from contextlib import AbstractContextManager
from time import monotonic
from typing import Any

from wsgipool import pools
from wsgipool.drivers.codes import Codes, is_one_of
from wsgipool.errors import ConfigError, ConnectFailed, LockLost, PoolTimeout
from wsgipool.pool import Pool
from wsgipool.wording import describe

_SLICE = 1.0
"""Maximum wait of one statement in seconds: less than a usual read_timeout, and so that asynchronous exceptions get
through between two statements."""
_PAUSE = 0.01
"""Seconds between two statements on servers that wait for whole seconds only."""

_WSREP_ON, _HAS_PROVIDER, _IN_GROUP, _READ_ONLY = 1, 2, 4, 8
_GALERA = _WSREP_ON | _HAS_PROVIDER

_FLAGS = f"""(SELECT SUM(CASE LOWER(VARIABLE_NAME)
 WHEN 'wsrep_on' THEN {_WSREP_ON} * (VARIABLE_VALUE IN ('ON', '1'))
 WHEN 'wsrep_provider' THEN {_HAS_PROVIDER} * (VARIABLE_VALUE NOT IN ('', 'none'))
 WHEN 'group_replication_group_name' THEN {_IN_GROUP} * (VARIABLE_VALUE <> '')
 WHEN 'read_only' THEN {_READ_ONLY} * (VARIABLE_VALUE NOT IN ('OFF', '0')) END)
 FROM %s
 WHERE VARIABLE_NAME IN ('wsrep_on', 'wsrep_provider', 'group_replication_group_name', 'read_only'))"""  # noqa: S608
# Every account may read both tables. MariaDB executes comments that begin with M!, MySQL those that begin with !.
_AND_FLAGS = (
    f" /*M!100100 , {_FLAGS % 'information_schema.GLOBAL_VARIABLES'} */"
    f" /*!50700 , {_FLAGS % 'performance_schema.global_variables'} */"
)
_NO_SUCH_TABLE: Codes = {1142, 1143, 1146, 1682}
"""Errors of servers where the table is missing, broken, or hidden from the user."""

_DRIVERS = ("pymysql", "MySQLdb")


class _Unusable(BaseException):
    """Makes a block close its connection, since the next holder might get the lock with it."""


class DatabaseLock:
    """One lock of a database, always exclusive; see `wsgipool.locks.lock_set.OuterLock`."""

    def __init__(self, name: str, database: str | Pool[Any]) -> None:
        # Only the server knows the current database. MySQL 9 has no SHA1().
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
            self._last_holder = f"no connection was free in time to ask for it ({error})"
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
                # The session may have got the lock after all; closing the connection releases it.
                _close(block)
        return has_it

    def release(self, thread_id: int) -> None:
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
            f"the lock {self._plain_name!r} was lost while it was held, since {reason}: others may have held it at the "
            "same time. Check or undo the work done under it"
        )

    def describe_holder(self) -> str:
        return self._last_holder or "held by another session"

    def forget(self) -> None:
        self._taken.clear()  # the connections belong to the parent

    def _pool(self) -> Pool[Any]:
        return pools.pool(self._database) if isinstance(self._database, str) else self._database

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
        """Return whether the server gave the lock in time. Raises ConfigError if its locks do not exclude others."""
        # MySQL rounds to whole seconds, possibly up, so it gets no fraction.
        take = f"SELECT GET_LOCK({self._name}, {int(seconds)} /*M!100100 + {seconds % 1:.3f} */)"
        taken, why_not = _ask_beside_flags(connection, take)
        if why_not:
            raise self._refused(why_not)
        if taken is None:
            raise ConfigError(f"the database server could not take the lock {self._plain_name!r} and gives no reason")
        if taken not in (0, 1):
            raise ConfigError(
                f"the database server should answer 1 or 0 for the lock {self._plain_name!r}, but the answer reads "
                f"{taken}; a converter or decoder of pool {self._pool().name!r} may have changed it"
            )
        return bool(taken)

    def _refused(self, why: str) -> ConfigError:
        return ConfigError(
            f'the lock {self._plain_name!r} is of scope "database", which needs GET_LOCK, but the server of pool '
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
            f'the lock {self._plain_name!r} is of scope "database", which needs GET_LOCK of MySQL or MariaDB; pool '
            f"{self._pool().name!r} has another kind of database ({describe(error)})"
        )


_SHARED = (
    "{}, which shares its data with others: a lock excludes only the sessions of the same node. Instead let the "
    "transaction itself change a row that stands for the lock, UPDATE locks SET turns = turns + 1 WHERE name = ..., "
    "and run it by wsgipool.transaction(..., retry=3)"
)


def _ask_beside_flags(connection: Any, statement: str) -> tuple[int | None, str]:
    """Return the answer, and why a lock of this server does not exclude others; "" if it does."""
    try:
        answer, flags = _ask(connection, statement + _AND_FLAGS)
    except Exception as error:
        if not is_one_of(_NO_SUCH_TABLE, error):
            raise
        (answer,), flags = _ask(connection, statement), None
    return answer, _why_no_lock(flags or 0)


def _why_no_lock(flags: int) -> str:
    """Return why a lock of a server with these flags does not exclude others; "" if it does."""
    if flags & _GALERA == _GALERA:
        return _SHARED.format("is a node of a Galera cluster (wsrep_on, wsrep_provider)")
    if flags & _IN_GROUP:
        return _SHARED.format("is a member of Group Replication (group_replication_group_name)")
    if flags & _READ_ONLY:
        return (
            "is read_only, a replica or no longer the primary: a lock there does not exclude processes that use the "
            "primary. Let the URL name the primary, or a proxy that finds it"
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
    """Return a cursor whose rows are tuples, whatever the connection's default cursor class is."""
    driver = _driver_of(connection)
    return connection.cursor() if driver is None else importlib.import_module(f"{driver}.cursors").Cursor(connection)


def _driver_of(connection: Any) -> str | None:
    modules = (kind.__module__.partition(".")[0] for kind in type(connection).__mro__)
    return next((module for module in modules if module in _DRIVERS), None)


def _number(value: Any) -> int | None:
    """Return the number in a column, even if a converter has changed its type."""
    if value is None:
        return None
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(
            f"the database server should answer with a number, but the answer reads {value!r}; a converter or a cursor "
            "class may have changed it"
        ) from None


def _close(block: AbstractContextManager[Any]) -> None:
    block.__exit__(_Unusable, _Unusable(), None)


def _lock_name(name: str) -> str:
    readable = re.sub(r"[^a-z0-9_.-]", "-", name.lower())
    return f"wsgipool.{readable[:24]}.{hashlib.sha256(name.encode()).hexdigest()[:12]}."
