"""Django in real httpd: its connections are those of a pool, within the budget."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from httpd.harness import LONG, SessionMonitor, overlaps, running_site
from wsgipool.demo.mariadb import Server

BUDGET = 4


@pytest.mark.parametrize(("mode", "processes", "threads"), [("prefork", 6, 1), ("worker", 2, 8), ("daemon", 2, 4)])
def test_every_request_of_django_returns_its_connection(
    mode: str, processes: int, threads: int, mariadb: Server, shop: str, folder: Path
) -> None:
    with (
        running_site(
            folder,
            mode,
            {"shop": shop},
            processes=processes,
            threads=threads,
            budget={"connections": BUDGET},
            settings={"timeout": int(LONG)},
            script=folder / "app" / "django.wsgi",
        ) as site,
        SessionMonitor(mariadb, str(urlsplit(shop).username)) as monitor,
    ):

        def visit(number: int) -> str:
            if number % 5 == 0:
                response = site.request("/fail")
                assert response.status_code == 500
            elif number % 5 == 1:
                response = site.request("/stream")
                assert response.status_code == 200
                assert set(response.text.split()) <= {"held"}
            return "/hold"

        answers = site.load(visit, requests=120, clients=12)
        states = [site.get("/state") for _ in range(4 * processes)]

    assert monitor.maximum <= BUDGET
    assert not overlaps(answers)
    assert len({answer["pid"] for answer in answers}) > 1
    assert all(state["in_use"] == 0 and "leaked" not in state["closed"] for state in states), states
    assert all(state["failed"] == 0 for state in states)
    assert "was not returned" not in site.log()
