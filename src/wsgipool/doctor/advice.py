"""What to do about a database that could not be asked, by what its driver raised."""

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
        "Its connections are used up: end those that nobody needs (a stuck job's, another program's), let it allow "
        "more (max_connections), or let its sites have smaller pools (`wsgipool plan`); then ask again.",
    ),
    **dict.fromkeys(
        (1203, 1226),
        "The connections of this account are used up: end those that nobody needs, let the account have more "
        "(max_user_connections), or make the pools smaller; then ask again.",
    ),
    **dict.fromkeys(
        (1045, 1698, "28P01", "28000"),
        "See that user and password are right, and that the server lets this user in from this host.",
    ),
    **dict.fromkeys(
        (1044, 1142, 1227, "42501"), "Give the account the right to use this database (GRANT), or name another one."
    ),
    **dict.fromkeys((1049, "3D000"), "Create the database, or mend its name in the URL."),
    1129: "The server refuses this host after too many connections that broke off: FLUSH HOSTS there, and see why.",
    1130: "The server lets nobody in from this host: create the account for it ('user'@'host').",
    **dict.fromkeys((1053, "57P01", "57P02"), "The server shuts down: ask again when it runs."),
    "57P03": "The server is starting: ask again in a moment.",
    **dict.fromkeys(
        (1251, 1524, 2059, 2061),
        "The server wants a way to log in that this driver has not, or not without TLS: see what the message names.",
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
    """Return what would do where a server could not be asked because of `error`."""
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
        f"See that {_place(url)} is the database server that is meant, and what its own log says."
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
        "listen_addresses), or mend host and port.",
        "no connection": f"There is no way to {place}: start the server, let it listen there, see firewalls between, "
        "or mend host and port.",
        "unknown host": f"This host knows no host {url.host}: mend its name in the URL, or the resolver.",
        "unreachable": f"There is no way from this host to {place}: see routes and firewalls, or mend the host.",
        "timeout": f"{place} did not answer in time: see whether a firewall swallows what is sent there, and whether "
        "the server is overloaded or stopped.",
        "no socket": f"There is no socket at {place}: start the server, or mend the path.",
        "closed socket": f"This user may not use the socket at {place}: see the modes of it and of its folder.",
        "cut": f"What listens at {place} ended the connection: see the server's log, whether host and port are a "
        "database's, and whether a proxy there has a server behind it.",
        "tls": "See that the server's certificate, the authority that the URL names (ssl_ca, sslrootcert) and the "
        "host's name belong together, and that the server offers TLS.",
    }


def _place(url: DatabaseURL) -> str:
    host = limits.network_host(url)
    if host is None:
        return url.options.get("unix_socket") or url.options.get("host") or "its socket"
    return f"{host}:{url.port}" if url.port else host
