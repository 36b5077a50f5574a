"""Lock counts of all processes of the host: each process publishes its own, and a reader adds them up.

The background thread writes the counts once a second while they change, so taking a lock costs nothing extra.
They are removed when the process ends.
"""

from __future__ import annotations

import logging
import os
import weakref
from pathlib import Path
from typing import Any, Protocol

from wsgipool import _runtime, pools
from wsgipool._background import background
from wsgipool.errors import ConfigError
from wsgipool.httpd import process as httpd
from wsgipool.locks import holding
from wsgipool.locks.statistics import Counts, LocksReport, report
from wsgipool.shared.published import Publication, published, warn_of_skipped_file

logger = logging.getLogger("wsgipool")

INTERVAL = 1.0
"""Seconds between two publications."""


class Counted(Protocol):
    """Locks with their counts."""

    def counts(self) -> Counts:
        """Return the counts of this process."""


class CountsPublisher:
    """Publishes the counts of this process; a `wsgipool._background.Task`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start with nothing published: in a new process, or after a fork."""
        self._publication: Publication | None = None
        self._written: list[dict[str, Any]] = []
        self._is_wanted = True

    def register(self) -> None:
        """Start publishing if this process runs in httpd or has settings."""
        if self._is_wanted and (pools.is_configured() or httpd.this_process() is not None):
            background.register(self)

    def maintain(self) -> float | None:
        """Publish, and return the seconds until the next call; None for no more calls."""
        self.publish()
        return INTERVAL if self._is_wanted else None

    def publish(self) -> None:
        """Write the counts if they have changed."""
        counts = [one.as_json() for one in all_counts()]
        if counts == self._written or not self._is_wanted:
            return
        try:
            if self._publication is None or self._publication.process != os.getpid():
                self._publication = Publication(pools.runtime_dir())
            self._publication.write({"locks": counts})
        except (ConfigError, OSError) as error:
            self._is_wanted = False
            logger.warning("lock counts cannot be published, so `wsgipool locks` does not show this process: %s", error)
        self._written = counts

    def end(self) -> None:
        """Remove the published counts at the end of the process."""
        self._is_wanted = False
        if self._publication is not None and self._publication.process == os.getpid():
            self._publication.remove()


def add(locks: Counted) -> None:
    """Publish the counts of these locks as long as the object exists."""
    _every_locks.add(locks)


def all_counts() -> list[Counts]:
    """Return the counts of all locks of this process."""
    return [locks.counts() for locks in list(_every_locks)]


def report_of_host(folder: Path) -> tuple[LocksReport, int]:
    """Return the report of all processes that share the folder, and the number of processes with counts."""
    counts: list[Counts] = []
    processes = 0
    for path, document in published(folder):
        if "locks" not in document:
            continue
        try:
            counts += [Counts.from_json(one) for one in document["locks"]]
            processes += 1
        except (ValueError, TypeError) as error:
            warn_of_skipped_file(path, error)
    return report(counts), processes


_every_locks: weakref.WeakSet[Any] = weakref.WeakSet()
_publisher = CountsPublisher()
holding.on_new_thread = _publisher.register
_runtime.at_end(_publisher.end)
_runtime.after_fork(_publisher.reset)
