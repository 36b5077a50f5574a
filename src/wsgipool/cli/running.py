"""Sites that run in the foreground until a signal, for `serve` and `demo`; nothing stays behind."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from wsgipool.httpd.express import MODES, Httpd, HttpdFailed, Site
from wsgipool.privileged import refuse_shared
from wsgipool.wording import counted, printable

DEFAULT_PROCESSES = {"prefork": 8, "worker": 2, "event": 2, "daemon": 2}
DEFAULT_THREADS = 8

MAX_PROCESSES = 20_000
MAX_THREADS = 20_000
"""MAX_SERVER_LIMIT and MAX_THREAD_LIMIT of httpd's threaded MPMs, which are compiled in."""


def site_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that `serve` and `demo` share."""
    for option in reversed(
        [
            click.option(
                "--mpm",
                "mode",
                type=click.Choice(MODES),
                default="worker",
                show_default=True,
                help="MPM of Apache, with Python embedded in its children, or daemon mode.",
            ),
            click.option(
                "--processes",
                type=click.IntRange(1, MAX_PROCESSES),
                help=f"Number of processes that run Python. Default: {DEFAULT_PROCESSES['prefork']} for prefork, "
                f"{DEFAULT_PROCESSES['worker']} for the others.",
            ),
            click.option(
                "--threads",
                type=click.IntRange(1, MAX_THREADS),
                help=f"Number of threads in each process. Default: {DEFAULT_THREADS}; prefork always has 1.",
            ),
            click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
            click.option(
                "--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Port to listen on."
            ),
        ]
    ):
        command = option(command)
    return command


@dataclass(frozen=True)
class Shape:
    """A mode with its numbers of processes and threads."""

    mode: str
    processes: int
    threads: int

    def __str__(self) -> str:
        processes = counted(self.processes, "process")
        return f"prefork, {processes}" if self.mode == "prefork" else f"{self.mode}, {processes} of {self._threads()}"

    def _threads(self) -> str:
        return counted(self.threads, "thread")


def shape(mode: str, processes: int | None, threads: int | None) -> Shape:
    """Fill in the defaults. Raises HttpdFailed for threads under prefork."""
    if mode == "prefork":
        if threads not in (None, 1):
            raise HttpdFailed("prefork has one thread a process; leave --threads out, or choose --mpm worker or event")
        threads = 1
    return Shape(mode, processes or DEFAULT_PROCESSES[mode], threads or DEFAULT_THREADS)


class Stop:
    """An event that SIGINT, SIGTERM and SIGHUP set. Nothing is interrupted, so that everything ends in order."""

    def __init__(self) -> None:
        self._event = threading.Event()

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[Stop]:
        """Handle the signals during a `with` block."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        previous = {number: signal.signal(number, lambda *_: self._event.set()) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds` for the event; return whether it is set."""
        return self._event.wait(seconds)

    def __call__(self) -> bool:
        return self._event.is_set()


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Create a folder that the Apache user can enter but not list; remove it at the end."""
    try:
        directory = tempfile.TemporaryDirectory(prefix="wsgipool-")
    except OSError as error:
        raise HttpdFailed(
            f"no temporary folder can be created: {error.strerror}; set the variable TMPDIR to another folder"
        ) from None
    with directory as name:
        folder = Path(name)
        folder.chmod(0o711)
        refuse_shared(folder)
        yield folder


def run_until_stopped(
    site: Site,
    stop: Stop,
    announcement: str,
    warnings: Sequence[str] = (),
    *,
    on_start: Callable[[Httpd], object] | None = None,
    on_line: Callable[[str], object] | None = None,
) -> None:
    """Start httpd, print the warnings and the announcement, wait for the signal, stop httpd.

    `on_start` is called when httpd accepts connections, `on_line` with each line of its error log. Raises HttpdFailed
    if httpd ends early.
    """
    with Httpd(site, on_line) as httpd:
        httpd.start(stopped=stop)
        if not stop():
            if on_start is not None:
                on_start(httpd)
            for warning in warnings:
                click.echo(f"wsgipool: warning: {printable(warning)}", err=True)
            click.echo(announcement)
        while not stop.wait(0.2):
            status = httpd.ended()
            if status is not None:
                raise HttpdFailed(f"httpd ended with status {status}; see its messages above")
        click.echo("stopping")
