"""Only its holder may use a connection: any other thread gets WrongThread."""

from __future__ import annotations

import queue
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pymysql
import pytest
from pymysql.cursors import SSCursor

from faults.conftest import MakePool
from faults.harness import SOON, run, session_of, user_of, value
from faults.proxy import Proxy
from httpd.harness import sessions
from unit.fakes import HolderThread, Task, eventually
from wsgipool import Error, Pool
from wsgipool.demo.mariadb import MariaDB
from wsgipool.errors import PoolError, WrongThread

BOOK = "SELECT stock FROM books WHERE id = 2"


def reconnect_by_ping(connection: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        connection.ping(reconnect=True)


USES: dict[str, Callable[[Any], object]] = {
    "execute": lambda connection: run(connection, BOOK),
    "query": lambda connection: connection.query(BOOK),
    "begin": lambda connection: connection.begin(),
    "commit": lambda connection: connection.commit(),
    "rollback": lambda connection: connection.rollback(),
    "autocommit": lambda connection: connection.autocommit(True),
    "select_db": lambda connection: connection.select_db("information_schema"),
    "set_character_set": lambda connection: connection.set_character_set("latin1"),
    "ping": lambda connection: connection.ping(reconnect=False),
    "ping that reconnects": reconnect_by_ping,
    "connect": lambda connection: connection.connect(),
    "show_warnings": lambda connection: connection.show_warnings(),
    "next_result": lambda connection: connection.next_result(),
    "kill": lambda connection: connection.kill(session_of(connection)),
}


class Worker:
    """A thread that holds a connection and runs the given functions on it."""

    def __init__(self, pool: Pool[Any]) -> None:
        self._pool = pool
        self._is_held = threading.Event()
        self._work: queue.SimpleQueue[Callable[[Any], object] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._task = Task(self._hold)
        assert self._is_held.wait(SOON)

    def do(self, work: Callable[[Any], object]) -> object:
        self._work.put(work)
        return self._results.get(timeout=SOON)

    def give_back(self) -> None:
        self._work.put(None)
        self._task.result()

    def _hold(self) -> None:
        with self._pool.connection() as self.connection:
            self._is_held.set()
            while (work := self._work.get()) is not None:
                self._results.put(work(self.connection))


@pytest.fixture
def holder(make_pool: MakePool) -> Iterator[Worker]:
    """Another thread, with the only connection of a pool."""
    holder = Worker(make_pool())
    yield holder
    holder.give_back()


# --- kept after its return -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("reset", ["rollback", "session", None])
def test_a_connection_kept_after_its_return_cannot_be_used(
    make_pool: MakePool, mariadb: MariaDB, shop: str, use: str, reset: str | None
) -> None:
    pool = make_pool(reset=reset)
    kept = pool.getconn()
    number = session_of(kept)
    pool.putconn(kept)

    with pytest.raises(WrongThread, match="idle in the pool"):
        USES[use](kept)

    with pool.connection() as connection:
        assert session_of(connection) == number
        assert value(connection, BOOK) == 20
    assert sessions(mariadb, user_of(shop)) == {number}


def test_a_connection_kept_after_its_block_cannot_be_used(make_pool: MakePool) -> None:
    pool = make_pool()
    with pool.connection() as kept:
        run(kept, BOOK)

    with pytest.raises(WrongThread):
        run(kept, BOOK)


@pytest.mark.parametrize("use", USES)
def test_a_former_holder_cannot_use_the_connection_of_another(make_pool: MakePool, use: str) -> None:
    pool = make_pool()
    kept = pool.getconn()
    pool.putconn(kept)
    holder = Worker(pool)
    assert holder.connection is kept
    assert holder.do(lambda mine: run(mine, "UPDATE books SET stock = 19 WHERE id = 2")) == 1

    with pytest.raises(WrongThread, match="which holds it"):
        USES[use](kept)

    assert holder.do(lambda mine: value(mine, BOOK)) == 19
    holder.give_back()
    with pool.connection() as connection:
        assert value(connection, BOOK) == 19


def test_a_former_holder_cannot_close_the_connection_of_the_next(make_pool: MakePool) -> None:
    pool = make_pool()
    kept = pool.getconn()
    pool.putconn(kept)
    holder = Worker(pool)

    with pytest.raises(WrongThread):
        kept.close()

    assert holder.do(lambda mine: value(mine, BOOK)) == 20
    holder.give_back()


def test_a_cursor_kept_after_the_return_cannot_be_used(make_pool: MakePool) -> None:
    pool = make_pool()
    connection = pool.getconn()
    kept = connection.cursor()
    kept.execute("SELECT id FROM books ORDER BY id")
    pool.putconn(connection)

    assert kept.fetchall() == ((1,), (2,))  # rows that were read before are kept
    with pytest.raises(WrongThread):
        kept.execute("DELETE FROM books")

    with pool.connection() as connection:
        assert value(connection, "SELECT COUNT(*) FROM books") == 2


def test_a_connection_reclaimed_at_the_end_of_the_request_cannot_be_used(make_pool: MakePool) -> None:
    pool = make_pool()
    leaked = pool.getconn()
    assert pool.reclaim(threading.get_ident()) == 1

    with pytest.raises(Exception, match=r"."):
        run(leaked, BOOK)

    with pool.connection() as connection:
        assert connection is not leaked
        assert value(connection, BOOK) == 20


@pytest.mark.parametrize("use", USES)
def test_a_connection_that_the_pool_has_closed_does_not_reconnect(
    make_pool: MakePool, mariadb: MariaDB, shop: str, use: str
) -> None:
    # No pool would count its session or end it.
    pool = make_pool()
    kept = pool.getconn()
    pool.drain()
    pool.putconn(kept)
    eventually(lambda: not sessions(mariadb, user_of(shop)))

    with pytest.raises((WrongThread, pymysql.Error), match=r"its pool has closed it|Already closed"):
        USES[use](kept)

    assert not kept.open
    assert not sessions(mariadb, user_of(shop))


# --- shared with another thread --------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", USES)
def test_another_thread_cannot_use_a_connection(holder: Worker, use: str) -> None:
    holder.do(lambda mine: run(mine, "UPDATE books SET stock = 19 WHERE id = 2"))

    with pytest.raises(WrongThread, match="which holds it"):
        USES[use](holder.connection)

    assert holder.do(lambda mine: value(mine, BOOK)) == 19


def test_a_cursor_cannot_be_used_by_another_thread(holder: Worker) -> None:
    cursor: Any = holder.do(lambda mine: mine.cursor())

    with pytest.raises(WrongThread):
        cursor.execute(BOOK)

    assert holder.do(lambda _: cursor.execute(BOOK)) == 1


def test_rows_cannot_be_fetched_from_the_server_by_another_thread(holder: Worker) -> None:
    def begin_to_read(mine: Any) -> Any:
        cursor = mine.cursor(SSCursor)
        cursor.execute("SELECT id FROM books ORDER BY id")
        return cursor

    cursor: Any = holder.do(begin_to_read)

    with pytest.raises(WrongThread):
        cursor.fetchone()

    assert holder.do(lambda _: cursor.fetchall()) == [(1,), (2,)]


def test_the_next_result_cannot_be_fetched_by_another_thread(holder: Worker) -> None:
    def get_two_results(mine: Any) -> Any:
        run(mine, "CREATE PROCEDURE two_results() BEGIN SELECT 1; SELECT 2; END")
        cursor = mine.cursor()
        cursor.execute("CALL two_results()")
        return cursor

    cursor: Any = holder.do(get_two_results)

    with pytest.raises(WrongThread):
        cursor.nextset()

    assert holder.do(lambda mine: mine.next_result()) == 1


def test_another_thread_cannot_interrupt_a_query_with_one_of_its_own(make_pool: MakePool, mariadb: MariaDB) -> None:
    pool = make_pool()
    sessions: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with mariadb.admin() as admin:
        assert value(admin, "SELECT GET_LOCK('till', 0)") == 1

        def slow_query() -> Any:
            with pool.connection() as mine:
                sessions.put(mine)
                return value(mine, "SELECT GET_LOCK('till', 30) + 6")

        task = Task(slow_query)
        shared = sessions.get(timeout=SOON)
        with pytest.raises(WrongThread):
            run(shared, BOOK)
        run(admin, "DO RELEASE_LOCK('till')")

    assert task.result() == 7


# --- allowed uses ----------------------------------------------------------------------------------------------------


def test_a_connection_works_in_another_thread_after_its_checkout_there(make_pool: MakePool) -> None:
    pool = make_pool()
    with pool.connection() as connection:
        first = session_of(connection)
    holder = Worker(pool)

    assert holder.do(session_of) == first
    assert holder.do(lambda mine: value(mine, BOOK)) == 20
    holder.give_back()
    with pool.connection() as connection:
        assert session_of(connection) == first
        assert value(connection, BOOK) == 20


@pytest.mark.parametrize("reconnect", [reconnect_by_ping, lambda mine: mine.connect()], ids=["ping", "connect"])
@pytest.mark.parametrize("reset", ["rollback", "session"])
def test_a_connection_that_its_holder_reconnected_serves_no_other_holder(
    make_pool: MakePool, mariadb: MariaDB, shop: str, reset: str, reconnect: Callable[[Any], object]
) -> None:
    pool = make_pool(reset=reset)
    with pool.connection(readonly=True) as connection:
        run(connection, BOOK)
    with pool.connection() as connection:
        killed = session_of(connection)
        with mariadb.admin() as admin:
            admin.kill(killed)
        eventually(lambda: not sessions(mariadb, user_of(shop)))
        reconnect(connection)
        number = session_of(connection)

        assert value(connection, BOOK) == 20

    with pool.connection() as connection:
        # The pool's configure= was not called for this session.
        assert session_of(connection) not in (number, killed)
        assert value(connection, BOOK) == 20
    assert pool.size == 1


def test_many_threads_share_one_connection_in_turn(make_pool: MakePool) -> None:
    pool = make_pool()

    def visit() -> int:
        with pool.connection(readonly=True) as connection:
            assert value(connection, "SELECT CONNECTION_ID()") == session_of(connection)
            return session_of(connection)

    tasks = [Task(visit) for _ in range(16)]

    assert len({task.result() for task in tasks}) == 1


def test_another_thread_cannot_return_a_connection(make_pool: MakePool) -> None:
    pool = make_pool()
    holder = HolderThread(pool.getconn, pool.putconn)

    with pytest.raises(WrongThread, match=f"but thread {holder.thread_id} holds it"):
        pool.putconn(holder.connection)

    holder.give_back()
    assert (pool.size, pool.in_use) == (1, 0)


@pytest.mark.parametrize("pipeline", [True, False])
@pytest.mark.parametrize("reset", ["rollback", "session"])
def test_an_adopted_connection_is_returned_clean(make_pool: MakePool, reset: str, pipeline: bool) -> None:
    pool = make_pool(reset=reset, pipeline=pipeline)

    def checked_out() -> Any:
        connection = pool.getconn()
        run(connection, "UPDATE books SET stock = 0 WHERE id = 2")
        return connection

    other = HolderThread(checked_out, lambda _: None)
    connection = other.connection
    number = session_of(connection)

    pool.adopt(connection)
    assert value(connection, BOOK) == 0
    pool.putconn(connection)

    other.give_back()
    with pool.connection() as connection:
        assert session_of(connection) == number
        assert value(connection, BOOK) == 20


def test_wrong_thread_is_a_bug_and_not_an_outage() -> None:
    assert issubclass(WrongThread, Error)
    assert not issubclass(WrongThread, PoolError)


def test_the_check_costs_no_round_trip(make_pool: MakePool, proxy: Proxy, shop: str) -> None:
    pool = make_pool(f"{proxy.through(shop)}?autocommit=true")
    kept = pool.getconn()
    pool.putconn(kept)
    sent = len(proxy.to_server)

    with pytest.raises(WrongThread):
        run(kept, BOOK)
    connection = pool.getconn()
    run(connection, BOOK)
    pool.putconn(connection)

    assert bytes(proxy.to_server[sent:]) == bytes([len(BOOK) + 1, 0, 0, 0, 3]) + BOOK.encode()
