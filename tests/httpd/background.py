"""Work that threads do beside a test, during a `with` block."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self


class Background:
    """Threads that run during a `with` block; each repeats one function until `_ending` is set."""

    def __init__(self, *works: Callable[[], object]) -> None:
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=work) for work in works]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()
