"""Read the settings and create the pools when a process starts; WSGIImportScript loads this script.

So a wrong setting shows in the error log when the server starts, and no request waits for the import of the driver.
Connections are opened later, as requests need them.
"""

from __future__ import annotations

import logging

import wsgipool
from wsgipool import pools
from wsgipool.httpd import errorlog
from wsgipool.scoreboard.publishing import publisher

logger = logging.getLogger("wsgipool")


def _preload() -> None:
    try:
        pools.preload()
        publisher.maintain()  # so that the scoreboard shows the process before its first request
    except wsgipool.ConfigError as error:
        logger.error("%s", error)


errorlog.show_lines()
_preload()
