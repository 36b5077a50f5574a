"""What this process does now: the report that it publishes.

Takes no lock of a pool, so that the end of the process can collect in a signal handler. What a thread does comes from
its frames. They are looked at only for threads that hold a connection, or wait for one, longer than a moment.
"""

from __future__ import annotations

import _thread
import functools
import itertools
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from types import FrameType
from typing import Any

from wsgipool import pools
from wsgipool._code import place_of
from wsgipool.budget.budget import Budget
from wsgipool.cache.shared_cache import all_stats
from wsgipool.drivers import DRIVER_PACKAGES
from wsgipool.httpd import process as httpd
from wsgipool.pool import Pool
from wsgipool.pool.holds import Hold
from wsgipool.pool.stats import Observation
from wsgipool.scoreboard.model import (
    MAX_ACTIVITIES,
    Activity,
    BudgetUse,
    CacheReport,
    ClosedPools,
    PoolReport,
    ProcessReport,
    Totals,
    added,
)

MOMENT = 0.2
"""Seconds from which it is told what a thread does. Most checkouts are shorter."""

_MAX_TEXT = 200
"""Maximum characters of a path or a place."""
_WAITS: Mapping[str, str] = {
    "wsgipool.pool.": "waits for a connection",
    "wsgipool.locks.": "waits for a lock",
    "wsgipool.cache.": "waits for a value of a cache",
    "wsgipool.drivers.": "waits for the database",
    **{f"{package}.": "waits for the database" for package in DRIVER_PACKAGES - {"wsgipool"}},
    "sqlite3": "waits for the database",
}
"""What a thread waits for that is in a module, by the start of the module's name."""


class Collector:
    """Collects the reports of this process, or of this interpreter of it. It keeps the totals of replaced pools."""

    def __init__(self) -> None:
        self._started = time.time()
        self._pools: list[Pool[Any]] = []
        self._closed: dict[tuple[str, str], Totals] = {}

    def report(self) -> ProcessReport:
        """Return the report of this moment."""
        present = pools.created()
        for pool in self._pools:
            if pool not in present:
                seen = pool.observe()
                key = pool.name, seen.address
                self._closed[key] = self._closed.get(key, Totals()) + _totals(seen)
        self._pools = present
        server = _server()
        frames = _Frames()
        return ProcessReport(
            pid=os.getpid(),
            started=self._started,
            at=time.time(),
            mpm=server.mpm if server else "",
            process_group=server.process_group if server else "",
            application_group=server.application_group if server else "",
            generation=_generation(),
            threads=server.threads if server else 0,
            max_processes=server.max_processes if server else 0,
            is_stopping=pools.is_winding_down(),
            settings=pools.origin(),
            pools=[_pool_report(pool, frames) for pool in present],
            closed_pools=[ClosedPools(*key, totals) for key, totals in self._closed.items()],
            caches=added(_cache_reports()),
        )


@functools.cache
def _server() -> httpd.HttpdProcess | None:
    return httpd.this_process()


@functools.cache
def _generation() -> int | None:
    return httpd.generation()


def _cache_reports() -> list[CacheReport]:
    return [
        CacheReport(
            name=stats.name,
            maxsize=int(min(stats.maxsize, sys.maxsize)),
            size=stats.size,
            hits=stats.hits,
            misses=stats.misses,
            waits=stats.waits,
            evictions=stats.evictions,
            expirations=stats.expirations,
            invalidations=stats.invalidations,
            errors=stats.errors,
        )
        for stats in all_stats()
    ]


def _pool_report(pool: Pool[Any], frames: _Frames) -> PoolReport:
    seen = pool.observe()
    return PoolReport(
        name=pool.name,
        address=seen.address,
        min_size=int(pool.min_size),
        max_size=int(pool.max_size),
        idle=seen.idle,
        in_use=seen.in_use,
        connecting=seen.connecting,
        waiting=len(seen.waiters),
        max_in_use=seen.max_in_use,
        max_waiting=seen.max_waiting,
        totals=_totals(seen),
        holders=frames.activities(sorted(seen.holders, key=lambda holder: holder.since)),
        waiters=frames.activities(seen.waiters),
        failure=seen.failure,
        budget=_budget_use(pool.permits) if isinstance(pool.permits, Budget) else None,
    )


def _totals(seen: Observation) -> Totals:
    return Totals(
        checkouts=seen.checkouts,
        without_wait=seen.without_wait,
        waits=seen.waits,
        timeouts=seen.timeouts,
        refused=seen.refused,
        opened=seen.opened,
        connect_failures=seen.connect_failures,
        reset_failures=seen.reset_failures,
        wait_seconds=seen.wait_time.seconds,
        use_seconds=seen.use_time.seconds,
        create_seconds=seen.create_time.seconds,
        closed={str(reason): count for reason, count in seen.closed.items()},
        wait_time=seen.wait_time.as_mapping(),
        use_time=seen.use_time.as_mapping(),
        create_time=seen.create_time.as_mapping(),
    )


