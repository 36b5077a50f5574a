"""An exception of the program is not taken for the server's answer, whatever its class and place."""

from __future__ import annotations

import contextlib
import random
import select
import signal
from collections.abc import Iterator
from typing import Any

import MySQLdb
import MySQLdb.cursors
import psycopg
import pytest
from MySQLdb.constants import FIELD_TYPE
from psycopg.adapt import Dumper, Loader
from psycopg.rows import tuple_row
from psycopg.types.numeric import IntLoader

from drivers.shops import Connect, MakePool, MariaDBShop, PostgreSQLShop, Shop, value
from unit.fakes import PATIENCE
from wsgipool.drivers.psycopg_connection import ready

SHOPS: dict[str, type[Shop]] = {"mariadb": MariaDBShop, "postgresql": PostgreSQLShop}


@pytest.fixture(params=SHOPS)
def shop(request: pytest.FixtureRequest) -> Shop:
    server = request.param
    return SHOPS[server](request.getfixturevalue(server), request.getfixturevalue(f"{server}_shop"))


only_mariadb = pytest.mark.parametrize("shop", ["mariadb"], indirect=True)
only_postgresql = pytest.mark.parametrize("shop", ["postgresql"], indirect=True)


def answers_itself(connection: Any, shop: Shop) -> bool:
    """Return whether the next statement gets its own answer or an error, and not another answer."""
    try:
        answer = value(connection, "SELECT 42")
    except shop.dbapi.Error:
        return False
    assert answer == 42
    return True


def ask(cursor: Any, query: str) -> None:
    cursor.execute(query)
    cursor.fetchall()


# --- mysqlclient -----------------------------------------------------------------------------------------------------


@only_mariadb
@pytest.mark.parametrize("error", [MySQLdb.DataError, ValueError])
@pytest.mark.parametrize("cursor", [MySQLdb.cursors.Cursor, MySQLdb.cursors.SSDictCursor])
@pytest.mark.parametrize("query", ["SELECT 7, 'x' UNION SELECT 8, 'y'", "SELECT 7; SELECT 8"])
def test_a_converter_that_raises_leaves_no_row_for_the_next_statement(
    query: str, cursor: Any, error: type[Exception], shop: Shop, make_pool: MakePool
) -> None:
    def convert(_: bytes) -> None:
        raise error("no such number")

    pool = make_pool(max_size=1)
    with pool.connection(readonly=True) as connection:
        connection.converter[FIELD_TYPE.LONG] = connection.converter[FIELD_TYPE.LONGLONG] = convert
        asking = connection.cursor(cursor)
        with pytest.raises(error, match="no such number"):
            ask(asking, query)
        connection.converter[FIELD_TYPE.LONG] = connection.converter[FIELD_TYPE.LONGLONG] = int
        answers_itself(connection, shop)

    with pool.connection(readonly=True) as connection:
        assert answers_itself(connection, shop)


