"""One budget for all processes of a host, in real httpd on a MariaDB that allows not one connection more."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from httpd.harness import LONG, ExpressSite, Watch, eventually, running_site, status
from wsgipool.demo.mariadb import MariaDB

BUDGET = 6


@contextmanager
def full_mariadb(folder: Path, budget: int) -> Iterator[MariaDB]:
    """A server that has room for the budget and for the one session of the administrator who watches."""
    folder = folder / "full-mariadb"
    folder.mkdir()
    with MariaDB(folder, {"max_connections": budget + 1}) as server:
        server.start()
        yield server


def user_of(url: str) -> str:
    return str(urlsplit(url).username)


class Load:
    """Clients that send one request after the other, each on an HTTP connection of its own."""

    def __init__(self, site: ExpressSite, path: str, clients: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.served: Counter[int] = Counter()
        """Requests by process."""
        self.seconds: list[float] = []
        self.troubles: list[str] = []
        self._address = urlsplit(site.url)
        self._path = path
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            connection = http.client.HTTPConnection(str(self._address.hostname), self._address.port, timeout=LONG)
            try:
                connection.request("GET", self._path, headers={"Connection": "close"})
                response = connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException):
                self.outcomes["no answer"] += 1  # its process was killed
            else:
                is_ours = response.headers["Content-Type"] == "application/json"
                self.outcomes[f"{'application' if is_ours else 'httpd'} {response.status}"] += 1
                if response.status == 200:
                    self.served[json.loads(body)["pid"]] += 1
                    self.seconds.append(time.monotonic() - began)
                elif is_ours:
                    self.troubles.append(body.decode())
            finally:
                connection.close()

    def wait_for_more(self, requests: int) -> None:
        before = self.outcomes["application 200"]
        eventually(lambda: self.outcomes["application 200"] >= before + requests, "more requests to be served")

    @contextmanager
    def running(self) -> Iterator[Load]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()


def wait_for_processes(site: ExpressSite, number: int) -> None:
    eventually(lambda: site.log().count("within a budget of") >= number, "the processes to start")


def kill_one(load: Load) -> None:
    """Kill a process that has served requests, if that is still there."""
    pids = [pid for pid in list(load.served) if Path(f"/proc/{pid}").exists()]
    with contextlib.suppress(ProcessLookupError, IndexError):  # a restart came before us
        os.kill(random.choice(pids), signal.SIGKILL)


def assert_no_connection_was_refused(mariadb: MariaDB, load: Load) -> None:
    assert not load.troubles
    assert status(mariadb, "Connection_errors_max_connections") == 0


def assert_no_permit_is_lost(site: ExpressSite, mariadb: MariaDB, user: str, budget: int, clients: int) -> None:
    with Watch(mariadb, user) as watch, Load(site, "/sleep?seconds=0.1", clients).running():
        eventually(lambda: watch.most >= budget, "all permits to be in use at once")
    assert watch.most == budget


def test_more_prefork_children_than_connections_all_have_their_turn(folder: Path) -> None:
    with full_mariadb(folder, BUDGET) as mariadb:
        url = mariadb.create_database("shop")
        with running_site(folder, "prefork", {"shop": url}, processes=16, budget={"connections": BUDGET}) as site:
            wait_for_processes(site, 16)
            with Watch(mariadb, "shop") as watch, Load(site, "/sleep?seconds=0.01", 16).running() as load:
                eventually(lambda: len(load.served) == 16 and min(load.served.values()) >= 20, "all to be served")

        assert set(load.outcomes) == {"application 200"}
        assert watch.most == BUDGET
        assert_no_connection_was_refused(mariadb, load)


def test_restarts_and_kills_lose_no_permit_and_exceed_no_limit(folder: Path) -> None:
    with full_mariadb(folder, BUDGET) as mariadb:
        url = mariadb.create_database("shop")
        with running_site(
            folder, "worker", {"shop": url}, processes=2, threads=8, budget={"connections": BUDGET}
        ) as site:
            wait_for_processes(site, 2)
            with Watch(mariadb, "shop") as watch, Load(site, "/sleep?seconds=0.01", 16).running() as load:
                for _ in range(2):
                    load.wait_for_more(50)
                    site.httpd.graceful_restart()
                    load.wait_for_more(50)
                    kill_one(load)
                load.wait_for_more(50)
            assert_no_permit_is_lost(site, mariadb, "shop", BUDGET, 16)

        assert set(load.outcomes) <= {"application 200", "no answer"}
        assert watch.most <= BUDGET
        assert_no_connection_was_refused(mariadb, load)


def test_the_limit_of_the_server_is_asked_for(folder: Path) -> None:
    with full_mariadb(folder, 11) as mariadb:  # it says that it allows 12
        url = mariadb.create_database("shop")
        budget: dict[str, str | int] = {"connections": "auto", "hosts": 2, "reserve": 4}
        with running_site(folder, "worker", {"shop": url}, processes=2, threads=8, budget=budget) as site:
            wait_for_processes(site, 2)
            assert_no_permit_is_lost(site, mariadb, "shop", 4, 16)


def test_a_folder_open_to_others_is_an_error_in_the_log_and_not_a_missing_limit(
    folder: Path, mariadb: MariaDB, shop: str
) -> None:
    (folder / "run").mkdir(mode=0o755)
    with running_site(folder, "worker", {"shop": shop}, processes=1, threads=2, budget={"connections": 2}) as site:
        eventually(lambda: "is open to others, drwxr-xr-x; chmod go= " in site.log(), "the error at the start")
        with Watch(mariadb, user_of(shop)) as watch:
            assert site.request("/hold").status_code == 500
    assert watch.most == 0


# --- for minutes -----------------------------------------------------------------------------------------------------

SIZES = {"prefork": (64, 1), "worker": (4, 16), "event": (4, 16), "daemon": (4, 8)}


@pytest.mark.stress
@pytest.mark.parametrize("mode", SIZES)
def test_full_load_five_restarts_and_kills_at_random(mode: str, folder: Path) -> None:
    processes, threads = SIZES[mode]
    budget = processes * threads // 4
    with full_mariadb(folder, budget) as mariadb:
        url = mariadb.create_database("shop")
        with running_site(
            folder, mode, {"shop": url}, processes=processes, threads=threads, budget={"connections": budget}
        ) as site:
            wait_for_processes(site, processes)
            clients = processes * threads
            with Watch(mariadb, "shop") as watch, Load(site, "/sleep?seconds=0.01", clients).running() as load:
                for _ in range(5):
                    load.wait_for_more(2 * clients)
                    site.httpd.graceful_restart()
                    for _ in range(3):
                        load.wait_for_more(clients)
                        kill_one(load)
            assert_no_permit_is_lost(site, mariadb, "shop", budget, clients)

        # In daemon mode httpd itself answers for a process that is gone.
        assert set(load.outcomes) <= {"application 200", "no answer", "httpd 500", "httpd 502", "httpd 503"}
        assert watch.most <= budget
        assert_no_connection_was_refused(mariadb, load)


@pytest.mark.stress
@pytest.mark.parametrize("mode", SIZES)
def test_every_process_has_its_turns(mode: str, folder: Path, record_property: Callable[[str, object], None]) -> None:
    processes, threads = SIZES[mode]
    budget = processes * threads // 8
    with full_mariadb(folder, budget) as mariadb:
        url = mariadb.create_database("shop")
        with running_site(
            folder, mode, {"shop": url}, processes=processes, threads=threads, budget={"connections": budget}
        ) as site:
            wait_for_processes(site, processes)
            clients = processes * threads
            with Watch(mariadb, "shop") as watch, Load(site, "/sleep?seconds=0.01", clients).running() as load:
                load.wait_for_more(10 * clients)
                before = Counter(load.served)
                time.sleep(30)
                served = load.served - before

        assert set(load.outcomes) == {"application 200"}
        assert watch.most <= budget
        assert_no_connection_was_refused(mariadb, load)
        seconds = sorted(load.seconds)
        record_property("p99", seconds[len(seconds) * 99 // 100])
        print(f"{mode}: served {sorted(served.values())}, p50 {seconds[len(seconds) // 2]:.3f}", end=" ")
        print(f"p99 {seconds[len(seconds) * 99 // 100]:.3f} s, {sum(served.values()) / 30:.0f} requests/s")
        assert len(served) == processes
        assert max(served.values()) <= 1.5 * min(served.values())
