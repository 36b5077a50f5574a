"""The meaning of a PostgreSQL URL: libpq's connection parameters, checked when the settings are read.

libpq ignores a password file with the wrong permissions, verifies nothing if `sslrootcert` has no `sslmode`, and reads
the environment. Here a certificate authority means that the server and its name are verified, unless the URL says
otherwise. A file that cannot be used is refused. libpq itself resolves services and the environment.
"""

from __future__ import annotations

import ipaddress
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from psycopg import pq
from psycopg.conninfo import make_conninfo

from wsgipool.config import DatabaseSettings, DatabaseURL
from wsgipool.drivers import DEFAULT_READ_TIMEOUT, Endpoint, tls, url_files, url_hints
from wsgipool.drivers.mysql_options import check_host
from wsgipool.drivers.url_options import BOOLEAN, SECONDS, TEXT, Option, convert
from wsgipool.errors import ConfigError
from wsgipool.showing import shown

DEFAULT_PORT = 5432

_MAX_NAME = 63
"""Maximum bytes of an application_name; the server would cut the rest."""


def _threshold(text: str) -> int | None:
    if text.lower() == "none":
        return None
    return _number(1_000_000)(text)


def _number(largest: int) -> Callable[[str], int]:
    def function(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= largest):
            raise ValueError(text)
        return int(text)

    return function


