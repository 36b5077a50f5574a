"""The cleaning of returned connections, and the checks before the next checkout."""

from __future__ import annotations

import pytest

from unit.conftest import MakePool, all_idle, counts, use
from unit.fakes import FakeConnection, FakeDatabase, in_turn, raising
from unit.interrupts import Interrupt
from wsgipool import ConnectFailed, Pool


@pytest.mark.parametrize(
    ("reset", "returned", "committed", "readonly"),
    [
        ("rollback", ["rollback"], ["commit"], ["rollback"]),
        ("session", ["reset_session"], ["commit", "reset_session"], ["reset_session"]),
        (None, [], ["commit"], ["rollback"]),
    ],
)
def test_a_returned_connection_gets_the_commands_of_the_reset_setting_and_no_more(
    reset: str | None, returned: list[str], committed: list[str], readonly: list[str], make_pool: MakePool
) -> None:
    pool = make_pool(reset=reset)
    connection = pool.getconn()

    pool.putconn(connection)
    assert connection.calls == returned

    connection.calls.clear()
    with pool.connection():
        pass
    assert connection.calls == committed

    connection.calls.clear()
    with pool.connection(readonly=True):
        pass
    assert connection.calls == readonly


@pytest.mark.parametrize(
    ("reset", "sent"), [("rollback", "rollback"), ("session", "reset_session"), (None, "rollback")]
)
def test_a_block_that_raises_is_rolled_back_with_each_reset_setting(
    reset: str | None, sent: str, make_pool: MakePool
) -> None:
    pool = make_pool(reset=reset)

    with pytest.raises(KeyError), pool.connection() as connection:
        raise KeyError

    assert connection.calls == [sent]


def test_the_answer_to_a_reset_is_read_at_the_next_checkout(make_pool: MakePool, database: FakeDatabase) -> None:
    database.pipelined = True
    pool = make_pool()
    connection = pool.getconn()

    pool.putconn(connection)
    assert connection.calls == ["rollback"]

    assert pool.getconn() is connection
    assert connection.calls == ["rollback", "read_answer"]


def test_without_pipeline_the_answer_is_read_at_the_return(make_pool: MakePool, database: FakeDatabase) -> None:
    database.pipelined = True
    pool = make_pool(pipeline=False)
    connection = pool.getconn()

    pool.putconn(connection)
    assert connection.calls == ["rollback", "read_answer"]

    assert pool.getconn() is connection
    assert connection.calls == ["rollback", "read_answer"]


def test_a_connection_whose_reset_failed_is_replaced_at_the_next_checkout(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    database.pipelined = True
    pool = make_pool()
    (first,) = use(pool)
    database.hooks["read_answer"] = raising(OSError("connection reset by peer"))

    second = pool.getconn()

    assert second is not first
    assert first.closed
    assert (pool.size, pool.in_use) == (1, 1)


def test_a_checkout_waits_for_the_answer_no_longer_than_its_timeout(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    database.pipelined = True
    pool = make_pool()
    pool.putconn(pool.getconn())
    database.timeouts.clear()

    pool.getconn(timeout=5)

    assert 0 < database.timeouts[0] <= 5


# --- connections that died while idle --------------------------------------------------------------------------------


def test_a_connection_that_died_while_idle_is_replaced_by_a_new_one(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(1)
    (dead,) = use(pool)
    dead.alive = False

    connection = pool.getconn()

    assert connection is database.opened[1]
    assert dead.closed
    assert database.most_sessions == 1


def test_a_connection_that_died_while_idle_is_replaced_by_another_idle_one(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(3)
    connections = use(pool, 3)
    for connection in connections[1:]:
        connection.alive = False

    assert pool.getconn() is connections[0]
    assert [connection.closed for connection in connections] == [False, True, True]
    assert len(database.opened) == 3


def test_a_dead_connection_whose_replacement_fails_frees_its_place(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    (dead,) = use(pool)
    dead.alive = False
    database.hooks["connect"] = in_turn(raising(OSError("refused")))

    with pytest.raises(ConnectFailed):
        pool.getconn()

    assert pool.getconn() is database.opened[1]


def test_a_connection_whose_check_fails_is_not_checked_out_again(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(1)
    (unsound,) = use(pool)

    def check() -> None:
        if not unsound.closed:
            raise ValueError("file descriptor cannot be a negative integer (-1)")

    database.hooks["check_out"] = check

    assert pool.getconn() is not unsound
    assert unsound.closed


def test_a_checkout_interrupted_during_its_check_closes_the_connection(
    make_pool: MakePool, database: FakeDatabase
) -> None:
    pool = make_pool(1)
    (connection,) = use(pool)
    database.hooks["check_out"] = raising(Interrupt())

    with pytest.raises(Interrupt):
        pool.getconn()

    assert connection.closed
    assert counts(pool) == all_idle(0)


def test_a_connection_that_was_idle_for_long_is_pinged(make_pool: MakePool) -> None:
    pool = make_pool(check_after=-1)
    connection = pool.getconn()
    pool.putconn(connection)
    connection.calls.clear()

    assert pool.getconn() is connection
    assert connection.calls == ["ping"]


def test_a_connection_that_was_idle_for_a_moment_is_not_pinged(make_pool: MakePool) -> None:
    pool = make_pool(check_after=3600)
    connection = pool.getconn()
    pool.putconn(connection)
    connection.calls.clear()

    assert pool.getconn() is connection
    assert connection.calls == []


def test_a_connection_that_does_not_answer_the_ping_is_replaced(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(check_after=-1)
    (first,) = use(pool)
    database.hooks["ping"] = raising(OSError("timed out"))

    assert pool.getconn() is not first
    assert first.closed


# --- configure and check ---------------------------------------------------------------------------------------------


def test_each_new_connection_is_configured_once(make_pool: MakePool) -> None:
    configured: list[FakeConnection] = []
    pool = make_pool(configure=configured.append)

    connection = pool.getconn()
    pool.putconn(connection)
    pool.getconn()

    assert configured == [connection]


def test_a_connection_that_cannot_be_configured_is_closed(make_pool: MakePool, database: FakeDatabase) -> None:
    database.hooks["ping"] = raising(RuntimeError("no such schema"))
    pool = make_pool(configure=FakeConnection.ping)

    with pytest.raises(ConnectFailed, match="no such schema"):
        pool.getconn()

    assert database.opened[0].closed
    assert pool.size == 0


def test_an_idle_connection_is_checked_at_each_checkout(make_pool: MakePool) -> None:
    checked: list[FakeConnection] = []
    pool = make_pool(check=checked.append)
    connection = pool.getconn()
    assert checked == [], "a new connection needs no check"
    pool.putconn(connection)

    with pool.connection():
        pass
    pool.getconn()

    assert checked == [connection, connection]


def test_a_connection_that_fails_its_check_is_replaced(make_pool: MakePool, database: FakeDatabase) -> None:
    pool = make_pool(check=lambda connection: connection.execute())
    (first,) = use(pool)
    database.hooks["execute"] = raising(OSError("read only"))

    assert pool.getconn() is not first
    assert first.closed


def test_connections_of_a_plain_callable_are_checked_too(database: FakeDatabase) -> None:
    pool = Pool(lambda: FakeConnection(database), name="orders", max_size=1, check=FakeConnection.ping)
    pool.putconn(connection := pool.getconn())

    assert pool.getconn() is connection
    assert connection.calls == ["rollback", "ping"]
