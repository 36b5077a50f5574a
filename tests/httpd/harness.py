"""A real httpd and a real MariaDB for a test, with a load of real requests."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, Required, TypedDict, TypeVar, Unpack

import requests
from pymysql.connections import Connection

from httpd.background import Background
from wsgipool.httpd.express import Httpd, Site, apache_user, free_port

APP = Path(__file__).parent / "app"
LONG = 30.0
"""Seconds that a test waits for an event; usually it comes much earlier."""

Answer = dict[str, Any]
Settings = dict[str, str | int]
T = TypeVar("T")


class Administered(Protocol):
    """A MariaDB server, wherever it runs."""

    def admin(self, database: str | None = None) -> Connection: ...


class SiteOptions(TypedDict, total=False):
    """The settings of a test's site, for every place."""

    processes: Required[int]
    threads: int
    """Threads of each process."""
    settings: Settings
    """Settings of the pool of each database."""
    budget: Settings
    install: list[str]
    """The DB-API modules that the settings make pooled; on this machine only."""
    auth: Settings
    """The table [auth] of the settings; on this machine only."""
    script: Path
    """The WSGI script. Default: that of tests/httpd/app."""


class VisitedSite:
    """A site, as its visitors see it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def request(self, path: str, method: str = "GET", **arguments: Any) -> requests.Response:
        """Send a request on a new HTTP connection."""
        headers = {"Connection": "close", **arguments.pop("headers", {})}
        return requests.request(method, f"{self.url}{path}", headers=headers, timeout=LONG, **arguments)

    def get(self, path: str) -> Answer:
        """Return the JSON of an answer whose status must be 200."""
        response = self.request(path)
        assert response.status_code == 200, f"{path}: {response.status_code} {response.text}"
        answer: Answer = response.json()
        return answer

    def load(self, paths: Callable[[int], str], *, requests: int, clients: int) -> list[Answer]:
        """Send requests from several clients at once; return all answers, whose status must be 200."""
        with ThreadPoolExecutor(clients) as executor:
            return list(executor.map(lambda number: self.get(paths(number)), range(requests)))


class RunningSite(VisitedSite, ABC):
    """The application of tests/httpd/app, or another one, on an httpd for one test.

    `folder` is one on the host of that httpd, which its user may write to.
    """

    def __init__(self, url: str, folder: Path) -> None:
        super().__init__(url)
        self.folder = folder

    @abstractmethod
    def log(self) -> str:
        """Return httpd's error log."""

    @abstractmethod
    def touch(self, path: Path) -> None:
        """Create an empty file on the host of httpd."""

    @abstractmethod
    def children(self) -> list[int]:
        """Return the ids of httpd's child processes."""

    @abstractmethod
    def kill(self, pid: int) -> bool:
        """Kill one of httpd's processes; return whether it still existed."""

    @abstractmethod
    def graceful_restart(self) -> None:
        """Ask httpd to replace each process once its requests are done."""

    @abstractmethod
    def stop_gracefully(self) -> None:
        """Stop httpd after the requests in flight, and wait until it has ended."""

    @abstractmethod
    def has_ended(self) -> bool: ...


class ExpressSite(RunningSite):
    """A site on this machine, whose httpd the package started."""

    def __init__(self, httpd: Httpd, folder: Path) -> None:
        super().__init__(httpd.url, folder)
        self.httpd = httpd

    def log(self) -> str:
        return (self.folder / "error_log").read_text(errors="replace")

    def touch(self, path: Path) -> None:
        path.touch()

    def children(self) -> list[int]:
        return self.httpd.children()

    def kill(self, pid: int) -> bool:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return True
        return False

    def graceful_restart(self) -> None:
        self.httpd.graceful_restart()

    def stop_gracefully(self) -> None:
        self.httpd.stop(graceful=True)

    def has_ended(self) -> bool:
        return self.httpd.ended() is not None


@contextmanager
def running_site(
    folder: Path,
    mode: str,
    databases: dict[str, str],
    *,
    express_options: tuple[str, ...] = (),
    **options: Unpack[SiteOptions],
) -> Iterator[ExpressSite]:
    """Start httpd with the databases (URLs by name); its log stays in `folder`."""
    # A copy, since the Apache user may not be able to read the source folder.
    app = Path(shutil.copytree(APP, folder / "app"))
    config = folder / "wsgipool.toml"
    write_config(config, databases, options.get("settings", {}))
    if "budget" in options:
        add_budget(config, made_runtime_dir(folder), options["budget"])
    if "auth" in options:
        lines = [f"{key} = {json.dumps(value)}" for key, value in options["auth"].items()]
        config.write_text("\n".join([config.read_text(), "[auth]", *lines, ""]))
    if "install" in options:
        config.write_text(f"install = {json.dumps(options['install'])}\n{config.read_text()}")
    site = Site(
        script=options.get("script", app / "app.wsgi"),
        config=config,
        folder=folder,
        mode=mode,
        processes=options["processes"],
        threads=options.get("threads", 1),
        host="127.0.0.1",
        port=free_port(),
        log_folder=folder,
        express_options=express_options,
    )
    with Httpd(site) as httpd:
        httpd.start()
        yield ExpressSite(httpd, folder)


