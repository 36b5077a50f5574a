"""Writes the log lines of a pool. Each record names its pool and its event, and has the numbers of its message.

docs/reference/logs.md lists the events and their fields. No caller holds the pool's lock.

A logging handler may write to a database, and so check a connection out of the very pool whose line it writes. It must
not wait for that, because the logging thread may be the one that has to act first: see `is_logging`.
"""

from __future__ import annotations

import logging
import threading
from typing import Literal

logger = logging.getLogger("wsgipool")

Event = Literal[
    "exhausted",
    "recovered",
    "slow_checkout",
    "slow_connect",
    "leaked",
    "closing",
    "connect_failed",
    "connected_again",
    "on_close_failed",
]
"""Name of an event; the attribute `pool_event` of the record."""


class _Logging(threading.local):
    pools: tuple[str, ...] = ()
    """The pools whose lines the thread is writing, the last one on top."""


_logging = _Logging()


def log(level: int, event: Event, pool: str, message: str, *args: object, **fields: object) -> None:
    """Log an event of a pool. `fields` become attributes of the record, beside `pool` and `pool_event`."""
    # Not `event`: log formats of others, such as those of structlog and Elastic, use that name for something else.
    extra = {"pool": pool, "pool_event": event, **fields}
    before = _logging.pools
    _logging.pools = (*before, pool)
    try:
        logger.log(level, message, *args, extra=extra, stacklevel=2)
    finally:
        _logging.pools = before


def is_logging(pool: str) -> bool:
    """Return whether this thread is writing a line of the pool, so that the caller is a logging handler."""
    return pool in _logging.pools
