"""`wsgipool demo`: the bookshop, started and stopped from a terminal."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import requests

from httpd.harness import LONG, eventually
from wsgipool.httpd.express import MODES, free_port

WSGIPOOL = [sys.executable, "-m", "wsgipool"]


class Command:
    """A `wsgipool` command that runs a site, with a TMPDIR of its own."""

    def __init__(self, folder: Path, name: str, *arguments: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.temporary.chmod(0o755)  # whatever the umask is
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [*WSGIPOOL, name, "--port", str(self.port), *arguments],
            env={**os.environ, "TMPDIR": str(self.temporary), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            self.lines.extend(iter(stdout.readline, ""))

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait_until_open(self) -> None:
        eventually(lambda: self.process.poll() is not None or "Ctrl-C" in self.output, "the site to open")
        assert self.process.poll() is None, self.output

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(LONG)
        self._reader.join()
        return status

    def processes(self) -> dict[int, str]:
        """Return the command lines of all processes that use the temporary folder, by process id."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environment = (entry / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(self.temporary) in command + environment:
                found[int(entry.name)] = command
        return found

    def kill_database(self) -> None:
        (pid,) = [pid for pid, command in self.processes().items() if "mariadbd" in command.split()[0]]
        os.kill(pid, signal.SIGKILL)


@contextmanager
def command(folder: Path, *arguments: str) -> Iterator[Command]:
    site = Command(folder, *arguments)
    try:
        yield site
    finally:
        site.stop()


def visit(url: str, data: dict[str, str] | None = None, accept: str = "*/*") -> requests.Response:
    """Send a GET request, or a POST with `data`, on a new connection, since keep-alive would occupy a prefork child."""
    headers = {"Connection": "close", "Accept": accept}
    return requests.request("POST" if data else "GET", url, data=data, headers=headers, timeout=LONG)


def get_json(url: str) -> dict[str, Any]:
    answer: dict[str, Any] = visit(url, accept="application/json").json()
    return answer


APPS = ("plain", "flask", "django")
SHORT_RUN = [
    *(("plain", mode, "mariadb") for mode in MODES),
    ("plain", "daemon", "sqlite"),
    ("flask", "prefork", "mariadb"),
    ("flask", "daemon", "sqlite"),
    ("django", "event", "mariadb"),
    ("django", "daemon", "sqlite"),
]
LONG_RUN = [run for run in product(APPS, MODES, ("mariadb", "sqlite")) if run not in SHORT_RUN]


@pytest.mark.parametrize(
    ("app", "mode", "database"), [*SHORT_RUN, *(pytest.param(*run, marks=pytest.mark.compat) for run in LONG_RUN)]
)
def test_the_bookshop_sells_books_in_every_mode_on_either_database(
    app: str, mode: str, database: str, folder: Path
) -> None:
    with command(folder, "demo", "--app", app, "--mpm", mode, "--processes", "1", "--db", database) as site:
        site.wait_until_open()
        listing = visit(site.url)
        page = visit(f"{site.url}/books/1")
        ordered = visit(f"{site.url}/books/1/order", {"quantity": "2", "customer": "Ada"})
        book = get_json(f"{site.url}/books/1")
        orders = get_json(f"{site.url}/orders")
        failed = get_json(f"{site.url}/fail")
        slow = visit(f"{site.url}/slow?seconds=0.1")
        missing = visit(f"{site.url}/books/77")
        style = visit(f"{site.url}/static/style.css")
        pool_page = visit(f"{site.url}/pool", accept="text/html")
        numbers = get_json(f"{site.url}/pool")
        status = get_json(f"{site.url}/wsgipool-status")

    assert (app in site.output, mode in site.output, database in site.output) == (True, True, True)
    assert [answer.status_code for answer in (listing, page, slow, style, missing)] == [200, 200, 200, 200, 404]
    assert "Les Misérables" in listing.text
    assert int(listing.headers["X-Served-By-Process"]) > 0
    assert listing.headers["X-Served-By-Thread"]
    assert listing.headers["X-Served-By-Connection"] in listing.text
    assert ordered.status_code == 200
    assert re.search(r"/orders/\d+$", ordered.url)
    assert "Ada" in ordered.text
    assert book["book"]["stock"] == 38  # of 40
    assert [order["customer"] for order in orders["orders"]] == ["Ada"]
    assert failed["rolled_back"] is True
    assert "no such book" in missing.text
    assert 'href="/wsgipool-status"' in pool_page.text
    assert numbers["processes"][0]["max_size"] == (1 if mode == "prefork" else 4)
    assert numbers["totals"]["checkouts"] > numbers["totals"]["opened"] > 0
    assert (numbers["budget"] is None) == (database == "sqlite")
    (bookshop,) = status["databases"]
    assert bookshop["totals"]["checkouts"] > bookshop["totals"]["opened"] > 0


