"""A pytest plugin for tests of others that use PyMySQL: `pymysql.connect` is wsgipool's, and a test is a request.

With COMPAT_POOLED=False, `pymysql.connect` stays what it is.
"""

from __future__ import annotations

import os
from threading import get_ident
from typing import Any

import pymysql
import pytest

import wsgipool.pymysql
from wsgipool import pools

_IS_POOLED = os.environ["COMPAT_POOLED"] == "True"


class PlainReading(wsgipool.pymysql.Connection):
    """A pooled connection whose rows PyMySQL itself reads."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments, fast_reading=False)


def pytest_configure() -> None:
    if not _IS_POOLED:
        return
    wsgipool.pymysql.install()
    if os.environ.get("COMPAT_FAST_READING") == "false":
        for name in ("connect", "Connect", "Connection"):
            setattr(pymysql, name, PlainReading)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    pools.reclaim(get_ident())


def pytest_unconfigure() -> None:
    wsgipool.close()
