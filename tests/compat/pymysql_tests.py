"""A pytest plugin that makes PyMySQL's package `tests` importable, which is not installed, and names its databases."""

from __future__ import annotations

import importlib
import json
import os

import pymysql


def pytest_configure() -> None:
    pymysql.__path__.append(os.environ["COMPAT_TESTS"])
    base = importlib.import_module("pymysql.tests.base")
    base.PyMySQLTestCase.databases = json.loads(os.environ["COMPAT_DATABASES"])
