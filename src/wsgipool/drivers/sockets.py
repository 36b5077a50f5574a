"""Has a socket something to read? Asked at each checkout and before each statement, so it must cost next to nothing.

Python's own poll() lets go of the GIL and takes it again. Among busy threads that costs far more than the question:
each time another thread is woken for nothing. So the C library is called with the GIL held, which is right for a call
that does not wait; where there is no ctypes, as in some sub-interpreters, Python's own has to do.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from functools import partial

Question = Callable[[], object]
"""Its answer is what is true or false of it."""

try:
    import ctypes
except ImportError:  # pragma: no cover - there is on every platform that the tests run on
    _poll = None
else:

    class _PollFD(ctypes.Structure):
        """`struct pollfd` of poll(2)."""

        _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))

    # PyDLL, unlike CDLL, keeps the GIL.
    _poll = ctypes.PyDLL(None).poll
    # Its arguments are C's own already: converting them by `argtypes` would take longer than the call.
    _one_descriptor, _no_wait = ctypes.c_ulong(1), ctypes.c_int(0)


def is_readable(descriptor: int) -> Question:
    """Return a function that tells, without waiting, whether there is something to read or the other end has closed."""
    if _poll is None:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return partial(poll.poll, 0)
    poll_fd = _PollFD(descriptor, select.POLLIN, 0)
    return partial(_poll, ctypes.byref(poll_fd), _one_descriptor, _no_wait)
