"""A deadline for a call into a C library that has none: a thread ends the socket under it.

Only for a rare call that waits for the network anyway: on a busy machine a thread costs half a millisecond.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from wsgipool.drivers.opening import Descriptor

_ALL_SIGNALS = signal.valid_signals()  # to list them takes as long as the rest of this


@contextlib.contextmanager
def ended_after(seconds: float, descriptor: Descriptor) -> Iterator[None]:
    """End a socket if the block takes longer; then what it waits for is an end of file. It lets go of the GIL."""
    is_done = threading.Event()

    def watch() -> None:
        # httpd's child handles its signals on the thread that got them: not on this one.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)
        if not is_done.wait(seconds):
            descriptor.shut_down()

    thread = threading.Thread(target=watch, name="wsgipool-deadline")
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()  # or it might end what comes after the block
