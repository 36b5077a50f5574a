"""What a pool can promise of any callable that returns a DB-API connection."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from wsgipool import ConfigError
from wsgipool.drivers import CallableDriver


@pytest.fixture
def driver(tmp_path: Path) -> CallableDriver[sqlite3.Connection]:
    return CallableDriver(lambda: sqlite3.connect(tmp_path / "shop.db", check_same_thread=False))


def test_well_known_attributes_are_restored(driver: CallableDriver[sqlite3.Connection]) -> None:
    connection = driver.connect(1)
    connection.row_factory = sqlite3.Row
    driver.remember(connection)
    connection.row_factory = None
    connection.text_factory = bytes
    connection.isolation_level = None

    driver.check_in(connection, "rollback")

    assert [connection.row_factory, connection.text_factory, connection.isolation_level] == [sqlite3.Row, str, ""]
    driver.close(connection)


class Connection:
    """One of a DB-API module that says in its own way whether it commits each statement by itself."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize(
    "attributes",
    [{"autocommit": True}, {"get_autocommit": lambda: True}, {"isolation_level": None, "in_transaction": False}],
)
def test_a_transaction_on_a_connection_in_autocommit_is_refused(attributes: dict[str, Any]) -> None:
    driver = CallableDriver(lambda: Connection(**attributes))

    with pytest.raises(ConfigError, match="turn autocommit off there, or name the database by its URL"):
        driver.begin(driver.connect(1))


@pytest.mark.parametrize(
    "attributes",
    [{}, {"autocommit": False}, {"autocommit": print}, {"get_autocommit": lambda: False}, {"isolation_level": None}],
)
def test_others_begin_a_transaction_by_themselves(attributes: dict[str, Any]) -> None:
    driver = CallableDriver(lambda: Connection(**attributes))

    driver.begin(driver.connect(1))
