"""Combines the reports of the processes of a host: the live ones one by one, the ended ones added up."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wsgipool import records
from wsgipool.locks import statistics
from wsgipool.locks.statistics import Counts, LocksReport
from wsgipool.scoreboard.model import CacheReport, ClosedPools, HostReport, ProcessReport, Sample, Totals, added
from wsgipool.shared import published
from wsgipool.shared.published import Document, warn_of_skipped_file

PERIOD = 600.0
"""Seconds for which samples are kept."""
_MAX_ENDED = 1000
"""Maximum number of pools, caches, locks and sets of locks of ended processes that are kept."""


@dataclass(frozen=True)
class _Ended:
    """The sum of ended processes."""

    processes: int = 0
    pools: Sequence[ClosedPools] = ()
    caches: Sequence[CacheReport] = ()


def report(folder: Path) -> tuple[HostReport, LocksReport]:
    """Return the report of the processes that share a folder, and of their locks. Raises ConfigError."""
    found = published.read(folder)
    ended, counts = _with(*_restored_sum(found.sum), found.ended)
    live = list(_restored(found.live))
    host = HostReport(
        folder=str(folder),
        at=time.time(),
        processes=sorted((process for process, _ in live), key=lambda each: (each.pid, each.application_group)),
        ended=ended.pools,
        ended_processes=ended.processes,
        caches=added([*ended.caches, *(cache for process, _ in live for cache in process.caches)]),
        history=samples(published.recorded(folder)),
    )
    return host, statistics.report([counts, *(counts for _, counts in live)])


def add_up(folder: Path) -> None:
    """Add the reports of ended processes to their sum, and remove them. Raises ConfigError or OSError."""

    def add(known: Document, documents: Sequence[tuple[Path, Document]]) -> Document:
        ended, counts = _with(*_restored_sum(known), documents)
        return {"ended": records.plain(ended), "locks": counts.as_json()}

    published.add_up(folder, add)


def samples(document: Document) -> Sequence[Sample]:
    """Return the samples of a record; none if this version did not write it."""
    try:
        found: Sequence[Sample] = records.restored(Sequence[Sample], document.get("samples", []))
    except TypeError:
        return ()
    return found


def _with(ended: _Ended, counts: Counts, documents: Sequence[tuple[Path, Document]]) -> tuple[_Ended, Counts]:
    """Return the sum with the documents of more ended processes."""
    reports = list(_restored(documents))
    totals = {(pool.name, pool.address): pool.totals for pool in ended.pools}
    for process, _ in reports:
        for key, each in process.totals():
            totals[key] = totals.pop(key, Totals()) + each
    caches = [replace(cache, maxsize=0, size=0) for process, _ in reports for cache in process.caches]
    return (
        _Ended(
            processes=ended.processes + len(reports),
            pools=[ClosedPools(*key, each) for key, each in totals.items()][-_MAX_ENDED:],
            caches=added([*ended.caches, *caches])[-_MAX_ENDED:],
        ),
        _latest(statistics.total([counts, *(counts for _, counts in reports)])),
    )


def _latest(counts: Counts) -> Counts:
    return Counts(counts.locks[-_MAX_ENDED:], counts.takes[-_MAX_ENDED:])


def _restored_sum(document: Document) -> tuple[_Ended, Counts]:
    try:
        return records.restored(_Ended, document["ended"]), Counts.from_json(document["locks"])
    except (KeyError, TypeError, ValueError):
        return _Ended(), Counts([], [])


def _restored(documents: Iterable[tuple[Path, Document]]) -> Iterable[tuple[ProcessReport, Counts]]:
    for path, document in documents:
        try:
            process: Any = records.restored(ProcessReport, document["process"])
            counts = Counts.from_json(document["locks"])
        except (KeyError, TypeError, ValueError) as error:
            warn_of_skipped_file(path, error)
        else:
            yield process, counts
