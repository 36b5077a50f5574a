"""Objects that all threads of a process share, by key: made once, kept for a while, dropped when no longer true.

Whoever asks for what is not there creates it, and all who ask in the meantime wait for that. No lock is held while a
value is created or closed. What was true no longer is dropped by its key, in all processes of the host: see
`wsgipool.host.invalidations`. Each look at the cache is first a look at whether there are such news, one read of a
shared file.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from wsgipool import process
from wsgipool.cache.creation import Creation, Ending
from wsgipool.errors import ConfigError
from wsgipool.host.invalidations import EVERYTHING, Invalidations, token
from wsgipool.host.notices import warn_once

if TYPE_CHECKING:
    from wsgipool.cache.storage import Storage

logger = logging.getLogger("wsgipool")

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
D = TypeVar("D")


class _Nothing(Enum):
    """What stands for no value, and for no key: None may be either."""

    NOTHING = 0


_NOTHING = _Nothing.NOTHING

_CHECK_FILE_EVERY = 0.1
"""Seconds between two checks whether the file is still the one at its path, which cost as much as two looks."""


@dataclass(frozen=True)
class CacheStats:
    """A cache at one moment, and what it has done in this process since it was made.

    The questions that they answer: is it worth having (`hits` beside `misses`)? Large enough (`evictions`)? Does `ttl`
    fit (`expirations`)? Is creating slow (`waits`)?
    """

    name: str
    maxsize: int
    size: int
    """Values that are cached."""
    creating: int
    """Values that are being created."""
    hits: int
    misses: int
    waits: int
    """How many of those who missed waited for another thread's creation."""
    creations: int
    errors: int
    """Creations that raised."""
    evictions: int
    """Values that went to make room."""
    expirations: int
    """Values that became too old."""
    invalidations: int
    """Values that were dropped since they were no longer true."""


