"""Database connections for Python on Apache httpd and mod_wsgi: one pool per process and database.

Example::

    with wsgipool.connection("orders") as conn:  # commits at the end, rolls back on an error
        with conn.cursor() as cursor:
            cursor.execute("SELECT ...")
"""

from wsgipool.cache.shared_cache import CacheStats, SharedCache
from wsgipool.errors import (
    CacheDeadlock,
    CacheTimeout,
    ConfigError,
    ConnectFailed,
    Error,
    LockError,
    LockLost,
    LockOrderError,
    LockTimeout,
    PoolClosed,
    PoolDeadlock,
    PoolError,
    PoolTimeout,
    TooManyRequests,
    WrongThread,
)
from wsgipool.locks.named import Locks
from wsgipool.pool import Pool
from wsgipool.pool.stats import Stats
from wsgipool.pools import close, configure, connection, drain, pool, register, transaction
from wsgipool.request import Middleware
from wsgipool.scoreboard import publishing as _publishing  # noqa: F401 # this process is on the scoreboard

__version__ = "0.1.0"

__all__ = [
    "CacheDeadlock",
    "CacheStats",
    "CacheTimeout",
    "ConfigError",
    "ConnectFailed",
    "Error",
    "LockError",
    "LockLost",
    "LockOrderError",
    "LockTimeout",
    "Locks",
    "Middleware",
    "Pool",
    "PoolClosed",
    "PoolDeadlock",
    "PoolError",
    "PoolTimeout",
    "SharedCache",
    "Stats",
    "TooManyRequests",
    "WrongThread",
    "close",
    "configure",
    "connection",
    "drain",
    "pool",
    "register",
    "transaction",
]
