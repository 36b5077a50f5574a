"""Requests a second and CPU time a request of the ways to get a connection, on real httpd and MariaDB, with wrk.

Each way has an httpd of its own. All run for the whole time, and one at a time is under load. So no way pays for the
modules of another one, and a round compares them within seconds.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

import click
import requests

from benchmarks import report
from benchmarks.database import ITEMS, LOOKUP, Database, running_database
from benchmarks.measuring import Run, Samples, Spread, ratios, shuffled
from wsgipool.httpd import express

PROCESSES, THREADS = 2, 8
WAYS = {
    "thread-local": "/thread-local",
    "thread-local, rollback()": "/thread-local-rollback",
    "wsgipool, autocommit": "/wsgipool-autocommit",
    'wsgipool, autocommit, max_size = "threads/4"': "/wsgipool-quarter",
    "lock and list, FIFO, as few connections": "/first-come-quarter",
    "wsgipool": "/wsgipool",
    "SQLAlchemy": "/sqlalchemy",
    "DBUtils": "/dbutils",
    "one shared connection behind a lock": "/shared",
    "connect per request": "/connect",
}
BASE = "thread-local"
SECONDS = 1
"""Duration of each load; wrk accepts whole seconds only."""
CREDENTIALS = ("reader", "open sesame")


@dataclass(frozen=True)
class Shape:
    """The processes of a site, and which of them have pools."""

    mode: str = "worker"
    processes: int = PROCESSES
    threads: int = THREADS
    asks_for_password: bool = False
    """Whether Apache's own children also do a lookup before each request."""
    is_served_twice: bool = False
    """Whether half of the clients use /another, the same site in another sub-interpreter."""

    @property
    def clients(self) -> int:
        return self.processes * self.threads

    def urls(self, httpd: express.Httpd, path: str) -> list[str]:
        return [f"{httpd.url}{path}", f"{httpd.url}/another{path}"][: 1 + self.is_served_twice]

    def express_options(self, folder: Path, script: Path) -> list[str]:
        options = []
        if self.is_served_twice:
            extra = folder / "another.conf"
            extra.write_text(
                f"WSGIScriptAlias /another {script} application-group=another\n"
                f"<Directory {folder}>\n    Require all granted\n</Directory>\n",
                encoding="utf-8",
            )
            options += ["--include-file", str(extra)]
        if self.asks_for_password:
            options += ["--auth-user-script", str(shutil.copy(Path(__file__).with_name("lookup_auth.py"), folder))]
        return options


def measure(run: Run) -> list[report.Table]:
    return [
        report.Table(
            name="httpd",
            title=f"httpd, worker MPM, {PROCESSES} processes x {THREADS} threads: a lookup by key a request",
            columns=["requests/s", f"rate x {BASE}", "CPU µs/request", f"CPU x {BASE}"],
            rows=beside(BASE, *compared(run, started, WAYS, rounds=18)),
            plotted=[f"rate x {BASE}", f"CPU x {BASE}"],
            logarithmic=True,
            reference=1.0,
            notes=[
                "CPU: of httpd's processes and the Python in them, not of MariaDB and wrk beside them",
                "thread-local is in autocommit mode and ends no transaction; its like is wsgipool, autocommit",
                "lock and list, FIFO: what waiting for a quarter of the connections costs by itself",
                "SQLAlchemy without pre_ping and DBUtils with its ping, as they are by default",
            ],
        )
    ]


def compared(
    run: Run,
    start: Callable[[str, Database], AbstractContextManager[express.Httpd]],
    paths: Mapping[str, str],
    *,
    rounds: int,
    shape: Shape = Shape(),
) -> tuple[Samples, Samples]:
    """Load each site on its path, in turn; return the rates and the CPU times a request."""
    if shutil.which("wrk") is None:
        raise click.ClickException("wrk is not installed (Debian: apt-get install wrk)")
    with running_database() as database, ExitStack() as close:
        sites = {name: close.enter_context(start(name, database)) for name in paths}
        for name in run.each("warming up", list(paths)):
            warm_up(shape.urls(sites[name], paths[name]), shape.clients)
        rate: Samples = {name: [] for name in paths}
        cpu: Samples = {name: [] for name in paths}
        for _ in run.rounds(f"{shape.clients} clients", rounds):
            for name in shuffled(paths):
                requests, used = load(sites[name], paths[name], shape)
                rate[name].append(requests)
                cpu[name].append(used)
    return rate, cpu


def beside(base: str, rate: Samples, cpu: Samples) -> dict[str, Sequence[report.Value]]:
    """Return the rows of a table: rates and CPU times, absolute and relative to `base`."""
    rate_ratios, cpu_ratios = ratios(rate, base), ratios(cpu, base)
    return {
        name: [
            Spread.of(rate[name]).median,
            Spread.of(rate_ratios[name]),
            Spread.of(cpu[name]).median,
            Spread.of(cpu_ratios[name]),
        ]
        for name in rate
    }


