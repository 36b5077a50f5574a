"""Other WSGI servers than httpd, each with the application of app.py, as subprocesses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

import requests

from httpd.harness import LONG, Settings, VisitedSite, eventually
from wsgipool.httpd.express import free_port

TESTS = Path(__file__).parents[1]


class WSGIServer(VisitedSite, ABC):
    """A server and its processes; a context manager that starts it, and ends it in an orderly way."""

    name: ClassVar[str]

    def __init__(
        self,
        folder: Path,
        database: str,
        *options: str,
        threads: int = 1,
        processes: int = 1,
        settings: Settings | None = None,
        budget: Settings | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        super().__init__(f"http://127.0.0.1:{self.port}")
        self.threads, self.processes, self.options = threads, processes, options
        self._log = folder / "server.log"
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(TESTS),
            "WSGIPOOL_CONFIG": str(_written_settings(folder, database, settings or {}, budget)),
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command that runs the server in the foreground."""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.command(), *self.options],
                cwd=TESTS,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            eventually(self._answers, "the server to start")
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        """End the server as systemd does, and wait until it has ended."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(LONG)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        try:
            return self.request("/wait?seconds=0").ok
        except requests.ConnectionError:
            return False


class Gunicorn(WSGIServer):
    name = "gunicorn"

    def command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "gunicorn", "frameworks.app:application", f"--bind=127.0.0.1:{self.port}"),
            *(f"--threads={self.threads}", f"--workers={self.processes}", "--worker-class=gthread"),
            *("--worker-tmp-dir=/dev/shm", "--no-control-socket"),
        ]


class Waitress(WSGIServer):
    name = "waitress"
    PROGRAM = """
import signal, sys, waitress
from frameworks.app import application
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
waitress.serve(application, listen=f"127.0.0.1:{sys.argv[1]}", threads=int(sys.argv[2]))
"""

    def command(self) -> list[str]:
        return [sys.executable, "-c", self.PROGRAM, str(self.port), str(self.threads)]


class UWSGI(WSGIServer):
    name = "uWSGI"

    def command(self) -> list[str]:
        return [
            *(
                "uwsgi_python3",
                f"--virtualenv={sys.prefix}",
                "--module=frameworks.app",
                f"--http-socket=127.0.0.1:{self.port}",
            ),
            *(f"--threads={self.threads}", f"--processes={self.processes}"),
            *("--master", "--enable-threads", "--die-on-term", "--disable-logging"),
        ]


def _written_settings(folder: Path, database: str, settings: Settings, budget: Settings | None) -> Path:
    # All processes of these tests have one user, who creates this folder.
    lines = [f"runtime_dir = {json.dumps(str(folder / 'run'))}"]
    if budget is not None:
        lines += ["[budget]", *(f"{key} = {json.dumps(value)}" for key, value in budget.items())]
    lines += ["[databases.shop]", f"url = {json.dumps(database)}"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    path = folder / "wsgipool.toml"
    path.write_text("\n".join([*lines, ""]))
    return path