def _budget_use(budget: Budget) -> BudgetUse:
    limit, taken = budget.count()
    return BudgetUse(budget.server, str(budget.path), limit, taken, budget.held, budget.is_starved)


class _Frames:
    """The frames of the threads of this interpreter, looked up once and only if needed."""

    def __init__(self) -> None:
        self._by_thread: Mapping[int, FrameType] | None = None if _has_frames() else {}

    def activities(self, holds: Iterable[Hold]) -> Sequence[Activity]:
        """Return what the threads of the first ones do, in the order given."""
        return [self._activity(hold) for hold in itertools.islice(holds, MAX_ACTIVITIES)]

    def _activity(self, hold: Hold) -> Activity:
        seconds = time.monotonic() - hold.since
        place = "" if hold.code is None else hold.place[-_MAX_TEXT:]
        frame = self._frame(hold.thread) if seconds >= MOMENT else None
        path = at = doing = ""
        if frame is not None:
            site = _site_frame(frame)
            at = "" if site is None else place_of(site.f_code, site.f_lasti)[-_MAX_TEXT:]
            path, doing = _path(frame), _doing(frame, at)
        return Activity(hold.thread, time.time() - seconds, place or at, path, doing)

    def _frame(self, thread: int) -> FrameType | None:
        if self._by_thread is None:
            frames = sys._current_frames()
            frames.pop(threading.get_ident(), None)  # this frame, which would refer to itself
            self._by_thread = frames
        return self._by_thread.get(thread)


def _has_frames() -> bool:
    """Return whether the GIL keeps all other threads of the process from running now."""
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    # Only interpreters with a GIL of their own refuse daemon threads.
    shares_gil = getattr(_thread, "daemon_threads_allowed", lambda: True)()
    return bool(has_gil and shares_gil)


def _doing(frame: FrameType, at: str) -> str:
    """Return in words what a thread does, from its innermost frames: those inside the site's code."""
    words = "runs"
    inner: FrameType | None = frame
    while inner is not None and _is_ours_or_python(inner):
        module = _module(inner)
        words = next((wait for start, wait in _WAITS.items() if module.startswith(start)), words)
        inner = inner.f_back
    return f"{words}, at {at}" if at else words


def _site_frame(frame: FrameType | None) -> FrameType | None:
    """Return the innermost frame of the site's own code, or else of a library that it uses."""
    library: FrameType | None = None
    while frame is not None:
        if not _is_ours_or_python(frame):
            if "-packages" not in frame.f_code.co_filename:
                return frame
            library = library or frame
        frame = frame.f_back
    return library


def _is_ours_or_python(frame: FrameType) -> bool:
    package = _package(frame)
    is_demo = _module(frame).startswith("wsgipool.demo.")
    return package in sys.stdlib_module_names or (package in DRIVER_PACKAGES and not is_demo)


def _package(frame: FrameType) -> str:
    return _module(frame).partition(".")[0]


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _path(frame: FrameType) -> str:
    """Return the path of the request's URL: from the `environ` that the server gave to the application.

    No other way costs the request nothing. In mod_wsgi the application's frame is the outermost one. Other servers have
    frames of their own around it.
    """
    frames = [frame]
    while (outer := frames[-1].f_back) is not None:
        frames.append(outer)
    for each in reversed(frames):
        arguments = each.f_code.co_varnames[: each.f_code.co_argcount]
        if (each.f_back is None or "environ" in arguments) and _may_read_variables(each):
            variables = each.f_locals
            environs = [variables[name] for name in arguments if type(variables.get(name)) is dict]
            path = next((_path_in(environ) for environ in environs if "PATH_INFO" in environ), "")
            if path:
                return path
    return ""


def _may_read_variables(frame: FrameType) -> bool:
    """Return whether reading the variables of a frame has no effect on its program.

    Before Python 3.13, they are copied into a dictionary of the frame. It keeps the values alive until the frame ends,
    and the program may have it from `locals()`. Frameworks do not mind; the site's own functions may.
    """
    return sys.version_info >= (3, 13) or "-packages" in frame.f_code.co_filename


def _path_in(environ: Mapping[str, object]) -> str:
    path = "".join(part for part in (environ.get("SCRIPT_NAME"), environ.get("PATH_INFO")) if type(part) is str)
    # WSGI decodes the bytes of a path as Latin-1.
    return path.encode("latin-1", "replace").decode("utf-8", "replace")[:_MAX_TEXT]
