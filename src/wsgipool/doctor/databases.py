"""Findings about the database servers, from a connection like a pool's: idle timeout, transactions, limits, TLS."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from wsgipool import drivers
from wsgipool.config import DatabaseSettings, Settings
from wsgipool.doctor.advice import advice
from wsgipool.doctor.findings import Finding
from wsgipool.doctor.host import refused
from wsgipool.drivers import Driver, limits, mysql_rsa, occupancy
from wsgipool.drivers.limits import Answer
from wsgipool.drivers.occupancy import Occupants
from wsgipool.errors import ConfigError
from wsgipool.httpd.configuration import Configuration
from wsgipool.plan.planning import Situation, budgets, budgets_in_words, sums
from wsgipool.wording import counted, rounded

_UNUSUAL_ISOLATION = {
    "READ UNCOMMITTED": "a transaction sees changes of others that are not committed and may be rolled back",
    "SERIALIZABLE": "each SELECT takes locks, so requests also wait for readers, and deadlocks (1213) are frequent",
}


@dataclass(frozen=True)
class Session:
    """The properties of a session that a pool would open."""

    answer: Answer
    """The server's limits and sessions."""
    idle_timeout: float | None
    """Seconds after which the server closes an idle session; None for never."""
    idle_setting: str
    """The name of the server's setting for `idle_timeout`."""
    autocommit: bool
    isolation: str
    """The isolation level in SQL's words: "REPEATABLE READ"."""
    completion: str
    """MySQL's completion_type, the additional effect of COMMIT; "NO_CHAIN" for none."""
    encrypted: bool
    cluster: str = ""
    """The cluster of which the server is a node, in words; "" if none."""
    plugin: str = ""
    """MySQL's authentication plugin of the account; "" if unknown."""


def ask(database: DatabaseSettings, driver: Driver[Any], timeout: float) -> Session:
    """Connect and return the session's properties. Raises the driver's errors."""
    connection = driver.connect(timeout)
    try:
        with closing(connection.cursor()) as cursor:
            answer = Answer(limits.read(database.url, cursor), occupancy.read(database.url, cursor))
            if drivers.family(database.url) == "mysql":
                return _mysql(cursor, answer)
            return _postgresql(cursor, answer, bool(connection.autocommit))
    finally:
        driver.close(connection)


def refusal(database: DatabaseSettings, site: Configuration | None) -> Finding | None:
    """Return a finding if this user cannot use a database's URL or the files that it names."""
    try:
        drivers.for_database(database)
    except ConfigError as error:
        return refused(error, site)
    return None


def answers(settings: Settings, timeout: float, site: Configuration | None = None) -> dict[str, Session | Finding]:
    """Connect once for each database; return the session's properties, or a finding if that failed.

    For SQLite's files, only the URL is checked.
    """
    found = {database.name: _answer(database, timeout, site) for database in settings.databases.values()}
    return {name: answer for name, answer in found.items() if answer is not None}


def examine(settings: Settings, sessions: Mapping[str, Session]) -> Iterator[Finding]:
    """Yield the findings for the databases, from the settings and from their sessions by name."""
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
                f"{name}: the connection to {host} is not encrypted: others on the network can read its data.",
                "Enable TLS on the server, and name the authority of its certificate in the URL: ?ssl_ca=/path/ca.pem "
                "for mysql://, ?sslrootcert=/path/ca.pem for postgresql://.",
            )
    modes = {name: session.autocommit for name, session in sessions.items()}
    if len(set(modes.values())) > 1:
        on = [name for name, autocommit in modes.items() if autocommit]
        off = [name for name, autocommit in modes.items() if not autocommit]
        yield Finding(
            "autocommit-mixed",
            f"{', '.join(on)} commit each statement at once, {', '.join(off)} at the end of the block: the same code "
            "has different effects.",
            "Use the same ?autocommit= in all URLs, unless the difference is intended.",
        )


