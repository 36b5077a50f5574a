"""Errors of a pool: the place of the checkout in messages, and the errors of the DB-API module."""

from __future__ import annotations

import sqlite3
import threading
from typing import Any

import pytest

from unit.conftest import FakePool, MakePool, another_holder, waiting_task
from unit.fakes import FakeConnection, FakeDatabase, raising
from wsgipool import ConnectFailed, PoolDeadlock, PoolTimeout, WrongThread
from wsgipool.errors import errors_of

# --- messages --------------------------------------------------------------------------------------------------------


def helper(pool: FakePool) -> FakeConnection:
    return pool.getconn(stacklevel=2)


def view(pool: FakePool) -> FakeConnection:
    return helper(pool)


def test_the_message_of_a_deadlock_names_the_frame_of_the_stacklevel(make_pool: MakePool) -> None:
    pool = make_pool(1)
    view(pool)

    with pytest.raises(PoolDeadlock, match=r"checked out at \S*test_pool_errors\.py:\d+ in view"):
        pool.getconn()


def test_the_message_of_a_leak_names_the_frame_of_the_stacklevel(
    make_pool: MakePool, log: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(1)
    view(pool)

    pool.reclaim(threading.get_ident())

    assert " in view, " in log.messages[-1]


def test_the_stack_of_a_checkout_ends_at_the_frame_of_the_stacklevel(make_pool: MakePool) -> None:
    pool = make_pool(1, debug=True)
    view(pool)

    with pytest.raises(PoolDeadlock) as caught:
        pool.getconn()

    assert str(caught.value).splitlines()[-2].endswith("in view")


def test_connection_with_a_stacklevel_names_the_callers_caller(make_pool: MakePool) -> None:
    pool = make_pool(1)

    def block_of_a_helper() -> None:
        with pool.connection(stacklevel=2):
            pool.getconn()

    def view_with_a_block() -> None:
        block_of_a_helper()

    with pytest.raises(PoolDeadlock, match=" in view_with_a_block, "):
        view_with_a_block()


# --- errors of the DB-API module -------------------------------------------------------------------------------------


@pytest.fixture
def module_errors(database: FakeDatabase) -> Any:
    """A DB-API module, whose errors the fake database raises."""
    database.errors = errors_of(sqlite3.OperationalError, sqlite3.InterfaceError)
    return sqlite3


def test_a_timeout_is_the_modules_operational_error(make_pool: MakePool, module_errors: Any) -> None:
    pool = make_pool(1)
    another_holder(pool)

    with pytest.raises(module_errors.OperationalError) as caught:
        pool.getconn(timeout=0)

    assert isinstance(caught.value, PoolTimeout)


def test_a_failed_connect_is_the_modules_operational_error(
    make_pool: MakePool, database: FakeDatabase, module_errors: Any
) -> None:
    database.hooks["connect"] = raising(OSError("refused"))

    with pytest.raises(module_errors.OperationalError) as caught:
        make_pool(1).getconn()

    assert isinstance(caught.value, ConnectFailed)


def test_wrong_thread_is_the_modules_interface_error(make_pool: MakePool, module_errors: Any) -> None:
    pool = make_pool(1)
    other = another_holder(pool)

    with pytest.raises(module_errors.InterfaceError) as caught:
        pool.putconn(other.connection)

    assert isinstance(caught.value, WrongThread)
    other.give_back()


@pytest.mark.parametrize("name", ["PoolDeadlock", "TooManyRequests", "PoolClosed"])
def test_every_other_error_of_a_pool_is_an_operational_error(
    make_pool: MakePool, module_errors: Any, name: str
) -> None:
    pool = make_pool(1, max_waiting=1)
    if name == "PoolDeadlock":
        pool.getconn()
    elif name == "TooManyRequests":
        another_holder(pool)
        waiting_task(pool)
    else:
        pool.close()

    with pytest.raises(module_errors.OperationalError) as caught:
        pool.getconn()

    assert type(caught.value).__name__ == name
