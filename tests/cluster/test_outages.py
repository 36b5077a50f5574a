"""A node that dies, is cut off, turns read only or is restarted: the visitors' errors, and the stored data.

The balancer marks the node down and sends new sessions to another node. It may end the old sessions, too. If it keeps
them, as many balancers do, the pool must not use a failed connection again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from cluster.galera import Balancer, Cluster, Node
from cluster.visitors import THREADS, Failure, Visitors
from faults.harness import pool_of
from httpd.background import Background

MAX_FAILURES = 60
MAX_FAILING = 2.0
"""Maximum seconds from the balancer's notice to the last failure."""
_MAX_NOTICING = 3.0
"""Maximum seconds from the first failure to the balancer's notice, on a busy machine."""


class BalancerLog(Background):
    """A record of the times when the balancer marks a node down."""

    def __init__(self, balancer: Balancer) -> None:
        super().__init__(self._look)
        self.noticed: list[float] = []
        self._balancer = balancer

    def explains(self, failure: Failure) -> bool:
        return any(-_MAX_NOTICING <= failure.when - noticed <= MAX_FAILING for noticed in self.noticed)

    def _look(self) -> None:
        known: set[str] = set()
        while not self._ending.wait(0.02):
            down = {name for name, state in self._balancer.states().items() if state == "DOWN"}
            if down - known:
                self.noticed.append(time.monotonic())
            known = down


@dataclass
class Site:
    """A database of the cluster, and visitors that write to it through a balancer."""

    cluster: Cluster
    balancer: Balancer
    name: str
    visitors: Visitors
    balancer_log: BalancerLog

    def node_in_use(self) -> Node:
        return self.cluster.node_in_use(self.name)

    @contextmanager
    def writing(self) -> Iterator[Visitors]:
        with self.balancer_log, self.visitors as visitors:
            visitors.wait_for_entries(2 * THREADS)
            yield visitors
            visitors.wait_for_entries(10 * THREADS)

    def check_failures(self) -> None:
        failures, described = self.visitors.failures, self.visitors.describe(self.balancer_log.noticed)
        print(described)
        assert len(failures) <= MAX_FAILURES, described
        assert all(map(self.balancer_log.explains, failures)), described
        # The number of an entry is its key, so an entry that was stored and reported as a failure is stored once.
        assert not any("Duplicate entry" in str(failure.error) for failure in failures), described

    def check_entries(self) -> None:
        """Compare the acknowledged with the stored entries on each running node."""
        written, failed = set(self.visitors.written), {failure.number for failure in self.visitors.failures}
        nodes = [node for node in self.cluster.nodes if node.can_work()]
        assert len(nodes) >= 2, f"{len(nodes)} of 3 nodes can work"
        for node in nodes:
            node.catch_up()
            with node.admin(self.name) as connection, connection.cursor() as cursor:
                cursor.execute("SELECT number, thread FROM entries")
                entries = dict(cursor.fetchall())
                cursor.execute("SELECT thread, entries FROM totals")
                totals = dict(cursor.fetchall())
            assert written <= set(entries), f"{node.name} lacks entries"
            # If a session ends during its COMMIT, the outcome is unknown.
            assert set(entries) <= written | failed, f"{node.name} has entries that nobody wrote"
            assert totals == {thread: list(entries.values()).count(thread) for thread in range(THREADS)}


MakeSite = Callable[..., Site]


@pytest.fixture
def site(cluster: Cluster, url: str) -> Iterator[MakeSite]:
    """A function that makes a site with eight threads and eight connections; the pool is closed at the end."""
    made: list[Site] = []
    parts = urlsplit(url)
    name = parts.path.removeprefix("/")

    def make(balancer_ends_sessions: bool, scheme: str = "mysql") -> Site:
        balancer = cluster.balancers[balancer_ends_sessions]
        there = parts._replace(scheme=scheme, netloc=f"{name}:{cluster.password}@127.0.0.1:{balancer.port}")
        pool = pool_of(f"{there.geturl()}?connect_timeout=3&read_timeout=10", max_size=THREADS, timeout=10)
        made.append(Site(cluster, balancer, name, Visitors(pool), BalancerLog(balancer)))
        return made[-1]

    with cluster.nodes[0].admin(name) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE entries (number INT PRIMARY KEY, thread INT NOT NULL)")
        cursor.execute("CREATE TABLE totals (thread INT PRIMARY KEY, entries INT NOT NULL)")
        cursor.execute("INSERT INTO totals VALUES " + ", ".join(f"({thread}, 0)" for thread in range(THREADS)))
    for node in cluster.nodes:
        node.catch_up()
    yield make
    for each in made:
        each.visitors.pool.close()


@pytest.mark.parametrize("ends_sessions", [True, False], ids=["sessions-ended", "sessions-kept"])
@pytest.mark.parametrize("scheme", ["mysql", "mysql+mysqlclient"])
def test_a_node_that_turns_read_only_is_not_used(scheme: str, ends_sessions: bool, site: MakeSite) -> None:
    shop = site(ends_sessions, scheme)
    with shop.writing():
        node = shop.node_in_use()
        node.run("SET GLOBAL read_only = 1")
        shop.balancer.wait_until_down(node)

    shop.check_failures()
    shop.check_entries()


@pytest.mark.parametrize("ends_sessions", [True, False], ids=["sessions-ended", "sessions-kept"])
def test_a_node_that_is_cut_off_is_not_used(ends_sessions: bool, site: MakeSite) -> None:
    shop = site(ends_sessions)
    with shop.writing():
        node = shop.node_in_use()
        node.isolate(True)
        shop.balancer.wait_until_down(node)
    shop.cluster.heal()

    shop.check_failures()
    shop.check_entries()


def test_a_rolling_restart_costs_each_node_a_few_transactions(site: MakeSite) -> None:
    shop = site(balancer_ends_sessions=True)
    with shop.writing() as visitors:
        for node in shop.cluster.nodes:
            node.terminate()
            shop.balancer.wait_until_down(node)
            visitors.wait_for_entries(2 * THREADS)
            shop.cluster.heal()

    shop.check_failures()
    shop.check_entries()


def test_a_node_that_is_killed_is_not_used(site: MakeSite) -> None:
    shop = site(balancer_ends_sessions=True)
    with shop.writing() as visitors:
        node = shop.node_in_use()
        visitors.wait_until_all_write()
        node.kill()
        shop.balancer.wait_until_down(node)

    shop.check_failures()
    shop.check_entries()
