"""A WSGIAuthUserScript, which Apache's own children load: a lookup before each request."""

from __future__ import annotations

from typing import Any

import wsgipool


def check_password(environ: dict[str, Any], user: str, password: str) -> bool:  # noqa: ARG001 - mod_wsgi passes all
    with wsgipool.connection("shop", readonly=True) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT %s = 'reader' AND %s = 'open sesame'", (user, password))
        return bool(cursor.fetchone()[0])
