"""A server that is slow to end a session: no other pool gets the permit before that.

At the end the server's own count of connections is checked.
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
from httpd.loads import ServerMonitor, full_mariadb
from httpd.place import ThisMachine
from unit.fakes import HolderThread, Task, eventually
from wsgipool import Pool
from wsgipool.budget.budget import Budget, BudgetLimit
from wsgipool.demo.mariadb import LocalServer


class SlowServer:
    """A server, and two pools that share a budget of one connection, like two processes."""

    def __init__(self, mariadb: LocalServer, folder: Path, runtime_dir: Path) -> None:
        self._process = int((folder / "mariadb" / "server.pid").read_text())
        url = mariadb.create_database("shop")
        self.pools: list[Pool[Any]] = [
            pool_of(
                f"{url}?autocommit=true&read_timeout=0.3",
                permits=Budget(runtime_dir, "mysql://db.example.com:3306", BudgetLimit(1)),
            )
            for _ in range(2)
        ]
        self.monitor = ServerMonitor(mariadb)

    @contextmanager
    def stopped(self) -> Iterator[None]:
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
        with server.monitor:
            yield server
            for pool in server.pools:
                pool.close()
        assert server.monitor.maximum_ever == 1


def test_a_statement_that_outlives_its_closed_connection_is_counted(server: SlowServer) -> None:
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


def test_a_stopped_server_never_counts_two_connections_while_a_permit_moves(server: SlowServer) -> None:
    yielding, taker = server.pools

    def has_yielded() -> bool:
        return yielding.size == 0

    for _ in range(5):
        with yielding.connection(readonly=True) as connection:
            run(connection, "SELECT 1")
        with server.stopped():
            waiter = Task(lambda: HolderThread(taker.getconn, taker.putconn))  # noqa: B023
            eventually(has_yielded)
        waiter.result().give_back()
        yielding, taker = taker, yielding
