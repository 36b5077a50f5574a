"""Warnings that concern all processes of a host: each is logged once a process, however often its cause is met."""

from __future__ import annotations

import logging

logger = logging.getLogger("wsgipool")

_MAX_NOTICES = 1000

_said: set[str] = set()


def warn_once(message: str) -> None:
    """Log a warning, unless this process has logged the same one before."""
    if message not in _said and len(_said) < _MAX_NOTICES:
        _said.add(message)
        logger.warning("%s", message)
