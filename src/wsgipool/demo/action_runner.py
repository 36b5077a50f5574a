"""Runs the actions that buttons of the demo's page ask for, in the process that owns httpd and the database server.

It runs one action at a time, so that the page can say which. The state for the page has the actions, the one that
runs, and what has happened: actions that began and ended, and the package's lines in httpd's error log.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wsgipool.demo.action_files import VARIABLE, ActionFiles
from wsgipool.demo.actions import Action, RunningDemo
from wsgipool.demo.mariadb import MariaDB
from wsgipool.httpd.express import Httpd
from wsgipool.wording import describe, printable, shortened

_INTERVAL = 0.1
_MAX_EVENTS = 40
_MAX_TEXT = 600
_LINE = re.compile(r"\bwsgipool(?:\.demo)?(?: [A-Z]+)?: (?!503 for)(.+)")
"""A line of the package or the demo in httpd's error log. A line for each 503 would push all others out."""


class ActionRunner:
    """A thread that runs actions on demand; a context manager around the life of httpd."""

    def __init__(self, folder: Path, server: MariaDB | None) -> None:
        self._files = ActionFiles(folder)
        self._files.create()
        self._server = server
        self._host = ""
        self._actions: dict[str, Action] = {}
        self._running = ""
        self._events: deque[dict[str, Any]] = deque(maxlen=_MAX_EVENTS)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the site's processes."""
        return {VARIABLE: str(self._files.folder)}

    def on_line(self, line: str) -> None:
        """Show a line of httpd's error log on the page, if the package wrote it."""
        found = _LINE.search(line)
        if found:
            self._happened("log", found[1])

    def on_start(self, httpd: Httpd) -> None:
        """Begin to run actions."""
        demo = RunningDemo(httpd, self._server, self._stopped)
        self._actions = {action.name: action for action in demo.actions()}
        self._host = httpd.site.host
        self._write()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _serve(self) -> None:
        while not self._stopped.wait(_INTERVAL):
            requested = self._files.requested(self._actions)
            if requested:
                self._run(self._actions[requested[0]])

    def _run(self, action: Action) -> None:
        self._running = action.name
        self._happened("begun", action.what, action.title)
        try:
            outcome = action.run()
        except Exception as error:
            outcome = f"This failed. {describe(error)}"
        # All of them, since there may have been a second click.
        self._files.forget(self._actions)
        self._running = ""
        self._happened("done", outcome, action.title)

    def _happened(self, kind: str, text: str, title: str = "") -> None:
        text = shortened(printable(text), _MAX_TEXT)
        with self._lock:
            last = self._events[-1] if self._events else {}
            if (last.get("kind"), last.get("text")) == (kind, text):
                last["times"] += 1
            else:
                self._events.append({"at": time.time(), "kind": kind, "title": title, "text": text, "times": 1})
        self._write()

    def _write(self) -> None:
        actions = [
            {"name": each.name, "title": each.title, "what": each.what, "look": each.look}
            for each in self._actions.values()
        ]
        with self._lock:
            events = list(self._events)
            self._files.write({"host": self._host, "actions": actions, "running": self._running, "events": events})
