"""Advice for a database that does not answer, chosen by the driver's error."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator

from wsgipool.config import DatabaseURL
from wsgipool.drivers import limits

_BY_CODE: dict[int | str, str] = {
    **dict.fromkeys(
        (1040, "53300"),
        "The server's connections are used up: end unneeded ones (of a stuck job, of another program), raise "
        "max_connections, or make the pools of its sites smaller (`wsgipool plan`).",
    ),
    **dict.fromkeys(
        (1203, 1226),
        "The connections of this account are used up: end unneeded ones, raise the account's max_user_connections, "
        "or make the pools smaller.",
    ),
    **dict.fromkeys(
        (1045, 1698, "28P01", "28000"),
        "Check user and password, and that the server lets this user in from this host.",
    ),
    **dict.fromkeys(
        (1044, 1142, 1227, "42501"),
        "Give the account the right to use this database (GRANT), or name another database.",
    ),
    **dict.fromkeys((1049, "3D000"), "Create the database, or correct its name in the URL."),
    1129: "The server refuses this host after too many broken connections: find the cause, and run FLUSH HOSTS there.",
    1130: "The server accepts no user from this host: create an account for it ('user'@'host').",
    **dict.fromkeys((1053, "57P01", "57P02"), "The server is shutting down: try again when it runs."),
    "57P03": "The server is starting: try again in a moment.",
    **dict.fromkeys(
        (1251, 1524, 2059, 2061),
        "The server requires a login method that this driver lacks, or lacks without TLS: see the message.",
    ),
}

_BY_TEXT = (
    (r"too many (clients|connections)|connection slots are reserved", _BY_CODE[1040]),
    (r"password authentication failed|no password supplied|Access denied for user", _BY_CODE[1045]),
    (r"no pg_hba\.conf entry", _BY_CODE[1130]),
    (r'database ".*" does not exist|Unknown database', _BY_CODE[1049]),
    (r"certificate|\b(SSL|TLS)\b", "tls"),
    (r"Name or service not known|name resolution|resolve host|translate host name|Unknown .*host", "unknown host"),
    (r"Connection refused", "refused"),
    (r"timed out|timeout expired|within [\d.]+ s\b", "timeout"),
    (r"No such file or directory", "no socket"),
    (r"Permission denied", "closed socket"),
    (r"[Uu]nreachable|No route to host", "unreachable"),
    (r"Lost connection|gone away|closed the connection|Connection reset", "cut"),
    (r"Can't connect", "no connection"),
)

_BY_ERRNO = {
    errno.ECONNREFUSED: "refused",
    errno.ENOENT: "no socket",
    errno.EACCES: "closed socket",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
    errno.ETIMEDOUT: "timeout",
    errno.ECONNRESET: "cut",
}


def advice(error: BaseException, url: DatabaseURL) -> str:
    """Return the remedy for an error that a driver raised."""
    text = " ".join(str(each) for each in _chain(error))
    for code in _codes(error):
        if code in _BY_CODE:
            return _BY_CODE[code]
    kind = next((kind for each in _chain(error) if (kind := _kind(each))), "")
    if not kind and (number := re.search(r"Can't connect .*\((\d+)\)", text)):
        kind = _BY_ERRNO.get(int(number[1]), "")
    if not kind:
        kind = next((found for pattern, found in _BY_TEXT if re.search(pattern, text)), "")
    return _by_kind(url).get(kind, kind) or (
        f"Check that {_place(url)} is the right database server, and look into its log."
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__


def _codes(error: BaseException) -> list[object]:
    return [getattr(error, "sqlstate", None), *error.args[:1]]


def _kind(error: BaseException) -> str:
    if isinstance(error, socket.gaierror):
        return "unknown host"
    if isinstance(error, ssl.SSLError):
        return "tls"
    if isinstance(error, TimeoutError):
        return "timeout"
    return _BY_ERRNO.get(error.errno or 0, "") if isinstance(error, OSError) else ""


def _by_kind(url: DatabaseURL) -> dict[str, str]:
    place = _place(url)
    return {
        "refused": f"Nothing listens at {place}: start the server, let it listen there (bind-address, "
        "listen_addresses), or correct host and port.",
        "no connection": f"{place} cannot be reached: start the server, let it listen there, check the firewalls, "
        "or correct host and port.",
        "unknown host": f"The name {url.host} cannot be resolved: correct it in the URL, or check the resolver.",
        "unreachable": f"There is no route from this host to {place}: check routes and firewalls, or correct the host.",
        "timeout": f"{place} did not answer in time: check whether a firewall drops the packets, and whether the "
        "server is overloaded or stopped.",
        "no socket": f"There is no socket at {place}: start the server, or correct the path.",
        "closed socket": f"This user may not use the socket at {place}: check the modes of the socket and its folder.",
        "cut": f"The connection to {place} was closed: look into the server's log, and check that host and port "
        "belong to a database, and that a proxy there has a server behind it.",
        "tls": "Check that the server offers TLS, and that its certificate, the authority in the URL (ssl_ca, "
        "sslrootcert) and the host name match.",
    }


def _place(url: DatabaseURL) -> str:
    host = limits.network_host(url)
    if host is None:
        return url.options.get("unix_socket") or url.options.get("host") or "its socket"
    return f"{host}:{url.port}" if url.port else host
