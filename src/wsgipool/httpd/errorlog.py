"""The package's own lines in httpd's error log, until the application says what becomes of log lines.

mod_wsgi 6 can log with httpd's own levels, so that LogLevel decides what is shown. What an older one prints has the
level `error`, whatever it is; there the level is a word of the line.
"""

from __future__ import annotations

import logging

from wsgipool.httpd import process

logger = logging.getLogger("wsgipool")


def show_lines() -> None:
    """Let the package's lines reach the error log, as long as nobody sets up logging."""
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
