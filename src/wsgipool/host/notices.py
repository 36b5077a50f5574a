"""Warnings that concern all processes of a host: each is logged once a process, however often its cause is met."""

from __future__ import annotations

import logging
from collections import deque

logger = logging.getLogger("wsgipool")

_said: deque[str] = deque(maxlen=1000)  # the last ones: a process may live for months
_noted: deque[str] = deque()


def warn_once(message: str) -> None:
    """Log a warning, unless this process has logged the same one before."""
    note_once(message)
    log_notes()


def note_once(message: str) -> None:
    """Leave a warning to the next `log_notes`: for callers that hold a lock, or are in a signal handler."""
    if message not in _said.copy():
        _said.append(message)
        _noted.append(message)


def log_notes() -> None:
    """Log what was noted."""
    while _noted:
        try:
            message = _noted.popleft()
        except IndexError:  # another thread came first
            return
        logger.warning("%s", message)
