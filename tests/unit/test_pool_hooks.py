"""The hooks of a pool: on_connect, on_close, and the driver's reload."""

from __future__ import annotations

import pytest

from unit.conftest import MakePool, all_idle, counts, use
from unit.fakes import FakeConnection, FakeDatabase, eventually
from wsgipool import ConnectFailed


def test_on_connect_is_called_once_a_session(make_pool: MakePool) -> None:
    connected: list[FakeConnection] = []
    pool = make_pool(2, on_connect=connected.append, reset="session")

    opened = use(pool, 2)
    use(pool, 2)

    assert connected == opened


def test_on_connect_comes_after_configure(make_pool: MakePool) -> None:
    order: list[str] = []
    pool = make_pool(1, configure=lambda _: order.append("configure"), on_connect=lambda _: order.append("on_connect"))

    pool.getconn()

    assert order == ["configure", "on_connect"]


def test_on_connect_sees_connections_that_are_opened_ahead(make_pool: MakePool, database: FakeDatabase) -> None:
    connected: list[FakeConnection] = []
    pool = make_pool(1, min_size=1, on_connect=connected.append)

    eventually(lambda: pool.idle == 1)

    assert connected == database.opened


def test_an_on_connect_that_fails_is_a_failed_connect(make_pool: MakePool, database: FakeDatabase) -> None:
    error = KeyError("no such role")

    def fail(_: FakeConnection) -> None:
        raise error

    pool = make_pool(1, on_connect=fail)

    with pytest.raises(ConnectFailed, match="no such role") as caught:
        pool.getconn()

    assert caught.value.__cause__ is error
    assert database.sessions == 0
    assert counts(pool) == all_idle(0)


def test_on_close_comes_before_the_close(make_pool: MakePool) -> None:
    seen: list[tuple[FakeConnection, bool]] = []
    pool = make_pool(2, on_close=lambda connection: seen.append((connection, connection.closed)))
    first, second = pool.getconn(), pool.getconn()

    pool.putconn(first, discard=True)
    second.close()

    assert seen == [(first, False), (second, False)]
    assert first.closed
    assert second.closed


def test_an_on_close_that_fails_is_logged_and_the_connection_closed(
    make_pool: MakePool, log: pytest.LogCaptureFixture
) -> None:
    def fail(_: FakeConnection) -> None:
        raise KeyError("no such counter")

    pool = make_pool(1, on_close=fail)
    connection = pool.getconn()

    pool.putconn(connection, discard=True)

    assert connection.closed
    assert counts(pool) == all_idle(0)
    assert log.messages == ["on_close of pool 'orders' failed: KeyError: 'no such counter'"]


def test_drain_reads_the_drivers_files_before_the_next_connect(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    done: list[str] = []
    use(pool)
    database.hooks["reload"] = lambda: done.append("reload")
    database.hooks["connect"] = lambda: done.append("connect")

    pool.drain()
    use(pool)

    assert done == ["reload", "connect"]
