"""Passwords of MySQL over TCP without TLS, which PyMySQL can encrypt with the package cryptography only.

The server asks for such a password when it does not have it in its cache: after its start, mostly. Until then a package
that is missing goes unnoticed.
"""

from __future__ import annotations

import importlib.util

import pymysql
from pymysql.constants import CR

from wsgipool import drivers
from wsgipool.config import DatabaseURL

PLUGINS = ("caching_sha2_password", "sha256_password")
"""What an account's password is checked by; the first is MySQL's default from 8.0 on."""

REMEDY = 'leave TLS on, of the server and in the URL, or install the package: pip install "wsgipool[mysql-rsa]"'


def explain_connect_error(error: BaseException) -> pymysql.OperationalError | None:
    """Return the error to raise in the place of the one with which a connect has failed, or None to leave that."""
    if isinstance(error, RuntimeError) and "cryptography" in str(error):
        return pymysql.OperationalError(
            CR.CR_AUTH_PLUGIN_CANNOT_LOAD,
            "the server wants the password encrypted, the connection has no TLS, and the package cryptography is not "
            f"installed; {REMEDY}",
        )
    return None


def needs_cryptography(url: DatabaseURL, plugin: str, encrypted: bool) -> bool:
    """Return whether a password must be sent that this Python cannot encrypt, once the server has forgotten it.

    `plugin` is the account's, and `encrypted` whether a connection by this URL has TLS.
    """
    if plugin not in PLUGINS or encrypted or not drivers.is_pymysql(url):
        return False
    place = drivers.place_of(url)
    is_socket = place is not None and place.socket is not None
    return not is_socket and importlib.util.find_spec("cryptography") is None
