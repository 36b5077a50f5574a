"""Outages of the database: the site reports them and recovers without a restart."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

import pytest

from httpd.harness import RunningSite, Settings, eventually
from httpd.place import MODES, OwnServer, Place
from wsgipool.demo import schema
from wsgipool.demo.mariadb import LocalServer, Server
from wsgipool.httpd.express import PACKAGE

BOOKSHOP = PACKAGE / "demo" / "plain.wsgi"
SHAPE = {"prefork": (2, 1)}


@pytest.fixture
def own_mariadb(place: Place, server_kind: type[LocalServer]) -> Iterator[OwnServer]:
    """A MariaDB or MySQL for one test, which stops and starts it."""
    with place.running_mariadb({}, server_kind) as server:
        yield server


@pytest.fixture
def bookshop(own_mariadb: OwnServer) -> str:
    url = own_mariadb.create_database("bookshop")
    with own_mariadb.admin("bookshop") as connection:
        schema.create(connection)
    return url


def json_of(site: RunningSite, path: str) -> tuple[int, dict[str, object]]:
    response = site.request(path, headers={"Accept": "application/json"})
    return response.status_code, response.json()


@pytest.mark.parametrize("mode", MODES)
def test_the_bookshop_is_unavailable_only_while_its_database_is_down(
    mode: str, own_mariadb: OwnServer, bookshop: str, place: Place
) -> None:
    processes, threads = SHAPE.get(mode, (1, 4))
    own_mariadb.stop()
    with place.running_site(
        mode, {"bookshop": bookshop}, processes=processes, threads=threads, script=BOOKSHOP
    ) as site:
        at_start = site.request("/", headers={"Accept": "text/html"})
        assert at_start.status_code == 503
        assert at_start.headers["Retry-After"] == "5"
        assert f"cannot connect pool 'bookshop' to mysql://bookshop@{own_mariadb.host}:" in site.log()
        # The name of a stopped container cannot be resolved.
        assert re.search("Connection refused|Name or service not known|Temporary failure in name", site.log())

        own_mariadb.start()
        code, answer = json_of(site, "/")
        assert code == 200
        assert answer["books"]

        # The page of orders, since processes may show the books from their caches.
        own_mariadb.stop()
        assert [json_of(site, "/orders")[0] for _ in range(5)] == [503] * 5

        own_mariadb.start()
        assert [json_of(site, "/orders")[0] for _ in range(5)] == [200] * 5
        log = site.log()

    assert "pool 'bookshop' is connected to mysql://" in log
    # One line for each process and change of state, however many requests there were.
    assert log.count("cannot connect pool 'bookshop'") - log.count("503 for") <= 2 * processes
    assert str(urlsplit(bookshop).password) not in log + at_start.text


@pytest.mark.parametrize("mode", MODES)
def test_a_session_killed_while_idle_costs_no_request(mode: str, mariadb: Server, shop: str, place: Place) -> None:
    with (
        place.running_site(mode, {"shop": shop}, processes=1, threads=1 if mode == "prefork" else 4) as site,
        mariadb.admin() as admin,
    ):
        first = site.get("/hold")["connection"]
        admin.kill(first)
        second = site.get("/hold")["connection"]
        counts = site.get("/counts")

    assert second != first
    assert (counts["size"], counts["idle"]) == (1, 1)


@pytest.mark.parametrize("mode", MODES)
def test_a_session_that_outlives_wait_timeout_costs_no_request(
    mode: str, mariadb: Server, shop: str, place: Place
) -> None:
    url = f"{shop}?init_command=SET%20wait_timeout=1"
    with (
        place.running_site(mode, {"shop": url}, processes=1, threads=1 if mode == "prefork" else 4) as site,
        mariadb.admin() as admin,
    ):
        first = site.get("/hold")["connection"]

        def gone() -> bool:
            with admin.cursor() as cursor:
                found: int = cursor.execute("SELECT 1 FROM information_schema.processlist WHERE id = %s", (first,))
                return found == 0

        eventually(gone, "the server to end the idle session")
        second = site.get("/hold")["connection"]

    assert second != first


@pytest.mark.parametrize("mode", MODES)
def test_a_wrong_password_is_named_in_the_log_and_not_shown(mode: str, shop: str, place: Place) -> None:
    wrong = shop.replace(str(urlsplit(shop).password), "not-the-password")
    with place.running_site(mode, {"shop": wrong}, processes=1, threads=1 if mode == "prefork" else 2) as site:
        response = site.request("/hold")
        log = site.log()

    assert response.status_code == 503
    assert response.json()["error"] == "ConnectFailed"
    assert "Access denied" in log
    assert "not-the-password" not in log + response.text


def test_a_password_may_have_any_character(mariadb: Server, shop: str, place: Place) -> None:
    password = "pä€ss:/?#[]@%& \\'\""
    with mariadb.admin() as admin, admin.cursor() as cursor:
        cursor.execute(f"ALTER USER {urlsplit(shop).username} IDENTIFIED BY %s", (password,))
    url = shop.replace(str(urlsplit(shop).password), quote(password, safe=""))
    with place.running_site("worker", {"shop": url}, processes=1, threads=1) as site:
        assert site.get("/hold")["own_rows"]


def test_a_busy_pool_answers_within_its_timeout(shop: str, place: Place) -> None:
    settings: Settings = {"max_size": 1, "timeout": 1}
    with place.running_site("worker", {"shop": shop}, processes=1, threads=4, settings=settings) as site:
        go_on = site.folder / "go-on"
        with site.request(f"/stream?until={go_on}", stream=True) as streamed:
            next(streamed.iter_lines())
            busy = site.request("/hold")
            site.touch(go_on)
        eventually(lambda: site.get("/counts")["in_use"] == 0, "the connection to come back")
        free = site.get("/hold")

    assert busy.status_code == 503
    assert busy.json()["error"] == "PoolTimeout"
    assert "1 in use, 0 connecting, 0 idle of max_size 1, 1 waiting" in busy.json()["message"]
    assert "site_under_test.py:" in busy.json()["message"]
    assert free["own_rows"]