def _word(*words: str) -> Option:
    def function(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(text)
        return text.lower()

    return function, f"{', '.join(words[:-1])} or {words[-1]}"


def _text(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError(text)
    return text


def _addresses(text: str) -> str:
    for address in text.split(","):
        ipaddress.ip_address(address)
    return text


def _application_name(text: str) -> str:
    if not (text.isascii() and text.isprintable() and text.strip() and len(text) <= _MAX_NAME):
        raise ValueError(text)
    return text


def _encoding(text: str) -> str:
    if not re.fullmatch("[A-Za-z0-9_-]{1,63}", text):
        raise ValueError(text)
    return text


_SWITCH = _word("0", "1")
_MILLISECONDS: Option = (_number(2_147_483_647), "a number of milliseconds")
_WHOLE_SECONDS: Option = (_number(86_400), "a number of whole seconds")
_PATH: Option = (_text, "an absolute path")

_KINDS: Mapping[str, Option] = MappingProxyType({
    "connect_timeout": SECONDS,
    "read_timeout": SECONDS,
    "autocommit": BOOLEAN,
    "prepare_threshold": (_threshold, "a number from 0, or none"),
    "application_name": (_application_name, f"1 to {_MAX_NAME} printable characters of ASCII"),
    "hostaddr": (_addresses, "an IP address"),
    "sslmode": _word("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "channel_binding": _word("disable", "prefer", "require"),
    "gssencmode": _word("disable", "prefer", "require"),
    "sslnegotiation": _word("postgres", "direct"),
    "sslcertmode": _word("disable", "allow", "require"),
    "target_session_attrs": _word("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    "load_balance_hosts": _word("disable", "random"),
    "keepalives": _SWITCH,
    "sslcompression": _SWITCH,
    "sslsni": _SWITCH,
    "keepalives_idle": _WHOLE_SECONDS,
    "keepalives_interval": _WHOLE_SECONDS,
    "keepalives_count": (_number(127), "a number from 0 to 127"),
    "tcp_user_timeout": _MILLISECONDS,
    "client_encoding": (_encoding, "the name of an encoding, such as UTF8"),
    **dict.fromkeys(("sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir", "passfile"), _PATH),
    "sslpassword": TEXT,
})  # fmt: skip


_NOT_FOR_LIBPQ = ("connect_timeout", "read_timeout", "autocommit", "prepare_threshold")
"""Options of wsgipool and psycopg, which libpq does not know."""

_EXCLUDED = ("user", "password", "port", "dbname", "replication", "requiressl", "authtype", "tty")
"""libpq's parameters that stand before the '?' in a URL, are for a protocol without SQL, or are obsolete."""

PARAMETERS = tuple(option.keyword.decode() for option in pq.Conninfo.get_defaults())
"""The parameters of the installed libpq."""

_OPTIONS: Mapping[str, Option] = MappingProxyType({
    name: _KINDS.get(name, (_text, "a text of printable characters"))
    for name in (*PARAMETERS, *_NOT_FOR_LIBPQ)
    if name not in _EXCLUDED
})  # fmt: skip


def read(settings: DatabaseSettings) -> dict[str, Any]:
    """Return the parameters for libpq, and the options for wsgipool and psycopg. Raise ConfigError."""
    url, where = settings.url, f"{settings.origin}.url"
    options = _options(url, where)
    options.setdefault("read_timeout", DEFAULT_READ_TIMEOUT)
    resolved = _resolved(options, where)
    # pg_stat_activity shows it.
    name = f"wsgipool:{settings.name}".encode()[:_MAX_NAME].decode(errors="ignore")
    options.setdefault("application_name", resolved.get("application_name", name))
    _check_tls(options, resolved, where)
    _check_password_file(resolved, where)
    return options


def endpoint_of(url: DatabaseURL, where: str) -> Endpoint:
    """Return the place to which a URL leads. Raise ConfigError."""
    options = _options(url, where)
    if "service" in options:
        options = {**options, **_resolved(options, where)}
    host = options.get("hostaddr") or options.get("host") or ""
    port = options.get("port") or str(DEFAULT_PORT)
    number = int(port) if str(port).isdecimal() else None
    return Endpoint(None, number, host) if host.startswith("/") else Endpoint(host, number, None)


def _options(url: DatabaseURL, where: str) -> dict[str, Any]:
    options = convert(url_hints.known_options(url, _OPTIONS, {}, url_hints.POSTGRESQL, where), _OPTIONS, where)
    if url.host and "host" in options:
        raise ConfigError(f"{where}: the host stands before the '?' and after it; keep one")
    if url.port == 0:
        raise ConfigError(f"{where}: the port is 0; it is a number from 1 to 65535, of PostgreSQL 5432")
    for name, value in (
        ("host", url.host), ("port", url.port), ("user", url.user), ("password", url.password), ("dbname", url.database)
    ):  # fmt: skip
        if value:
            options[name] = value
    for name, value in options.items():
        if isinstance(value, str) and "\0" in value:  # libpq would ignore everything after it
            raise ConfigError(f"{where}: the {name} has a NUL character (%00); leave it out")
    if not options.keys() & {"host", "hostaddr", "service"}:
        # libpq's default is a socket, in one folder for Debian's libpq and in another for psycopg[binary]'s.
        raise ConfigError(
            f"{where}: no host; write {url.scheme}://user@host/database, or for a local server "
            f"{url.scheme}://user@/database?host=/run/postgresql"
        )
    for host in str(options.get("host", "")).split(",") if "host" in options else ():
        if not host.startswith(("/", "@")):
            check_host(host, where)
    if "service" not in options:
        # For missing parameters libpq would read the environment.
        options.setdefault("port", DEFAULT_PORT)
        options.setdefault("hostaddr", "")
    if "sslrootcert" in options and "service" not in options:
        options.setdefault("sslmode", "verify-full")
    return options


def _resolved(options: Mapping[str, Any], where: str) -> dict[str, str]:
    """Return libpq's parameters, resolved from the options, a service and the environment. Raise ConfigError.

    libpq begins to connect with an invalid value of the parameter that it checks last. So it resolves all parameters
    and connects to nothing.
    """
    given = {name: value for name, value in options.items() if name not in _NOT_FOR_LIBPQ}
    given["password"] = "none"  # noqa: S105 - without one libpq would read the password file, and wait for a FIFO
    pgconn = pq.PGconn.connect_start(make_conninfo(**{**given, _LAST_CHECKED: "wsgipool"}).encode())
    try:
        message = pgconn.error_message.decode(errors="replace").strip()
        if _LAST_CHECKED not in message:
            raise ConfigError(
                f"{where}: {message[:300]}; see https://www.postgresql.org/docs/current/libpq-connect.html"
            )
        found = {each.keyword.decode(): each.val for each in pgconn.info}
    finally:
        pgconn.finish()
    return {name: value.decode(errors="replace") for name, value in found.items() if value and name != _LAST_CHECKED}


_LAST_CHECKED = "load_balance_hosts" if "load_balance_hosts" in PARAMETERS else "target_session_attrs"


# --- TLS -------------------------------------------------------------------------------------------------------------


def _check_tls(options: dict[str, Any], resolved: Mapping[str, str], where: str) -> None:
    mode, authority = options.get("sslmode", resolved.get("sslmode")), resolved.get("sslrootcert")
    if authority and "sslmode" not in options and mode in (None, "prefer"):
        mode = options["sslmode"] = "verify-full"
    if authority and mode in ("disable", "allow", "prefer"):
        raise ConfigError(
            f"{where}: sslmode={mode} and sslrootcert contradict each other; write sslmode=verify-full to have the "
            "server verified, or leave sslrootcert out"
        )
    if authority == "system":
        if pq.version() < 160_000:
            raise ConfigError(f"{where}: sslrootcert=system needs libpq 16 or newer; name a file")
    elif authority:
        tls.check_authorities(authority, f"{where}: sslrootcert")
    elif mode in ("verify-ca", "verify-full") and not Path("~/.postgresql/root.crt").expanduser().exists():
        raise ConfigError(
            f"{where}: sslmode={mode} without sslrootcert; name the authority's certificate: "
            "sslrootcert=/path/ca.pem, or the system's: sslrootcert=system"
        )
    hosts = (resolved.get("host") or "").split(",")
    requires_tls = mode in ("require", "verify-ca", "verify-full")
    if requires_tls and not resolved.get("hostaddr") and all(host.startswith(("/", "@")) for host in hosts):
        raise ConfigError(
            f"{where}: sslmode={mode}, and {shown(hosts[0])} is a Unix socket, where PostgreSQL has no TLS; leave "
            f"{'sslrootcert' if 'sslrootcert' in options else 'sslmode'} out"
        )
    _check_client_certificate(options, resolved, mode, where)
    if crl := resolved.get("sslcrl"):
        content = url_files.read(crl, f"{where}: sslcrl")
        if b"-----BEGIN X509 CRL-----" not in content:
            raise ConfigError(f"{where}: sslcrl: {shown(crl)} has no list of revoked certificates in PEM (X509 CRL)")
    if folder := resolved.get("sslcrldir"):
        url_files.names_in(folder, f"{where}: sslcrldir")


def _check_client_certificate(
    options: Mapping[str, Any], resolved: Mapping[str, str], mode: str | None, where: str
) -> None:
    cert, key = resolved.get("sslcert"), resolved.get("sslkey")
    if cert is None:
        for name in ("sslkey", "sslpassword"):
            if name in options:
                raise ConfigError(f"{where}: {name} without sslcert; name the certificate: sslcert=/path/cert.pem")
        return
    if key is None:
        raise ConfigError(f"{where}: sslcert without sslkey; name the key: sslkey=/path/key.pem")
    if mode == "disable":
        raise ConfigError(f"{where}: sslmode=disable and sslcert contradict each other; leave one out")
    if ":" in key and not key.startswith("/"):
        return  # a key in a device, for an engine of OpenSSL
    tls.check_certificate(cert, key, resolved.get("sslpassword"), where, ("sslcert", "sslkey", "sslpassword"))
    _, status = url_files.read_with_status(key, f"{where}: sslkey")
    # libpq's rule: for its owner only, or owned by root and readable for a group.
    allowed = stat.S_IRUSR | stat.S_IWUSR | (stat.S_IRGRP if status.st_uid == 0 else 0)
    if stat.S_IMODE(status.st_mode) & ~allowed & 0o177:
        raise ConfigError(f"{where}: sslkey: {shown(key)} may be read by others, and libpq refuses it; chmod 600")


def _check_password_file(resolved: Mapping[str, str], where: str) -> None:
    if "passfile" not in resolved:
        return
    path = resolved["passfile"]
    _, status = url_files.read_with_status(path, f"{where}: passfile")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigError(f"{where}: passfile: {shown(path)} may be read by others, and libpq ignores it; chmod 600")
