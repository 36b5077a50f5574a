"""`wsgipool top`: the pools of this host, live, in the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from wsgipool.cli.hosts import Seen, ask, config_option, folders, runtime_dir_option
from wsgipool.cli.shared_folders import SharedFolder
from wsgipool.cli.status import print_text
from wsgipool.cli.terminal import Terminal
from wsgipool.cli.top_screen import Choices, TopScreen, after_key
from wsgipool.errors import ConfigError


@click.command()
@config_option
@runtime_dir_option
@click.option(
    "--interval",
    type=click.FloatRange(min=0.2),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two reports.",
)
def top(config_path: Path | None, runtime_dir: Path | None, interval: float) -> None:
    """Watch the pools of all processes of this host.

    The screen has the findings, the databases, the threads that hold connections longest, and the processes. Keys sort
    and filter; h shows them, q quits. Without a terminal, or with TERM=dumb, the command prints what `wsgipool status`
    prints, once. NO_COLOR in the environment turns colours off.

    Run the command as root or as the user of httpd's processes. Exit status: 0 after q or Ctrl-C; 1 if the numbers
    cannot be read; 143 after SIGTERM.
    """
    found = folders(config_path, runtime_dir)
    console = Console()
    if not console.is_terminal or console.is_dumb_terminal or not sys.stdin.isatty():
        for folder in found:
            print_text(console, ask(folder))
        return
    first = ask(found[0])
    try:
        with Terminal(console) as terminal:
            _run(terminal, found, first, interval)
    except KeyboardInterrupt:
        return


def _run(terminal: Terminal, found: Sequence[SharedFolder], seen: Seen, interval: float) -> None:
    before: Seen | None = None
    choices, error = Choices(), ""
    due = time.monotonic() + interval
    while not choices.is_over:
        terminal.draw(TopScreen(seen, before, choices, len(found), error))
        keys = terminal.keys(due - time.monotonic())
        if keys is None:
            return
        folder = choices.folder
        for key in keys:
            choices = after_key(choices, key, len(found), sum(len(each.pools) for each in seen.host.processes))
        is_other = choices.folder != folder
        if is_other or time.monotonic() >= due:
            due = time.monotonic() + interval
            if is_other or not choices.is_held:
                try:
                    before, seen, error = None if is_other else seen, ask(found[choices.folder]), ""
                except ConfigError as failure:
                    error = str(failure)
