"""Locks of scope "database" on servers with special answers: clusters, replicas, converters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wsgipool import ConfigError, Locks, LockTimeout, Pool

Answer = Callable[[str], tuple[object, ...]]


class DatabaseError(Exception):
    """The exception of PEP 249 for errors of a database."""


class Server:
    """A connection whose cursors answer each statement by a function."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    def cursor(self) -> Cursor:
        return Cursor(self.answer)

    def commit(self) -> None:
        """There is nothing to commit."""

    def rollback(self) -> None:
        """There is nothing to roll back."""

    def close(self) -> None:
        """There is no session."""


class Cursor:
    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    def execute(self, statement: str) -> None:
        self.row = self.answer(statement)

    def fetchone(self) -> tuple[object, ...]:
        return self.row

    def close(self) -> None:
        """There is no result to close."""


def locks_of(answer: Answer) -> Locks:
    pool: Pool[Any] = Pool(lambda: Server(answer), name="shop", max_size=1)
    return Locks(scope="database", database=pool)


def take(answer: Answer, timeout: float = 0.05) -> None:
    with locks_of(answer).hold("stock", timeout=timeout):
        """Return the connection without a reset."""


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
def test_a_server_whose_locks_do_not_exclude_others_is_refused(taken: int, flags: object, why: str) -> None:
    with pytest.raises(ConfigError, match=rf"the lock 'stock' .*the server of pool 'shop' {why}"):
        take(says(taken, flags))


@pytest.mark.parametrize("flags", [0, None, 1, 2])
def test_a_single_server_is_accepted(flags: object) -> None:
    take(says(1, flags))


@pytest.mark.parametrize("taken", [1, "1", b"1", 1.0, True])
def test_an_answer_may_have_any_type_of_a_converter(taken: object) -> None:
    take(says(taken, 0))


@pytest.mark.parametrize("taken", ["no", "", [1], 2, -1, float("inf")])
def test_an_invalid_answer_is_an_error_without_a_wait(taken: object) -> None:
    with pytest.raises(ConfigError, match=r"the answer reads .* converter"):
        take(says(taken, 0), timeout=60)


def test_null_is_an_error_of_the_server() -> None:
    with pytest.raises(ConfigError, match="could not take the lock 'stock' and gives no reason"):
        take(says(None, 0))


@pytest.mark.parametrize("number", [1142, 1146])
def test_a_server_that_hides_its_variables_has_locks(number: int) -> None:
    def answer(statement: str) -> tuple[object, ...]:
        if "VARIABLE_NAME" in statement:
            raise DatabaseError(number, "SELECT command denied to user")
        return (1,)

    take(answer)


def test_the_refusal_of_percona_is_explained() -> None:
    def answer(_statement: str) -> tuple[object, ...]:
        raise DatabaseError(1105, "prohibits use of GET_LOCK with pxc_strict_mode = ENFORCING")

    with pytest.raises(ConfigError, match=r"is a node of a Percona XtraDB Cluster, .*UPDATE locks"):
        take(answer)


def test_lock_names_are_valid_on_both_servers() -> None:
    statements: list[str] = []

    def answer(statement: str) -> tuple[object, ...]:
        statements.append(statement)
        return (1, 0)

    with locks_of(answer).hold("Größe'; DROP TABLE books; --" * 9):
        """Return the connection without a reset."""

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
