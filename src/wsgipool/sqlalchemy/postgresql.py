"""The dialect ``postgresql+wsgipool``: that for psycopg, on pools of wsgipool."""

from __future__ import annotations

from sqlalchemy.dialects.postgresql import psycopg

from wsgipool.sqlalchemy._dialect import PooledDialect


class PostgreSQLDialect(PooledDialect, psycopg.PGDialect_psycopg):
    """The dialect for PostgreSQL."""

    driver_name = "psycopg"
    schemes = ("postgresql", "postgresql+psycopg", "postgres")
    supports_statement_cache = True
