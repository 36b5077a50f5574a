"""The package's lines in httpd's error log, until the application configures logging.

mod_wsgi 6 logs with httpd's levels, so that LogLevel decides which lines appear. An older mod_wsgi logs every line with
the level `error`; there the line itself names its level.
"""

from __future__ import annotations

import logging

from wsgipool.httpd import process

logger = logging.getLogger("wsgipool")


def show_lines() -> None:
    """Send the package's lines to the error log as long as logging is not configured."""
    if logger.handlers or logging.getLogger().handlers:
        return
    with_levels = getattr(process.mod_wsgi(), "LogHandler", None)
    handler: logging.Handler = with_levels() if with_levels else logging.StreamHandler()
    handler.setFormatter(
        logging.Formatter("%(name)s: %(message)s" if with_levels else "%(name)s %(levelname)s: %(message)s")
    )
    handler.addFilter(lambda _: not logging.getLogger().handlers)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
