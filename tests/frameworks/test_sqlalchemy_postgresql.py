"""SQLAlchemy's engines on PostgreSQL: `create_engine("postgresql+wsgipool://...")`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import JSON, Column, Engine, Integer, MetaData, Table, create_engine, exc, insert, select, text
from sqlalchemy.orm import Session

import wsgipool
from drivers.shops import new_name
from frameworks.sqlalchemy_engines import Events, pool_of, scalar
from servers.postgresql import PostgreSQL
from unit.fakes import Task

SESSION = "SELECT pg_backend_pid()"
LEVEL = "SHOW transaction_isolation"


@pytest.fixture
def url(postgresql: PostgreSQL) -> str:
    return postgresql.create_database(new_name()).replace("postgresql://", "postgresql+wsgipool://")


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = create_engine(url)
    yield engine
    engine.dispose()


def test_a_session_fires_connect_once_and_each_checkout_its_events(engine: Engine) -> None:
    events = Events(engine)

    sessions = {scalar(engine, SESSION) for _ in range(3)}

    assert len(sessions) == 1
    assert events.taken() == ["connect", *["checkout", "reset", "checkin"] * 3]


def test_an_open_transaction_is_rolled_back(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE books (stock INT)"))
    raw: Any = engine.raw_connection()
    raw.cursor().execute("INSERT INTO books VALUES (1)")
    raw.close()

    assert scalar(engine, "SELECT count(*) FROM books") == 0
    assert pool_of(engine).stats().opened == 1


def test_an_isolation_level_ends_with_its_connection_or_stays_in_its_engine(engine: Engine, url: str) -> None:
    serializable = create_engine(url, isolation_level="SERIALIZABLE")

    for _ in range(2):
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            assert connection.scalar(text(LEVEL)) == "repeatable read"
        assert scalar(engine, LEVEL) == "read committed"
        assert scalar(serializable, LEVEL) == "serializable"
    serializable.dispose()


def test_an_engine_in_autocommit_stays_in_it(url: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")

    for _ in range(2):
        with engine.connect() as connection:
            connection.execute(text("CREATE TABLE IF NOT EXISTS books (stock INT)"))
            connection.execute(text("INSERT INTO books VALUES (1)"))
    assert scalar(engine, "SELECT count(*) FROM books") == 2
    engine.dispose()


def test_the_engines_converters_serve_each_checkout(url: str) -> None:
    engine = create_engine(url, json_deserializer=lambda text: {"read": json.loads(text)})
    table = Table("shop", MetaData(), Column("id", Integer, primary_key=True), Column("data", JSON))
    table.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(table), {"data": {"open": True}})

    for _ in range(2):
        with engine.connect() as connection:
            assert connection.scalar(select(table.c.data)) == {"read": {"open": True}}
    engine.dispose()


def test_a_session_that_ends_during_use_is_a_disconnect(engine: Engine, postgresql: PostgreSQL) -> None:
    with engine.connect() as connection, postgresql.admin() as admin:
        admin.execute("SELECT pg_terminate_backend(%s, 10000)", (connection.scalar(text(SESSION)),))
        with pytest.raises(exc.OperationalError) as caught:
            connection.execute(text("SELECT 1"))
        assert caught.value.connection_invalidated
        connection.rollback()
        assert connection.scalar(text("SELECT 1")) == 1


def test_a_session_that_outlives_its_request_can_be_used_after_a_rollback(engine: Engine) -> None:
    session = Session(engine)
    session.execute(text("SELECT 1"))
    other = Task(lambda: scalar(engine, SESSION)).result()
    response: Any = wsgipool.Middleware(lambda *_: [])({}, lambda *_: None)
    response.close()

    with pytest.raises(exc.OperationalError) as caught:
        session.execute(text("SELECT 1"))
    assert not caught.value.connection_invalidated
    session.rollback()

    assert session.scalar(text(SESSION)) == other
    session.close()
    assert pool_of(engine).in_use == 0
