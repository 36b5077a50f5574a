"""The registry of functions that run after a fork and at the end of the process.

Each sub-interpreter has its own registry, because it has its own modules. Two events may call `end`: atexit, and
mod_wsgi's shutdown event, which `wsgipool.pools` connects. The first one runs the functions.

If a function raises an exception, it is logged, and the others run, as with atexit and os.register_at_fork.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable

logger = logging.getLogger("wsgipool")

Function = Callable[[], object]

_after_fork: list[Function] = []
_at_end: list[Function] = []
_due: list[Function] = []
"""The functions of `_at_end` that have not run yet."""
_is_ending = False
_process = os.getpid()
_noticing = threading.RLock()


def after_fork(function: Function) -> None:
    """Call `function` in each child of a fork; the first registered runs first, as with os.register_at_fork.

    Modules register at import. So when a function runs, those of the imported modules have run already.
    """
    _after_fork.append(function)


def hold_during_fork(lock: threading.RLock) -> None:
    """Hold `lock` during each fork, so that no fork comes while another thread holds it."""
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


def notice_fork() -> None:
    """Call the functions of `after_fork` if the fork that made this process has not done it.

    uWSGI forks its workers by itself. Without its option py-call-uwsgi-fork-hooks, Python does not learn of that.
    """
    if _process != os.getpid():
        with _noticing:
            if _process != os.getpid():
                _after_fork_in_child()


def at_end(function: Function, *, last: bool = False) -> None:
    """Call `function` once, at the end of the process; the last registered runs first, as with atexit.

    `last`: whether it runs after all others.

    The function must take no lock, because `end` may run in a signal handler. It must not wait for more than a second.
    """
    for functions in (_at_end, _due):
        functions.insert(0 if last else len(functions), function)


def end() -> None:
    """Run the functions of `at_end` that have not run yet. Takes no lock: a signal handler may call this."""
    global _is_ending
    notice_fork()  # the sessions of the parent are not this process's to end
    _is_ending = True
    while _due:
        try:
            function = _due.pop()
        except IndexError:  # another thread took the last one
            return
        _call(function)


def is_ending() -> bool:
    """Return whether the end has begun. Requests may still run: in mod_wsgi's daemon mode they do."""
    return _is_ending


def _after_fork_in_child() -> None:
    global _is_ending, _process
    _is_ending = False
    _due[:] = _at_end  # at the child's own end
    for function in _after_fork:
        _call(function)
    _process = os.getpid()  # last: other threads may wait for this in `notice_fork`


def _call(function: Function) -> None:
    try:
        function()
    except BaseException:
        logger.exception("%r failed; the other functions are called anyway", function)


atexit.register(end)
os.register_at_fork(after_in_child=_after_fork_in_child)
