"""Many clients for a site with a budget, and a server that allows no further connection; both are observed."""

from __future__ import annotations

import base64
import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Self
from urllib.parse import urlsplit

from httpd.background import Background
from httpd.harness import LONG, RunningSite, Settings, eventually, running_site
from httpd.place import IN_CONTAINERS, OwnServer, Place, ThisMachine
from wsgipool.demo.mariadb import ADMIN, LocalServer, MariaDB

CREDENTIALS = "Basic " + base64.b64encode(b"reader:open sesame").decode()
"""The credentials that tests/httpd/app/auth.wsgi accepts."""


ADMINISTRATORS = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = %s"


def full_mariadb(place: Place, budget: int, kind: type[LocalServer] = MariaDB) -> AbstractContextManager[OwnServer]:
    """A server that allows the connections of the budget and one of the observing administrator.

    MariaDB allows at least 10.
    """
    return place.running_mariadb({"max_connections": budget + 1}, kind)


class ServerMonitor(Background):
    """Counts the connections of a server, without its own, by the server's status."""

    def __init__(self, mariadb: OwnServer) -> None:
        super().__init__(self._sample)
        self.maximum = 0
        """Values of Threads_connected, every few milliseconds."""
        self.maximum_ever = 0
        """Max_used_connections at the end, which misses no connection."""
        self._mariadb = mariadb
        self._counting = threading.Event()

    def __enter__(self) -> Self:
        super().__enter__()
        assert self._counting.wait(LONG)
        return self

    def _sample(self) -> None:
        with self._mariadb.admin() as connection, connection.cursor() as cursor:

            def status_but_me(variable: str) -> int:
                cursor.execute("SHOW GLOBAL STATUS LIKE %s", (variable,))
                return int(cursor.fetchone()[1]) - 1

            # The server may still count the session of an earlier counter.
            cursor.execute(ADMINISTRATORS, (ADMIN,))
            while cursor.fetchone()[0] > 1:
                cursor.execute(ADMINISTRATORS, (ADMIN,))
            cursor.execute("FLUSH /*M!110500 GLOBAL */ STATUS")
            self._counting.set()
            while not self._ending.wait(0.003):
                self.maximum = max(self.maximum, status_but_me("Threads_connected"))
            self.maximum_ever = status_but_me("Max_used_connections")


class Load(Background):
    """Clients that send requests one after the other, each on a new HTTP connection, to one of the paths."""

    def __init__(self, site: RunningSite, *paths: str, clients: int) -> None:
        super().__init__(*(partial(self._run, paths[client % len(paths)]) for client in range(clients)))
        self.outcomes: Counter[str] = Counter()
        """Counts by origin (application or httpd) and status code, or `no answer`."""
        self.served: Counter[tuple[int, str]] = Counter()
        """Requests by process and interpreter."""
        self.seconds: list[float] = []
        self.troubles: list[str] = []
        self._site = site
        self._address = urlsplit(site.url)

    def _run(self, path: str) -> None:
        while not self._ending.is_set():
            began = time.monotonic()
            connection = http.client.HTTPConnection(str(self._address.hostname), self._address.port, timeout=LONG)
            try:
                connection.request("GET", path, headers={"Connection": "close", "Authorization": CREDENTIALS})
                response = connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException) as error:
                has_ended = self._site.has_ended()
                # The process was killed or the site has stopped. A timeout is an error, unless the container was
                # removed: then no host refuses the connection.
                is_left_waiting = isinstance(error, TimeoutError) and not has_ended
                self.outcomes["timeout" if is_left_waiting else "no answer"] += 1
                if has_ended:
                    return
            else:
                is_ours = response.headers["Content-Type"] == "application/json"
                self.outcomes[f"{'application' if is_ours else 'httpd'} {response.status}"] += 1
                if response.status == 200:
                    answer = json.loads(body)
                    self.served[answer["pid"], answer["interpreter"]] += 1
                    self.seconds.append(time.monotonic() - began)
                elif is_ours:
                    self.troubles.append(body.decode())
            finally:
                connection.close()

    def wait_for_more(self, requests: int) -> None:
        """Wait until a number of requests was served, however long that takes."""
        goal = self.outcomes["application 200"] + requests
        while (seen := self.outcomes["application 200"]) < goal:
            eventually(partial(self._has_served_more_than, seen), "one more request to be served")

    def _has_served_more_than(self, number: int) -> bool:
        return self.outcomes["application 200"] > number

    def wait_for_a_new_process_after(self, restart: Callable[[], None]) -> None:
        before = self._processes()
        restart()
        eventually(lambda: self._processes() - before, "a request to be served by a new process")

    def _processes(self) -> set[int]:
        return {pid for pid, _ in list(self.served)}


