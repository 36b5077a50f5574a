"""The site of the compose profile `cluster`, while one node after the other is killed."""

from __future__ import annotations

import requests

from docker.visitors import DEADLINE, Load, urls_of
from httpd.background import Background
from httpd.containers import Compose, Container, docker, wait_until_healthy
from wsgipool.demo.mariadb import Server

NODES = ("galera1", "galera2", "galera3")


class Customers(Background):
    """Order one book after the other, and remember the orders that the site acknowledged."""

    def __init__(self, url: str) -> None:
        super().__init__(self._order)
        self.acknowledged: set[int] = set()
        self._url = url

    def _order(self) -> None:
        for turn in range(10**9):
            if self._ending.wait(0.25):
                return
            book = 1 + turn % 12
            response = requests.post(
                f"{self._url}/books/{book}/order",
                json={"quantity": 1, "customer": "A test"},
                headers={"Accept": "application/json", "Connection": "close"},
                timeout=2 * DEADLINE,
            )
            if response.status_code == 201:
                self.acknowledged.add(int(response.json()["order"]["id"]))


def test_each_node_is_killed_in_turn_and_no_acknowledged_order_is_missing(compose: Compose) -> None:
    (url,) = urls_of(compose, "cluster")
    with Load([url]) as load, Customers(url) as customers:
        load.wait_for("200")
        for name in NODES:
            node = compose.container(name)
            node.signal("KILL")
            docker("wait", node.name)
            load.wait_for("200", 50)
            node.start()
            wait_until_healthy([node])
        load.wait_for("200", 50)

    outcomes = load.outcomes[url]
    # The number of pages that fail is not bounded here: each fails at once, so it grows with the time in which the
    # cluster has no node, which depends on the machine. `wait_for` bounds that time.
    assert set(outcomes) <= {"200", "500", "503"}, outcomes
    assert load.longest < DEADLINE
    assert customers.acknowledged
    for name in NODES:
        missing = customers.acknowledged - orders_of(compose.container(name))
        assert not missing, f"{name} has lost orders"


def orders_of(node: Container) -> set[int]:
    """Return the numbers of the orders of a node that has all that was committed on the others."""
    environment = dict(line.split("=", 1) for line in node.inspect()["Config"]["Env"])
    server = Server(environment["GALERA_NODE"], 3306, environment["MARIADB_ADMIN_PASSWORD"])
    with server.admin("bookshop") as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION wsrep_sync_wait = 1")
        cursor.execute("SELECT id FROM orders")
        return {number for (number,) in cursor.fetchall()}
