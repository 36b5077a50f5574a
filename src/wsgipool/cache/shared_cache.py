"""Objects that all threads of a process share, by key: created once, kept for a while, dropped when invalidated.

The first thread that asks for a missing value creates it; threads that ask in the meantime wait for it. No lock is held
while a value is created or closed. An invalidation drops the value of a key in all processes of the host. Each access
first checks for new invalidations, by one read of a shared file (`wsgipool.shared.invalidations`).
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from wsgipool import _runtime, pools
from wsgipool.cache.creation import Creation, Ending
from wsgipool.errors import ConfigError
from wsgipool.shared.invalidations import EVERYTHING, Invalidations, token
from wsgipool.shared.one_time_warnings import warn_once

if TYPE_CHECKING:
    from wsgipool.cache.storage import Storage

logger = logging.getLogger("wsgipool")

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
D = TypeVar("D")


class _Nothing(Enum):
    """A marker for a missing value or key, since None may be either."""

    NOTHING = 0


_NOTHING = _Nothing.NOTHING

_CHECK_FILE_EVERY = 0.1
"""Seconds between two checks whether the file at the path was replaced. A check costs as much as two lookups."""


@dataclass(frozen=True)
class CacheStats:
    """The state of a cache and its counts since it was created in this process.

    Is the cache worth it? Compare ``hits`` and ``misses``. Is it large enough? Look at ``evictions``. Does ``ttl`` fit?
    Look at ``expirations``. Is creating values slow? Look at ``waits``.
    """

    name: str
    """Name of the cache."""
    maxsize: int
    """Maximum number of values."""
    size: int
    """Cached values at this moment."""
    creating: int
    """Values that threads are creating at this moment."""
    hits: int
    """Accesses that found a value."""
    misses: int
    """Accesses that found no value."""
    waits: int
    """Misses that waited for another thread to create the value."""
    creations: int
    """Values that were created."""
    errors: int
    """Creations that raised an exception."""
    evictions: int
    """Values that were dropped to make room."""
    expirations: int
    """Values that were dropped because they were older than ``ttl``."""
    invalidations: int
    """Values that were dropped by ``invalidate()`` or ``clear()``."""


class SharedCache(Generic[K, V]):
    """A cache of objects by key that all threads of a process share.

    The least recently used value makes room for a new one. Keys that are None, numbers, str, bytes or tuples of these
    are invalidated one by one. For keys of other types, an invalidation drops all values in all processes, and any
    invalidation drops their values. After a fork, the cache of the child is empty, and the parent closes its values.

    Args:
        maxsize: Maximum number of values; at least 1.
        ttl: Seconds for which a value is kept; more than 0, ``math.inf`` for no limit.
        create: Function that creates the value of a key. Default: none, then ``get_or_create()`` needs one.
        name: Caches of the same name receive each other's invalidations, in all processes of the host that share the
            settings' ``runtime_dir``. They do not share values: each process creates its own. Caches without a name
            also receive each other's invalidations, which is correct but may drop values without need.
        close: Function that the cache calls with each value that it drops: evicted, too old, replaced, invalidated or
            cleared. The next thread that uses the cache calls it, outside all locks; its exceptions are logged. Other
            threads may still use the value. If closing would harm them, leave ``close`` out and let the value end
            with its last reference. The end of the process closes nothing, unless you call
            ``atexit.register(cache.clear)``.
        timer: Clock of ``ttl``, in seconds. Default: ``time.monotonic``; tests may use another one.

    Raises:
        ConfigError: The ``runtime_dir`` cannot be used.
        ValueError: ``maxsize`` or ``ttl`` is out of range.
    """

    def __init__(
        self,
        maxsize: int,
        ttl: float,
        create: Callable[[K], V] | None = None,
        *,
        name: str = "",
        close: Callable[[V], object] | None = None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        if maxsize < 1:
            raise ValueError(f"maxsize must be at least 1, is {maxsize}")
        if not ttl > 0:
            raise ValueError(f"ttl must be more than 0 seconds, or math.inf for no limit, is {ttl}")
        self.name = name
        self.maxsize = maxsize
        self.ttl = ttl
        self._create = create
        self._close = close
        self._timer = timer
        self._invalidations = Invalidations(pools.runtime_dir(), name)
        self._start()
        _every_cache.add(self)

    def _start(self) -> None:
        # Programs without a cache do not import cachetools.
        from wsgipool.cache.storage import Storage

        self._lock = threading.Lock()
        self._hits = self._misses = self._waits = self._creations = self._errors = 0
        self._running: dict[K, Creation[V]] = {}
        self._storage: Storage[V] = Storage(self.maxsize, self.ttl, self._timer)
        self._seen = self._invalidations.number
        self._check_file_at = 0.0

    @overload
    def get(self, key: K) -> V | None: ...

    @overload
    def get(self, key: K, default: D) -> V | D: ...

    def get(self, key: K, default: object = None) -> object:
        """Return the cached value of a key.

        Args:
            key: Any hashable object.
            default: The result if there is no value. Default: None.

        Returns:
            The value or ``default``.
        """
        value = self._look_up(key)
        return default if value is _NOTHING else value

    def set(self, key: K, value: V) -> None:
        """Cache a value, in this process only.

        The value replaces one that another thread is creating. To publish a change of the data, call ``invalidate()``
        instead: the cache cannot notice that a value which is set is older than another process's change.

        Args:
            key: Any hashable object.
            value: The value; any object, also None.
        """
        hash(key)  # raises TypeError before anything has changed
        with self._lock:
            self._catch_up()
            self._running.pop(key, None)
            self._storage.put(key, token(key), value)
        self._close_dropped()

    def get_or_create(self, key: K, create: Callable[[K], V] | None = None, timeout: float | None = None) -> V:
        """Return the value of a key; create and cache it if there is none.

        One thread of the process creates the value, and the others wait for its value or its exception. An exception is
        not cached. After one that is not an ``Exception``, such as mod_wsgi's ``RequestTimeout`` or Ctrl-C, one of
        the waiting threads creates the value. A value that was invalidated while it was created is returned, but
        neither cached nor closed. Do not hold a pool's connection during the call: the creating thread may need one.

        Args:
            key: Any hashable object.
            create: Function that creates the value of the key. Default: the one given to ``SharedCache()``.
            timeout: Seconds to wait for another thread's value. Default: no limit.

        Returns:
            The value.

        Raises:
            CacheTimeout: The other thread did not finish within ``timeout``.
            CacheDeadlock: ``create`` asks for the same key, or waits for a thread that waits for this one.
            TypeError: There is no function to create the value.
        """
        create = create or self._create
        if create is None:
            raise TypeError("there is no function to create a value: give one to get_or_create() or SharedCache()")
        deadline = None if timeout is None else time.monotonic() + timeout
        value = self._look_up(key)
        while value is _NOTHING:
            value = self._create_or_wait(key, create, deadline)
        return value

    def invalidate(self, key: K | _Nothing = _NOTHING) -> None:
        """Drop the value of a key, or all values, in all processes of the host.

        Call it after the change of the data is committed. Every access that begins after the call sees its effect. A
        value that is being created is not cached, since it may come from the old data.

        Args:
            key: The key. Default: all keys.

        Raises:
            ConfigError: The file that the processes share cannot be written.
            CacheTimeout: Another process has kept this file locked for 10 seconds.
        """
        posted = None if key is _NOTHING else token(key)
        while not self._invalidations.post(EVERYTHING if posted is None else posted):
            self._follow_file()
        with self._lock:
            self._catch_up()
        self._close_dropped()

    def clear(self) -> None:
        """Drop and close all values of this process."""
        with self._lock:
            self._drop_all()
        self._close_dropped()

    def stats(self) -> CacheStats:
        """Return the state of the cache and its counts in this process."""
        with self._lock:
            self._catch_up()
            stats = self._counted()
        self._close_dropped()
        return stats

    def _counted(self) -> CacheStats:
        return CacheStats(
            self.name,
            self.maxsize,
            len(self._storage),
            len(self._running),
            self._hits,
            self._misses,
            self._waits,
            self._creations,
            self._errors,
            self._storage.evictions,
            self._storage.expirations,
            self._storage.invalidations,
        )

    # --- creating ---------------------------------------------------------------------------------------------------

    def _look_up(self, key: K) -> V | _Nothing:
        if time.monotonic() >= self._check_file_at:
            self._check_file()
        with self._lock:
            self._catch_up()
            cached = self._storage.find(key)
            if cached is None:
                self._misses += 1
                self._storage.expire()
            else:
                self._hits += 1
        if self._storage.dropped:
            self._close_dropped()
        return _NOTHING if cached is None else cached.value

    def _create_or_wait(self, key: K, create: Callable[[K], V], deadline: float | None) -> V | _Nothing:
        if not self._invalidations.is_in_place():
            self._follow_file()
        creation: Creation[V] = Creation(self.name, token(key), create)
        # Ends the creation even if an asynchronous exception interrupts the handlers below.
        ending = Ending(creation)
        try:
            with self._lock:
                self._catch_up()
                cached = self._storage.find(key)
                if cached is not None:
                    return cached.value
                running = self._running.get(key)
                if running is None or running.is_over:
                    running = self._running[key] = creation
                else:
                    self._waits += 1
            if running is creation:
                return self._make(key, create, creation)
        except BaseException as error:
            with self._lock:
                self._errors += 1
                self._forget(key, creation)
            if isinstance(error, Exception):
                creation.fail(error)
            else:
                creation.end()
            raise
        finally:
            del ending
        values = running.wait(deadline)
        return values[0] if values else _NOTHING

    def _make(self, key: K, create: Callable[[K], V], creation: Creation[V]) -> V:
        value = create(key)
        with self._lock:
            self._creations += 1
            self._catch_up()
            if self._forget(key, creation):
                self._storage.put(key, creation.token, value)
        creation.succeed(value)
        self._close_dropped()
        return value

    def _forget(self, key: K, creation: Creation[V]) -> bool:
        """Remove a creation; return whether its key was neither invalidated nor set meanwhile. Needs the lock."""
        if self._running.get(key) is not creation:
            return False
        del self._running[key]
        return True

    # --- invalidations -------------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Drop the values that were invalidated since the last call. Needs the lock."""
        if self._seen == self._invalidations.number:
            return
        seen, tokens = self._invalidations.since(self._seen)
        if EVERYTHING in tokens:
            self._drop_all()
        else:
            for key, creation in list(self._running.items()):
                if creation.token is None or creation.token in tokens:
                    # Threads that already wait get its value; later ones create another.
                    del self._running[key]
            self._storage.drop(tokens)
        self._seen = seen

    def _drop_all(self) -> None:
        self._running.clear()
        self._storage.drop_all()

    def _follow_file(self) -> None:
        """Use the new file after a removal, and drop everything: any key may have been invalidated meanwhile."""
        invalidations = Invalidations(self._invalidations.path.parent, self.name)
        with self._lock:
            self._invalidations = invalidations
            self._seen = invalidations.number
            self._drop_all()

    def _check_file(self) -> None:
        """Use the file that is at the path now, if it was replaced."""
        self._check_file_at = time.monotonic() + _CHECK_FILE_EVERY
        if self._invalidations.is_in_place():
            return
        try:
            self._follow_file()
        except ConfigError as error:
            warn_once(f"cache {self.name!r} keeps no values, since it cannot receive invalidations: {error}")
            self.clear()

    def _close_dropped(self) -> None:
        dropped = self._storage.dropped
        while dropped:
            try:
                cached = dropped.popleft()
            except IndexError:  # another thread came first
                return
            if self._close is None or cached.is_closed:
                continue
            cached.is_closed = True
            try:
                self._close(cached.value)
            except Exception:
                logger.exception("cache %r: closing a value has failed", self.name)

    def _reset(self) -> None:
        """Start empty after a fork; the values belong to the parent."""
        self._invalidations.reset()
        self._start()


_every_cache: weakref.WeakSet[SharedCache[Any, Any]] = weakref.WeakSet()


def all_stats() -> list[CacheStats]:
    """Return the counts of all caches of this process, for the scoreboard. Takes no lock, and drops no value."""
    return [cache._counted() for cache in list(_every_cache)]


def _after_fork_in_child() -> None:
    for cache in list(_every_cache):
        cache._reset()


_runtime.after_fork(_after_fork_in_child)
