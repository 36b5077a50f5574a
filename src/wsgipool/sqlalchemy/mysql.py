"""The dialects ``mysql+wsgipool`` and ``mariadb+wsgipool``: those for PyMySQL, on pools of wsgipool."""

from __future__ import annotations

from sqlalchemy.dialects.mysql import mariadb, pymysql

from wsgipool.sqlalchemy._dialect import PooledDialect


class MySQLDialect(PooledDialect, pymysql.MySQLDialect_pymysql):
    """The dialect for MySQL and MariaDB."""

    driver_name = "pymysql"
    schemes = ("mysql", "mysql+pymysql", "mariadb", "mariadb+pymysql")
    supports_statement_cache = True


class MariaDBDialect(mariadb.MariaDBDialect, MySQLDialect):
    """The dialect that insists on MariaDB."""

    supports_statement_cache = True
