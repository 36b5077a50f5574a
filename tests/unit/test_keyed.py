"""Pools by connection arguments: one for each set of arguments, under the name that the caller proposes."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

import wsgipool
from unit.fakes import FakeDatabase
from wsgipool import ConfigError, _keyed, pools

pytestmark = pytest.mark.usefixtures("_no_settings", "_no_keys")


@pytest.fixture
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_keyed, "_known", {})


def name_of(key: object, name: str = "default", **settings: Any) -> str:
    return _keyed.pool_name(name, key, FakeDatabase, {"max_size": 2, **settings})


def test_equal_arguments_have_one_pool() -> None:
    assert name_of({"host": "db", "port": 3306}) == name_of({"port": 3306, "host": "db"}) == "default"


def test_other_arguments_have_another_pool_and_keep_the_first() -> None:
    first = wsgipool.pool(name_of("orders"))

    assert name_of("test_orders") == "default-2"
    assert name_of("test_orders_1") == "default-3"
    assert wsgipool.pool(name_of("orders")) is first


def test_the_name_of_a_database_in_the_settings_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "wsgipool.toml"
    file.write_text('[databases.default]\nurl = "mysql://shop@db/orders"\n')
    monkeypatch.setenv(pools.CONFIG_VARIABLE, str(file))

    assert name_of("orders") == "default-2"


def test_the_pool_of_a_key_is_no_other_pool_that_took_its_name() -> None:
    name = name_of("orders")
    wsgipool.register(name, FakeDatabase(), max_size=1)

    assert name_of("orders") == "default-2"


def test_a_key_keeps_its_name_when_the_pools_are_closed() -> None:
    name = name_of("orders")
    with wsgipool.connection(name):
        pass
    wsgipool.close()

    assert name_of("orders") == name
    with wsgipool.connection(name) as connection:
        assert connection is not None


def test_threads_that_ask_at_once_get_one_pool() -> None:
    together, found = threading.Barrier(8), []

    def ask() -> None:
        together.wait()
        found.append(name_of("orders"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == ["default"] * 8


def test_a_driver_that_cannot_be_made_leaves_no_pool() -> None:
    def fail() -> Any:
        raise ConfigError("no such argument")

    with pytest.raises(ConfigError, match="no such argument"):
        _keyed.pool_name("default", "orders", fail, {})
    assert not pools.is_known("default")
    assert name_of("orders") == "default"


def test_too_many_sets_of_arguments_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_keyed, "MAX_DATABASES", 2)
    name_of(1), name_of(2)

    with pytest.raises(ConfigError, match="'default': there are 2 pools already, one for each set of connection"):
        name_of(3)
    assert name_of(2) == "default-2"


def test_the_child_of_a_fork_that_came_in_the_middle_can_create_a_pool() -> None:
    read, write = os.pipe()

    def make_in_a_child() -> FakeDatabase:
        if (child := os.fork()) == 0:
            os.write(write, name_of("in the child").encode())
            os._exit(0)
        os.waitpid(child, 0)
        return FakeDatabase()

    assert _keyed.pool_name("default", "orders", make_in_a_child, {"max_size": 1}) == "default"
    assert os.read(read, 100) == b"default"
    os.close(read)
    os.close(write)
