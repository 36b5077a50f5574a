"""A record of each thread that checks connections out. It is marked when the thread ends.

The interpreter reuses the identifier of an ended thread. A record is never reused.
"""

from __future__ import annotations

import threading
from threading import get_ident


class ThreadRecord:
    """The record of one thread."""

    __slots__ = ("has_ended", "ident")

    def __init__(self, ident: int) -> None:
        self.ident = ident
        self.has_ended = False


NO_THREAD = ThreadRecord(0)
"""The thread of a slot that belongs to no thread."""

live_threads: dict[int, ThreadRecord] = {}
"""The records of live threads, by `get_ident()`."""


class _LastEnd:
    """The last end of a thread, as an object that is replaced at each end."""

    marker = object()


def last_end() -> object:
    """Return an object that is replaced by another one whenever a thread ends."""
    return _LastEnd.marker


def current() -> ThreadRecord:
    """Return the record of the calling thread."""
    ident = get_ident()
    try:
        record = live_threads.get(ident) or live_threads.setdefault(ident, ThreadRecord(ident))
        if not hasattr(_local, "end"):
            _local.end = _End(record)
    except BaseException:
        live_threads.pop(ident, None)  # without an `_End`, the record would never be marked
        raise
    return record


class _End:
    """A thread-local object, which the interpreter deletes at the end of the thread."""

    _record: ThreadRecord | None = None  # for __del__ after an asynchronous exception at the start of __init__

    def __init__(self, record: ThreadRecord) -> None:
        self._record = record

    # The parameters keep what this needs: an ending interpreter first clears the modules.
    def __del__(self, live_threads: dict[int, ThreadRecord] = live_threads, last: type[_LastEnd] = _LastEnd) -> None:
        record = self._record
        if record is None:
            return
        record.has_ended = True
        if live_threads.get(record.ident) is record:
            del live_threads[record.ident]
        last.marker = object()


_local = threading.local()
