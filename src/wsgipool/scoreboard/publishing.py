"""Publishes what this process does, on the background thread.

A process that uses a database publishes once a second, and four times a second while somebody looks. A checkout pays
nothing for that. A process without connections publishes nothing new.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from pathlib import Path
from time import monotonic
from typing import Any

from wsgipool import _runtime, pools, records
from wsgipool._background import background
from wsgipool.errors import ConfigError
from wsgipool.httpd import process as httpd
from wsgipool.locks import holding
from wsgipool.locks.named import all_counts
from wsgipool.locks.statistics import total
from wsgipool.pool import Pool
from wsgipool.scoreboard import history
from wsgipool.scoreboard.collecting import Collector
from wsgipool.shared.one_time_warnings import warn_once
from wsgipool.shared.published import Publication, seconds_since_reader

INTERVAL, WATCHED_INTERVAL = 1.0, 0.25
"""Seconds between two publications: usually, and while somebody looks."""
_WATCHED_FOR = 5.0
"""Seconds for which a reader is expected to look again."""
_PUBLISHING_TIMEOUT = 0.5
"""Maximum seconds to wait for another thread that publishes or reads, which takes milliseconds."""

lock = threading.RLock()
"""Held while files of the scoreboard are open, also during a fork: the child would keep them, and their locks, open."""


class Publisher:
    """Publishes the report of this process; a `wsgipool._background.Task`."""

    _publication: Publication | None = None

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start with nothing published: in a new process, or after a fork."""
        if self._publication is not None:
            self._publication.close()
        self._publication = None
        self._collector = Collector()
        self._written: dict[str, Any] = {}
        self._due = 0.0

    def register(self) -> None:
        """Publish from now on."""
        if _has_folder():
            background.register(self)

    def maintain(self) -> float | None:
        """Publish; return the seconds until the next call, None for no more calls."""
        _runtime.notice_fork()
        if not _has_folder():
            return None
        left = self._due - monotonic()
        if left > 0:
            return left  # waiters wake the background far more often
        pause = self._publish_and_record()
        self._due = monotonic() + (pause or 0.0)
        return pause

    def _publish_and_record(self) -> float | None:
        try:
            self.publish(timeout=0.0)  # the background has pools to maintain, and comes again
        except (ConfigError, OSError) as error:
            warn_once(f"the scoreboard cannot be written, so `wsgipool status` lacks this process: {error}")
            return INTERVAL
        if self._publication is None or not self._can_change():
            return None
        if lock.acquire(blocking=False):
            try:
                history.record(self._publication.folder)
            finally:
                lock.release()
        is_watched = seconds_since_reader(self._publication.folder) < _WATCHED_FOR
        return WATCHED_INTERVAL if is_watched else INTERVAL

    def publish(self, timeout: float = _PUBLISHING_TIMEOUT) -> None:
        """Write the report if it has changed. Raises ConfigError or OSError.

        `timeout`: maximum seconds to wait for another thread that publishes or reads.
        """
        # At the end of the process, a signal handler may run on top of the thread that has the lock.
        if not lock._is_owned() and lock.acquire(timeout=timeout):  # type: ignore[attr-defined]
            try:
                self._write_if_changed()
            finally:
                lock.release()

    def end(self) -> None:
        """Write the last report, at the end of the process: also the first one, of a short program."""
        publication = self._publication
        is_ours = publication.process == os.getpid() if publication else any(map(_was_used, pools.created()))
        if is_ours:
            with contextlib.suppress(ConfigError, OSError):
                self.publish(timeout=0.0)

    def _write_if_changed(self) -> None:
        document = {"process": records.plain(self._collector.report()), "locks": total(all_counts()).as_json()}
        if self._has_moved():
            self.reset()
        is_new = self._publication is None or not self._publication.is_in_place()
        if is_new or _is_busy(document) or _without_time(document) != _without_time(self._written):
            publication = self._publication or Publication(pools.runtime_dir())
            publication.write(document)
            self._publication, self._written = publication, document

    def _has_moved(self) -> bool:
        """Return whether the settings have named another folder since the last report."""
        publication = self._publication
        return publication is not None and pools.is_configured() and publication.folder != pools.runtime_dir()

    def _can_change(self) -> bool:
        """Return whether the numbers can change without a new connection, which wakes the background."""
        written = self._written
        return bool(pools.count_connections() or written["process"]["caches"] or written["locks"]["locks"])


def publish_in(folder: Path) -> None:
    """Publish now, if this process shares the folder. Raises ConfigError or OSError."""
    _runtime.notice_fork()
    if _has_folder() and pools.runtime_dir() == folder:
        publisher.publish()


def _has_folder() -> bool:
    """Return whether this process shares a folder with others: in httpd, with settings, or with registered pools."""
    return pools.is_configured() or bool(pools.created()) or httpd.mod_wsgi() is not None


def _without_time(document: dict[str, Any]) -> dict[str, Any]:
    return document and {**document, "process": {**document["process"], "at": 0.0}}


def _was_used(pool: Pool[Any]) -> bool:
    return pool.observe().checkouts > 0


def _is_busy(document: dict[str, Any]) -> bool:
    return any(pool["in_use"] or pool["waiting"] for pool in document["process"]["pools"])


publisher = Publisher()


def _after_fork_in_child() -> None:
    global lock
    if lock.acquire(blocking=False):
        lock.release()
    else:
        # A fork without hooks, such as uWSGI's: a thread that the child does not have holds it.
        lock = threading.RLock()
    publisher.reset()
    background.register_passive(publisher)


holding.on_new_thread = publisher.register
background.register_passive(publisher)
_runtime.at_end(publisher.end, last=True)  # with the connections that the other functions close
atexit.register(publisher.end)  # in daemon mode, the last requests are served after the end has begun
_runtime.after_fork(_after_fork_in_child)
_runtime.hold_during_fork(lock)
