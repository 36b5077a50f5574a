"""Outages of the database under load: visitors get answers in time, and the sites recover."""

from __future__ import annotations

from docker.visitors import DEADLINE, SITES, Database, Load, urls_of
from httpd.containers import Compose, docker

IN_TROUBLE = {"200", "500", "503"}
"""200 before and after; 500 if the outage interrupted a statement; 503 for requests during the outage."""


def test_sites_answer_503_while_the_database_is_down_and_then_recover(compose: Compose, database: Database) -> None:
    with Load(urls_of(compose, *SITES), visitors=20) as load:
        load.wait_for("200")
        database.container.signal("KILL")
        docker("wait", database.container.name)
        load.wait_for("503")
        database.container.start()
        database.wait_until_it_answers()
        load.wait_for("200")

    assert load.longest < DEADLINE
    assert all(set(outcomes) <= IN_TROUBLE for outcomes in load.outcomes.values()), load.outcomes


def test_sites_answer_in_time_while_the_database_is_paused(compose: Compose, database: Database) -> None:
    with Load(urls_of(compose, *SITES), visitors=20) as load:
        load.wait_for("200")
        database.container.pause()
        try:
            load.wait_for("503", 2)
        finally:
            database.container.unpause()
        load.wait_for("200")

    assert load.longest < DEADLINE
    assert all(set(outcomes) <= IN_TROUBLE for outcomes in load.outcomes.values()), load.outcomes


def test_a_disconnected_host_answers_in_time_and_the_others_work(compose: Compose, database: Database) -> None:
    network = compose.network("back")
    cut_off = compose.container("worker").name
    with Load(urls_of(compose, "worker")) as load, Load(urls_of(compose, "event")) as others:
        load.wait_for("200")
        others.wait_for("200")
        docker("network", "disconnect", network, cut_off)
        try:
            load.wait_for("503")
            others.wait_for("200")
        finally:
            docker("network", "connect", network, cut_off)
        load.wait_for("200")

    assert load.longest < DEADLINE
    assert all(set(outcomes) <= IN_TROUBLE for outcomes in load.outcomes.values()), load.outcomes
    assert all(set(outcomes) == {"200"} for outcomes in others.outcomes.values()), others.outcomes
    database.wait_until_shares_are_kept()


def test_sites_restart_under_load_without_a_refused_connection_to_the_database(
    compose: Compose, database: Database
) -> None:
    sites = [site for site in SITES if site != "daemon"]  # whose processes httpd ends at once in a graceful restart
    database.begin_to_count()
    with Load(urls_of(compose, *sites), visitors=16) as load:
        load.wait_for("200")
        for site in sites:
            compose.container(site).signal("USR1")
            load.wait_for("200")

    assert not database.has_refused()
    assert all(set(outcomes) == {"200"} for outcomes in load.outcomes.values()), load.outcomes
