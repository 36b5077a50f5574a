"""The look at the databases and the host before `wsgipool serve` starts httpd, without servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsgipool import config
from wsgipool.cli.running import Shape
from wsgipool.cli.serve_checks import answer_or_why, budget_files, excess, shortage
from wsgipool.config import Settings
from wsgipool.drivers.limits import Answer, ServerLimit

LIMIT = Answer([ServerLimit("server", "max_connections", 151)])
SHOP = {"url": "mysql://shop@db/shop"}


def settings(**tables: object) -> Settings:
    return config.load({"databases": {"shop": SHOP}, **tables})


@pytest.mark.parametrize(
    ("shape", "fitting"),
    [
        (Shape("worker", 20, 8), "What fits: max_size = 7 of shop;"),
        (Shape("worker", 3000, 8), "What fits: --processes 146 and max_size = 1 of shop;"),
        (Shape("prefork", 200, 1), "What fits: --processes 146;"),
    ],
)
def test_more_connections_than_the_database_allows_are_questioned(shape: Shape, fitting: str) -> None:
    (problem,) = excess(shape, settings(), {"shop": LIMIT})

    assert f"{shape.processes * shape.threads} connections (shop)" in problem
    assert "max_connections of mysql://db:3306 is 151, 5 of them reserved for others" in problem
    assert fitting in problem


def test_connections_that_the_database_allows_are_not_questioned() -> None:
    assert excess(Shape("worker", 18, 8), settings(), {"shop": LIMIT}) == []


def test_a_budget_caps_the_connections() -> None:
    assert excess(Shape("worker", 300, 8), settings(budget={"connections": 100}), {"shop": LIMIT}) == []


def test_a_budget_above_the_limit_is_questioned() -> None:
    (problem,) = excess(Shape("worker", 300, 8), settings(budget={"connections": 200}), {"shop": LIMIT})

    assert problem.endswith('Set [budget] connections = 146, or "auto".')


def test_processes_that_the_memory_cannot_hold_are_questioned() -> None:
    problem = shortage(Shape("prefork", 1_000_000_000, 1))[0]

    assert problem.startswith("1000000000 processes need 15000000 GB of memory or more, and this host has ")


def test_threads_that_the_system_refuses_are_questioned() -> None:
    (problem,) = shortage(Shape("worker", 1, 10_000_000))

    assert problem.startswith("1 process of 10000000 threads need 10000002 threads in all, and this host allows ")


def test_the_default_size_is_not_questioned() -> None:
    assert shortage(Shape("worker", 2, 8)) == []


def test_a_look_at_a_file_that_is_not_there_creates_none(tmp_path: Path) -> None:
    file = tmp_path / "wsgipool.toml"
    file.write_text(f'[databases.shop]\nurl = "sqlite:///{tmp_path}/shop.db"\n')

    assert answer_or_why(file, "shop") == {"answer": {"limits": [], "occupancy": None}}
    assert not (tmp_path / "shop.db").exists()


def test_a_file_whose_folder_is_missing_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "wsgipool.toml"
    file.write_text(f'[databases.shop]\nurl = "sqlite:///{tmp_path}/none/shop.db"\n')

    assert "shop: sqlite://" in answer_or_why(file, "shop")["why"]
    assert "unable to open database file" in answer_or_why(file, "shop")["why"]


def test_the_databases_of_one_server_share_a_budget_file(tmp_path: Path) -> None:
    file = tmp_path / "wsgipool.toml"
    file.write_text(
        f'runtime_dir = "{tmp_path}"\n[budget]\nconnections = 5\n'
        '[databases.a]\nurl = "mysql://db/a"\n[databases.b]\nurl = "mysql://db/b"\n'
        f'[databases.c]\nurl = "sqlite:///{tmp_path}/c.db"\n'
    )

    (path,) = budget_files(file).values()
    assert Path(path).parent == tmp_path


def test_settings_without_a_budget_have_no_budget_file(tmp_path: Path) -> None:
    file = tmp_path / "wsgipool.toml"
    file.write_text('[databases.a]\nurl = "mysql://db/a"\n')

    assert budget_files(file) == {}
