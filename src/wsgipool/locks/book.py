"""What the locks of all processes of the host were asked for: each publishes its counts, everybody can add them up.

Housekeeping writes them, once a second while they change, so taking and giving back costs nothing more for it. What is
read is at most about a second old. The counts of a process end with it.
"""

from __future__ import annotations

import atexit
import logging
import os
import weakref
from pathlib import Path
from typing import Any, Protocol

from wsgipool import process
from wsgipool.errors import ConfigError
from wsgipool.host.published import Publication, pass_over, published
from wsgipool.housekeeping import housekeeping
from wsgipool.httpd import process as httpd
from wsgipool.locks import holding
from wsgipool.locks.statistics import Counts, Report, report

logger = logging.getLogger("wsgipool")

INTERVAL = 1.0
"""Seconds between two looks at what is to be published."""


class Counted(Protocol):
    """Locks with their counts."""

    def counts(self) -> Counts:
        """Return the counts of this process."""


class LockBook:
    """This process's page; see `wsgipool.housekeeping.Tended`."""

    def __init__(self) -> None:
        self._start_anew()

    def _start_anew(self) -> None:
        self._publication: Publication | None = None
        self._written: list[dict[str, Any]] = []
        self._is_wanted = True

    def watch(self) -> None:
        """Publish from now on, where this is a process of httpd, or one that has settings."""
        if self._is_wanted and (process.is_configured() or httpd.this_process() is not None):
            housekeeping.watch(self)

    def tend(self) -> float | None:
        self.publish()
        return INTERVAL if self._is_wanted else None

    def publish(self) -> None:
        """Write what has changed."""
        counts = [one.as_json() for one in all_counts()]
        if counts == self._written or not self._is_wanted:
            return
        try:
            if self._publication is None or self._publication.process != os.getpid():
                self._publication = Publication(process.runtime_dir())
            self._publication.write({"locks": counts})
        except (ConfigError, OSError) as error:
            self._is_wanted = False
            logger.warning("what locks are asked for is not published: %s", error)
        self._written = counts

    def end(self) -> None:
        """Publish nothing any more: the process ends."""
        self._is_wanted = False
        if self._publication is not None and self._publication.process == os.getpid():
            self._publication.remove()


def add(locks: Counted) -> None:
    """Publish the counts of these locks too, as long as they are there."""
    _every_locks.add(locks)


def all_counts() -> list[Counts]:
    """Return the counts of all locks of this process."""
    return [locks.counts() for locks in list(_every_locks)]


def report_of_host(folder: Path) -> tuple[Report, int]:
    """Return the report of all processes that share the folder, and how many of them have said something."""
    counts: list[Counts] = []
    processes = 0
    for path, document in published(folder):
        if "locks" not in document:
            continue
        try:
            counts += [Counts.from_json(one) for one in document["locks"]]
            processes += 1
        except (ValueError, TypeError) as error:
            pass_over(path, error)
    return report(counts), processes


_every_locks: weakref.WeakSet[Any] = weakref.WeakSet()
_book = LockBook()
holding.on_new_thread = _book.watch
atexit.register(_book.end)
os.register_at_fork(after_in_child=_book._start_anew)
httpd.at_shutdown(lambda *_, **__: _book.end())
