"""Database connections for Python on Apache httpd and mod_wsgi: one pool per process and database.

with wsgipool.connection("orders") as conn:      # committed at the end, rolled back on an error
    with conn.cursor() as cursor:
        cursor.execute("SELECT ...")
"""

from wsgipool.cache.shared import CacheStats, SharedCache
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
from wsgipool.process import close, configure, connection, pool, transaction
from wsgipool.request import Middleware
from wsgipool.stats import Stats

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
    "pool",
    "transaction",
]
