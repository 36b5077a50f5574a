"""`wsgipool drain` on real httpd, run as the administrator does, in every mode."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from httpd.harness import eventually, running_site, sessions
from httpd.test_pools import user_of
from wsgipool.demo.mariadb import Server
from wsgipool.httpd.express import MODES


@pytest.mark.parametrize("mode", MODES)
def test_drain_replaces_the_connections_of_all_processes(mode: str, mariadb: Server, folder: Path, shop: str) -> None:
    threads = 1 if mode == "prefork" else 4
    with running_site(folder, mode, {"shop": shop}, processes=2, threads=threads, budget={"connections": 20}) as site:
        before = site.load(lambda _: "/hold?seconds=0.02", requests=60, clients=8)
        assert sessions(mariadb, user_of(shop))

        outcome = subprocess.run(
            [sys.executable, "-m", "wsgipool", "drain", "shop", "--config", str(folder / "wsgipool.toml")],
            capture_output=True,
            text=True,
            check=True,
            cwd="/",
        )

        eventually(lambda: not sessions(mariadb, user_of(shop)), "all sessions to end")
        after = site.load(lambda _: "/hold?seconds=0.02", requests=60, clients=8)

    assert f"share {folder / 'run'} replace their connections within two seconds" in outcome.stdout
    assert not {answer["connection"] for answer in before} & {answer["connection"] for answer in after}
    # httpd was not restarted. Under prefork the load may reach further children.
    assert {answer["pid"] for answer in before} & {answer["pid"] for answer in after}
