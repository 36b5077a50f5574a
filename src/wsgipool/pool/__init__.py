"""The connection pool: connections to one database for the threads of one process."""

from wsgipool.pool.pool import Pool
from wsgipool.pool.stats import Stats

__all__ = ["Pool", "Stats"]
