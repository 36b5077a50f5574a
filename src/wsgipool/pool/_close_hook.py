"""The hook that replaces `connection.close()` during a checkout, so that the pool decides.

The connection has the hook, which refers to pool and connection weakly. So a pool without references is garbage at
once, and so are its connections.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

from wsgipool.drivers import C, Driver


def set_close_hook(driver: Driver[C], connection: C, closes: weakref.WeakMethod[Callable[[C], object]]) -> bool:
    """Call `closes` with the connection in place of `connection.close()`; return whether the driver supports it."""
    try:
        known = weakref.ref(connection)
    except TypeError:
        return False

    def hook() -> None:
        method, closed = closes(), known()
        if closed is None:
            return
        if method is None:
            driver.close(closed).close()  # the pool is garbage
        else:
            method(closed)

    return driver.set_close_hook(connection, hook)
