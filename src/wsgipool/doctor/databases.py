"""What the database servers say on a connection like a pool's: how long they wait, how a transaction ends, TLS."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from wsgipool import drivers
from wsgipool.config import DatabaseSettings, Settings
from wsgipool.doctor.advice import advice
from wsgipool.doctor.findings import Finding
from wsgipool.doctor.host import refused
from wsgipool.drivers import Driver, limits, mysql_rsa
from wsgipool.drivers.limits import ServerLimit
from wsgipool.errors import ConfigError
from wsgipool.httpd.configuration import Configuration
from wsgipool.planning import Situation, budgets, sums
from wsgipool.wording import counted, rounded

_UNUSUAL_ISOLATION = {
    "READ UNCOMMITTED": "a transaction sees what others have not committed, and may never commit",
    "SERIALIZABLE": "each SELECT takes locks, so requests wait for readers too, and deadlocks (1213) are frequent",
}


@dataclass(frozen=True)
class Session:
    """What a connection of a database's pool would be like."""

    limits: Sequence[ServerLimit]
    idle_timeout: float | None
    """Seconds after which the server closes it; None is never."""
    idle_setting: str
    autocommit: bool
    isolation: str
    """In the words of SQL: "REPEATABLE READ"."""
    completion: str
    """MySQL's completion_type: what COMMIT does beside; "NO_CHAIN" is nothing."""
    encrypted: bool
    most_used: int
    """Connections that were open at once since the server was started; 0 where it does not say."""
    cluster: str = ""
    """What the server is a node of, in words, where its data is other servers' as well."""
    plugin: str = ""
    """MySQL's way to check the account's password; "" where it is not known."""


def ask(database: DatabaseSettings, driver: Driver[Any], timeout: float) -> Session:
    """Return what the server says. Raises the driver's error."""
    connection = driver.connect(timeout)
    try:
        with closing(connection.cursor()) as cursor:
            allowed = limits.read(database.url, cursor)
            if limits.kind(database.url) == "mysql":
                return _mysql(cursor, allowed)
            return _postgresql(cursor, allowed, bool(connection.autocommit))
    finally:
        driver.close(connection)


def refusal(database: DatabaseSettings, site: Configuration | None) -> Finding | None:
    """Return what it means where this user cannot use a database's URL or what that names."""
    try:
        drivers.for_database(database)
    except ConfigError as error:
        return refused(error, site)
    return None


def answers(settings: Settings, timeout: float, site: Configuration | None = None) -> dict[str, Session | Finding]:
    """Ask each server once for each database, and return what it said, or that it did not.

    A file is not asked: what is said of it is only that its URL cannot be.
    """
    found = {database.name: _answer(database, timeout, site) for database in settings.databases.values()}
    return {name: answer for name, answer in found.items() if answer is not None}


def examine(settings: Settings, sessions: Mapping[str, Session]) -> Iterator[Finding]:
    """Yield what can be seen in the settings and in what the servers said, by the databases' names."""
    for name, session in sessions.items():
        database = settings.databases[name]
        yield from _idle(database, session)
        yield from _transactions(database, session)
        yield from _fullness(database, session)
        yield from _locks(database, session)
        yield from _password(database, session)
        host = limits.network_host(database.url)
        if host is not None and not session.encrypted and not is_this_host(host):
            yield Finding(
                "tls-off",
                f"{name}: the connection to {host} is not encrypted; what is asked and answered can be read on the "
                "network between.",
                "Let the server offer TLS, and name its certificate's authority in the URL: ?ssl_ca=/path/ca.pem for "
                "mysql://, ?sslrootcert=/path/ca.pem for postgresql://.",
            )
    modes = {name: session.autocommit for name, session in sessions.items()}
    if len(set(modes.values())) > 1:
        on = [name for name, autocommit in modes.items() if autocommit]
        off = [name for name, autocommit in modes.items() if not autocommit]
        yield Finding(
            "autocommit-mixed",
            f"{', '.join(on)} commit each statement at once, {', '.join(off)} at the end of the block: the same code "
            "does different things.",
            "The same ?autocommit= in the URLs of all, unless it is meant so.",
        )


