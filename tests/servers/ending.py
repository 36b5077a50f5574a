"""The end of a run by Ctrl-C or SIGTERM: every process of it stops its servers.

pytest-xdist kills a worker ten seconds after Ctrl-C. Servers on a busy machine take longer to stop.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import execnet
import pytest

_STOPPING = 60.0
"""Seconds that a worker may take to stop its servers."""


class Ending:
    """A plugin: SIGTERM does what Ctrl-C does, and the end of the workers is awaited."""

    def __init__(self) -> None:
        self._workers: list[Any] = []
        signal.signal(signal.SIGTERM, self._end)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodeready(self, node: Any) -> None:
        self._workers.append(node)

    def pytest_keyboard_interrupt(self) -> None:
        for worker in self._workers:
            with contextlib.suppress(execnet.RemoteError, execnet.TimeoutError):
                worker.channel.waitclose(_STOPPING)

    def _end(self, *_: object) -> None:
        # `timeout` sends it to all processes of a run: a worker gets it twice.
        signal.signal(signal.SIGTERM, lambda *_: None)
        if self._workers:
            pid = os.getpid()
            for worker in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                os.kill(int(worker), signal.SIGTERM)
        raise KeyboardInterrupt
