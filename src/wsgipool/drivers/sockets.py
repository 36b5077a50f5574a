"""Is a socket still open, has it something to read? Asked at each checkout, so it must cost next to nothing.

Python's own poll() lets go of the GIL and takes it again. Among busy threads that costs far more than the question:
each time another thread is woken for nothing. getsockopt() keeps it, and needs no code that only this would call: in a
busy site that was a third of what poll(2) costs by way of ctypes. For other sockets than those of TCP the C library is
called with the GIL held, which is right for a call that does not wait; where there is no ctypes, as in some
sub-interpreters, Python's own has to do.
"""

from __future__ import annotations

import select
import socket
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


OPEN = b"\x01"
"""The state of a socket on which the other end may still send: TCP_ESTABLISHED of linux/tcp_states.h, the first byte of
struct tcp_info (tcp(7))."""

_TCP_INFO = getattr(socket, "TCP_INFO", None)


def state_of(ours: socket.socket) -> Callable[[], bytes]:
    """Return a function that tells, without waiting, whether a socket is `OPEN`, or the other end has closed it.

    Where that cannot be asked, one that has something to read counts as closed: the server speaks only when asked.
    """
    if _TCP_INFO is not None and ours.family in (socket.AF_INET, socket.AF_INET6):
        ask: Callable[[int, int, int], bytes] = ours.getsockopt
        return partial(ask, socket.IPPROTO_TCP, _TCP_INFO, 1)
    has_something_to_read = is_readable(ours.fileno())
    return lambda: b"" if has_something_to_read() else OPEN


def is_readable(descriptor: int) -> Question:
    """Return a function that tells, without waiting, whether there is something to read or the other end has closed."""
    if _poll is None:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return partial(poll.poll, 0)
    poll_fd = _PollFD(descriptor, select.POLLIN, 0)
    return partial(_poll, ctypes.byref(poll_fd), _one_descriptor, _no_wait)
