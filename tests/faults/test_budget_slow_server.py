"""A server that takes its time to end a session: as long as it counts that, nobody else has its place in the budget.

That it never has counted more is looked at after all of them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymysql
import pytest

from faults.harness import Clock, pool_of, run, value
from httpd.loads import ServerWatch, full_mariadb
from httpd.place import ThisMachine
from unit.fakes import Task, eventually
from wsgipool import Pool
from wsgipool.demo.mariadb import LocalServer
from wsgipool.host.budget import Budget, Limit


class SlowServer:
    """A server, and two pools that share a budget of one as two processes would."""

    def __init__(self, mariadb: LocalServer, folder: Path, runtime_dir: Path) -> None:
        self._process = int((folder / "mariadb" / "server.pid").read_text())
        url = mariadb.create_database("shop")
        self.pools: list[Pool[Any]] = [
            pool_of(
                f"{url}?autocommit=true&read_timeout=0.3",
                permits=Budget(runtime_dir, "mysql://db.example.com:3306", Limit(1)),
            )
            for _ in range(2)
        ]
        self.watch = ServerWatch(mariadb)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        os.kill(self._process, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process, signal.SIGCONT)


@pytest.fixture(scope="module")
def server(
    server_kind: type[LocalServer], servers_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SlowServer]:
    folder = servers_folder / f"slow-{server_kind.kind}"
    folder.mkdir(mode=0o755)
    with full_mariadb(ThisMachine(folder), 1, server_kind) as mariadb:
        assert isinstance(mariadb, LocalServer)
        server = SlowServer(mariadb, folder, tmp_path_factory.mktemp("run"))
        with server.watch:
            yield server
            for pool in server.pools:
                pool.close()
        assert server.watch.most_ever == 1


def test_a_statement_that_runs_on_after_its_connection_was_given_up_is_counted(server: SlowServer) -> None:
    impatient, other = server.pools
    clock = Clock()
    with (
        pytest.raises(pymysql.OperationalError, match="timed out"),
        impatient.connection(readonly=True) as connection,
    ):
        run(connection, "SELECT SLEEP(1.5)")

    with other.connection(readonly=True) as connection:
        assert value(connection, "SELECT 1") == 1

    assert clock.seconds > 1.5


def test_a_server_that_stands_still_while_a_connection_moves_never_counts_two(server: SlowServer) -> None:
    giver, taker = server.pools

    def has_given() -> bool:
        return giver.size == 0

    for _ in range(5):
        with giver.connection(readonly=True) as connection:
            run(connection, "SELECT 1")
        with server.standing_still():
            waiter = Task(taker.getconn)
            eventually(has_given)
        taker.putconn(waiter.result())
        giver, taker = taker, giver