class SharedCache(Generic[K, V]):
    """At most `maxsize` values by key, each for `ttl` seconds; the least recently used one makes room.

    `create`: called with a key to make its value, where `get_or_create` is given nothing else.
    `name`: caches of one name, in all processes of the host that share the settings' `runtime_dir`, hear each other's
    `invalidate`. They share no values: each process makes its own. A cache without a name hears those of all others
    that have none, which is right too and costs a creation now and then.
    `close`: called with each value that the cache lets go of: the room was needed, it is too old, was replaced,
    invalidated, cleared. Once for each time that it was cached, outside the lock, by the thread that comes by. An
    exception in it is logged. Another thread may still be using the value, so `close` must not hurt it there: where it
    would, leave `close` out, and the value ends with its last user. Nothing is closed at the end of the process, unless
    `atexit.register(cache.clear)` sees to it.
    `timer`: the clock of `ttl`; another one is for tests.

    Keys of None, numbers, str, bytes and tuples of these are invalidated one by one; where a key is anything else,
    invalidating it drops all values in all processes, and it is dropped with any other.

    After a fork the child's copy is empty; what is in the parent's is the parent's to close. Raises ConfigError where
    the folder of what the processes share cannot be used, ValueError for sizes that cannot be.
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
            raise ValueError(f"maxsize = {maxsize}: a cache needs room for one value at least")
        if not ttl > 0:
            raise ValueError(f"ttl = {ttl}: a value is kept for some seconds, or for ever with math.inf")
        self.name = name
        self.maxsize = maxsize
        self.ttl = ttl
        self._create = create
        self._close = close
        self._timer = timer
        self._invalidations = Invalidations(process.runtime_dir(), name)
        self._start()
        _every_cache.add(self)

    def _start(self) -> None:
        # Not imported by programs that have no cache.
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
        """Return the value of the key, or `default` where there is none."""
        value = self._look_up(key)
        return default if value is _NOTHING else value

    def set(self, key: K, value: V) -> None:
        """Cache this value, whatever is being created; other processes do not hear of it.

        Who has changed the data calls `invalidate` instead: a value that is set may be older than what another process
        has done to the data in the meantime, which is noticed of values that `get_or_create` creates.
        """
        hash(key)  # raises before anything has been changed
        with self._lock:
            self._catch_up()
            self._running.pop(key, None)
            self._storage.put(key, token(key), value)
        self._close_dropped()

    def get_or_create(self, key: K, create: Callable[[K], V] | None = None, timeout: float | None = None) -> V:
        """Return the value of the key; where there is none, that of `create(key)`, which is then cached.

        One thread of a process creates, and the others wait for its value or its exception, at most `timeout` seconds
        (default: as long as it takes). An exception is not cached. One that is not an Exception, such as mod_wsgi's
        RequestTimeout or Ctrl-C, is meant for its thread alone: of those who wait one creates anew. A value whose key
        has been invalidated since its creation began goes to those who waited, is not cached and not closed.

        Raises CacheTimeout, and CacheDeadlock where `create` asks for the same key, or waits for a thread that waits
        for this one. A thread that holds a pool's connection should not ask: the thread that creates may need one.
        """
        create = create or self._create
        if create is None:
            raise TypeError("there is nothing to create a value with: give get_or_create() or SharedCache() a function")
        deadline = None if timeout is None else time.monotonic() + timeout
        value = self._look_up(key)
        while value is _NOTHING:
            value = self._create_or_wait(key, create, deadline)
        return value

    def invalidate(self, key: K | _Nothing = _NOTHING) -> None:
        """Drop the value of the key, without one all values, in all processes of the host by their next look.

        To be called when the change of the data is committed. A value that is being created is not cached then, since
        it may have been made of the old data. Raises ConfigError or CacheTimeout where the others cannot be told.
        """
        told = None if key is _NOTHING else token(key)
        while not self._invalidations.post(EVERYTHING if told is None else told):
            self._follow_file()
        with self._lock:
            self._catch_up()
        self._close_dropped()

    def clear(self) -> None:
        """Drop all values of this process, and close them."""
        with self._lock:
            self._drop_all()
        self._close_dropped()

    def stats(self) -> CacheStats:
        """Return the counts of this moment."""
        with self._lock:
            self._catch_up()
            stats = CacheStats(
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
        self._close_dropped()
        return stats

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
        # Ends it when it goes, should what does so below be interrupted.
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
        """Under the lock: tell whether the key was neither invalidated nor set since the creation began."""
        if self._running.get(key) is not creation:
            return False
        del self._running[key]
        return True

    # --- what is no longer true -------------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Under the lock: drop what has been invalidated since we last looked."""
        if self._seen == self._invalidations.number:
            return
        seen, tokens = self._invalidations.since(self._seen)
        if EVERYTHING in tokens:
            self._drop_all()
        else:
            for key, creation in list(self._running.items()):
                if creation.token is None or creation.token in tokens:
                    # Those who wait still get its value; whoever comes from now on does not.
                    del self._running[key]
            self._storage.drop(tokens)
        self._seen = seen

    def _drop_all(self) -> None:
        self._running.clear()
        self._storage.drop_all()

    def _follow_file(self) -> None:
        """Somebody has removed the file: go on with the new one, and with nothing that its writers may have meant."""
        invalidations = Invalidations(self._invalidations.path.parent, self.name)
        with self._lock:
            self._invalidations = invalidations
            self._seen = invalidations.number
            self._drop_all()

    def _check_file(self) -> None:
        """Follow the file, though nothing is created or invalidated here: others may be at a new one already."""
        self._check_file_at = time.monotonic() + _CHECK_FILE_EVERY
        if self._invalidations.is_in_place():
            return
        try:
            self._follow_file()
        except ConfigError as error:
            warn_once(f"cache {self.name!r} keeps nothing, since it does not hear what is no longer true: {error}")
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

    def start_anew(self) -> None:
        """Leave everything to the parent: this is the child of a fork."""
        self._invalidations.start_anew()
        self._start()


_every_cache: weakref.WeakSet[SharedCache[Any, Any]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for cache in list(_every_cache):
        cache.start_anew()


os.register_at_fork(after_in_child=_after_fork_in_child)
