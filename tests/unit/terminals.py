"""`wsgipool top` in a real terminal: what it shows, and keys."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping, Sequence

import pyte

from unit.fakes import eventually

TOP = [sys.executable, "-m", "wsgipool", "top", "--interval", "0.2"]
LEFT = b"\x1b[?1049l"
"""The end of the screen of its own."""
START = 30.0
"""Seconds within which a program starts, on a busy machine."""


def _environment() -> dict[str, str]:
    """Return the environment without a size of the terminal, which pytest-xdist sets."""
    return {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}


class Session:
    """`wsgipool top` in a terminal."""

    def __init__(self, arguments: Sequence[str], width: int, height: int, environment: Mapping[str, str]) -> None:
        self.screen = pyte.Screen(width, height)
        self._stream = pyte.ByteStream(self.screen)
        self.output = b""
        self.terminal, self._other_end = pty.openpty()
        self.resize(width, height)
        self.attributes = termios.tcgetattr(self._other_end)
        self.process = subprocess.Popen(
            # The terminal is the controlling one, so that keys send signals.
            ["setsid", "--ctty", *TOP, *arguments],
            stdin=self._other_end,
            stdout=self._other_end,
            stderr=self._other_end,
            env={**_environment(), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **environment},
        )

    def resize(self, width: int, height: int) -> None:
        self.screen.resize(height, width)
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())

    def text(self) -> str:
        """Return what the terminal shows now."""
        while select.select([self.terminal], [], [], 0)[0]:
            new = os.read(self.terminal, 65536)
            self.output += new
            self._stream.feed(new)
        return "\n".join(self.screen.display)

    def shows(self, pattern: str) -> None:
        """Wait until the terminal shows a text."""
        try:
            eventually(lambda: re.search(pattern, self.text(), re.M) is not None, START)
        except AssertionError:
            raise AssertionError(f"the screen does not show {pattern}:\n{self.text()}") from None

    def ends(self) -> int:
        """Wait for the end, and return the exit status. The terminal is as it was before."""
        eventually(lambda: self.process.poll() is not None, START)
        self.text()
        assert self.is_given_back()
        return self.process.returncode

    def is_given_back(self) -> bool:
        self.text()
        return (
            LEFT in self.output[-300:]
            and b"\x1b[?25h" in self.output[-300:]
            and termios.tcgetattr(self._other_end) == self.attributes
        )

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)
        os.close(self._other_end)


@contextlib.contextmanager
def session(*arguments: str, width: int = 80, height: int = 24, **environment: str) -> Iterator[Session]:
    """Run `wsgipool top` in a terminal of its own."""
    running = Session(arguments, width, height, environment)
    try:
        yield running
    finally:
        running.close()
