"""Hints for URLs written for other programs: their schemes and options, and what to write here.

A name is translated only if its meaning is exactly the same; otherwise the message says what to write. A similar
spelling, which `unknown_key` suggests, often means another thing. So it is the last resort.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from wsgipool import showing
from wsgipool.config import DatabaseURL, unknown_key
from wsgipool.errors import ConfigError

_MYSQL = "write mysql://, which is PyMySQL, or mysql+mysqlclient://"
_POSTGRESQL = "write postgresql://, which is psycopg 3"

_SCHEMES = {
    "mysql+mysqlconnector": _MYSQL,
    "mysql+connector": _MYSQL,
    "mysql-connector": _MYSQL,
    "mariadb+mariadbconnector": _MYSQL,
    "mysql+mariadbconnector": _MYSQL,
    "mysql+aiomysql": _MYSQL,
    "mysql+asyncmy": _MYSQL,
    "mariadb+aiomysql": _MYSQL,
    "mariadb+asyncmy": _MYSQL,
    "mysql+cymysql": _MYSQL,
    "mysql+oursql": _MYSQL,
    "mysql+pyodbc": _MYSQL,
    "mysql2": _MYSQL,
    "mysqli": _MYSQL,
    "mysqldb": _MYSQL,
    "mysqlclient": _MYSQL,
    "pymysql": _MYSQL,
    "mysqlx": "the X protocol is not supported; " + _MYSQL + ", and the port of the classic protocol, 3306",
    "mysqlgis": _MYSQL,
    "django.db.backends.mysql": _MYSQL,
    "postgresql+psycopg2": _POSTGRESQL,
    "postgresql+psycopg2cffi": _POSTGRESQL,
    "postgresql+psycopg_async": _POSTGRESQL,
    "postgresql+psycopg3": _POSTGRESQL,
    "postgresql+asyncpg": _POSTGRESQL,
    "postgresql+pg8000": _POSTGRESQL,
    "postgres+psycopg": _POSTGRESQL,
    "postgres+psycopg2": _POSTGRESQL,
    "postgresql2": _POSTGRESQL,
    "psycopg": _POSTGRESQL,
    "psycopg2": _POSTGRESQL,
    "psql": _POSTGRESQL,
    "pgsql": _POSTGRESQL,
    "pg": _POSTGRESQL,
    "postgis": _POSTGRESQL,
    "cockroachdb": _POSTGRESQL,
    "django.db.backends.postgresql": _POSTGRESQL,
    "sqlite3": "write sqlite:////path/to/file.db, with four slashes",
    "sqlite+pysqlite": "write sqlite:////path/to/file.db, with four slashes",
    "sqlite+aiosqlite": "write sqlite:////path/to/file.db, with four slashes",
    "django.db.backends.sqlite3": "write sqlite:////path/to/file.db, with four slashes",
    "jdbc": "this is a URL of JDBC; leave out 'jdbc:' and write user and password before the host, mysql://user:password@host/database",
    "file": "write sqlite:////path/to/file.db, with four slashes, or mysql:// or postgresql://",
}


def no_driver(scheme: str, known: Iterable[str]) -> str:
    """Return the error message for a scheme without a driver."""
    remedy = _SCHEMES.get(scheme.lower()) or unknown_key(scheme, known)
    return f"no driver for {showing.name(scheme)}://; {remedy}"


# --- options ---------------------------------------------------------------------------------------------------------


def _all(remedy: str, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, remedy)


_POOL = "it belongs to the pool: write a key beside the url, see max_size, timeout, max_idle, max_lifetime"
_IN_CODE = "or make the driver in code, by wsgipool.drivers.driver()"
_PROGRAM = f"it belongs to the program: set it on the connection or the cursor, in a configure= of the pool, {_IN_CODE}"
_LOCAL_INFILE = f"LOAD DATA LOCAL is refused: it would let the server read this host's files; leave it out, {_IN_CODE}"
_FLAGS = f"the driver sets the flags; leave it out, {_IN_CODE}"

_COMMON = {
    **_all("it stands before the '@': scheme://user:password@host/database, or password_file beside the url",
           "password", "passwd", "pass", "pwd"),
    **_all("it stands before the '@': scheme://user@host/database", "user", "username", "usr"),
    **_all("it stands after the host: scheme://user@host:3306/database", "port"),
    **_all("it stands after the host: scheme://user@host/database", "db", "database", "dbname", "name"),
    **_all(_POOL, "pool", "pool_size", "pool_name", "pool_recycle", "pool_timeout", "pool_pre_ping", "max_overflow",
           "pool_reset_session", "connection_limit", "max_connections", "maxPoolSize", "minPoolSize", "poolSize",
           "conn_max_age", "CONN_MAX_AGE", "maxconn", "pool_mode", "max_size", "min_size", "max_idle", "max_lifetime",
           "timeout"),
    **_all("it belongs to SQLAlchemy or Django; leave it out", "echo", "future", "engine", "ATOMIC_REQUESTS"),
    **_all(_PROGRAM, "cursorclass", "cursor_factory", "row_factory", "conv", "isolation_level", "use_pure",
           "dictionary", "buffered", "raw", "sql_auto_is_null", "ISOLATION_LEVEL"),
    **_all("a session has the server's time zone; to set one, on MySQL init_command=SET%20time_zone%3D'%2B00:00', on "
           "PostgreSQL options=-cTimeZone%3DUTC", "serverTimezone", "time_zone", "timezone", "tz", "connectionTimeZone",
           "TimeZone", "sessionVariables"),
    **_all("the pool replaces closed connections; leave it out", "autoReconnect", "autoreconnect",
           "reconnect", "auto_reconnect", "maxReconnects", "initialTimeout"),
    **_all("write connect_timeout, in seconds; JDBC's is in milliseconds", "connectTimeout",
           "connectionTimeout", "connection_timeout", "login_timeout", "loginTimeout"),
    **_all("write read_timeout and write_timeout, in seconds; JDBC's is in milliseconds", "socketTimeout",
           "socket_timeout", "readTimeout", "net_read_timeout", "query_timeout"),
    **_all("text is always Unicode; leave it out", "useUnicode", "use_unicode"),
}  # fmt: skip
_CHARSET = "write charset=utf8mb4"
_TLS = "write ssl_mode=REQUIRED, or ssl_ca=/path/ca.pem to have the server verified"

MYSQL: Mapping[str, str] = MappingProxyType({
    **_COMMON,
    **_all("it stands before the '?': mysql://user@host/database", "host", "hostname", "server"),
    **_all(f"{_TLS}; ssl_mode=DISABLED for none", "ssl", "tls", "useSSL", "useSsl", "usessl", "use_ssl", "secure",
           "enableTLS", "encrypt", "encryption"),
    **_all(_TLS, "requireSSL", "requiressl", "require_ssl", "require_secure_transport", "ssl_required", "sslEnabled"),
    **_all("write ssl_verify_identity=true or false; with ssl_ca=/path/ca.pem it is true", "verifyServerCertificate",
           "ssl_check_hostname", "check_hostname", "ssl_verify_server_cert", "ssl-verify-server-cert", "sslaccept",
           "disableSslHostnameVerification", "trustServerCertificate", "ssl_verify", "tls_verify_identity",
           "tls_verify_cert", "rejectUnauthorized", "verify", "sslVerify", "tls_verify_peer"),
    **_all("write ssl_ca=/path/ca.pem", "sslrootcert", "sslca", "ssl_ca_certs", "ca", "cafile", "serverSslCert",
           "trustCertificateKeyStoreUrl", "tls_ca", "ssl_root_cert"),
    **_all("write ssl_cert=/path/cert.pem and ssl_key=/path/key.pem", "sslcert", "sslkey", "sslidentity", "cert", "key",
           "tls_cert", "tls_key", "clientCertificateKeyStoreUrl"),
    **_all("write ssl_key_password", "sslpassword", "ssl_password", "ssl_passphrase"),
    **_all("OpenSSL chooses here; leave it out", "ssl_cipher", "ssl_ciphers",
           "tls_version", "tls_versions", "tls_ciphersuites", "enabledTLSProtocols", "tlsVersions",
           "enabledSslProtocolSuites"),
    **_all("revoked certificates are not checked; leave it out", "ssl_crl", "ssl_crlpath"),
    **_all(_CHARSET, "characterEncoding", "character_encoding", "encoding", "client_encoding", "characterSetResults",
           "default_character_set", "default-character-set", "names"),
    **_all("write collation", "connectionCollation"),
    **_all("write unix_socket=/run/mysqld/mysqld.sock, without a host", "socket", "unixSocket", "localSocket",
           "unixsocket", "default_socket"),
    **_all("write program_name", "application_name", "applicationName", "app_name"),
    **_all("write init_command", "initCommand", "init-connect", "init_connect"),
    **_all("write sql_mode", "sqlMode"),
    **_all("write read_default_file", "default_file", "defaults_file", "defaults-file", "option_files", "my_cnf"),
    **_all("write read_default_group", "option_groups", "default_group"),
    **_all(_LOCAL_INFILE, "local_infile", "allow_local_infile", "local-infile", "allowLoadLocalInfile",
           "allow_local_infile_in_path", "local_infile_dir"),
    **_all(_FLAGS, "client_flag", "client_flags", "allowMultiQueries",
           "multi_statements", "compress", "useCompression", "named_pipe", "max_allowed_packet", "binary_prefix",
           "found_rows", "useAffectedRows"),
    **_all("the server names the method; leave it out", "auth_plugin", "default_auth", "auth_plugin_map",
           "defaultAuthenticationPlugin", "authenticationPlugins"),
    **_all("leave TLS on, or install wsgipool[mysql-rsa], which asks the server for the key", "server_public_key",
           "server_public_key_path", "allowPublicKeyRetrieval", "serverRSAPublicKeyFile", "get_server_public_key"),
    **_all("MySQL has no schemas in a database; write the database after the host", "schema", "currentSchema"),
})  # fmt: skip
"""What to write in place of an option that `mysql://` does not have."""

POSTGRESQL: Mapping[str, str] = MappingProxyType({
    **_COMMON,
    **_all("write sslmode=require, or sslrootcert=/path/ca.pem to have the server verified", "ssl", "tls", "use_ssl",
           "useSSL", "ssl_mode", "ssl-mode", "sslMode", "require_ssl", "sslfactory", "requireSSL"),
    **_all("write sslrootcert=/path/ca.pem", "ssl_ca", "sslca", "ssl_root_cert", "sslaccept", "ca", "cafile",
           "ssl_ca_certs", "ssl_verify_identity", "ssl_verify_cert", "verifyServerCertificate"),
    **_all("write sslcert=/path/cert.pem and sslkey=/path/key.pem", "ssl_cert", "ssl_key", "sslidentity"),
    **_all("write sslpassword", "ssl_key_password"),
    **_all("write client_encoding, or leave it out: it is UTF8", "charset", "encoding", "characterEncoding"),
    **_all("write options=-csearch_path%3DNAME", "schema", "search_path", "currentSchema", "current_schema"),
    **_all("write options=-cstatement_timeout%3D5000, in milliseconds", "statement_timeout"),
    **_all("write host=/run/postgresql, the folder of the socket", "unix_socket", "socket", "unix_sock"),
    **_all("write application_name", "program_name", "applicationName", "ApplicationName"),
    **_all("write prepare_threshold=none", "pgbouncer", "prepared_statements", "statement_cache_size",
           "prepareThreshold", "prepared_statement_cache_size", "preparedStatementCacheQueries"),
    **_all("write tcp_user_timeout, in milliseconds", "write_timeout", "tcpKeepAlive"),
    **_all("write target_session_attrs", "targetServerType"),
})  # fmt: skip
"""What to write in place of an option that `postgresql://` does not have."""


def known_options(
    url: DatabaseURL, known: Iterable[str], aliases: Mapping[str, str], hints: Mapping[str, str], where: str
) -> DatabaseURL:
    """Return the URL with its options under wsgipool's names.

    Dashes may stand for underscores, as in the mysql program's options. Raise ConfigError for an option that has a hint
    or is given twice.
    """
    known = set(known)
    options: dict[str, str] = {}
    spelled: dict[str, str] = {}
    for name, text in url.options.items():
        own = name if name in known else aliases.get(name, name)
        if own not in known and name not in hints:
            own = own.replace("-", "_")
        if own not in known:
            if remedy := hints.get(name) or hints.get(own):
                raise ConfigError(f"{where}: {showing.name(name)} is not an option of {url.scheme}://; {remedy}")
            own = name  # `convert` refuses it
        if own in options:
            raise ConfigError(f"{where}: the option {own} is given twice, as {spelled[own]} and {name}; keep one")
        options[own], spelled[own] = text, name
    return replace(url, options=MappingProxyType(options))
