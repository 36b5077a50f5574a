"""Hints for settings as other pools and frameworks name them."""

from __future__ import annotations

from collections.abc import Mapping

_IN_THE_URL = "it is a part of the url: mysql://user@host:3306/database"
_PASSWORD = "the password stands in the url, or in the file that password_file names"  # noqa: S105 - a hint
_OPTION = "write it as an option of the url: mysql://user@host/database?{key}=..."
_SIZE = "write max_size, the maximum number of connections of a process"
_MIN_SIZE = "write min_size"
_TIMEOUT = "write timeout"
_LIFETIME = "write max_lifetime"
_IDLE = "write max_idle"
_CHECK = "write check_after, the seconds of idleness after which a connection is checked"
_RESET = 'write reset = "rollback", "session" or "none"'
_DRIVER = "the scheme of the url names the driver: mysql://, mysql+mysqlclient://, postgresql:// or sqlite://"
_LEAVE_OUT = "leave it out"

_HINTS: Mapping[str, str] = {
    # SQLAlchemy
    "pool_size": _SIZE,
    "max_overflow": "write max_size, the sum of pool_size and max_overflow",
    "pool_timeout": _TIMEOUT,
    "pool_recycle": _LIFETIME,
    "pool_pre_ping": _CHECK,
    "pool_reset_on_return": _RESET,
    "reset_on_return": _RESET,
    "pool_use_lifo": "leave it out: the connection that was returned last is used first",
    "poolclass": _LEAVE_OUT,
    "drivername": _DRIVER,
    # Django
    "conn_max_age": "write max_lifetime, the seconds after which a connection is closed",
    "conn_health_checks": _CHECK,
    "engine": _DRIVER,
    "autocommit": _OPTION,
    # DBUtils
    "maxconnections": _SIZE,
    "mincached": _MIN_SIZE,
    "maxcached": "write max_size, and max_idle to close unused connections",
    "maxshared": "leave it out: threads share no connection",
    "maxusage": "write max_lifetime: a connection is closed by its age, not by its uses",
    "setsession": "write init_command as an option of the url: mysql://user@host/database?init_command=...",
    "blocking": "write timeout, the seconds to wait; 0 does not wait",
    "ping": _CHECK,
    # psycopg_pool, asyncpg, mysql-connector
    "name": "the name of the pool is the NAME of [databases.NAME]; that of the database is a part of the url",
    "num_workers": "write max_connecting",
    "reconnect_timeout": _LEAVE_OUT,
    "open": _LEAVE_OUT,
    "kwargs": "write them as options of the url: mysql://user@host/database?charset=utf8mb4",
    "check": _CHECK,
    "command_timeout": "write read_timeout as an option of the url: mysql://user@host/database?read_timeout=30",
    "max_inactive_connection_lifetime": _IDLE,
    "pool_name": "the name of the pool is the NAME of [databases.NAME]",
    "pool_reset_session": _RESET,
    # HikariCP, Node, Go
    "maximumpoolsize": _SIZE,
    "minimumidle": _MIN_SIZE,
    "connectiontimeout": _TIMEOUT,
    "idletimeout": _IDLE,
    "keepalivetime": _CHECK,
    "connectionlimit": _SIZE,
    "max_open_conns": _SIZE,
    "max_idle_conns": "write max_size, and max_idle to close unused connections",
    "conn_max_lifetime": _LIFETIME,
    "conn_max_idle_time": _IDLE,
    # common names
    **dict.fromkeys(("max_connections", "max", "size", "limit", "pool_max_size", "max_pool_size"), _SIZE),
    **dict.fromkeys(("min", "min_idle", "min_cached", "pool_min_size", "min_pool_size"), _MIN_SIZE),
    **dict.fromkeys(("max_age", "recycle", "ttl"), _LIFETIME),
    **dict.fromkeys(("max_idle_time", "idle_timeout", "wait_timeout"), _IDLE),
    **dict.fromkeys(("acquire_timeout", "wait", "max_wait", "checkout_timeout"), _TIMEOUT),
    **dict.fromkeys(("pre_ping", "test_on_borrow", "health_check"), _CHECK),  # codespell:ignore borrow
    **dict.fromkeys(
        ("host", "hostname", "server", "port", "user", "username", "db", "dbname", "database"), _IN_THE_URL
    ),
    **dict.fromkeys(("schema", "path", "address"), _IN_THE_URL),
    **dict.fromkeys(("password", "passwd", "pass", "pwd", "secret"), _PASSWORD),
    **dict.fromkeys(("dsn", "uri", "conninfo", "database_url", "sqlalchemy_database_uri", "connection"), "write url"),
    **dict.fromkeys(("driver", "dialect", "backend", "type", "adapter", "scheme"), _DRIVER),
    **dict.fromkeys(("options", "params", "connect_args", "args", "query"), _OPTION.format(key="charset")),
    **dict.fromkeys(
        (
            *("charset", "collation", "init_command", "sql_mode", "unix_socket", "program_name", "application_name"),
            *("connect_timeout", "read_timeout", "write_timeout", "read_default_file", "read_default_group"),
            *("ssl_ca", "ssl_cert", "ssl_key", "ssl_disabled", "ssl_verify_cert", "ssl_verify_identity"),
            *("sslmode", "sslrootcert", "sslcert", "sslkey", "service", "target_session_attrs"),
        ),
        _OPTION,
    ),
}


def hint(key: str) -> str | None:
    """Return the hint for a key of another pool or framework, or None."""
    word = key.lower().replace("-", "_")
    found = _HINTS.get(word)
    return None if found is None else found.format(key=word)
