"""Loaded by WSGIImportScript when a process starts: reads the settings, makes the pools, says so in the error log.

So a wrong setting shows when the server starts and not at a visitor's request, and no request pays for importing the
driver. No connection is opened: a process that gets no request needs none.
"""

from __future__ import annotations

import logging

import wsgipool
from wsgipool import process

logger = logging.getLogger("wsgipool")


def _show_in_error_log() -> None:
    """Let the package's lines reach the error log (mod_wsgi's stderr) until the application sets up logging."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    handler.addFilter(lambda _: not logging.getLogger().handlers)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def _preload() -> None:
    try:
        process.preload()
    except wsgipool.ConfigError as error:
        logger.error("%s", error)


_show_in_error_log()
_preload()