def write_config(path: Path, databases: dict[str, str], settings: Settings) -> None:
    lines = []
    for name, url in databases.items():
        lines += [f"[databases.{name}]", f"url = {json.dumps(url)}"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    path.write_text("\n".join(lines) + "\n")
    give_to_apache(path)


def add_budget(config: Path, runtime_dir: Path, budget: Settings) -> None:
    """Add a [budget] and a runtime_dir to the settings."""
    lines = [f"runtime_dir = {json.dumps(str(runtime_dir))}", "[budget]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in budget.items()]
    config.write_text("\n".join([*lines, config.read_text()]))


def made_runtime_dir(folder: Path) -> Path:
    """Create the folder that the processes of a site share, unless it exists."""
    path = folder / "run"
    if not path.exists():
        path.mkdir(mode=0o700)
        give_to_apache(path)
    return path


def give_to_apache(path: Path) -> None:
    if os.geteuid() == 0:
        shutil.chown(path, apache_user().pw_name)


class SessionMonitor(Background):
    """Records the sessions of a database on the server, every few milliseconds."""

    def __init__(self, mariadb: Administered, user: str) -> None:
        super().__init__(self._sample)
        self.maximum = 0
        self._mariadb = mariadb
        self._user = user

    def _sample(self) -> None:
        with self._mariadb.admin() as connection, connection.cursor() as cursor:
            while not self._ending.wait(0.005):
                cursor.execute("SELECT COUNT(*) FROM information_schema.processlist WHERE user = %s", (self._user,))
                self.maximum = max(self.maximum, cursor.fetchone()[0])


def sessions(mariadb: Administered, user: str) -> set[int]:
    """Return the ids of the sessions that a user has open."""
    with mariadb.admin() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id FROM information_schema.processlist WHERE user = %s", (user,))
        return {row[0] for row in cursor.fetchall()}


def status(mariadb: Administered, variable: str) -> int:
    """Return a value of SHOW GLOBAL STATUS."""
    with mariadb.admin() as connection, connection.cursor() as cursor:
        cursor.execute("SHOW GLOBAL STATUS LIKE %s", (variable,))
        return int(cursor.fetchone()[1])


class AbortedClients:
    """The sessions that ended without COM_QUIT, counted when all sessions of a user have ended.

    The server's number is for all users. So this begins when the sessions that earlier tests left to it have ended.
    """

    def __init__(self, mariadb: Administered, user: str) -> None:
        self._mariadb, self._user = mariadb, user
        eventually(lambda: self._of_earlier_tests() == 0, "the sessions of earlier tests to end")
        self._before = status(mariadb, "Aborted_clients")

    def count(self) -> int:
        eventually(lambda: not sessions(self._mariadb, self._user), "all sessions to end")
        return status(self._mariadb, "Aborted_clients") - self._before

    def _of_earlier_tests(self) -> int:
        with self._mariadb.admin() as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT COUNT(*) FROM information_schema.processlist"
                " WHERE user NOT IN (SUBSTRING_INDEX(CURRENT_USER(), '@', 1), 'system user', 'event_scheduler', %s)",
                (self._user,),
            )
            return int(cursor.fetchone()[0])


def eventually(condition: Callable[[], T], what: str, within: float = LONG) -> T:
    """Wait until the condition holds, and return its value."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"still waiting after {within:g} s for {what}")


def pools_of_answering_process(status: Answer) -> list[str]:
    """Return the names of the pools of the process that has answered the status page."""
    (process,) = (each for each in status["processes"] if each["pid"] == status["pid"])
    return [pool["name"] for pool in process["pools"]]


def connections_by_process(answers: list[Answer]) -> dict[int, set[int]]:
    """Return the connection ids that each process used."""
    used: dict[int, set[int]] = defaultdict(set)
    for answer in answers:
        used[answer["pid"]].add(answer["connection"])
    return dict(used)


def overlaps(answers: list[Answer]) -> list[tuple[Answer, Answer]]:
    """Return the pairs of requests that held the same connection at the same time; there must be none.

    `start` and `end` are times of CLOCK_MONOTONIC, which all processes of a host share.
    """
    by_connection: dict[int, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_connection[answer["connection"]].append(answer)
    return [
        (earlier, later)
        for held in by_connection.values()
        for earlier, later in itertools.pairwise(sorted(held, key=lambda answer: answer["start"]))
        if later["start"] < earlier["end"]
    ]