def examine_limits(situation: Situation) -> Iterator[Finding]:
    """Yield the limits that a site can exceed."""
    for total in sums(situation):
        limit = total.limit
        if not total.refused:
            continue
        shares = budgets(limit, situation)
        if not shares:
            yield Finding(
                "connections-over-limit",
                f"In the worst case the processes ask for {counted(total.worst_case, 'connection')} "
                f"({', '.join(limit.databases)}), but "
                f"{limit.name} is {limit.connections}{limit.kept_in_words}: {total.refused} would be refused "
                f"({limit.refusal}).",
                "Print sizes that fit with `wsgipool plan`, and write them with `wsgipool plan --write`; or set a "
                "[budget].",
            )
        else:
            share = situation.hosts * len(shares)
            options = [f"hosts = {share}"] if share > 1 else []
            options += [f"reserve = {limit.others}"] if limit.others > limit.reserve else []
            auto = f'"auto" with {" and ".join(options)}' if options else '"auto"'
            yield Finding(
                "budget-over-limit",
                f"With {budgets_in_words(shares)} the processes may open {counted(total.worst_case, 'connection')}, "
                f"but {limit.name} is {limit.connections}{limit.kept_in_words}.",
                f"Set [budget] connections = {max(1, limit.usable // share)}, or {auto}.",
            )


def examine_occupants(occupants: Mapping[str, Occupants], reserve: int) -> Iterator[Finding]:
    """Yield the servers on which others have more sessions than the reserve for them."""
    for server, found in occupants.items():
        others = found.count_of_others
        if others > reserve:
            yield Finding(
                "others-above-reserve",
                f"{server}: others have {counted(others, 'session')} now ({found.others_in_words()}), and the reserve "
                f"for them is {reserve}.",
                f"If that is usual, examine and plan with --reserve {others} or more; the reserve of an automatic "
                "[budget] must be as large. Otherwise look for programs that leave sessions open.",
            )


def is_this_host(name: str) -> bool:
    """Return whether a name or address belongs to this host: sockets can be bound to own addresses only."""
    try:
        addresses = socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(_is_own(family, kind, protocol, address) for family, kind, protocol, _, address in addresses)


def _is_own(family: int, kind: int, protocol: int, address: tuple[Any, ...]) -> bool:
    # A loopback address counts even if this host lacks its family, such as IPv6.
    with suppress(ValueError):
        if ip_address(address[0]).is_loopback:
            return True
    try:
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True


# --- questions to a server -------------------------------------------------------------------------------------------


def _answer(database: DatabaseSettings, timeout: float, site: Configuration | None) -> Session | Finding | None:
    try:
        driver = drivers.for_database(database)
        return ask(database, driver, timeout) if limits.has_limit(database.url) else None
    except ConfigError as error:
        return refused(error, site)
    except Exception as error:  # drivers raise many types
        return Finding(
            "database-unreachable",
            f"{database.name}: {database.url} cannot be used: {error}.",
            f"{advice(error, database.url)} Its limits were not compared.",
        )


def _mysql(cursor: Any, answer: Answer) -> Session:
    # The isolation level is tx_isolation up to MySQL 5.7 and MariaDB 11.0, transaction_isolation since.
    cursor.execute(
        "SHOW SESSION VARIABLES WHERE Variable_name IN"
        " ('wait_timeout', 'autocommit', 'tx_isolation', 'transaction_isolation', 'completion_type',"
        " 'wsrep_on', 'wsrep_provider', 'group_replication_group_name')"
    )
    variables = {str(name): str(value) for name, value in cursor.fetchall()}
    cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
    cipher = cursor.fetchone()
    isolation = variables.get("transaction_isolation") or variables.get("tx_isolation") or ""
    return Session(
        answer=answer,
        idle_timeout=float(variables["wait_timeout"]),
        idle_setting="wait_timeout",
        autocommit=variables["autocommit"] == "ON",
        isolation=isolation.replace("-", " "),
        completion=variables.get("completion_type", "NO_CHAIN"),
        encrypted=bool(cipher and cipher[1]),
        cluster=_cluster(variables),
        plugin=_plugin(cursor),
    )


def _cluster(variables: Mapping[str, str]) -> str:
    if variables.get("wsrep_on", "OFF") == "ON" and variables.get("wsrep_provider", "none") not in ("", "none"):
        return "a Galera cluster"
    return "a group of Group Replication" if variables.get("group_replication_group_name") else ""


def _plugin(cursor: Any) -> str:
    try:
        cursor.execute("SHOW CREATE USER CURRENT_USER()")  # every account may see this about itself
        (statement,) = cursor.fetchone()
    except Exception:  # a server without the statement
        return ""
    found = re.search(r"IDENTIFIED (?:WITH|VIA) '?(\w+)", str(statement))
    return found[1] if found else ""


