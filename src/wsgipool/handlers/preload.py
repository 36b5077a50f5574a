"""Loaded by WSGIImportScript when a process starts: reads the settings, makes the pools, says so in the error log.

So a wrong setting shows when the server starts and not at a visitor's request, and no request pays for importing the
driver. No connection is opened: a process that gets no request needs none.
"""

from __future__ import annotations

import logging

import wsgipool
from wsgipool import process
from wsgipool.httpd import errorlog

logger = logging.getLogger("wsgipool")


def _preload() -> None:
    try:
        process.preload()
    except wsgipool.ConfigError as error:
        logger.error("%s", error)


errorlog.show_lines()
_preload()
