"""The whole terminal for one program: keys without Enter, a screen of its own, and the way back at every end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.control import Control
from rich.screen import Screen

_KEYS = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1b": "escape",
    "\r": "enter",
    "\n": "enter",
    "\t": "tab",
    "\x7f": "backspace",
    "\x08": "backspace",
}
"""Keys that are no printable character, by what terminals send for them."""
_REST_OF_KEY = 0.05
"""Seconds within which a terminal sends the rest of a key that begins with Escape."""


class Terminal:
    """A context manager. Ctrl-Z, SIGTERM and exceptions leave the terminal as it was before, too."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._keyboard = sys.stdin.fileno()

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._keyboard)
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # A signal ends the wait for keys.
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        handlers: dict[signal.Signals, Callable[..., None]] = {
            signal.SIGWINCH: _noted,
            signal.SIGTSTP: self._stopped,
            signal.SIGTERM: _ended,
            signal.SIGHUP: _ended,
        }
        self._handlers_before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._reader)
        os.close(self._writer)

    def draw(self, content: RenderableType) -> None:
        """Show content, from the upper left corner on; what does not fit is cut off."""
        self._console.control(Control.home())
        self._console.print(Screen(content), end="")

    def keys(self, seconds: float) -> Sequence[str] | None:
        """Wait for keys, and return their names; none after some seconds or a change of the size.

        Returns None if there is no keyboard any more.
        """
        ready, _, _ = select.select([self._keyboard, self._reader], [], [], max(0.0, seconds))
        if self._reader in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._reader, 4096)
        if self._keyboard not in ready:
            return []
        text = self._typed()
        return list(_split(text)) if text else None

    def _typed(self) -> str:
        text = b""
        with contextlib.suppress(OSError):  # the terminal is gone
            text = os.read(self._keyboard, 4096)
            while text.endswith((b"\x1b", b"\x1b[", b"\x1bO")):
                if not select.select([self._keyboard], [], [], _REST_OF_KEY)[0]:
                    break
                text += os.read(self._keyboard, 4096)
        return text.decode(errors="replace")

    def _take(self) -> None:
        tty.setcbreak(self._keyboard)
        self._console.set_alt_screen(True)
        self._console.show_cursor(False)

    def _give_back(self) -> None:
        with contextlib.suppress(OSError, termios.error):  # the terminal is gone
            self._console.show_cursor(True)
            self._console.set_alt_screen(False)
            termios.tcsetattr(self._keyboard, termios.TCSADRAIN, self._before)

    def _stopped(self, *_: object) -> None:
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        # The shell has continued this process.
        self._take()


def _noted(*_: object) -> None:
    """Do nothing: the wakeup descriptor ends the wait."""


def _ended(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def _split(text: str) -> Iterator[str]:
    """Return the names of the keys in what a terminal has sent."""
    while text:
        known = max((key for key in _KEYS if text.startswith(key)), key=len, default="")
        yield _KEYS[known] if known else text[0]
        text = text[len(known) or 1 :]