def started(name: str, database: Database) -> express.Httpd:
    """Start an httpd for one way."""
    autocommit = json.dumps(database.url(options="?autocommit=true"))
    config = (
        f"[databases.shop]\nurl = {json.dumps(database.url())}\n"
        f"[databases.autocommit]\nurl = {autocommit}\n"
        f'[databases.quarter]\nurl = {autocommit}\nmax_size = "threads/4"\n'
    )
    folder = database.folder / WAYS[name].strip("/")
    folder.mkdir()
    if name.startswith("wsgipool"):
        return started_in(folder, config, database)
    with without_preload(folder):
        return started_in(folder, config, database)


@contextmanager
def without_preload(folder: Path) -> Iterator[None]:
    """Start sites whose processes do not load wsgipool: each request would pay for that."""
    empty = folder / "empty.py"
    empty.touch()
    with patch.object(express, "PRELOAD_SCRIPT", empty):
        yield


def started_in(folder: Path, config: str, database: Database, shape: Shape = Shape()) -> express.Httpd:
    """Start an httpd for the lookups, with its files in this folder and with this wsgipool.toml."""
    settings = {"arguments": database.arguments(), "items": ITEMS, "lookup": LOOKUP, "threads": shape.threads}
    return started_with("lookup_site.py", settings, folder, config, shape)


def started_with(name: str, settings: Mapping[str, object], folder: Path, config: str, shape: Shape) -> express.Httpd:
    """Start an httpd for a script of this folder, whose settings are beside it."""
    script = Path(shutil.copy(Path(__file__).with_name(name), folder))
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "wsgipool.toml").write_text(config, encoding="utf-8")
    site = express.Site(
        script=script,
        config=folder / "wsgipool.toml",
        folder=folder,
        mode=shape.mode,
        processes=shape.processes,
        threads=shape.threads,
        host="127.0.0.1",
        port=express.free_port(),
        log_folder=folder,
        express_options=shape.express_options(folder, script),
    )
    httpd = express.Httpd(site)
    try:
        httpd.start()
    except BaseException:
        httpd.stop()
        raise
    return httpd


def warm_up(urls: Sequence[str], clients: int) -> None:
    """Let every thread of all processes answer once, so that modules are imported and connections open."""

    def ask(number: int) -> None:
        url = urls[number % len(urls)]
        requests.get(url, auth=CREDENTIALS, headers={"Connection": "close"}, timeout=60).raise_for_status()

    with ThreadPoolExecutor(clients) as executor:
        list(executor.map(ask, range(4 * len(urls) * clients)))


def load(httpd: express.Httpd, path: str, shape: Shape) -> tuple[float, float]:
    """Load the site with as many clients as threads; return requests a second and CPU µs a request."""
    urls = shape.urls(httpd, path)
    before = cpu_seconds(httpd.pid)
    with ThreadPoolExecutor(len(urls)) as executor:
        outcomes = list(executor.map(partial(_wrk, shape.clients // len(urls)), urls))
    used = wait_until_quiet(httpd.pid) - before
    answers = [re.search(r"(\d+) requests in ([\d.]+)s", outcome) for outcome in outcomes]
    if None in answers or any("Non-2xx" in outcome for outcome in outcomes):
        raise click.ClickException(f"{path} does not answer as it should:\n{outcomes}\n{_end_of_log(httpd)}")
    numbers = [(int(answer[1]), float(answer[2])) for answer in answers if answer]
    # wrk ends with a request of each client in flight, which httpd still answers.
    answered = sum(requests for requests, _ in numbers) + shape.clients
    return sum(requests / seconds for requests, seconds in numbers), 1e6 * used / answered


def _wrk(clients: int, url: str) -> str:
    credentials = base64.b64encode(":".join(CREDENTIALS).encode()).decode()
    command = [
        "wrk", "--threads=1", f"--connections={clients}", f"--duration={SECONDS}s",
        f"--header=Authorization: Basic {credentials}", url,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def wait_until_quiet(parent: int) -> float:
    """Wait until httpd has finished the last requests, and return the CPU time of its children.

    Quiet means less than two fifths of a processor: many idle children with a budget do some maintenance.
    """
    deadline = time.monotonic() + 30
    used = cpu_seconds(parent)
    while time.monotonic() < deadline:
        time.sleep(0.05)
        before, used = used, cpu_seconds(parent)
        if used - before < 0.02:
            break
    return used


def cpu_seconds(parent: int) -> float:
    """Return the CPU time, user and system, of httpd's children so far."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split()
    return sum(cpu_of(int(child)) for child in children)


def cpu_of(pid: int) -> float:
    """Return the CPU time, user and system, of a process so far.

    Its clock is read, since /proc/PID/stat counts in steps of 10 ms.
    """
    clock = ctypes.c_int()
    error = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock))
    if error:
        raise OSError(error, os.strerror(error))
    return time.clock_gettime(clock.value)


def _end_of_log(httpd: express.Httpd) -> str:
    log = httpd.site.folder / "error_log"
    return log.read_text(errors="replace")[-2000:] if log.exists() else ""


if __name__ == "__main__":
    report.main(measure)
