"""The values of a cache, with their ages: cachetools decides which one goes, and here is noted which have gone.

An exception from outside may strike between any two steps of a change, here or in cachetools, and leave half of it. So
each change says when it begins and when it is done; the next one that finds the last one not done starts anew, empty.
What is noted per token is written first and taken out last, so even then no value is lost that has to be closed.

It knows no lock: its user has one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Generic, TypeVar

from cachetools import TTLCache

V = TypeVar("V")


class Cached(Generic[V]):
    """A value, and what it is found by."""

    __slots__ = ("is_closed", "key", "token", "value")

    def __init__(self, key: Hashable, token: int | None, value: V) -> None:
        self.key = key
        self.token = token
        self.value = value
        self.is_closed = False


class Storage(Generic[V]):
    """At most `maxsize` values, each for `ttl` seconds of `timer`; the least recently used one goes first."""

    def __init__(self, maxsize: int, ttl: float, timer: Callable[[], float]) -> None:
        self.dropped: deque[Cached[V]] = deque()
        """What has gone and may have to be closed. Its user empties it, outside the lock."""
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
        """Return what is cached for the key, and count it as used."""
        if self._is_changing:
            self._begin()
            self._end()
        try:
            return self._values[key]
        except KeyError:
            return None

    def put(self, key: Hashable, token: int | None, value: V) -> None:
        self._begin()
        self._values.expire()
        cached = Cached(key, token, value)
        entries = self._by_token.setdefault(token, {})
        previous = entries.get(key)
        if previous is not None:
            previous.is_closed |= previous.value is value  # it stays, at a new age
            self.dropped.append(previous)
        entries[key] = cached
        self._values[key] = cached
        self._end()

    def expire(self) -> None:
        """Drop what is too old."""
        self._begin()
        self._values.expire()
        self._end()

    def drop(self, tokens: Iterable[int]) -> None:
        """Drop what was cached under these tokens, and under keys that have none: any of them may be meant."""
        self._begin()
        self._values.expire()
        for token in (*tokens, None):
            for cached in list(self._by_token.get(token, {}).values()):
                self._values.pop(cached.key, None)
                self._let_go(cached)
                self.invalidations += 1
        self._end()

    def drop_all(self) -> None:
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
            self._let_go(cached)
            self.evictions += 1
        self._values.evicted.clear()
        for cached in self._values.expired:
            self._let_go(cached)
            self.expirations += 1
        self._values.expired.clear()
        self._is_changing = False
        return outcome

    def _let_go(self, cached: Cached[V]) -> None:
        self.dropped.append(cached)
        entries = self._by_token.get(cached.token, {})
        if entries.get(cached.key) is cached:
            del entries[cached.key]
            if not entries:
                del self._by_token[cached.token]


class _Values(TTLCache[Hashable, Cached[V]]):
    """Notes what cachetools drops by itself."""

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
