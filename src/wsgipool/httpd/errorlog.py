"""The package's own lines in httpd's error log, until the application says what becomes of log lines."""

from __future__ import annotations

import logging

logger = logging.getLogger("wsgipool")


def show_lines() -> None:
    """Let the package's lines reach the error log, which is mod_wsgi's stderr, as long as nobody sets up logging."""
    if logger.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    handler.addFilter(lambda _: not logging.getLogger().handlers)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
