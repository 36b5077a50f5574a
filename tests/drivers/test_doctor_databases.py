"""The doctor's findings from real servers. `tests/httpd/test_doctor.py` tests those that need a site."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from importlib.machinery import ModuleSpec

import pytest

from wsgipool import config
from wsgipool.config import Settings
from wsgipool.doctor import databases
from wsgipool.doctor.databases import Session


def of(url: str, **settings: object) -> Settings:
    return config.load({"databases": {"shop": {"url": url, **settings}}})


def session(settings: Settings) -> Session:
    answer = databases.answers(settings, timeout=10)["shop"]
    assert isinstance(answer, Session), answer
    return answer


def found(settings: Settings) -> list[str]:
    return [finding.code for finding in databases.examine(settings, {"shop": session(settings)})]


@pytest.mark.parametrize("driver", ["mysql", "mysql+mysqlclient"])
def test_the_doctor_reads_the_state_of_a_mariadb_session(driver: str, mariadb_shop: str) -> None:
    known = session(of(mariadb_shop.replace("mysql:", f"{driver}:")))

    assert (known.idle_timeout, known.idle_setting) == (28800, "wait_timeout")
    assert (known.autocommit, known.isolation, known.completion) == (False, "REPEATABLE READ", "NO_CHAIN")
    assert known.encrypted is False
    assert known.plugin in ("", "caching_sha2_password")  # MariaDB, MySQL
    assert known.answer.occupancy is not None
    assert 0 < (known.answer.occupancy.most or 0) < 200


def test_the_doctor_reads_the_state_of_a_postgresql_session(postgresql_shop: str) -> None:
    known = session(of(postgresql_shop))

    assert (known.idle_timeout, known.autocommit, known.isolation) == (None, False, "READ COMMITTED")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("?options=-c idle_session_timeout=5min", ["idle-timeout-below-max-idle"]),
        ("?options=-c default_transaction_isolation=serializable", ["isolation-unusual"]),
        ("?autocommit=true", []),
    ],
)
def test_unusual_options_of_postgresql_are_findings(options: str, expected: list[str], postgresql_shop: str) -> None:
    assert found(of(f"{postgresql_shop}{options}")) == expected


@pytest.mark.parametrize(("is_here", "expected"), [(False, ["tls-off"]), (True, [])])
def test_a_connection_to_another_host_without_tls(
    is_here: bool, expected: list[str], mariadb_shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "is_this_host", lambda _: is_here)

    assert found(of(mariadb_shop)) == expected


def test_a_node_of_a_cluster_has_no_locks_for_all(mariadb_shop: str) -> None:
    settings = of(mariadb_shop)
    alone = session(settings)
    node = replace(alone, cluster="a Galera cluster")

    found = list(databases.examine(settings, {"shop": node}))

    assert alone.cluster == ""
    assert [finding.code for finding in found] == ["locks-of-one-node"]
    assert "shop: the server is a node of a Galera cluster" in found[0].what


@pytest.mark.parametrize(("has_cryptography", "expected"), [(False, ["cryptography-missing"]), (True, [])])
def test_missing_cryptography_is_a_finding_for_an_account_of_sha2(
    has_cryptography: bool, expected: list[str], mariadb_shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = of(mariadb_shop.replace("mysql+mysqlclient:", "mysql:"))
    answer = replace(session(settings), plugin="caching_sha2_password")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: ModuleSpec if has_cryptography else None)

    assert [finding.code for finding in databases.examine(settings, {"shop": answer})] == expected


def test_a_server_that_is_down_is_a_finding() -> None:
    answer = databases.answers(of("mysql://shop@127.0.0.1:1/shop"), timeout=1)["shop"]

    assert not isinstance(answer, Session)
    assert answer.code == "database-unreachable"


def test_a_file_is_not_asked_for_limits() -> None:
    assert databases.answers(of("sqlite:////srv/shop.db"), timeout=1) == {}
