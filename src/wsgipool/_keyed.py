"""Pools of a framework or of old code, which give connection arguments instead of a pool's name.

There is one pool for each set of arguments. The first has the name that the caller proposes, a further one a number
after it: a second database, a test database, a clone of one.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from typing import Any

from wsgipool import _runtime, pools
from wsgipool.config import MAX_DATABASES
from wsgipool.drivers import Driver
from wsgipool.errors import ConfigError

_known: dict[str, list[tuple[object, str, Driver[Any]]]] = {}
"""By proposed name: the key, the pool's name and its driver."""
_lock = threading.Lock()


Settings = Mapping[str, Any] | Callable[[], Mapping[str, Any]]


def pool_name(name: str, key: object, make: Callable[[], Driver[Any]], settings: Settings) -> str:
    """Return the name of the pool for some connection arguments; create the pool at the first call.

    Look the pool up by `wsgipool.pool(name)` at each use: a fork, `configure` and `close` replace it.

    Args:
        name: Proposed name of the pool.
        key: All that the pool depends on: the arguments of the connection and `settings`, compared by `==`. The caller
            must not change it afterwards.
        make: Return the driver. It is called if the pool is new.
        settings: Arguments of `Pool`, as for `wsgipool.register`, or a function that returns them for a new pool.

    Raises:
        ConfigError: There are too many pools, or an argument is wrong.
    """
    found = _find(name, key)
    if found is not None:
        return found
    with _lock:
        return _find(name, key) or _create(name, key, make, settings)


def _find(name: str, key: object) -> str | None:
    for known, found, driver in _known.get(name, ()):
        if known == key and pools.is_registered(found, driver):
            return found
    return None


def _create(name: str, key: object, make: Callable[[], Driver[Any]], settings: Settings) -> str:
    for proposed, known in _known.items():
        _known[proposed] = [entry for entry in known if pools.is_registered(entry[1], entry[2])]
    count = sum(map(len, _known.values()))
    if count >= MAX_DATABASES:
        raise ConfigError(
            f"{name!r}: there are {count} pools already, one for each set of connection arguments; connect with the "
            "same arguments each time"
        )
    driver = make()
    pools.load_if_found()
    numbers = itertools.count(2)
    free = name
    while pools.is_known(free):
        free = f"{name}-{next(numbers)}"
    pools.register(free, driver, **(settings() if callable(settings) else settings))
    _known.setdefault(name, []).append((key, free, driver))
    return free


def _after_fork_in_child() -> None:
    # A thread that the child does not have may have held the lock.
    global _lock
    _lock = threading.Lock()


_runtime.after_fork(_after_fork_in_child)
