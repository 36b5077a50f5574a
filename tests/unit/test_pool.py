"""The number of connections that a pool opens, checks out and keeps, with fake connections and real threads.

The other promises of the pool are tested in tests/unit/test_pool_*.py, by subject.
"""

from __future__ import annotations

import contextlib
import inspect
import random
import re
import threading
import time

import pytest

from unit.conftest import MakePool, all_idle, another_holder, connecting, counts, returning, use, waiting_task
from unit.fakes import PATIENCE, FakeConnection, FakeDatabase, Task, eventually, raising
from unit.interrupts import Interrupt
from wsgipool import ConnectFailed, Pool, PoolTimeout


@pytest.mark.parametrize("max_size", [0, -1])
def test_max_size_must_be_at_least_one(make_pool: MakePool, max_size: int) -> None:
    with pytest.raises(ValueError, match=f"max_size must be at least 1, is {max_size}"):
        make_pool(max_size)


def test_a_new_pool_has_opened_nothing(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(4)

    assert counts(pool) == all_idle(0)
    assert database.opened == []


def test_serial_use_on_many_threads_opens_one_connection(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(4)

    def request() -> None:
        with pool.connection() as connection:
            connection.execute()

    for _ in range(10):
        Task(request).result()

    assert len(database.opened) == 1
    assert counts(pool) == all_idle(1)


def test_threads_at_the_same_time_have_a_connection_each(make_pool: MakePool) -> None:
    pool = make_pool(4)
    barrier = threading.Barrier(4, timeout=PATIENCE)

    def request() -> int:
        with pool.connection() as connection:
            barrier.wait()
            return id(connection)

    tasks = [Task(request) for _ in range(4)]

    assert len({task.result() for task in tasks}) == 4


def test_a_thread_beyond_max_size_waits(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(3)
    for _ in range(3):
        another_holder(pool)

    waiting_task(pool)

    assert counts(pool) == {"size": 3, "idle": 0, "in_use": 3, "waiting": 1}
    assert len(database.opened) == 3


def test_a_connection_that_opens_counts(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)

    with connecting(pool, database) as first:
        waiting_task(pool)
        assert counts(pool) == {"size": 1, "idle": 0, "in_use": 0, "waiting": 1}

    first.result()


def test_a_place_is_free_only_when_its_connection_has_been_closed(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    database.hooks["rollback"] = raising(OSError("gone"))

    with returning(pool, database, stopped_at="close"):
        newcomer = waiting_task(pool)
    newcomer.result()

    assert database.most_sessions == 1


def test_the_connection_returned_last_is_checked_out_first(make_pool: MakePool) -> None:
    pool = make_pool(3)
    connections = use(pool, 3)

    assert [pool.getconn() for _ in range(3)] == connections[::-1]


def test_a_pool_works_with_any_callable_that_returns_a_dbapi_connection(database: FakeDatabase) -> None:
    pool = Pool(lambda: FakeConnection(database), name="orders", max_size=1)

    with pool.connection() as connection:
        connection.execute()
    with pool.connection(readonly=True) as again:
        again.execute()
    pool.close()

    assert again is connection
    assert connection.calls == ["execute", "commit", "execute", "rollback", "close"]


def test_the_docstring_names_the_defaults() -> None:
    arguments = re.split(r"\n    (\w+): ", inspect.getdoc(Pool) or "")
    texts = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(Pool).parameters.items()
        if isinstance(parameter.default, int | float)
    }

    documented = {name: re.findall(r"Default\s+`*([\w.]*\w)", texts[name]) for name in defaults}

    assert documented == {
        name: [f"{default:g}" if type(default) is float else str(default)] for name, default in defaults.items()
    }


def test_repr_has_the_name_and_the_counts(make_pool: MakePool) -> None:
    pool = make_pool(2)
    pool.getconn()

    assert repr(pool) == "<Pool 'orders': 1 in use, 0 connecting, 0 idle of max_size 2, 0 waiting>"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_pool_is_complete_after_many_threads_with_many_errors(
    make_pool: MakePool, database: FakeDatabase, seed: int
) -> None:
    pool = make_pool(5)
    trouble = random.Random(seed)
    database.hooks["connect"] = lambda: trouble.random() < 0.1 and raising(OSError("refused"))()
    database.hooks["rollback"] = lambda: trouble.random() < 0.05 and raising(OSError("gone"))()

    def request(numbers: random.Random) -> None:
        what = numbers.random()
        with pool.connection(readonly=what < 0.3, timeout=0.001 if what > 0.9 else None) as connection:
            with connection.used():
                time.sleep(0 if what < 0.8 else 0.0005)
            if 0.3 < what < 0.35:
                connection.alive = False
            elif 0.35 < what < 0.45:
                raise KeyError("no such book")
            elif 0.45 < what < 0.5:
                raise Interrupt

    def requests(number: int) -> int:
        numbers = random.Random(100 * seed + number)
        for _ in range(40):
            with contextlib.suppress(KeyError, Interrupt, ConnectFailed, PoolTimeout):
                request(numbers)
            if numbers.random() < 0.02:
                with contextlib.suppress(ConnectFailed):
                    pool.getconn()
                pool.reclaim(threading.get_ident())
        return number

    tasks = [Task(lambda number=number: requests(number)) for number in range(32)]  # type: ignore[misc]
    for task in tasks:
        task.result()

    eventually(lambda: pool.idle == pool.size)  # connections may still be opening for threads that have timed out
    assert database.misuses == []
    assert database.most_sessions <= 5
    assert counts(pool) == all_idle(pool.size)
    assert database.sessions == pool.size


# --- ping ------------------------------------------------------------------------------------------------------------


def test_a_ping_opens_a_connection_and_keeps_it(make_pool: MakePool) -> None:
    pool = make_pool()

    pool.ping(1.0)

    (connection,) = use(pool)
    assert connection.calls == ["ping", "rollback"], "a ping leaves nothing to roll back"


def test_a_ping_without_an_answer_closes_its_connection(make_pool: MakePool) -> None:
    pool = make_pool()
    (connection,) = use(pool)
    connection.hooks["ping"] = raising(OSError("no answer"))

    with pytest.raises(OSError, match="no answer"):
        pool.ping(1.0)

    assert connection.closed
    assert counts(pool) == {"size": 0, "idle": 0, "in_use": 0, "waiting": 0}
