"""`transaction()`: a function that is called again after a conflict in the database."""

from __future__ import annotations

import time

import pymysql
import pytest

from unit.conftest import MakePool
from unit.fakes import FakeConnection, FakeDatabase
from wsgipool import Pool


class Function:
    """A function that raises the given errors in order, and then returns the number of its calls."""

    def __init__(self, *errors: Exception) -> None:
        self.calls = 0
        self._errors = iter(errors)

    def __call__(self, connection: FakeConnection) -> int:
        self.calls += 1
        connection.execute()
        for error in self._errors:
            raise error
        return self.calls


def test_a_function_that_succeeds_is_committed_and_its_result_returned(make_pool: MakePool) -> None:
    pool = make_pool()
    function = Function()

    assert pool.transaction(function) == 1
    assert pool.getconn().calls == ["execute", "commit"]


def test_a_deadlock_is_tried_again_from_the_start(make_pool: MakePool) -> None:
    pool = make_pool()
    function = Function(RuntimeError("deadlock"), RuntimeError("deadlock"))

    assert pool.transaction(function, retry=2) == 3
    assert pool.getconn().calls == ["execute", "rollback", "execute", "rollback", "execute", "commit"]


def test_a_deadlock_on_a_connection_of_any_dbapi_module_is_tried_again(database: FakeDatabase) -> None:
    pool = Pool(lambda: database.connect(1), name="orders", max_size=1)
    function = Function(pymysql.OperationalError(1213, "Deadlock found"))

    assert pool.transaction(function, retry=1) == 2
    assert pool.getconn().calls == ["execute", "rollback", "execute", "commit"]


def test_a_deadlock_too_many_is_raised(make_pool: MakePool) -> None:
    pool = make_pool()
    function = Function(*[RuntimeError("deadlock")] * 3)

    with pytest.raises(RuntimeError, match="deadlock"):
        pool.transaction(function, retry=2)
    assert function.calls == 3


def test_without_retry_a_deadlock_is_raised_at_once(make_pool: MakePool) -> None:
    function = Function(RuntimeError("deadlock"))

    with pytest.raises(RuntimeError, match="deadlock"):
        make_pool().transaction(function)
    assert function.calls == 1


def test_another_error_is_not_tried_again(make_pool: MakePool) -> None:
    function = Function(KeyError("no such book"))

    with pytest.raises(KeyError):
        make_pool().transaction(function, retry=5)
    assert function.calls == 1


def test_no_connection_is_held_between_two_tries(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make_pool()
    in_use: list[int] = []
    monkeypatch.setattr(time, "sleep", lambda _: in_use.append(pool.in_use))

    pool.transaction(Function(RuntimeError("deadlock")), retry=1)

    assert in_use == [0]