def examine_limits(situation: Situation) -> Iterator[Finding]:
    """Yield the limits that a site can exceed."""
    for total in sums(situation):
        limit = total.limit
        if not total.refused:
            continue
        kept = f", {limit.reserve} of them kept for others" if limit.reserve else ""
        if limit.budget is None:
            yield Finding(
                "connections-over-limit",
                f"At worst the processes ask for {counted(total.worst_case, 'connection')} "
                f"({', '.join(limit.databases)}), and "
                f"{limit.name} is {limit.connections}{kept}: {total.refused} would be refused ({limit.refusal}).",
                "`wsgipool plan` prints sizes that fit, `wsgipool plan --write` puts them in place; or a [budget].",
            )
        else:
            several = budgets(limit, situation)
            share = situation.hosts * several
            each = f" for each of {several} users" if several > 1 else ""
            auto = '"auto"' if share == 1 else f'"auto" with hosts = {share}'
            yield Finding(
                "budget-over-limit",
                f"The budget of {limit.budget} a host{each} allows {counted(total.worst_case, 'connection')}, and "
                f"{limit.name} is {limit.connections}{kept}.",
                f"[budget] connections = {max(1, limit.usable // share)}, or {auto}.",
            )


def is_this_host(name: str) -> bool:
    """Tell whether a host name or address is one of this host's own: only to those can a socket be bound."""
    try:
        addresses = socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(_is_own(family, kind, protocol, address) for family, kind, protocol, _, address in addresses)


def _is_own(family: int, kind: int, protocol: int, address: tuple[Any, ...]) -> bool:
    # This host may lack what the name has: IPv6 switched off, or not built in.
    with suppress(ValueError):
        if ip_address(address[0]).is_loopback:
            return True
    try:
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True


# --- what each server is asked ---------------------------------------------------------------------------------------


def _answer(database: DatabaseSettings, timeout: float, site: Configuration | None) -> Session | Finding | None:
    try:
        driver = drivers.for_database(database)
        return ask(database, driver, timeout) if limits.has_limit(database.url) else None
    except ConfigError as error:
        return refused(error, site)
    except Exception as error:  # whatever the driver raises says what is wrong
        return Finding(
            "database-unreachable",
            f"{database.name}: {database.url} does not answer as it should: {error}.",
            f"{advice(error, database.url)} Its limits were not compared.",
        )


def _mysql(cursor: Any, allowed: Sequence[ServerLimit]) -> Session:
    # Connection_errors_max_connections would be the number of refusals, but MariaDB 10.11 leaves it at 0.
    # The names of isolation differ: tx_isolation up to MySQL 5.7 and MariaDB 11.0, transaction_isolation since.
    cursor.execute(
        "SHOW SESSION VARIABLES WHERE Variable_name IN"
        " ('wait_timeout', 'autocommit', 'tx_isolation', 'transaction_isolation', 'completion_type',"
        " 'wsrep_on', 'wsrep_provider', 'group_replication_group_name')"
    )
    variables = {str(name): str(value) for name, value in cursor.fetchall()}
    cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
    cipher = cursor.fetchone()
    cursor.execute("SHOW GLOBAL STATUS LIKE 'Max_used_connections'")
    most_used = cursor.fetchone()
    isolation = variables.get("transaction_isolation") or variables.get("tx_isolation") or ""
    return Session(
        limits=allowed,
        idle_timeout=float(variables["wait_timeout"]),
        idle_setting="wait_timeout",
        autocommit=variables["autocommit"] == "ON",
        isolation=isolation.replace("-", " "),
        completion=variables.get("completion_type", "NO_CHAIN"),
        encrypted=bool(cipher and cipher[1]),
        most_used=int(most_used[1]),
        cluster=_cluster(variables),
        plugin=_plugin(cursor),
    )


def _cluster(variables: Mapping[str, str]) -> str:
    if variables.get("wsrep_on", "OFF") == "ON" and variables.get("wsrep_provider", "none") not in ("", "none"):
        return "a Galera cluster"
    return "a group of Group Replication" if variables.get("group_replication_group_name") else ""


def _plugin(cursor: Any) -> str:
    try:
        cursor.execute("SHOW CREATE USER CURRENT_USER()")  # of itself an account may see it
        (statement,) = cursor.fetchone()
    except Exception:  # a server without the statement
        return ""
    found = re.search(r"IDENTIFIED (?:WITH|VIA) '?(\w+)", str(statement))
    return found[1] if found else ""


