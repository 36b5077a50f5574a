"""Run a site in the foreground until a signal, and leave nothing behind: shared by `serve` and `demo`."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from wsgipool.httpd.express import MODES, Httpd, ServerError, Site
from wsgipool.privileged import refuse_shared
from wsgipool.wording import counted

DEFAULT_PROCESSES = {"prefork": 8, "worker": 2, "event": 2, "daemon": 2}
DEFAULT_THREADS = 8

MAX_PROCESSES = 20_000
MAX_THREADS = 20_000
"""What httpd is compiled with at most: MAX_SERVER_LIMIT and MAX_THREAD_LIMIT of its threaded MPMs."""


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
                help="Apache's MPM with Python embedded in its children, or daemon mode.",
            ),
            click.option(
                "--processes",
                type=click.IntRange(1, MAX_PROCESSES),
                help=f"Processes that run Python. Default: {DEFAULT_PROCESSES['prefork']} for prefork, "
                f"{DEFAULT_PROCESSES['worker']} for the others.",
            ),
            click.option(
                "--threads",
                type=click.IntRange(1, MAX_THREADS),
                help=f"Threads in each process. Default: {DEFAULT_THREADS}; prefork has one.",
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
    """Fill in the defaults. Raises ServerError for threads under prefork."""
    if mode == "prefork":
        if threads not in (None, 1):
            raise ServerError("prefork has one thread a process; leave --threads out, or choose --mpm worker or event")
        threads = 1
    return Shape(mode, processes or DEFAULT_PROCESSES[mode], threads or DEFAULT_THREADS)


class Stop:
    """Set by SIGINT, SIGTERM and SIGHUP. Nothing is interrupted: whoever waits asks it, so all is undone in order."""

    def __init__(self) -> None:
        self._event = threading.Event()

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[Stop]:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        previous = {number: signal.signal(number, lambda *_: self._event.set()) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def wait(self, seconds: float) -> bool:
        """Wait until it is set, at most `seconds`, and tell whether it is."""
        return self._event.wait(seconds)

    def __call__(self) -> bool:
        return self._event.is_set()


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new folder that the Apache user can enter but not list, removed at the end."""
    try:
        directory = tempfile.TemporaryDirectory(prefix="wsgipool-")
    except OSError as error:
        raise ServerError(
            f"no temporary folder can be made: {error.strerror}; name a place for it by the variable TMPDIR"
        ) from None
    with directory as name:
        folder = Path(name)
        folder.chmod(0o711)
        refuse_shared(folder)
        yield folder


def run_until_stopped(site: Site, stop: Stop, announcement: str, warning: str = "") -> None:
    """Start httpd, print the announcement, wait for the signal, stop httpd. Raises ServerError if httpd ends before."""
    with Httpd(site) as httpd:
        httpd.start(stopped=stop)
        if not stop():
            if warning:
                click.echo(f"wsgipool: warning: {warning}", err=True)
            click.echo(announcement)
        while not stop.wait(0.2):
            status = httpd.ended()
            if status is not None:
                raise ServerError(f"httpd ended with status {status}; see its messages above")
        click.echo("stopping")