@pytest.mark.parametrize(
    ("app", "database"), [("plain", "mariadb"), ("plain", "sqlite"), ("flask", "mariadb"), ("django", "mariadb")]
)
def test_concurrent_orders_never_sell_a_book_twice(app: str, database: str, folder: Path) -> None:
    with command(folder, "demo", "--app", app, "--mpm", "worker", "--db", database) as site:
        site.wait_until_open()
        stock = get_json(f"{site.url}/books/2")["book"]["stock"]

        def order(number: int) -> int:
            data = {"quantity": "3", "customer": f"customer {number}"}
            return visit(f"{site.url}/books/2/order", data, accept="application/json").status_code

        with ThreadPoolExecutor(12) as executor:
            outcomes = list(executor.map(order, range(24)))
        left = get_json(f"{site.url}/books/2")["book"]["stock"]

    assert set(outcomes) == {201, 409}
    assert outcomes.count(201) == stock // 3
    assert left == stock - 3 * outcomes.count(201)


@pytest.mark.parametrize("app", ["flask", "django"])  # plain: see test_outages
def test_a_bookshop_without_its_database_is_unavailable(app: str, folder: Path) -> None:
    with command(folder, "demo", "--app", app, "--mpm", "daemon", "--processes", "1", "--db", "mariadb") as site:
        site.wait_until_open()
        assert visit(f"{site.url}/orders").status_code == 200

        site.kill_database()
        eventually(lambda: visit(f"{site.url}/orders").status_code == 503, "the site to notice")
        answer = visit(f"{site.url}/orders")

    assert answer.headers["Retry-After"] == "5"
    assert "cannot reach its database" in answer.text
    assert "mysql" not in answer.text
    assert "503 for GET '/orders': " in site.output


@pytest.mark.parametrize(
    ("mode", "number"),
    [
        ("worker", signal.SIGINT),
        ("worker", signal.SIGTERM),
        ("worker", signal.SIGHUP),
        ("prefork", signal.SIGTERM),
        ("daemon", signal.SIGINT),
    ],
)
def test_a_signal_stops_everything_and_leaves_nothing(mode: str, number: signal.Signals, folder: Path) -> None:
    with command(folder, "demo", "--mpm", mode, "--processes", "2", "--db", "mariadb") as site:
        site.wait_until_open()
        assert visit(site.url).status_code == 200
        assert any("mariadbd" in process for process in site.processes().values())

        status = site.stop(number)

        assert status == 0, site.output
        assert site.processes() == {}
        assert list(site.temporary.iterdir()) == []
        assert "Traceback" not in site.output


def test_a_signal_during_the_start_leaves_nothing(folder: Path) -> None:
    with command(folder, "demo", "--db", "mariadb") as site:
        eventually(lambda: "starting a MariaDB server" in site.output, "the start")

        site.stop(signal.SIGINT)

        assert site.processes() == {}
        assert list(site.temporary.iterdir()) == []
        assert "Traceback" not in site.output


def test_a_port_in_use_is_a_one_line_error() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        outcome = subprocess.run([*WSGIPOOL, "demo", "--port", str(port)], capture_output=True, text=True, check=False)

    assert outcome.returncode == 1
    assert outcome.stderr == (
        f"wsgipool: cannot listen on 127.0.0.1:{port}: Address already in use; "
        "choose another port with --port (make: PORT=)\n"
    )


def test_threads_under_prefork_are_a_one_line_error() -> None:
    command = [*WSGIPOOL, "demo", "--mpm", "prefork", "--threads", "4"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)

    assert outcome.returncode == 1
    assert outcome.stderr.startswith("wsgipool: prefork has one thread a process;")
