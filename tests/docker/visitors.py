"""Visitors of the demo site in containers, and the sessions on its database."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from functools import partial

import pymysql
import requests

from httpd.background import Background
from httpd.containers import Compose
from httpd.harness import LONG, eventually
from wsgipool.demo.mariadb import Server

SITES = ("prefork", "worker", "event", "daemon", "bookworm")

RESERVE = 5
"""Sessions that `connections = "auto"` leaves to others."""

DEADLINE = 15.0
"""Seconds within which a visitor gets an answer, during any outage of the database.

A site waits 5 s for a connection (WSGIPOOL_TIMEOUT) and 3 s for an answer (read_timeout); the rest allows for a busy
machine.
"""


def urls_of(compose: Compose, *services: str) -> list[str]:
    """Return the URLs of all containers of the services, by their addresses on the visitors' network."""
    containers = [container for service in services for container in compose.containers(service)]
    return [f"http://{container.address_on(compose.network('front'))}:8080" for container in containers]


class Database(Server):
    """The service db."""

    def __init__(self, compose: Compose) -> None:
        self.container = compose.container("db")
        environment = dict(line.split("=", 1) for line in self.container.inspect()["Config"]["Env"])
        super().__init__("db", 3306, environment["MARIADB_ADMIN_PASSWORD"])

    def wait_until_it_answers(self) -> None:
        def answers() -> bool:
            try:
                with self.admin():
                    return True
            except pymysql.OperationalError:
                return False

        eventually(answers, "the database to answer")

    def begin_to_count(self) -> None:
        """Reset the maximum, since connections that were closed during a pause arrived all at once."""
        with self.admin() as connection, connection.cursor() as cursor:
            try:
                cursor.execute("FLUSH GLOBAL STATUS")  # MariaDB 11.5 and later, where FLUSH STATUS is the session's
            except pymysql.ProgrammingError:
                cursor.execute("FLUSH STATUS")

    def has_refused(self) -> bool:
        """Return whether the server has refused a connection since the last reset.

        MariaDB counts a connection as used before it refuses it, but Connection_errors_max_connections stays 0.
        """
        with self.admin() as connection, connection.cursor() as cursor:
            cursor.execute("SHOW GLOBAL STATUS LIKE 'Max_used_connections'")
            most_used = int(cursor.fetchone()[1])
        return most_used > self.max_connections()

    def wait_until_shares_are_kept(self) -> None:
        """Wait until the server has ended all sessions that the sites have closed."""
        most = self.max_connections() - RESERVE

        def are_kept() -> bool:
            with self.admin() as connection, connection.cursor() as cursor:
                cursor.execute("SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'bookshop'")
                return bool(cursor.fetchone()[0] <= most)

        eventually(are_kept, "the server to have no more sessions than the sites")

    def max_connections(self) -> int:
        with self.admin() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT @@global.max_connections")
            return int(cursor.fetchone()[0])


Sessions = dict[tuple[str, str], set[int]]
"""The ids of the sessions of each host, by its address, and program name."""


class Census(Background):
    """Counts the sessions of each host and program name, ten times a second."""

    def __init__(self, database: Database) -> None:
        super().__init__(self._sample)
        self.maximum: Counter[tuple[str, str]] = Counter()
        """Maximum at once."""
        self.maximum_lasting: Counter[tuple[str, str]] = Counter()
        """Maximum of the sessions that two consecutive counts have in common.

        The server shows a session until it notices its end, which takes a while on a busy machine.
        """
        self._database = database

    def _sample(self) -> None:
        before: Sessions = {}
        with self._database.admin() as connection, connection.cursor() as cursor:
            while not self._ending.wait(0.1):
                cursor.execute(
                    "SELECT id, SUBSTRING_INDEX(host, ':', 1), attr_value FROM information_schema.processlist"
                    " JOIN performance_schema.session_connect_attrs ON processlist_id = id"
                    " WHERE attr_name = 'program_name' AND attr_value LIKE 'wsgipool:%'"
                )
                now: Sessions = defaultdict(set)
                for session, host, program in cursor.fetchall():
                    now[host, program].add(session)
                for who, sessions in now.items():
                    self.maximum[who] = max(self.maximum[who], len(sessions))
                    lasting = sessions & before.get(who, set())
                    self.maximum_lasting[who] = max(self.maximum_lasting[who], len(lasting))
                before = now


class Load(Background):
    """Visitors of some sites; each sends requests one after the other, and changes the site if one refuses."""

    def __init__(self, urls: list[str], path: str = "/slow?seconds=0.1", visitors: int = 8) -> None:
        super().__init__(*(partial(self._visit, number) for number in range(visitors)))
        self.outcomes: dict[str, Counter[str]] = defaultdict(Counter)
        """By site: status codes, and `no connection`."""
        self.longest = 0.0
        """Seconds that a visitor waited for an answer."""
        self._urls = urls
        self._path = path

    def _visit(self, number: int) -> None:
        for turn in range(number, 10**9):
            if self._ending.is_set():
                return
            url = self._urls[turn % len(self._urls)]
            began = time.monotonic()
            try:
                response = requests.get(
                    f"{url}{self._path}",
                    headers={"Accept": "application/json", "Connection": "close"},
                    timeout=2 * LONG,
                )
                # httpd answers by itself in HTML.
                by = "" if response.headers["Content-Type"] == "application/json" else "httpd "
                outcome = f"{by}{response.status_code}"
            except requests.ConnectionError:
                outcome = "no connection"
            self.outcomes[url][outcome] += 1
            self.longest = max(self.longest, time.monotonic() - began)

    def wait_for(self, outcome: str, number: int = 5) -> None:
        """Wait until each site has given a number of such answers."""
        before = {url: self.outcomes[url][outcome] for url in self._urls}
        eventually(
            lambda: all(self.outcomes[url][outcome] >= before[url] + number for url in self._urls),
            f"{outcome} from each of {self._urls}",
        )
