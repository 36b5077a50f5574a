"""Several hosts on one database server: each keeps to its share of the connections."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from docker.visitors import RESERVE, SITES, Census, Database, Load, urls_of
from httpd.containers import Compose, docker, wait_until_healthy
from httpd.harness import eventually


def share(database: Database, hosts: int) -> int:
    return (database.max_connections() - RESERVE) // hosts


def test_no_service_exceeds_its_share_of_the_server(compose: Compose, database: Database) -> None:
    share_of_each = share(database, len(SITES))
    addresses = {compose.container(site).address_on(compose.network("back")): site for site in SITES}
    database.begin_to_count()
    with Census(database) as census, Load(urls_of(compose, *SITES), visitors=80) as load:
        eventually(
            lambda: all(census.maximum[host, "wsgipool:bookshop"] >= share_of_each for host in addresses), "full use"
        )
        load.wait_for("200", 20)

    assert {addresses[host] for host, _ in census.maximum} == set(SITES), census.maximum
    assert max(census.maximum_lasting.values()) <= share_of_each, census.maximum_lasting
    assert not database.has_refused()
    assert all(set(outcomes) == {"200"} for outcomes in load.outcomes.values()), load.outcomes


@pytest.fixture
def replicas(compose: Compose) -> Iterator[list[str]]:
    """The URLs of three containers of the service worker, the only ones that use the database."""
    others = [container for site in SITES if site != "worker" for container in compose.containers(site)]
    docker("stop", *(container.name for container in others))
    port = compose.container("worker").published_port()
    compose.scale("worker", 3, hosts=3, port="0")
    try:
        yield urls_of(compose, "worker")
    finally:
        compose.scale("worker", 1, hosts=len(SITES), port=port)
        docker("start", *(container.name for container in others))
        wait_until_healthy(others)


def test_three_replicas_share_a_budget_and_restart_without_a_failed_request(
    replicas: list[str], compose: Compose, database: Database
) -> None:
    assert len(replicas) == 3
    share_of_each = share(database, 3)
    database.begin_to_count()
    with Census(database) as census, Load(replicas, visitors=48) as load:
        eventually(
            lambda: len(census.maximum) == 3 and min(census.maximum.values()) >= share_of_each,
            "full use by three hosts",
        )
        for container in compose.containers("worker"):
            # The stop signal means a graceful stop of httpd.
            docker("restart", "--time=30", container.name)
            wait_until_healthy([container])
            load.wait_for("200")

    assert max(census.maximum_lasting.values()) <= share_of_each, census.maximum_lasting
    assert not database.has_refused()
    # While a replica is down, its visitors use the next one.
    for outcomes in load.outcomes.values():
        assert set(outcomes) <= {"200", "no connection"}, load.outcomes
