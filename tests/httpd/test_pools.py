"""One pool a process and database, in real httpd on real MariaDB, in every mode."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
import requests

from httpd.harness import (
    LONG,
    Answer,
    SessionMonitor,
    connections_by_process,
    eventually,
    overlaps,
    sessions,
)
from httpd.place import MODES, THREADED, Place
from wsgipool.demo.mariadb import Server
from wsgipool.wording import counted


def user_of(url: str) -> str:
    return str(urlsplit(url).username)


def test_prefork_has_one_connection_a_child_and_keeps_it(mariadb: Server, shop: str, place: Place) -> None:
    with (
        place.running_site("prefork", {"shop": shop}, processes=4) as site,
        SessionMonitor(mariadb, user_of(shop)) as monitor,
    ):
        answers = site.load(lambda _: "/hold?seconds=0.02", requests=120, clients=8)

    used = connections_by_process(answers)
    assert len(used) > 1, "the load reached one child only"
    assert all(len(connections) == 1 for connections in used.values()), used
    assert monitor.maximum <= 4
    assert not overlaps(answers)
    assert all(answer["own_rows"] for answer in answers)


@pytest.mark.parametrize("mode", THREADED)
def test_a_process_never_has_more_than_max_size_connections(
    mode: str, mariadb: Server, shop: str, place: Place
) -> None:
    with (
        place.running_site(mode, {"shop": shop}, processes=2, threads=8, settings={"max_size": 3}) as site,
        SessionMonitor(mariadb, user_of(shop)) as monitor,
    ):
        answers = site.load(lambda _: "/hold?seconds=0.02", requests=300, clients=24)

    used = connections_by_process(answers)
    assert len(used) == 2
    assert all(len(connections) == 3 for connections in used.values()), used
    assert monitor.maximum <= 6
    assert not overlaps(answers)
    assert all(answer["own_rows"] for answer in answers)


@pytest.mark.parametrize("mode", THREADED)
def test_max_size_follows_the_threads_of_the_process(mode: str, shop: str, place: Place) -> None:
    with place.running_site(mode, {"shop": shop}, processes=1, threads=6) as site:
        answers = site.load(lambda _: "/hold?seconds=0.05", requests=60, clients=12)

    assert {answer["max_size"] for answer in answers} == {6}
    assert all(len(connections) <= 6 for connections in connections_by_process(answers).values())
    assert not overlaps(answers)


def test_prefork_has_pools_of_one_connection_with_any_settings(shop: str, place: Place) -> None:
    with place.running_site("prefork", {"shop": shop}, processes=2, settings={"max_size": 5}) as site:
        answer = site.get("/hold")
        log = site.log()

    assert answer["max_size"] == 1
    assert "max_size = 5 is more than the 1 threads of this process can use" in log


@pytest.mark.parametrize("mode", THREADED)
def test_serial_traffic_on_25_threads_opens_one_connection_a_process(
    mode: str, mariadb: Server, shop: str, place: Place
) -> None:
    with place.running_site(mode, {"shop": shop}, processes=2, threads=25) as site:
        answers: list[Answer] = []
        # A process uses the same thread for one request after the other, unless that thread is still busy.
        while len({answer["thread"] for answer in answers}) <= 2 and len(answers) < 4000:
            answers += [site.get("/hold") for _ in range(80)]
        open_sessions = sessions(mariadb, user_of(shop))

    used = connections_by_process(answers)
    assert len({answer["thread"] for answer in answers}) > 2, "the requests all came to one thread"
    assert all(len(connections) == 1 for connections in used.values()), used
    assert len(open_sessions) == len(used)


@pytest.mark.parametrize("mode", MODES)
def test_four_databases_of_a_site_have_four_pools(mode: str, mariadb: Server, place: Place) -> None:
    names = [f"four_{mode}_{number}" for number in range(4)]
    databases = {name: mariadb.create_database(name) for name in names}
    threads = 1 if mode == "prefork" else 4
    with place.running_site(mode, databases, processes=2, threads=threads) as site:
        answers = site.load(lambda n: f"/hold?db={names[n % 4]}&seconds=0.01", requests=120, clients=8)

    for number, answer in enumerate(answers):
        assert answer["database"] == names[number % 4]
        assert answer["own_rows"]
    for name in names:
        used = connections_by_process([answer for answer in answers if answer["database"] == name])
        assert all(len(connections) <= threads for connections in used.values()), used
    assert not overlaps(answers)


@pytest.mark.parametrize("mode", MODES)
def test_a_handler_that_raises_leaves_no_row_no_transaction_and_no_leak(
    mode: str, mariadb: Server, shop: str, place: Place
) -> None:
    with place.running_site(mode, {"shop": shop}, processes=1, threads=1 if mode == "prefork" else 4) as site:
        before = site.get("/write?text=kept")
        for _ in range(10):
            assert site.request("/write-and-fail?text=lost").status_code == 500
        with mariadb.admin(user_of(shop)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT text FROM notes")
            rows = cursor.fetchall()
            # The pool does not wait for the rollback, so it may still be under way.
            eventually(
                lambda: not cursor.execute("SELECT 1 FROM information_schema.innodb_trx"), "the transactions to end"
            )
        after = site.get("/write?text=kept-too")
        counts = site.get("/counts")

    assert rows == (("kept",),)
    assert after["connection"] == before["connection"]
    assert (counts["size"], counts["idle"]) == (1, 1)


@pytest.mark.parametrize("mode", THREADED)
def test_a_streamed_response_keeps_its_connection_until_it_is_closed(mode: str, shop: str, place: Place) -> None:
    with place.running_site(mode, {"shop": shop}, processes=1, threads=4) as site:
        go_on = site.folder / "go-on"
        with requests.get(f"{site.url}/stream?until={go_on}", stream=True, timeout=LONG) as response:
            lines = response.iter_lines()
            first = next(lines)
            during = site.get("/counts")
            other = site.get("/hold")
            site.touch(go_on)
            last = next(lines)
        eventually(lambda: site.get("/counts")["in_use"] == 0, "the streamed response's connection to come back")
        after = site.get("/counts")

    assert during["in_use"] == 1
    assert first == last
    assert other["connection"] != int(first.split()[1])
    assert (after["size"], after["idle"]) == (2, 2)


@pytest.mark.parametrize("mode", THREADED)
def test_an_aborted_stream_returns_its_connection(mode: str, shop: str, place: Place) -> None:
    with place.running_site(mode, {"shop": shop}, processes=1, threads=4) as site:
        go_on = site.folder / "go-on"
        with requests.get(f"{site.url}/stream?until={go_on}", stream=True, timeout=LONG) as response:
            next(response.iter_lines())
        site.touch(go_on)
        eventually(lambda: site.get("/counts")["in_use"] == 0, "the connection to come back")

        assert "was not returned" not in site.log()


@pytest.mark.parametrize("mode", MODES)
def test_a_connection_that_a_handler_leaks_is_taken_back_and_logged(
    mode: str, mariadb: Server, shop: str, place: Place
) -> None:
    with place.running_site(mode, {"shop": shop}, processes=1, threads=1 if mode == "prefork" else 2) as site:
        leaked = [site.get("/leak")["connection"] for _ in range(5)]
        # For mod_wsgi, the request ends a moment after its answer has arrived.
        eventually(lambda: site.get("/counts")["size"] == 0, "the leaked connections to be taken back")
        answer = site.get("/hold")
        log = site.log()
        open_sessions = sessions(mariadb, user_of(shop))

    assert len(set(leaked)) == 5, "a leaked connection was checked out again while its first holder might still use it"
    assert open_sessions == {answer["connection"]}
    assert log.count("a connection of pool 'shop' was not returned") == 5
    assert "site_under_test.py:" in log
    assert " in leak," in log


@pytest.mark.parametrize("mode", MODES)
def test_a_fork_leaves_the_connections_to_the_parent(mode: str, shop: str, place: Place) -> None:
    with place.running_site(mode, {"shop": shop}, processes=1, threads=1 if mode == "prefork" else 2) as site:
        answer = site.get("/fork")
        again = site.get("/hold")

    assert "error" not in answer["child"], answer["child"]["error"]
    assert answer["child"]["inherited"] == 0
    assert answer["child"]["connection"] != answer["connection"]
    assert answer["connection_after"] == answer["connection"] == again["connection"]


@pytest.mark.parametrize("mode", MODES)
def test_pools_exist_before_the_first_request_without_connections(
    mode: str, mariadb: Server, shop: str, place: Place
) -> None:
    with place.running_site(mode, {"shop": shop}, processes=2, threads=1 if mode == "prefork" else 3) as site:
        size = 1 if mode == "prefork" else 3
        eventually(
            lambda: site.log().count(f"up to {counted(size, 'connection')} a process to mysql://") >= 2,
            "the preload's line",
        )
        assert not sessions(mariadb, user_of(shop))
        assert site.get("/counts")["size"] == 0
