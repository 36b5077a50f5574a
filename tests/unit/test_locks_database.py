"""Locks of scope "database" on servers that answer in their own ways: clusters, replicas, odd converters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wsgipool import ConfigError, Locks, LockTimeout, Pool

Answer = Callable[[str], tuple[object, ...]]


class DatabaseError(Exception):
    """PEP 249's name for what a database says."""


class Server:
    """A connection whose cursors answer each statement by a function."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    def cursor(self) -> Server:
        return self

    def execute(self, statement: str) -> None:
        self.row = self.answer(statement)

    def fetchone(self) -> tuple[object, ...]:
        return self.row

    def commit(self) -> None:
        """There is nothing to commit."""

    def rollback(self) -> None:
        """There is nothing to roll back."""

    def close(self) -> None:
        """There is no session."""


def locks_of(answer: Answer) -> Locks:
    pool: Pool[Any] = Pool(lambda: Server(answer), name="shop", max_size=1)
    return Locks(scope="database", database=pool)


def take(answer: Answer, timeout: float = 0.05) -> None:
    with locks_of(answer).hold("stock", timeout=timeout):
        """It is given back at once."""


def says(taken: object, flags: object) -> Answer:
    return lambda statement: (taken if "GET_LOCK" in statement else 1, flags)


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (1 + 2, "is a node of a Galera cluster .*UPDATE locks"),
        (1 + 2 + 8, "is a node of a Galera cluster .*UPDATE locks"),
        (4, "is a member of Group Replication .*UPDATE locks"),
        ("4", "is a member of Group Replication"),
        (8, "is read_only, a replica or no longer the primary"),
    ],
)
@pytest.mark.parametrize("taken", [1, 0])
def test_a_server_whose_lock_would_keep_out_nobody_is_refused(taken: int, flags: object, why: str) -> None:
    with pytest.raises(ConfigError, match=rf"the lock 'stock' .*the server of pool 'shop' {why}"):
        take(says(taken, flags))


@pytest.mark.parametrize("flags", [0, None, 1, 2])
def test_a_server_of_its_own_is_not_refused(flags: object) -> None:
    take(says(1, flags))


@pytest.mark.parametrize("taken", [1, "1", b"1", 1.0, True])
def test_an_answer_is_understood_in_whatever_type_a_converter_gives_it(taken: object) -> None:
    take(says(taken, 0))


@pytest.mark.parametrize("taken", ["no", "", [1], 2, -1, float("inf")])
def test_an_answer_that_is_no_answer_is_refused_and_not_waited_for(taken: object) -> None:
    with pytest.raises(ConfigError, match=r"the answer reads .* converter"):
        take(says(taken, 0), timeout=60)


def test_null_is_an_error_of_the_server() -> None:
    with pytest.raises(ConfigError, match="could not take the lock 'stock', and does not say why"):
        take(says(None, 0))


@pytest.mark.parametrize("number", [1142, 1146])
def test_a_server_that_hides_what_it_is_has_locks_all_the_same(number: int) -> None:
    def answer(statement: str) -> tuple[object, ...]:
        if "VARIABLE_NAME" in statement:
            raise DatabaseError(number, "SELECT command denied to user")
        return (1,)

    take(answer)


def test_what_percona_forbids_is_explained() -> None:
    def answer(_statement: str) -> tuple[object, ...]:
        raise DatabaseError(1105, "prohibits use of GET_LOCK with pxc_strict_mode = ENFORCING")

    with pytest.raises(ConfigError, match=r"is a node of a Percona XtraDB Cluster, .*UPDATE locks"):
        take(answer)


def test_a_name_is_one_that_both_servers_take() -> None:
    statements: list[str] = []

    def answer(statement: str) -> tuple[object, ...]:
        statements.append(statement)
        return (1, 0)

    with locks_of(answer).hold("Größe'; DROP TABLE books; --" * 9):
        """It is given back at once."""

    prefix = statements[0].split("'")[1]
    assert len(prefix) + 12 <= 64
    assert prefix.isascii()
    assert "SHA1" not in statements[0]


def test_mysql_which_waits_for_whole_seconds_does_not_wait_beyond_the_timeout() -> None:
    statements: list[str] = []

    def answer(statement: str) -> tuple[object, ...]:
        statements.append(statement)
        return (0, 0) if "GET_LOCK" in statement else (None,)

    with pytest.raises(LockTimeout):
        take(answer, timeout=0.05)

    assert all(", 0 /*M!100100 + 0.0" in statement for statement in statements if "GET_LOCK" in statement)