@only_mariadb
def test_an_answer_left_by_send_query_is_not_read_by_the_next_statement(shop: Shop, make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    with pool.connection(readonly=True) as connection:
        connection.send_query("SELECT 7")
        with pytest.raises(MySQLdb.OperationalError, match="interrupted before its answer was read"):
            value(connection, "SELECT 42")

    with pool.connection(readonly=True) as connection:
        assert answers_itself(connection, shop)


@only_mariadb
def test_an_error_that_answers_a_query_sent_by_send_query_is_its_answer(shop: Shop, connect: Connect) -> None:
    connection = connect()
    connection.send_query("SELECT nothing")
    with pytest.raises(MySQLdb.OperationalError, match="1054"):
        connection.read_query_result()

    assert answers_itself(connection, shop)


@only_mariadb
def test_an_error_with_a_text_in_another_character_set_keeps_its_code(connect: Connect) -> None:
    connection = connect()
    connection.set_character_set("latin1")

    with pytest.raises(MySQLdb.OperationalError, match="1054"):
        value(connection, "SELECT `é`")


# --- psycopg ---------------------------------------------------------------------------------------------------------


UNANSWERED = (psycopg.Error, AttributeError)
"""The error of a psycopg cursor without an answer; an AttributeError after an exception while it got one."""


class Odd:
    pass


def raising_loader(error: Exception) -> type[Loader]:
    class Raising(Loader):
        def load(self, data: Any) -> Any:  # noqa: ARG002
            raise error

    return Raising


def raising_dumper(error: Exception) -> type[Dumper]:
    class Raising(Dumper):
        def dump(self, obj: Any) -> Any:  # noqa: ARG002
            raise error

    return Raising


def load(connection: Any, error: Exception) -> None:
    connection.adapters.register_loader("int4", raising_loader(error))
    connection.execute("SELECT 7").fetchall()


def dump(connection: Any, error: Exception) -> None:
    connection.adapters.register_dumper(Odd, raising_dumper(error))
    connection.cursor().executemany("INSERT INTO books VALUES (%s, 1)", [(3,), (Odd(),), (5,)])


def make_rows(connection: Any, error: Exception) -> None:
    def factory(_: Any) -> Any:
        raise error

    connection.cursor(row_factory=factory).execute("SELECT 7")


def stream(connection: Any, error: Exception) -> None:
    for _ in connection.cursor().stream("SELECT generate_series(1, 100000)"):
        raise error


def copy_out(connection: Any, error: Exception) -> None:
    with connection.cursor().copy("COPY (SELECT generate_series(1, 100000)) TO STDOUT") as rows:
        for _ in rows:
            raise error


def copy_in(connection: Any, error: Exception) -> None:
    with connection.cursor().copy("COPY books FROM STDIN") as rows:
        rows.write_row((3, 1))
        raise error


def server_cursor(connection: Any, error: Exception) -> None:
    with connection.cursor("many") as cursor:
        for _ in cursor.execute("SELECT generate_series(1, 1000)"):
            raise error


def in_a_pipeline(connection: Any, error: Exception) -> None:
    failures = iter([None, error, None])

    def factory(_: Any) -> Any:
        failure = next(failures)
        if failure is not None:
            raise failure
        return tuple

    with connection.pipeline():
        cursors = [connection.cursor(row_factory=factory) for _ in range(3)]
        for number, cursor in enumerate(cursors):
            cursor.execute("SELECT %s::int", (number,))
        for number, cursor in enumerate(cursors):
            with contextlib.suppress(type(error), *UNANSWERED):
                assert cursor.fetchone() == (number,)
        raise error


def two_phases(connection: Any, error: Exception) -> None:
    connection.tpc_begin("order")
    connection.execute("SELECT 7")
    raise error


@only_postgresql
@pytest.mark.parametrize("error", [psycopg.DataError, ValueError])
@pytest.mark.parametrize(
    "act", [load, dump, make_rows, stream, copy_out, copy_in, server_cursor, in_a_pipeline, two_phases]
)
def test_an_exception_of_the_program_leaves_no_answer_for_psycopgs_next_statement(
    act: Any, error: type[Exception], shop: Shop, make_pool: MakePool
) -> None:
    pool = make_pool(max_size=1)
    with contextlib.suppress(shop.dbapi.Error), pool.connection() as connection:
        with pytest.raises((error, psycopg.Error)):
            act(connection, error("refused"))
        connection.adapters.register_loader("int4", IntLoader)
        answers_itself(connection, shop)

    with pool.connection(readonly=True) as connection:
        assert answers_itself(connection, shop)


@only_postgresql
def test_answers_that_a_pipeline_reads_together_match_their_queries(connect: Connect) -> None:
    def refuse(_: Any) -> Any:
        raise ValueError("refused")

    connection = connect("autocommit=on")
    asked = [connection.cursor(row_factory=factory) for factory in (refuse, tuple_row, tuple_row, tuple_row)]
    answers: list[Any] = [None] * 4

    with contextlib.suppress(psycopg.Error), connection.pipeline():
        for number in range(3):
            asked[number].execute("SELECT %s::int", (number,))
        connection.pgconn.send_flush_request()
        connection.pgconn.flush()
        assert ready(connection.fileno(), select.POLLIN, PATIENCE)
        with pytest.raises(ValueError, match="refused"):
            asked[3].execute("SELECT 3")
        for number, cursor in enumerate(asked):
            with contextlib.suppress(ValueError, *UNANSWERED):
                answers[number] = cursor.fetchone()

    assert all(answer in ((number,), None) for number, answer in enumerate(answers))


# --- both ------------------------------------------------------------------------------------------------------------


class HandlerError(Exception):
    """An exception of a signal handler."""


@contextlib.contextmanager
def raised_after(seconds: float, error: Exception) -> Iterator[None]:
    """Raise an ordinary exception from a signal handler, unless the block ends before."""

    def raise_error(*_: object) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, raise_error)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # if it is raised in a destructor
@pytest.mark.parametrize("of_the_driver", [False, True])
def test_answers_match_their_queries_however_often_a_signal_handler_raises(
    of_the_driver: bool, shop: Shop, connect: Connect
) -> None:
    connection = connect()
    chance = random.Random(17)
    raised = 0

    for number in range(400):
        error = shop.dbapi.OperationalError("raised by the handler") if of_the_driver else HandlerError()
        try:
            with raised_after(chance.uniform(0.00002, 0.0004), error):
                for question in (number, number + 1):
                    assert value(connection, f"SELECT {question}") == question
        except (HandlerError, shop.dbapi.Error):
            raised += 1
        if not answers_itself(connection, shop):
            with pytest.raises(shop.dbapi.Error):
                shop.driver.check_in(connection, "rollback")
            shop.driver.close(connection)
            connection = connect()

    assert raised


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@only_postgresql
def test_a_pipelines_answers_match_their_queries_when_a_signal_handler_raises(shop: Shop, connect: Connect) -> None:
    connection = connect()
    chance = random.Random(17)
    raised = 0

    for number in range(200):
        asked = [number, number + 1, number + 2]
        cursors = [connection.cursor() for _ in asked]
        with contextlib.suppress(psycopg.Error), connection.pipeline() as pipeline:
            try:
                with raised_after(chance.uniform(0.00002, 0.0006), HandlerError()):
                    for question, cursor in zip(asked, cursors, strict=True):
                        cursor.execute("SELECT %s::int", (question,))
                    pipeline.sync()
            except HandlerError:
                raised += 1
            for question, cursor in zip(asked, cursors, strict=True):
                with contextlib.suppress(*UNANSWERED):
                    assert cursor.fetchone() in ((question,), None)
            answers_itself(connection, shop)
        if not answers_itself(connection, shop):
            shop.driver.close(connection)
            connection = connect()

    assert raised
