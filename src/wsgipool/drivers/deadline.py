"""A deadline for a blocking call into a C library: another thread shuts the socket down.

It is for rare calls that wait for the network. On a busy machine the thread costs half a millisecond.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from wsgipool.drivers.connecting import Descriptor

_ALL_SIGNALS = signal.valid_signals()  # listed once: it takes as long as the rest of the module


@contextlib.contextmanager
def shut_down_after(seconds: float, descriptor: Descriptor) -> Iterator[None]:
    """Shut a socket down if the block takes longer, so that a read in it ends with an end of file.

    The call in the block must release the GIL.
    """
    is_done = threading.Event()

    def shut_down_when_late() -> None:
        # httpd's child handles a signal on the thread that receives it, which must not be this one.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)
        if not is_done.wait(seconds):
            descriptor.shut_down()

    thread = threading.Thread(target=shut_down_when_late, name="wsgipool-deadline")
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()  # otherwise it might shut the socket down after the block
