"""Logs when a pool is exhausted, and when it has recovered: one pair of lines for an episode.

Short waits are normal, and are not logged. An episode begins when a checkout has waited for `EXHAUSTED_AFTER` seconds
or has timed out. It ends when no wait has been that long for `RECOVERED_AFTER` seconds. So a pool that is exhausted
again and again logs a pair in ten seconds at most.

Waiters look at each of their wake-ups. During an episode the background looks, too, because there may be no waiter.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import Generic

from wsgipool._background import background
from wsgipool.drivers import C
from wsgipool.pool._errors import ErrorFactory
from wsgipool.pool._log import log
from wsgipool.pool._slot import describe_places, longest_hold
from wsgipool.pool._state import PoolState
from wsgipool.wording import counted

EXHAUSTED_AFTER = 1.0
"""Seconds that a checkout waits before the pool counts as exhausted."""
RECOVERED_AFTER = 10.0
"""Seconds without such a wait before the pool counts as recovered."""


class Exhaustion(Generic[C]):
    """Notices the episodes in which a pool is exhausted, and logs them.

    The pool's lock guards the episode. No caller holds it, and no line is written under it.
    """

    def __init__(self, name: str, state: PoolState[C], errors: ErrorFactory[C]) -> None:
        self._name = name
        self._state = state
        self._errors = errors
        self.reset()

    def __repr__(self) -> str:
        return f"the exhaustion of pool {self._name!r}"

    def reset(self) -> None:
        """Begin outside an episode, also in the child of a fork."""
        self._episode: _Episode | None = None

    def maintain(self) -> float | None:
        """Log the begin or the end of an episode if it has come; return the seconds until the end can come, or None."""
        began = ended = None
        with self._state.lock:
            now = monotonic()
            waiting = self._state.waiting
            if waiting and now - waiting[0].asked >= EXHAUSTED_AFTER:
                began = self._extend(waiting[0].asked, now)
            episode = self._episode
            if episode is not None and self._state.is_closed:
                self._episode = episode = None
            elif episode is not None and now - episode.until >= RECOVERED_AFTER:
                ended = episode
                self._episode = episode = None
        if began is not None:
            self._log_begin(began)
        if ended is not None:
            self._log_end(ended)
        return None if episode is None else episode.until + RECOVERED_AFTER - now

    def count(self, asked: float, *, timed_out: bool) -> None:
        """Count a checkout that has waited from `asked` until now."""
        if self._episode is None and not timed_out and monotonic() - asked < EXHAUSTED_AFTER:
            return
        began = None
        with self._state.lock:
            now = monotonic()
            waited = now - asked
            if timed_out or waited >= EXHAUSTED_AFTER:
                began = self._extend(asked, now)
            episode = self._episode
            if episode is not None:
                episode.waits += 1
                episode.timeouts += timed_out
                episode.longest_wait = max(episode.longest_wait, waited)
        if began is not None:
            self._log_begin(began)

    def _extend(self, asked: float, now: float) -> _Episode | None:
        """Extend the episode by a long wait; begin one, and return it, if there is none. The caller holds the lock."""
        if self._episode is not None:
            self._episode.until = now
            return None
        self._episode = episode = _Episode(asked, now)
        return episode

    def _log_begin(self, episode: _Episode) -> None:
        background.register(self)
        now = monotonic()
        waited = episode.until - episode.since
        counts, hold = self._errors.counts(), longest_hold(self._state.held())
        places = describe_places(self._state.held(), now)
        log(
            logging.WARNING,
            "exhausted",
            self._name,
            "pool %r is exhausted: a checkout has waited for %.1f s; %s%s%s",
            self._name,
            waited,
            counts,
            f"; held: {places}" if places else "",
            self._errors.reasons(),
            waited=waited,
            **counts._asdict(),
            place=hold.place if hold else None,
            held_for=now - hold.since if hold else None,
        )

    def _log_end(self, episode: _Episode) -> None:
        lasted = episode.until - episode.since
        # With the level of the first line, so that a log with one has the other.
        log(
            logging.WARNING,
            "recovered",
            self._name,
            "pool %r has recovered: it was exhausted for %.1f s, in which %s waited, at most %.1f s, and %d of them "
            "timed out",
            self._name,
            lasted,
            counted(episode.waits, "checkout"),
            episode.longest_wait,
            episode.timeouts,
            exhausted_for=lasted,
            waits=episode.waits,
            longest_wait=episode.longest_wait,
            timeouts=episode.timeouts,
        )


class _Episode:
    """The time in which a pool is exhausted."""

    __slots__ = ("longest_wait", "since", "timeouts", "until", "waits")

    def __init__(self, since: float, until: float) -> None:
        self.since = since
        self.until = until
        """When there was a long wait for the last time, as far as known."""
        self.waits = self.timeouts = 0
        self.longest_wait = 0.0
