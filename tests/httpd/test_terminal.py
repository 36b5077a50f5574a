"""`wsgipool status` and `wsgipool top` beside a real httpd under load: their numbers are those of the server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from httpd.harness import ExpressSite, eventually, running_site, sessions
from httpd.loads import Load
from httpd.test_pools import user_of
from unit.terminals import session
from wsgipool.demo.mariadb import Server

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root reads the reports of the Apache user")

CAUSE = re.compile(
    r"CRITICAL pool-exhausted shop: \d threads of [12] process(?:es)? wait for a connection .*"
    r" The longest holder is /sleep in process \d+, for .*; it waits for the database, at .*\n.*"
)
STATUS = [sys.executable, "-m", "wsgipool", "status"]


EXHAUSTING = "/sleep?seconds=2&secret=s3cret"


@pytest.fixture
def site(folder: Path, shop: str) -> Iterator[ExpressSite]:
    """Two daemon processes of four threads, with pools of two connections."""
    with running_site(
        folder,
        "daemon",
        {"shop": shop},
        processes=2,
        threads=4,
        settings={"max_size": 2},
        budget={"connections": 20},  # which names the folder, too
    ) as site:
        yield site


def status(folder: Path, *options: str) -> str:
    command = [*STATUS, "--config", str(folder / "wsgipool.toml"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd="/").stdout


def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(status(folder, "--json"))
    return found


def test_status_has_the_numbers_of_the_server_and_the_cause(
    site: ExpressSite, folder: Path, shop: str, mariadb: Server
) -> None:
    def is_exhausted() -> bool:
        databases = document(folder)["databases"]
        found = [(each["in_use"], each["waiting"], each["max_size"], each["budget"]["taken"]) for each in databases]
        return found == [(4, 4, 4, 4)] and len(sessions(mariadb, user_of(shop))) == 4

    with Load(site, EXHAUSTING, clients=8):
        eventually(is_exhausted, "both pools to be exhausted")
        text = eventually(lambda: next(iter(CAUSE.findall(status(folder))), ""), "the cause to be named")

    assert "Make the queries of /sleep faster. Raise max_size in [databases.shop], which is 2 for 4 threads" in text
    assert "s3cret" not in text


def test_the_counts_include_the_processes_of_before_a_graceful_restart(site: ExpressSite, folder: Path) -> None:
    with Load(site, "/sleep?seconds=0.01", clients=8) as load:
        load.wait_for_more(50)
        load.wait_for_a_new_process_after(site.graceful_restart)
        load.wait_for_more(50)
    # The last report of a process may lack the requests that it is still serving.
    served = range(load.outcomes.total() - 8, load.outcomes.total() + 1)

    def counts() -> list[int]:
        return [database["totals"]["checkouts"] for database in document(folder)["databases"]]

    eventually(lambda: counts()[0] in served, "the checkouts of all processes to be published")
    assert document(folder)["ended_processes"] >= 2


def test_top_shows_the_page_that_exhausts_the_pools(site: ExpressSite, folder: Path) -> None:
    with Load(site, EXHAUSTING, clients=8), session("--config", str(folder / "wsgipool.toml")) as top:
        top.shows("^CRITICAL pool-exhausted shop: ")
        top.shows(r"^shop +██████████ +4 of 4 +4 +4 of 20 +[\d.]+ +0 *$")
        top.shows(r"^ *[\d.]+ \w+ +\d+ +shop +/sleep +waits for the database, at ")
        top.press("q")
        assert top.ends() == 0
