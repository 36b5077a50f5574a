"""Users and groups from a database for Apache's own authentication: WSGIAuthUserScript and WSGIAuthGroupScript.

mod_wsgi loads this script in every child of httpd, in daemon mode too, and calls the functions before the request
reaches the site. They return what mod_wsgi documents: True, False or None for a password, a hash or None for a digest,
and an iterable of groups. After an exception httpd answers 500; it lets nobody in.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from wsgipool import pools
from wsgipool.auth.users import Users
from wsgipool.config import AuthSettings
from wsgipool.errors import ConfigError
from wsgipool.httpd import errorlog


def check_password(environ: dict[str, Any], user: str, password: str) -> bool | None:  # noqa: ARG001 - mod_wsgi's
    """Return whether the password of `AuthType Basic` is right; None if there is no such user."""
    return _users().check_password(_bytes(user), _bytes(password))


def get_realm_hash(environ: dict[str, Any], user: str, realm: str) -> str | None:  # noqa: ARG001
    """Return the MD5 of `user:realm:password` for `AuthType Digest`; None if there is no such user."""
    return _users().realm_hash(_bytes(user), _bytes(realm))


def groups_for_user(environ: dict[str, Any], user: str) -> Sequence[bytes]:  # noqa: ARG001
    """Return the groups of a user, for `Require wsgi-group`."""
    return _users().groups(_bytes(user))


def _users() -> Users:
    settings = pools.settings()
    if settings is None:
        pools.find_config()  # raises the error that names the places
    if settings is None or settings.auth is None:
        origin = settings.origin if settings else "the settings"
        raise ConfigError(f"{origin}: there is no table [auth]; docs/how-to/auth.md has an example")
    return _users_of(settings.auth)


@functools.lru_cache(maxsize=1)
def _users_of(settings: AuthSettings) -> Users:
    return Users(settings)


def _bytes(text: str) -> bytes:
    """Return a string of httpd's, which mod_wsgi has decoded as Latin-1, as it was."""
    return text.encode("latin-1", "replace")


errorlog.show_lines()
