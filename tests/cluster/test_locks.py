"""Locks on a cluster: scope "database" is refused, and a row that each transaction changes replaces it."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from cluster.galera import Cluster
from faults.harness import pool_of
from unit.fakes import Task
from wsgipool import ConfigError, Locks, Pool, config
from wsgipool.doctor import databases
from wsgipool.doctor.databases import Session

ROUNDS = 10


@pytest.mark.parametrize("scheme", ["mysql", "mysql+mysqlclient"])
def test_a_lock_of_a_single_node_is_refused(scheme: str, url: str) -> None:
    pool = pool_of(url.replace("mysql:", f"{scheme}:"))
    try:
        with pytest.raises(
            ConfigError, match=r"the server of pool 'shop' is a node of a Galera cluster .*UPDATE locks"
        ):
            Locks(scope="database", database=pool).hold("stock").__enter__()
        assert pool.size == 0
    finally:
        pool.close()


def test_the_doctor_says_so(url: str) -> None:
    settings = config.load({"databases": {"shop": {"url": url}}})
    answer = databases.answers(settings, timeout=10)["shop"]
    assert isinstance(answer, Session)

    assert [finding.code for finding in databases.examine(settings, {"shop": answer})] == ["locks-of-one-node"]


def test_a_changed_row_is_locked_on_all_nodes(cluster: Cluster, url: str) -> None:
    node, *_ = cluster.nodes
    name = url.rpartition("/")[2]
    with node.admin(name) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE locks (name VARCHAR(64) PRIMARY KEY, turns BIGINT NOT NULL)")
        cursor.execute("INSERT INTO locks VALUES ('stock', 0)")
        cursor.execute("CREATE TABLE stock (id INT PRIMARY KEY, books INT NOT NULL)")
        cursor.execute("INSERT INTO stock VALUES (1, 0)")
    for each in cluster.nodes:
        each.catch_up()
    pools = [pool_of(url.replace(f":{node.port}/", f":{each.port}/"), max_size=2) for each in cluster.nodes]

    writers = [Task(partial(_add_books, pool)) for pool in pools * 2]
    for writer in writers:
        assert writer.is_done_within(60)
        writer.result()

    node.catch_up()
    with node.admin(name) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT books FROM stock")
        assert cursor.fetchone() == (len(writers) * ROUNDS,)
    for pool in pools:
        pool.close()


def _add_books(pool: Pool[Any]) -> None:
    for _ in range(ROUNDS):
        pool.transaction(_add_book, retry=100)


def _add_book(connection: Any) -> None:
    """Read a number and write the next one, which needs a lock."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT turns FROM locks WHERE name = 'stock' FOR UPDATE")
        cursor.execute("UPDATE locks SET turns = turns + 1 WHERE name = 'stock'")
        cursor.execute("SELECT books FROM stock WHERE id = 1")
        (books,) = cursor.fetchone()
        cursor.execute("UPDATE stock SET books = %s WHERE id = 1", (books + 1,))
