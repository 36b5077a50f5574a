"""A lock that is released with its token, so that an asynchronous exception never leaves it locked.

The lock is held as long as the token is alive, which means until the frame with the token ends in any way. A `with`
block of threading.Lock is as safe but waits without a limit. The garbage collector or a signal may run code in a thread
that holds one lock. That code could then wait for a second lock, whose holder waits for the first.
"""

from __future__ import annotations

import time
import weakref
from functools import partial
from threading import get_ident


class TokenLock:
    """A lock that one thread holds at a time. That thread may acquire it again."""

    def __init__(self) -> None:
        self._claims: dict[int, tuple[weakref.ref[Token], int]] = {}
        # Only C code, so no asynchronous exception can interrupt it.
        self._unlock = partial(self._claims.pop, 0)

    def is_mine(self) -> bool:
        """Return whether this thread holds the lock. Then the caller is a destructor or a signal handler."""
        claim = self._claims.get(0)
        return claim is not None and claim[1] == get_ident()

    def acquire(self) -> Token | None:
        """Return a token, or None if another thread holds the lock. Dropping the token releases the lock."""
        token = Token()
        # Not in a variable: a weak reference that is not stored must be freed before its token.
        claim = self._claims.setdefault(0, (weakref.ref(token, self._unlock), get_ident()))
        return token if claim[0]() is token or claim[1] == get_ident() else None

    def acquire_within(self, seconds: float) -> Token | None:
        """Return a token as `acquire` does, after waiting for at most `seconds`."""
        deadline = time.monotonic() + seconds
        while (token := self.acquire()) is None and time.monotonic() < deadline:
            time.sleep(0.0001)
        return token


class Token:
    """The token of a lock. Dropping it releases the lock."""

    __slots__ = ("__weakref__",)
