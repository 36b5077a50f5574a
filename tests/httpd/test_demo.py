"""`wsgipool demo`: the bookshop, started and stopped as a person does it."""

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
from pathlib import Path

import pytest
import requests

from httpd.harness import LONG, eventually
from wsgipool.httpd.express import MODES, free_port

WSGIPOOL = [sys.executable, "-m", "wsgipool"]


class Command:
    """A `wsgipool` command that runs a site, with a folder for all that it leaves."""

    def __init__(self, folder: Path, name: str, *arguments: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.temporary = folder / "tmp"
        self.temporary.mkdir(mode=0o755)
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

    def processes(self) -> list[str]:
        """Return the command lines of all processes that have to do with our temporary folder."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environment = (entry / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(self.temporary) in command + environment:
                found.append(command)
        return found


@contextmanager
def command(folder: Path, *arguments: str) -> Iterator[Command]:
    site = Command(folder, *arguments)
    try:
        yield site
    finally:
        site.stop()


def visit(url: str, data: dict[str, str] | None = None, accept: str = "*/*") -> requests.Response:
    """Ask, or with `data` order, on a connection of its own: one that is kept alive keeps a prefork child."""
    headers = {"Connection": "close", "Accept": accept}
    return requests.request("POST" if data else "GET", url, data=data, headers=headers, timeout=LONG)


def get_json(url: str) -> dict[str, object]:
    answer: dict[str, object] = visit(url, accept="application/json").json()
    return answer


@pytest.mark.parametrize("database", ["mariadb", "sqlite"])
@pytest.mark.parametrize("mode", MODES)
def test_the_bookshop_sells_books_in_every_mode_on_either_database(mode: str, database: str, folder: Path) -> None:
    with command(folder, "demo", "--mpm", mode, "--processes", "2", "--db", database) as site:
        site.wait_until_open()
        listing = visit(site.url)
        page = visit(f"{site.url}/books/1")
        ordered = visit(f"{site.url}/books/1/order", {"quantity": "2", "customer": "Ada"})
        book = get_json(f"{site.url}/books/1")
        failed = get_json(f"{site.url}/fail")
        slow = visit(f"{site.url}/slow?seconds=0.1")
        style = visit(f"{site.url}/static/style.css")

    assert mode in site.output
    assert database in site.output
    assert (listing.status_code, page.status_code, slow.status_code, style.status_code) == (200, 200, 200, 200)
    assert "Les Misérables" in listing.text
    assert int(listing.headers["X-Served-By-Process"]) > 0
    assert listing.headers["X-Served-By-Thread"]
    assert listing.headers["X-Served-By-Connection"] in listing.text
    assert ordered.status_code == 200
    assert re.search(r"/orders/\d+$", ordered.url)
    assert "Ada" in ordered.text
    assert book["book"]["stock"] == 38  # type: ignore[index]  # of 40
    assert failed["rolled_back"] is True


@pytest.mark.parametrize("database", ["mariadb", "sqlite"])
def test_concurrent_orders_never_sell_a_book_twice(database: str, folder: Path) -> None:
    with command(folder, "demo", "--mpm", "worker", "--db", database) as site:
        site.wait_until_open()
        stock = get_json(f"{site.url}/books/2")["book"]["stock"]  # type: ignore[index]

        def order(number: int) -> int:
            data = {"quantity": "3", "customer": f"customer {number}"}
            return visit(f"{site.url}/books/2/order", data, accept="application/json").status_code

        with ThreadPoolExecutor(12) as executor:
            outcomes = list(executor.map(order, range(24)))
        left = get_json(f"{site.url}/books/2")["book"]["stock"]  # type: ignore[index]

    assert set(outcomes) == {201, 409}
    assert outcomes.count(201) == stock // 3
    assert left == stock - 3 * outcomes.count(201)


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
        assert any("mariadbd" in process for process in site.processes())

        status = site.stop(number)

        assert status == 0, site.output
        assert site.processes() == []
        assert list(site.temporary.iterdir()) == []
        assert "Traceback" not in site.output


def test_a_signal_during_the_start_leaves_nothing(folder: Path) -> None:
    with command(folder, "demo", "--db", "mariadb") as site:
        eventually(lambda: "starting a MariaDB server" in site.output, "the start")

        site.stop(signal.SIGINT)

        assert site.processes() == []
        assert list(site.temporary.iterdir()) == []
        assert "Traceback" not in site.output


def test_a_taken_port_is_one_clear_line() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        outcome = subprocess.run([*WSGIPOOL, "demo", "--port", str(port)], capture_output=True, text=True, check=False)

    assert outcome.returncode == 1
    assert outcome.stderr == (
        f"wsgipool: cannot listen on 127.0.0.1:{port}: Address already in use; take another --port (make: PORT=)\n"
    )


def test_threads_under_prefork_are_one_clear_line() -> None:
    command = [*WSGIPOOL, "demo", "--mpm", "prefork", "--threads", "4"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)

    assert outcome.returncode == 1
    assert outcome.stderr.startswith("wsgipool: prefork has one thread a process;")