def _postgresql(cursor: Any, answer: Answer, autocommit: bool) -> Session:
    # idle_session_timeout exists from PostgreSQL 14 on, in milliseconds; 0 means never.
    cursor.execute(
        "SELECT coalesce((SELECT setting::float FROM pg_settings WHERE name = 'idle_session_timeout'), 0) / 1000,"
        " current_setting('default_transaction_isolation'),"
        " (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid())"
    )
    idle, isolation, encrypted = cursor.fetchone()
    return Session(
        answer=answer,
        idle_timeout=idle or None,
        idle_setting="idle_session_timeout",
        autocommit=autocommit,
        isolation=isolation.upper(),
        completion="NO_CHAIN",
        encrypted=bool(encrypted),
    )


# --- findings about a session ----------------------------------------------------------------------------------------


def _idle(database: DatabaseSettings, session: Session) -> Iterator[Finding]:
    if session.idle_timeout is not None and session.idle_timeout <= database.max_idle:
        yield Finding(
            "idle-timeout-below-max-idle",
            f"{database.name}: the server closes a connection that is idle for {rounded(session.idle_timeout, 6)} s "
            f"({session.idle_setting}), before the pool does: {database.origin}.max_idle = "
            f"{rounded(database.max_idle, 6)}. The pool then finds it dead at the next checkout, and the server counts "
            "it as aborted.",
            f"Set max_idle = {int(session.idle_timeout * 0.9)}, or a longer {session.idle_setting}.",
        )


def _transactions(database: DatabaseSettings, session: Session) -> Iterator[Finding]:
    if database.reset == "none" and not session.autocommit:
        yield Finding(
            "transactions-left-open",
            f'{database.name}: reset = "none" ends no transaction, and autocommit is off: the next request continues '
            "the previous request's transaction, reads data as of its beginning, and keeps its locks.",
            'Use ?autocommit=true in the URL, or reset = "rollback", the default.',
        )
    if session.isolation in _UNUSUAL_ISOLATION:
        yield Finding(
            "isolation-unusual",
            f"{database.name}: the isolation level is {session.isolation}: {_UNUSUAL_ISOLATION[session.isolation]}.",
            "Use the server's default, REPEATABLE READ (PostgreSQL: READ COMMITTED), unless this level is intended; "
            "then wsgipool.transaction(..., retry=3) repeats a transaction after a deadlock.",
        )
    if session.completion not in ("NO_CHAIN", "0"):
        effects = {"CHAIN": "also begins the next transaction", "RELEASE": "also ends the session"}
        yield Finding(
            "completion-type",
            f"{database.name}: completion_type is {session.completion}: each COMMIT and ROLLBACK "
            f"{effects.get(session.completion, 'does more than end the transaction')}.",
            "Set completion_type = NO_CHAIN, the server's default.",
        )


def _fullness(database: DatabaseSettings, session: Session) -> Iterator[Finding]:
    allowed = next((limit.connections for limit in session.answer.limits if limit.kind == "server"), 0)
    # Not Connection_errors_max_connections, the number of refusals: MariaDB 10.11 leaves it at 0.
    most = (session.answer.occupancy and session.answer.occupancy.most) or 0
    if most >= allowed > 0:
        yield Finding(
            "limit-was-reached",
            f"{drivers.server_of(database.url)} has had {counted(most, 'connection')} at once since its "
            f"start (Max_used_connections), and max_connections is {allowed}: connections of this site or of others "
            "were refused, or almost.",
            "If `wsgipool plan` says that this site fits, look for other users of the server; a [budget] limits this "
            "site's share.",
        )


def _locks(database: DatabaseSettings, session: Session) -> Iterator[Finding]:
    if session.cluster:
        yield Finding(
            "locks-of-one-node",
            f'{database.name}: the server is a node of {session.cluster}. Locks of scope "database" are refused there: '
            "GET_LOCK excludes only sessions of the same node.",
            "Nothing, unless the site uses such locks. Then let each transaction change a row that stands for the lock,"
            " and run it by wsgipool.transaction(..., retry=3); see the page Locks of the documentation.",
        )


def _password(database: DatabaseSettings, session: Session) -> Iterator[Finding]:
    if mysql_rsa.needs_cryptography(database.url, session.plugin, session.encrypted):
        yield Finding(
            "cryptography-missing",
            f"{database.name}: the account logs in by {session.plugin}, without TLS. That works only while the server "
            "caches the password. After a restart of the server or FLUSH PRIVILEGES, each connect fails.",
            mysql_rsa.REMEDY[0].upper() + mysql_rsa.REMEDY[1:] + ".",
        )
