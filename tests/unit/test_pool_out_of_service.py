"""A server that is out of service: it answers, but is read only or outside its cluster.

A balancer in front of it needs a moment to notice.
"""

from __future__ import annotations

import logging
import threading
import time

import pytest

from unit.conftest import MakePool
from unit.fakes import FakeDatabase, Task
from wsgipool import ConnectFailed, PoolError, PoolTimeout


class DatabaseError(Exception):
    """An error of the database, with the name of PEP 249."""


READ_ONLY = DatabaseError(1290, "The MySQL server is running with the --read-only option")
NOT_READY = DatabaseError(1047, "WSREP has not yet prepared node for application use")


def test_a_connection_of_an_out_of_service_server_is_not_reused(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    with pytest.raises(DatabaseError), pool.connection() as first:
        raise READ_ONLY

    with pool.connection() as second:
        assert second is not first

    assert database.sessions == 1
    assert pool.stats().closed == {"broken": 1}


def test_error_codes_of_the_settings_count_as_out_of_service(make_pool: MakePool, database: FakeDatabase) -> None:
    database.close_on_errors = frozenset({1205})
    pool = make_pool(1)
    with pytest.raises(DatabaseError), pool.connection() as first:
        raise DatabaseError(1205, "Lock wait timeout exceeded")

    with pool.connection() as second:
        assert second is not first


def test_other_errors_of_a_database_leave_the_connection_in_the_pool(make_pool: MakePool) -> None:
    pool = make_pool(1)
    with pytest.raises(DatabaseError), pool.connection() as first:
        raise DatabaseError(1062, "Duplicate entry")

    with pool.connection() as second:
        assert second is first


@pytest.mark.parametrize("where", ["in a statement", "at connect"])
def test_requests_wait_while_servers_are_out_of_service(
    make_pool: MakePool, database: FakeDatabase, where: str
) -> None:
    pool = make_pool(8, timeout=30)
    is_out_of_service = threading.Event()
    is_out_of_service.set()
    ended = threading.Event()
    failures: list[float] = []
    served: list[float] = []

    def connect() -> None:
        if where == "at connect" and is_out_of_service.is_set():
            raise NOT_READY

    database.hooks["connect"] = connect

    def requests() -> None:
        while not ended.is_set():
            try:
                with pool.connection():
                    time.sleep(0.001)
                    if is_out_of_service.is_set():
                        raise READ_ONLY
                served.append(time.monotonic())
            except (DatabaseError, PoolError):
                failures.append(time.monotonic())

    visitors = [Task(requests) for _ in range(8)]
    time.sleep(2)  # the time between two checks of a balancer
    is_out_of_service.clear()
    noticed = time.monotonic()
    while not served or served[-1] < noticed + 2.5:
        time.sleep(0.05)
    ended.set()
    for visitor in visitors:
        visitor.result()

    assert len(failures) <= 60
    assert max(failures) < noticed + 2
    assert min(served) < noticed + 2


def test_a_waiter_for_an_out_of_service_server_keeps_its_timeout(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)

    def connect() -> None:
        raise NOT_READY

    database.hooks["connect"] = connect
    for _ in range(6):
        with pytest.raises(ConnectFailed, match="WSREP"):
            pool.getconn()

    with pytest.raises(PoolTimeout, match=r"the server is out of service: .*1047, 'WSREP"):
        pool.getconn(timeout=0.01)


def test_an_out_of_service_server_is_one_warning(
    make_pool: MakePool, database: FakeDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="wsgipool")
    pool = make_pool(1)
    for _ in range(3):
        with pytest.raises(DatabaseError), pool.connection():
            raise READ_ONLY

    levels = [record.levelno for record in caplog.records if "--read-only" in record.message]
    assert levels == [logging.WARNING, logging.INFO, logging.INFO]
    assert database.sessions == 0
