"""MySQL's passwords over TCP without TLS: PyMySQL encrypts them with the package cryptography.

The server asks for such a password when its cache does not have it, usually after a start. Until then a missing package
goes unnoticed.
"""

from __future__ import annotations

import importlib.util

import pymysql
from pymysql.constants import CR

from wsgipool import drivers
from wsgipool.config import DatabaseURL

PLUGINS = ("caching_sha2_password", "sha256_password")
"""Authentication plugins that encrypt the password; the first is MySQL's default since 8.0."""

REMEDY = 'leave TLS on, of the server and in the URL, or install the package: pip install "wsgipool[mysql-rsa]"'


def explain_connect_error(error: BaseException) -> pymysql.OperationalError | None:
    """Return the error to raise in place of a connect's error, or None to raise that one."""
    if isinstance(error, RuntimeError) and "cryptography" in str(error):
        return pymysql.OperationalError(
            CR.CR_AUTH_PLUGIN_CANNOT_LOAD,
            "the server wants the password encrypted, the connection has no TLS, and the package cryptography is not "
            f"installed; {REMEDY}",
        )
    return None


def needs_cryptography(url: DatabaseURL, plugin: str, encrypted: bool) -> bool:
    """Return whether a connect fails for want of the package as soon as the server has forgotten the password.

    Args:
        url: The database.
        plugin: The account's authentication plugin.
        encrypted: Whether a connection by this URL has TLS.
    """
    if plugin not in PLUGINS or encrypted or not drivers.is_pymysql(url):
        return False
    endpoint = drivers.endpoint_of(url)
    is_socket = endpoint is not None and endpoint.socket is not None
    return not is_socket and importlib.util.find_spec("cryptography") is None
