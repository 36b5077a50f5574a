"""The sessions of a database server, asked of the server: how many, which are the site's, and whose the others are.

A site knows its sessions by account and program: each driver that can do so names its program `wsgipool:NAME`. It
cannot tell apart sessions of its own account whose program the server does not show. They count as the site's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from wsgipool import drivers
from wsgipool.config import DatabaseURL
from wsgipool.wording import counted

PROGRAM = "wsgipool:"
"""The beginning of the program's name; the name of the database follows."""

_SYSTEM = ("system user", "event_scheduler")
"""MySQL's names for threads of the server, which are not sessions."""
_PROGRAMS = (
    "SELECT processlist_id, MAX(IF(attr_name = 'program_name', CONVERT(attr_value USING utf8mb4), ''))"
    " FROM performance_schema.{} GROUP BY processlist_id"
)
_MAX_OTHERS = 5
"""Maximum number of others in a line of text."""


@dataclass(frozen=True)
class Sessions:
    """The sessions of one account, host and program."""

    account: str
    """"" for accounts that the server does not show to this one."""
    host: str
    """"" if the server does not show it."""
    program: str | None
    """The program's name; "" if it gave none, None if the server does not show it."""
    count: int

    @property
    def who(self) -> str:
        """The account, host and program in words."""
        if not self.account:
            return "accounts that this one may not see"
        at = f" at {self.host}" if self.host else ""
        return f"{self.account}{at}{f' ({self.program})' if self.program else ''}"


@dataclass(frozen=True)
class Occupancy:
    """The sessions that a server shows to one account, without the session that asks."""

    account: str
    program: str | None
    """The program's name of the session that asks."""
    total: int
    """All sessions, also those that are not shown."""
    most: int | None
    """Maximum number of sessions since the server's start; None if unknown."""
    shown: Sequence[Sessions]


@dataclass(frozen=True)
class Occupants:
    """A server's sessions, divided into a site's own and those of others."""

    total: int
    most: int | None
    ours: int
    by_account: int
    """Those of `ours` that count only because of their account: their program is not known."""
    others: Sequence[Sessions]
    """The largest number of sessions comes first."""

    @property
    def count_of_others(self) -> int:
        """The number of others' sessions."""
        return self.total - self.ours

    def others_in_words(self) -> str:
        """Return whose the others' sessions are: "django at 10.0.0.5: 29"."""
        named = [f"{each.who}: {each.count}" for each in self.others[:_MAX_OTHERS]]
        rest = sum(each.count for each in self.others[_MAX_OTHERS:])
        return ", ".join([*named, *([f"more: {rest}"] if rest else [])])

    def in_words(self, server: str) -> str:
        """Return one line about the sessions now and at most."""
        most = "" if self.most is None else f", at most {self.most} since its start"
        ours = (
            f"this site's accounts have {self.ours} ({self.by_account} by an unknown program)"
            if self.by_account
            else f"this site has {self.ours}"
        )
        others = f"others have {self.count_of_others}{f' ({self.others_in_words()})' if self.others else ''}"
        return f"{server} now: {counted(self.total, 'session')}{most}; {ours}, {others}"


def read(url: DatabaseURL, cursor: Any) -> Occupancy:
    """Return what the server shows about its sessions, asked on an open cursor."""
    return _mysql(cursor) if drivers.family(url) == "mysql" else _postgresql(cursor)


def of_site(answers: Sequence[Occupancy]) -> Occupants:
    """Return a server's sessions from its answers to a site's accounts, at least one."""
    shown = _merged(answers)
    ours = [each for each in shown if _is_ours(each, answers)]
    others = [each for each in shown if each not in ours]
    count = sum(each.count for each in shown)
    # The numbers are of different moments: a total may be smaller than the sum, or count an earlier question's session.
    total = max(count, min(answer.total for answer in answers))
    if total > count:
        others.append(Sessions("", "", None, total - count))
    return Occupants(
        total=total,
        most=answers[0].most,
        ours=sum(each.count for each in ours),
        by_account=sum(each.count for each in ours if not each.program),
        others=sorted(others, key=lambda each: -each.count),
    )


def _is_ours(sessions: Sessions, answers: Sequence[Occupancy]) -> bool:
    program = sessions.program
    of_account = [answer for answer in answers if answer.account == sessions.account]
    is_named = not program or program.startswith(PROGRAM) or any(answer.program == program for answer in of_account)
    return bool(of_account) and is_named


def _merged(answers: Sequence[Occupancy]) -> list[Sessions]:
    """Return the sessions of each account once: as it sees them itself, or as another account sees them."""
    by_account: dict[str, list[Sessions]] = {}
    for answer in answers:
        for account in {each.account for each in answer.shown}:
            if account not in by_account or account == answer.account:
                by_account[account] = [each for each in answer.shown if each.account == account]
    return [each for shown in by_account.values() for each in shown]


def _mysql(cursor: Any) -> Occupancy:
    # An account without the privilege PROCESS sees the threads of accounts with its name only.
    cursor.execute("SELECT CONNECTION_ID(), SUBSTRING_INDEX(USER(), '@', 1)")
    own, account = cursor.fetchone()
    programs = _programs(cursor)
    cursor.execute("SHOW PROCESSLIST")
    shown = [
        Sessions(user, _without_port(host or ""), programs.get(session), 1)
        for session, user, host, _, command, *_ in cursor.fetchall()
        if session != own and user not in _SYSTEM and command != "Daemon"
    ]
    cursor.execute("SHOW GLOBAL STATUS WHERE Variable_name IN ('Threads_connected', 'Max_used_connections')")
    status = {str(name): int(value) for name, value in cursor.fetchall()}
    return Occupancy(
        account=account,
        program=programs.get(own),
        total=status["Threads_connected"] - 1,
        most=status["Max_used_connections"],
        shown=_added_up(shown),
    )


def _programs(cursor: Any) -> dict[int, str]:
    """Return the programs' names of those sessions whose attributes the server shows, by the session's number."""
    # All accounts may read the second table, which has the sessions of their own account and host. Both are empty
    # without performance_schema. The values are binary, which mysqlclient does not decode.
    for table in ("session_connect_attrs", "session_account_connect_attrs"):
        with suppress(Exception):  # drivers raise many types
            cursor.execute(_PROGRAMS.format(table))
            return {int(session): str(program) for session, program in cursor.fetchall()}
    return {}


def _without_port(host: str) -> str:
    name, _, port = host.rpartition(":")
    return name if port.isdigit() else host


def _postgresql(cursor: Any) -> Occupancy:
    # Of others' sessions, all may see the role and the application_name. Without a database, or with another
    # backend_type, it is a process of the server or a standby, which max_connections does not count.
    cursor.execute(
        "SELECT usename, coalesce(host(client_addr), ''), coalesce(application_name, ''), pid = pg_backend_pid()"
        " FROM pg_stat_activity WHERE datid IS NOT NULL AND usename IS NOT NULL"
        " AND coalesce(backend_type, 'client backend') = 'client backend'"
    )
    rows = cursor.fetchall()
    shown = [Sessions(user, host, program, 1) for user, host, program, is_own in rows if not is_own]
    account, program = next((user, program) for user, _, program, is_own in rows if is_own)
    return Occupancy(account=account, program=program, total=len(shown), most=None, shown=_added_up(shown))


def _added_up(sessions: Iterable[Sessions]) -> list[Sessions]:
    """Return one item for all sessions of the same account, host and program."""
    return [replace(each, count=count) for each, count in Counter(sessions).items()]
