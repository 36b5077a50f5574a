"""Drivers for DB-API modules, chosen by a database URL or by the arguments of the module's ``connect()``.

``wsgipool.drivers.base`` defines the interface of a driver. ``CallableDriver`` serves any other DB-API module.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from wsgipool.config import DatabaseSettings, DatabaseURL, unknown_key
from wsgipool.drivers import url_hints
from wsgipool.drivers.base import (
    CLEANING_TIMEOUT,
    CLOSED_BY_HOLDER,
    CLOSED_BY_POOL,
    DEFAULT_CONNECT_TIMEOUT,
    DEFAULT_READ_TIMEOUT,
    DRIVER_PACKAGES,
    ENDED,
    IN_THE_POOL,
    MIN_ANSWER_TIMEOUT,
    UNREAD_RESULT,
    BaseDriver,
    C,
    DBAPIConnection,
    Driver,
    Holder,
    HolderDriver,
    Hook,
    Reset,
    close_quietly,
    delete_attributes,
    keep_forever,
)
from wsgipool.drivers.callable import CallableDriver
from wsgipool.errors import ConfigError

__all__ = [
    "CLEANING_TIMEOUT",
    "CLOSED_BY_HOLDER",
    "CLOSED_BY_POOL",
    "DEFAULT_CONNECT_TIMEOUT",
    "DEFAULT_READ_TIMEOUT",
    "DRIVER_PACKAGES",
    "ENDED",
    "IN_THE_POOL",
    "MIN_ANSWER_TIMEOUT",
    "UNREAD_RESULT",
    "BaseDriver",
    "C",
    "CallableDriver",
    "DBAPIConnection",
    "Driver",
    "Endpoint",
    "Holder",
    "HolderDriver",
    "Hook",
    "Reset",
    "account_of",
    "close_quietly",
    "delete_attributes",
    "driver",
    "endpoint_of",
    "family",
    "for_database",
    "is_pymysql",
    "keep_forever",
    "server_of",
]

_MODULES = {
    "mysql": "wsgipool.drivers.pymysql",
    "mysql+pymysql": "wsgipool.drivers.pymysql",
    "mysql+mysqlclient": "wsgipool.drivers.mysqlclient",
    "mysql+mysqldb": "wsgipool.drivers.mysqlclient",
    "mariadb": "wsgipool.drivers.pymysql",
    "mariadb+pymysql": "wsgipool.drivers.pymysql",
    "mariadb+mysqlclient": "wsgipool.drivers.mysqlclient",
    "mariadb+mysqldb": "wsgipool.drivers.mysqlclient",
    "postgresql": "wsgipool.drivers.psycopg",
    "postgres": "wsgipool.drivers.psycopg",
    "postgresql+psycopg": "wsgipool.drivers.psycopg",
    "sqlite": "wsgipool.drivers.sqlite",
}

_BY_NAME = {
    "pymysql": "wsgipool.drivers.pymysql",
    "mysqlclient": "wsgipool.drivers.mysqlclient",
    "MySQLdb": "wsgipool.drivers.mysqlclient",
    "psycopg": "wsgipool.drivers.psycopg",
    "sqlite": "wsgipool.drivers.sqlite",
    "sqlite3": "wsgipool.drivers.sqlite",
}


def for_database(settings: DatabaseSettings, **arguments: Any) -> Driver[Any]:
    """Return the driver for one ``[databases.NAME]``, chosen by the scheme of its URL.

    Args:
        settings: The database's table of the settings.
        **arguments: Keyword arguments of the DB-API module's ``connect()``, beside those that the URL gives, or in
            their place.

    Raises:
        ConfigError: No driver has this scheme, its module is not installed, or the URL is wrong.
    """
    scheme = settings.url.scheme
    if scheme not in _MODULES:
        raise ConfigError(f"{settings.origin}.url: {url_hints.no_driver(scheme, _MODULES)}")
    made = _imported(_MODULES[scheme], f"{settings.origin}.url: {scheme}://").driver(settings, **arguments)
    made.close_on_errors = settings.close_on_errors
    return _named(made, settings.url)


def driver(dbapi: str, /, *args: Any, **arguments: Any) -> Driver[Any]:
    """Return a driver that takes the arguments of a DB-API module's ``connect()``.

    For example::

        driver("pymysql", host="db", user="shop", password=secret, database="shop", client_flag=CLIENT.FOUND_ROWS)
        driver("psycopg", "host=db dbname=shop", autocommit=True)
        driver("sqlite", "/var/lib/shop/shop.db")

    The connections have what a pool needs and are otherwise the module's own. Three timeouts, in seconds, have defaults
    that protect a request:

    - ``connect_timeout``: 10 (``sqlite`` has none).
    - ``read_timeout``, for a silent server: 60. psycopg gets it from wsgipool. ``sqlite`` has none.
    - ``write_timeout``, PyMySQL and mysqlclient only: as long as ``read_timeout``.

    PyMySQL also takes ``fast_reading=False``: PyMySQL itself then reads the rows, which takes more CPU.

    Args:
        dbapi: The module: ``"pymysql"``, ``"mysqlclient"`` (or ``"MySQLdb"``), ``"psycopg"``, ``"sqlite"`` (or
            ``"sqlite3"``).
        *args: Positional arguments of its ``connect()``.
        **arguments: Keyword arguments of its ``connect()``.

    Raises:
        ConfigError: There is no such driver, its module is not installed, or ``connect()`` has no such argument.
    """
    if dbapi not in _BY_NAME:
        raise ConfigError(f"no driver for {dbapi}; {unknown_key(dbapi, _BY_NAME)}")
    made, url = _imported(_BY_NAME[dbapi], dbapi).from_arguments(*args, **arguments)
    made.made_from = (_BY_NAME[dbapi], args, arguments)  # by which `register` recognizes the same call
    return _named(made, url)


def _imported(module: str, where: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{where} needs a module that is not installed: {error}") from error


def _named(made: Any, url: DatabaseURL) -> Driver[Any]:
    made.server, made.account = server_of(url), account_of(url)
    driver: Driver[Any] = made
    return driver


def family(url: DatabaseURL) -> str:
    """Return the kind of database: ``"mysql"`` (MariaDB too), ``"postgresql"`` or ``"sqlite"``.

    For any other scheme, return the part before the ``+``.
    """
    name = url.scheme.partition("+")[0]
    return {"mariadb": "mysql", "postgres": "postgresql"}.get(name, name)


def is_pymysql(url: DatabaseURL) -> bool:
    """Return whether a URL is for PyMySQL."""
    return _MODULES.get(url.scheme) == "wsgipool.drivers.pymysql"


@dataclass(frozen=True)
class Endpoint:
    """The place where a server listens: a host and a port, or a Unix socket; PostgreSQL's is a folder and a port."""

    host: str | None
    port: int | None
    socket: str | None


