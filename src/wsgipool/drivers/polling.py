"""A cheap check whether a socket has something to read.

It runs at each checkout and before each statement. Python's own poll() releases the GIL, and between busy threads that
costs far more than the check. So poll(2) is called with the GIL held, which suits a call that does not wait. Without
ctypes, as in some sub-interpreters, Python's poll() is used.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from functools import partial

Predicate = Callable[[], object]
"""A function whose result is true or false."""

try:
    import ctypes
except ImportError:  # pragma: no cover - the tests' platforms have it
    _poll = None
else:

    class _PollFD(ctypes.Structure):
        """`struct pollfd` of poll(2)."""

        _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))

    # PyDLL, unlike CDLL, keeps the GIL.
    _poll = ctypes.PyDLL(None).poll
    # Arguments of C types: converting Python's by `argtypes` would take longer than the call.
    _one_descriptor, _no_wait = ctypes.c_ulong(1), ctypes.c_int(0)


def is_readable(descriptor: int) -> Predicate:
    """Return a function that checks, without waiting, whether a descriptor has input or its other end has closed."""
    if _poll is None:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return partial(poll.poll, 0)
    poll_fd = _PollFD(descriptor, select.POLLIN, 0)
    return partial(_poll, ctypes.byref(poll_fd), _one_descriptor, _no_wait)
