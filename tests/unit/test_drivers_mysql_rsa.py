"""Passwords of MySQL over TCP without TLS: what is missing for them is named, and found before it is missed."""

from __future__ import annotations

import pymysql
import pytest

from wsgipool import config
from wsgipool.drivers.mysql_rsa import explain_connect_error, needs_cryptography


def test_a_missing_cryptography_is_explained_with_what_would_do() -> None:
    error = RuntimeError("'cryptography' package is required for sha256_password or caching_sha2_password auth methods")

    explained = explain_connect_error(error)

    assert isinstance(explained, pymysql.OperationalError)
    assert explained.args[0] == 2059
    assert 'pip install "wsgipool[mysql-rsa]"' in explained.args[1]
    assert "leave TLS on" in explained.args[1]


@pytest.mark.parametrize("error", [RuntimeError("another"), OSError("cryptography"), KeyboardInterrupt()])
def test_other_errors_are_left_as_they_are(error: BaseException) -> None:
    assert explain_connect_error(error) is None


@pytest.mark.parametrize(
    ("url", "plugin", "encrypted", "needed"),
    [
        ("mysql://shop:pw@db/orders", "caching_sha2_password", False, True),
        ("mariadb://shop:pw@db/orders", "sha256_password", False, True),
        ("mysql://shop:pw@db/orders", "caching_sha2_password", True, False),
        ("mysql://shop:pw@db/orders", "mysql_native_password", False, False),
        ("mysql://shop:pw@/orders?unix_socket=/run/none/x", "caching_sha2_password", False, False),
        ("mysql+mysqlclient://shop:pw@db/orders", "caching_sha2_password", False, False),
    ],
)
def test_cryptography_is_missed_before_the_servers_cache_forgets(
    url: str, plugin: str, encrypted: bool, needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    assert needs_cryptography(config.parse_url(url), plugin, encrypted) is needed


def test_cryptography_that_is_there_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)

    assert not needs_cryptography(config.parse_url("mysql://shop:pw@db/x"), "caching_sha2_password", encrypted=False)
