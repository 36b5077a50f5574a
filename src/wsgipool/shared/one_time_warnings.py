"""Warnings that each process logs once, even if their cause occurs often."""

from __future__ import annotations

import logging
from collections import deque

logger = logging.getLogger("wsgipool")

_logged: deque[str] = deque(maxlen=1000)  # bounded, because a process may run for months
_deferred: deque[str] = deque()


def warn_once(message: str) -> None:
    """Log a warning, unless this process has logged the same warning before."""
    defer_warning(message)
    log_deferred_warnings()


def defer_warning(message: str) -> None:
    """Leave a warning to the next `log_deferred_warnings`, for callers with a lock or in a signal handler."""
    if message not in _logged.copy():
        _logged.append(message)
        _deferred.append(message)


def log_deferred_warnings() -> None:
    """Log the deferred warnings."""
    while _deferred:
        try:
            message = _deferred.popleft()
        except IndexError:  # another thread was first
            return
        logger.warning("%s", message)