@dataclass(frozen=True)
class Shape:
    """The processes of a site, and which of them have pools."""

    mode: str
    processes: int
    threads: int
    asks_for_password: bool = False
    """Whether Apache's own children also check out a connection before each request."""
    further_interpreters: tuple[str, ...] = ()
    """Application groups beside %{GLOBAL}; each serves the site again, below its name."""

    @property
    def clients(self) -> int:
        return self.processes * self.threads

    @property
    def paths(self) -> list[str]:
        return ["/sleep?seconds=0.01", *(f"/{name}/sleep?seconds=0.01" for name in self.further_interpreters)]

    @property
    def interpreters(self) -> set[str]:
        return {"", *self.further_interpreters}

    @contextmanager
    def running(self, place: Place, url: str, budget: Settings) -> Iterator[RunningSite]:
        with self._site(place, url, budget) as site:
            # In containers prefork starts some processes, and the others when visitors come.
            started = 1 if IN_CONTAINERS and self.mode == "prefork" else self.processes
            eventually(lambda: site.log().count("within a budget of") >= started, "the processes to start", 10 * LONG)
            if self.asks_for_password:
                assert site.request("/sleep?seconds=0").status_code == 401
            yield site

    def _site(self, place: Place, url: str, budget: Settings) -> AbstractContextManager[RunningSite]:
        if not self.asks_for_password and not self.further_interpreters:
            return place.running_site(
                self.mode, {"shop": url}, processes=self.processes, threads=self.threads, budget=budget
            )
        assert isinstance(place, ThisMachine), "a container supports only the options of Place"
        extra, app = place.folder / "shape.conf", place.folder / "app"
        aliases = [
            f"WSGIScriptAlias /{name} {app / 'app.wsgi'} application-group={name}\n"
            for name in self.further_interpreters
        ]
        extra.write_text(f"{''.join(aliases)}<Directory {app}>\n    Require all granted\n</Directory>\n")
        options = ["--include-file", str(extra)]
        if self.asks_for_password:
            options += ["--auth-user-script", str(app / "auth.wsgi")]
        return running_site(
            place.folder,
            self.mode,
            {"shop": url},
            processes=self.processes,
            threads=self.threads,
            budget=budget,
            express_options=tuple(options),
        )


def kill_one(site: RunningSite) -> None:
    """Kill a child of httpd: one that serves requests, has just started or is about to end."""
    children = site.children()
    if children:
        site.kill(random.choice(children))


def assert_no_connection_was_refused(site: RunningSite, load: Load) -> None:
    # The server's own count cannot be used: MariaDB's Connection_errors_max_connections stays 0.
    assert not load.troubles
    # It contains the errors of WSGIAuthUserScript.
    assert "wsgipool.errors" not in site.log()


def assert_no_permit_is_lost(mariadb: OwnServer, site: RunningSite, budget: int, shape: Shape) -> None:
    paths = [path.replace("0.01", "0.1") for path in shape.paths]
    with ServerMonitor(mariadb) as monitor, Load(site, *paths, clients=shape.clients):
        eventually(lambda: monitor.maximum >= budget, "all permits to be in use at once")
    assert monitor.maximum == budget