def endpoint_of(url: DatabaseURL) -> Endpoint | None:
    """Return the place to which the driver connects; None for a database without a server.

    Raises:
        ConfigError: The URL, or a file that it names, is wrong.
    """
    if family(url) not in ("mysql", "postgresql"):
        return None
    name = {"mysql": "mysql_options", "postgresql": "psycopg_options"}[family(url)]
    module = importlib.import_module(f"wsgipool.drivers.{name}")
    endpoint: Endpoint = module.endpoint_of(url, "the database URL")
    return endpoint


def server_of(url: DatabaseURL) -> str | None:
    """Return the name of a database's server, the same for all its databases; None where there is no server.

    The budget counts by this name. Two names or addresses of one machine are two servers.
    """
    try:
        endpoint = endpoint_of(url)
    except (ConfigError, ImportError):
        # A connect will fail, yet reports need a name.
        file = next(
            (f"{name}={url.options[name]}" for name in ("read_default_file", "service") if name in url.options), None
        )
        return f"{family(url)}://{file or url.host or ''}"
    if endpoint is None:
        return None
    if endpoint.socket is not None:
        return f"{family(url)}://{endpoint.socket}{'' if endpoint.port is None else f':{endpoint.port}'}"
    return f"{family(url)}://{(endpoint.host or '').lower()}:{endpoint.port}"


def account_of(url: DatabaseURL) -> str:
    """Return the account for which a server may have a limit: the user, with PostgreSQL the user and the database."""
    return f"{url.user}/{url.database}" if family(url) == "postgresql" else url.user or ""
