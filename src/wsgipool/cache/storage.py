"""The values of a cache with their ages: cachetools decides what to evict, and this module records what was evicted.

An asynchronous exception may interrupt a change between any two steps, here or in cachetools, and leave half of it. So
each change records its beginning and its end, and a change after an unfinished one first empties the storage. The
records by token are written first and removed last, so every value that must be closed is found.

The caller holds a lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Generic, TypeVar

from cachetools import TTLCache

V = TypeVar("V")


class Cached(Generic[V]):
    """A value, its key, and the token of its key."""

    __slots__ = ("is_closed", "key", "token", "value")

    def __init__(self, key: Hashable, token: int | None, value: V) -> None:
        self.key = key
        self.token = token
        self.value = value
        self.is_closed = False


class Storage(Generic[V]):
    """At most `maxsize` values, each for `ttl` seconds of `timer`; the least recently used one is evicted first."""

    def __init__(self, maxsize: int, ttl: float, timer: Callable[[], float]) -> None:
        self.dropped: deque[Cached[V]] = deque()
        """Values that were removed and may have to be closed; the caller empties the queue outside the lock."""
        self.evictions = self.expirations = self.invalidations = 0
        self._settings = (maxsize, ttl, timer)
        self._start()

    def _start(self) -> None:
        self._values: _Values[V] = _Values(*self._settings)
        self._by_token: dict[int | None, dict[Hashable, Cached[V]]] = {}
        self._is_changing = False

    def __len__(self) -> int:
        self._begin()
        return self._end(len(self._values))

    def find(self, key: Hashable) -> Cached[V] | None:
        """Return the cached value of the key, and mark it as recently used."""
        if self._is_changing:
            self._begin()
            self._end()
        try:
            return self._values[key]
        except KeyError:
            return None

    def put(self, key: Hashable, token: int | None, value: V) -> None:
        """Cache a value; drop the previous one."""
        self._begin()
        self._values.expire()
        cached = Cached(key, token, value)
        entries = self._by_token.setdefault(token, {})
        previous = entries.get(key)
        if previous is not None:
            previous.is_closed |= previous.value is value  # the same value stays cached, with a new age
            self.dropped.append(previous)
        entries[key] = cached
        self._values[key] = cached
        self._end()

    def expire(self) -> None:
        """Drop the values that are too old."""
        self._begin()
        self._values.expire()
        self._end()

    def drop(self, tokens: Iterable[int]) -> None:
        """Drop the values of these tokens and of all keys without a token, which may be equal to any key."""
        self._begin()
        self._values.expire()
        for token in (*tokens, None):
            for cached in list(self._by_token.get(token, {}).values()):
                self._values.pop(cached.key, None)
                self._drop(cached)
                self.invalidations += 1
        self._end()

    def drop_all(self) -> None:
        """Drop all values."""
        self._is_changing = True
        for entries in self._by_token.values():
            self.dropped.extend(entries.values())
            self.invalidations += len(entries)
        self._start()

    def _begin(self) -> None:
        if self._is_changing:
            self.drop_all()
        self._is_changing = True

    def _end(self, outcome: int = 0) -> int:
        for cached in self._values.evicted:
            self._drop(cached)
            self.evictions += 1
        self._values.evicted.clear()
        for cached in self._values.expired:
            self._drop(cached)
            self.expirations += 1
        self._values.expired.clear()
        self._is_changing = False
        return outcome

    def _drop(self, cached: Cached[V]) -> None:
        self.dropped.append(cached)
        entries = self._by_token.get(cached.token, {})
        if entries.get(cached.key) is cached:
            del entries[cached.key]
            if not entries:
                del self._by_token[cached.token]


class _Values(TTLCache[Hashable, Cached[V]]):
    """A TTLCache that records the values that it removes by itself."""

    def __init__(self, maxsize: int, ttl: float, timer: Callable[[], float]) -> None:
        super().__init__(maxsize, ttl, timer)
        self.evicted: list[Cached[V]] = []
        self.expired: list[Cached[V]] = []

    def popitem(self) -> tuple[Hashable, Cached[V]]:
        key, cached = super().popitem()
        self.evicted.append(cached)
        return key, cached

    def expire(self, time: Any = None) -> list[tuple[Hashable, Cached[V]]]:
        expired = list(super().expire(time))
        self.expired += [cached for _, cached in expired]
        return expired
