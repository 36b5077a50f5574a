"""Users, password hashes and groups by the queries of `[auth]`, with a short memory of what was accepted.

Values are bytes, as httpd has them. A name that is not UTF-8, has a NUL or blanks at its ends, or is very long, is that
of no user: databases differ in what they make of such a name.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import threading
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

from cachetools import TTLCache

from wsgipool import pools
from wsgipool._queries import Query
from wsgipool.auth.passwords import Passwords, UnknownFormat
from wsgipool.config import AuthSettings
from wsgipool.errors import ConfigError, Error
from wsgipool.wording import describe

logger = logging.getLogger("wsgipool")

MAX_NAME = 255
"""Bytes of the name of a user or a realm."""

MAX_REMEMBERED = 10_000
"""Maximum number of answers that a process remembers."""

_REALM_HASH = re.compile(r"[0-9a-fA-F]{32}")


class LookupFailed(Error):
    """The database does not answer, or a query is wrong; the request must not be let in."""


class Users:
    """The users of one `[auth]` table, for the threads of one process."""

    def __init__(self, settings: AuthSettings) -> None:
        self._settings = settings
        self._passwords = Passwords()
        self._accepted = _Accepted(settings.cache_seconds)

    def check_password(self, user: bytes, password: bytes) -> bool | None:
        """Return whether a password is right; None for an unknown user. Raises LookupFailed."""
        query = self._query("password_query")
        if self._accepted.get(b"password", user, password) is not None:
            return True
        stored = self._one(query, "password_query", {"user": user})
        try:
            is_right = self._passwords.is_right(password, stored)
        except UnknownFormat:
            logger.error(
                "auth: the stored password of user %r has none of the formats of docs/how-to/auth.md, so no password "
                "is accepted",
                user.decode("utf-8", "replace"),
            )
            return False
        if is_right:
            self._accepted.add(True, b"password", user, password)
        return is_right if stored is not None else None

    def realm_hash(self, user: bytes, realm: bytes) -> str | None:
        """Return the MD5 of user, realm and password; None for an unknown user. Raises LookupFailed."""
        query = self._query("realm_query")
        known: str | None = self._accepted.get(b"realm", user, realm)
        if known is not None:
            return known
        stored = self._one(query, "realm_query", {"user": user, "realm": realm})
        if stored is None:
            return None
        if not _REALM_HASH.fullmatch(stored):
            raise LookupFailed("auth: realm_query must return 32 hexadecimal digits, the MD5 of user:realm:password")
        self._accepted.add(stored.lower(), b"realm", user, realm)
        return stored.lower()

    def groups(self, user: bytes) -> list[bytes]:
        """Return the groups of a user. Raises LookupFailed."""
        query = self._query("group_query")
        known: list[bytes] | None = self._accepted.get(b"groups", user)
        if known is None:
            # httpd would cut a name at a NUL.
            known = [group for group in self._column(query, "group_query", {"user": user}) if group and 0 not in group]
            if known:
                self._accepted.add(known, b"groups", user)
        return known

    def _query(self, name: str) -> Query:
        query: Query | None = getattr(self._settings, name)
        if query is None:
            raise ConfigError(f"auth: the settings have no {name}; add it to [auth]")
        return query

    def _one(self, query: Query, name: str, values: Mapping[str, bytes]) -> str | None:
        """Return the only value of a query's result, as text; None if there is no row, or a NULL."""
        found = self._column(query, name, values)
        if len(found) > 1:
            raise LookupFailed(f"auth: {name} returned {len(found)} rows for one user; it must return one at most")
        return found[0].decode("utf-8", "replace") if found else None

    def _column(self, query: Query, name: str, values: Mapping[str, bytes]) -> list[bytes]:
        """Return the values of a query's result that are not NULL."""
        texts = {key: text for key, value in values.items() if (text := _name(value)) is not None}
        if len(texts) < len(values):
            return []
        try:
            rows = self._rows(query, query.arguments(texts))
        except ConfigError:
            raise
        except Exception as error:
            reason = f"{name} failed in database {self._settings.database!r}: {describe(error)}"
            raise LookupFailed(f"auth: {reason}") from None
        if any(len(row) != 1 for row in rows):
            raise LookupFailed(f"auth: {name} returned {len(rows[0])} columns; it must return one")
        return [_bytes(value, name) for (value,) in rows if value is not None]

    def _rows(self, query: Query, arguments: tuple[str, ...]) -> Sequence[Any]:
        name = self._settings.database
        is_sqlite = pools.database(name).url.scheme == "sqlite"
        with pools.connection(name, readonly=True) as connection:
            cursor = connection.cursor()
            try:
                cursor.execute(query.for_sqlite() if is_sqlite else query.text, arguments)
                rows: Sequence[Any] = cursor.fetchall()
            finally:
                cursor.close()
        return rows


class _Accepted:
    """The answers that were accepted lately. Their keys are digests by a secret of the process, not passwords."""

    def __init__(self, seconds: float) -> None:
        self._is_on = seconds > 0
        self._secret = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._values: TTLCache[bytes, Any] = TTLCache(MAX_REMEMBERED, seconds, monotonic)

    def get(self, *parts: bytes) -> Any:
        if not self._is_on:
            return None
        key = self._key(parts)
        with self._lock:
            return self._values.get(key)

    def add(self, value: object, *parts: bytes) -> None:
        if self._is_on:
            key = self._key(parts)
            with self._lock:
                self._values[key] = value

    def _key(self, parts: Sequence[bytes]) -> bytes:
        # No accepted part has a NUL, so no other parts make the same text.
        return hashlib.blake2b(b"\0".join(parts), key=self._secret, digest_size=32).digest()


def _name(value: bytes) -> str | None:
    """Return a name as text; None if no user or realm can have it."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    is_name = 0 < len(value) <= MAX_NAME and text.strip() == text and "\0" not in text
    return text if is_name else None


def _bytes(value: object, name: str) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise LookupFailed(f"auth: {name} returned a {type(value).__name__}; its column must be text")
