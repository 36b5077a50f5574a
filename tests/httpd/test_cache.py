"""Invalidations between the processes of a real httpd."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from httpd.harness import Answer, ExpressSite, eventually, running_site
from wsgipool.demo.mariadb import MariaDB


@pytest.mark.parametrize(("mode", "processes", "threads"), [("prefork", 4, 1), ("worker", 2, 3)])
def test_an_invalidation_reaches_every_child(
    mode: str, processes: int, threads: int, mariadb: MariaDB, shop: str, folder: Path
) -> None:
    with mariadb.admin(str(urlsplit(shop).username)) as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO notes (id, text) VALUES (1, 'text0')")
        connection.commit()
    with running_site(
        folder,
        mode,
        {"shop": shop},
        processes=processes,
        threads=threads,
        budget={"connections": 50},
        script=folder / "app" / "cached.wsgi",
    ) as site:
        for number in range(5):
            if number:
                assert site.request(f"/?text{number}", "POST").json()["text"] == f"text{number}"
            answers = ask_every_process(site, processes)

            assert {answer["text"] for answer in answers} == {f"text{number}"}
            assert any(not answer["created"] for answer in answers), "nothing was cached"


def ask_every_process(site: ExpressSite, processes: int) -> list[Answer]:
    answers: list[Answer] = []

    def ask() -> bool:
        answers.extend(site.load(lambda _: "/", requests=16, clients=8))
        return len({answer["pid"] for answer in answers}) == processes

    eventually(ask, "every process to answer")
    return answers
