"""Checks passwords against stored hashes: the formats of htpasswd and of Django's PBKDF2 and bcrypt.

No algorithm is implemented here. APR, the library of httpd, calculates what htpasswd writes, and bcrypt; hashlib
calculates SHA-1 and PBKDF2. Both work in every sub-interpreter that has ctypes. This module knows no database.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import re
from collections.abc import Callable

from wsgipool.errors import ConfigError

MAX_PASSWORD = 1024
"""Bytes of a password. Some algorithms need a time that grows with the square of the length."""

_FIRST_DECOY = "$2y$05$492/y40T37XeZpzEBqnxq.4xuvWEDvEDxcVo1K5JE3JQ8mOJFv/Q2"
"""A hash of a forgotten random password, by `htpasswd -B`."""

_SALTED = re.compile(
    r"\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}"  # bcrypt
    r"|\$apr1\$[^$]{1,8}\$[./A-Za-z0-9]{22}"
    r"|\$5\$(?:rounds=\d{1,9}\$)?[^$]{0,16}\$[./A-Za-z0-9]{43}"
    r"|\$6\$(?:rounds=\d{1,9}\$)?[^$]{0,16}\$[./A-Za-z0-9]{86}"
    r"|[./A-Za-z0-9]{13}"  # traditional crypt
)
_PBKDF2 = re.compile(r"pbkdf2_(sha256|sha1)\$([1-9]\d{0,7})\$([^$]+)\$([A-Za-z0-9+/=]+)")

_LOCKED = re.compile(r"[!*]|$")
"""An entry in place of a hash, with which no password is right; Django writes `!` and random characters."""


class UnknownFormat(Exception):
    """A stored hash has none of the known formats."""


class Passwords:
    """Checks passwords, and takes as long for a user without a hash as for one with the usual hash.

    The usual hash is the last one that was checked. A table has one format as a rule, so its costs are the same.
    """

    def __init__(self) -> None:
        self._usual = _FIRST_DECOY

    def is_right(self, password: bytes, stored: str | None) -> bool:
        """Return whether a password is right; it is wrong without a stored hash. Raises UnknownFormat."""
        if len(password) > MAX_PASSWORD or b"\0" in password:
            return False
        if stored is None or _LOCKED.match(stored):
            matches(password, self._usual)
            return False
        try:
            result = matches(password, stored)
        except UnknownFormat:
            matches(password, self._usual)
            raise
        self._usual = stored
        return result


def matches(password: bytes, stored: str) -> bool:
    """Return whether a stored hash is that of a password. Raises UnknownFormat."""
    if stored.startswith("{SHA}"):
        digest = base64.b64encode(hashlib.sha1(password, usedforsecurity=False).digest())
        return hmac.compare_digest(digest, _ascii(stored[5:]))
    if _SALTED.fullmatch(stored):
        return _apr_matches(password, stored)
    if stored.startswith("bcrypt_sha256$"):
        return _bcrypt_matches(binascii.hexlify(hashlib.sha256(password).digest()), stored)
    if stored.startswith("bcrypt$"):
        return _bcrypt_matches(password, stored)
    if pbkdf2 := _PBKDF2.fullmatch(stored):
        name, iterations, salt, digest64 = pbkdf2.groups()
        derived = hashlib.pbkdf2_hmac(name, password, salt.encode(), int(iterations))
        return hmac.compare_digest(base64.b64encode(derived), digest64.encode())
    raise UnknownFormat


def _bcrypt_matches(password: bytes, stored: str) -> bool:
    """Check one of Django's bcrypt hashes: `bcrypt$$2b$12$...`, bcrypt's own hash behind the name."""
    own = stored.partition("$")[2]
    if not (own.startswith("$2") and _SALTED.fullmatch(own)):
        raise UnknownFormat
    return _apr_matches(password, own)


def _apr_matches(password: bytes, stored: str) -> bool:
    # $2b$ and $2y$ are the same algorithm; APR calculates the second one itself, on every system.
    known = f"$2y${stored[4:]}" if stored.startswith("$2b$") else stored
    return _apr_password_validate()(password, known.encode()) == 0


@functools.cache
def _apr_password_validate() -> Callable[[bytes, bytes], int]:
    """Return APR's function, which releases the GIL while it calculates. Raises ConfigError."""
    try:
        import ctypes
        import ctypes.util
    except ImportError:  # some sub-interpreters with an own GIL
        raise ConfigError(
            "this interpreter has no ctypes, by which passwords are checked; leave application-group out of "
            "WSGIAuthUserScript, so that the script runs in the main interpreter"
        ) from None
    # httpd has loaded the library. Elsewhere, such as in a test, it is looked up.
    for is_in_httpd in (True, False):
        try:
            library = None if is_in_httpd else ctypes.util.find_library("aprutil-1")
            function = ctypes.CDLL(library).apr_password_validate
        except (OSError, AttributeError):
            continue
        function.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
        validate: Callable[[bytes, bytes], int] = function
        return validate
    raise ConfigError("APR's library aprutil-1, by which httpd checks passwords, is not here (Debian: libaprutil1)")


def _ascii(text: str) -> bytes:
    return text.encode("ascii", "replace")