def _postgresql(cursor: Any, allowed: Sequence[ServerLimit], autocommit: bool) -> Session:
    # idle_session_timeout is new in 14, in milliseconds; 0 is never.
    cursor.execute(
        "SELECT coalesce((SELECT setting::float FROM pg_settings WHERE name = 'idle_session_timeout'), 0) / 1000,"
        " current_setting('default_transaction_isolation'),"
        " (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid())"
    )
    idle, isolation, encrypted = cursor.fetchone()
    return Session(
        limits=allowed,
        idle_timeout=idle or None,
        idle_setting="idle_session_timeout",
        autocommit=autocommit,
        isolation=isolation.upper(),
        completion="NO_CHAIN",
        encrypted=bool(encrypted),
        most_used=0,
    )


# --- what follows from it --------------------------------------------------------------------------------------------


def _idle(database: DatabaseSettings, session: Session) -> Iterator[Finding]:
    if session.idle_timeout is not None and session.idle_timeout <= database.max_idle:
        yield Finding(
            "idle-timeout-below-max-idle",
            f"{database.name}: the server closes a connection that is idle for {rounded(session.idle_timeout, 6)} s "
            f"({session.idle_setting}), before the pool would: {database.origin}.max_idle = "
            f"{rounded(database.max_idle, 6)}. It is found dead when it is next needed, and counts as aborted on the "
            "server.",
            f"max_idle = {int(session.idle_timeout * 0.9)}, or a longer {session.idle_setting}.",
        )


def _transactions(database: DatabaseSettings, session: Session) -> Iterator[Finding]:
    if database.reset == "none" and not session.autocommit:
        yield Finding(
            "transactions-left-open",
            f'{database.name}: reset = "none" ends no transaction, and autocommit is off: the next request goes on in '
            "the last one's transaction, reads what was there when that began, and keeps its locks.",
            '?autocommit=true in the URL, or reset = "rollback", the default.',
        )
    if session.isolation in _UNUSUAL_ISOLATION:
        yield Finding(
            "isolation-unusual",
            f"{database.name}: the isolation level is {session.isolation}: {_UNUSUAL_ISOLATION[session.isolation]}.",
            "The server's default, REPEATABLE READ (PostgreSQL: READ COMMITTED), unless it is meant so; then "
            "wsgipool.transaction(..., retry=3) runs again what a deadlock has ended.",
        )
    if session.completion not in ("NO_CHAIN", "0"):
        does = {"CHAIN": "begins the next transaction at once", "RELEASE": "ends the session"}
        yield Finding(
            "completion-type",
            f"{database.name}: completion_type is {session.completion}: each COMMIT and ROLLBACK "
            f"{does.get(session.completion, 'does more than to end the transaction')}.",
            "completion_type = NO_CHAIN, the server's default.",
        )


def _fullness(database: DatabaseSettings, session: Session) -> Iterator[Finding]:
    allowed = next((limit.connections for limit in session.limits if limit.kind == "server"), 0)
    if session.most_used >= allowed > 0:
        yield Finding(
            "limit-was-reached",
            f"{drivers.server_of(database.url)} has had {counted(session.most_used, 'connection')} at once since it "
            f"was started (Max_used_connections), and max_connections is {allowed}: some were refused, or nearly so, "
            "of this site or of others.",
            "If `wsgipool plan` says that this site fits, look at the others; a [budget] keeps this site's share.",
        )


def _locks(database: DatabaseSettings, session: Session) -> Iterator[Finding]:
    if session.cluster:
        yield Finding(
            "locks-of-one-node",
            f'{database.name}: the server is a node of {session.cluster}. Locks of scope "database" are refused there: '
            "they take GET_LOCK, which keeps out only those on the same node.",
            "Nothing, unless the site uses such locks: then let each transaction change a row that stands for the lock"
            " (README, locks), and run it by wsgipool.transaction(..., retry=3).",
        )


def _password(database: DatabaseSettings, session: Session) -> Iterator[Finding]:
    if mysql_rsa.needs_cryptography(database.url, session.plugin, session.encrypted):
        yield Finding(
            "cryptography-missing",
            f"{database.name}: the account logs in by {session.plugin}, without TLS. The server remembers its password "
            "for now. When it forgets it, after a restart or a FLUSH PRIVILEGES, each connect fails.",
            mysql_rsa.REMEDY[0].upper() + mysql_rsa.REMEDY[1:] + ".",
        )
