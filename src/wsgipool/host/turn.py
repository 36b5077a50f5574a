"""A lock that an asynchronous exception never leaves locked, and for which nobody has to wait.

It is held as long as its holder's token is alive, so it ends with the frame that has the token, whatever ends that. A
`with` block of threading.Lock is as safe, but can't give up: a thread that holds one may be sent by the garbage
collector, or by a signal, to wait for what the waiting thread holds.
"""

from __future__ import annotations

import time
import weakref
from functools import partial
from threading import get_ident


class Token:
    """Held by whoever has the turn."""

    __slots__ = ("__weakref__",)


class Turn:
    """Taken by one thread at a time, by that as often as it likes."""

    def __init__(self) -> None:
        self._claims: dict[int, tuple[weakref.ref[Token], int]] = {}
        # Of C code alone, which an exception cannot interrupt.
        self._free = partial(self._claims.pop, 0)

    def is_mine(self) -> bool:
        """Return whether this thread has it: the caller is a destructor or a signal handler on top of the holder."""
        claim = self._claims.get(0)
        return claim is not None and claim[1] == get_ident()

    def take(self) -> Token | None:
        """Return a token to be dropped at the end, or None where another thread has the turn."""
        token = Token()
        # Not in a variable: a weak reference that is not kept has to go before its token does.
        claim = self._claims.setdefault(0, (weakref.ref(token, self._free), get_ident()))
        return token if claim[0]() is token or claim[1] == get_ident() else None

    def wait(self, seconds: float) -> Token | None:
        """As `take`, after waiting at most so long."""
        deadline = time.monotonic() + seconds
        while (token := self.take()) is None and time.monotonic() < deadline:
            time.sleep(0.0001)
        return token
