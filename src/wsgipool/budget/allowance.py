"""The number of permits: the number in the settings, or with "auto" the number that the server allows.

Each process asks the server once, on the first connection that it opens. It writes the answer on the board, for all
pools that share the budget. Until then an account has one connection.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

from wsgipool.budget.board import UNLIMITED, Board
from wsgipool.budget.file import BudgetFile
from wsgipool.config import MAX_PERMITS
from wsgipool.shared.one_time_warnings import warn_once

_MAX_SESSIONS = 262_143
"""Maximum that a server can allow: PostgreSQL's largest max_connections. MySQL's is 100,000."""


@dataclass(frozen=True)
class BudgetLimit:
    """Maximum number of connections from one host to one server, as written in the settings."""

    connections: int | Literal["auto"]
    """A number, or "auto": this host's part of the sessions that the server allows."""
    hosts: int = 1
    """With "auto": the number of hosts that share the server."""
    reserve: int = 0
    """With "auto": the number of sessions kept free for other programs."""

    def share(self, sessions: int) -> int:
        """Return the number of permits if the server allows this many sessions. 0 means unknown."""
        if self.connections != "auto":
            return self.connections
        # One permit while the number is unknown: one process at a time asks the server.
        return min(max(1, (sessions - self.reserve) // self.hosts), MAX_PERMITS)


class Allowance:
    """The number of permits for one account of a server, as far as this process knows it."""

    def __init__(self, limit: BudgetLimit, server: str, account: str) -> None:
        self.account = zlib.crc32(account.encode())
        self._limit = limit
        self._server = server
        self._has_asked_server = False
        self._answer: tuple[int, int] | None = None

    @property
    def asks_server(self) -> bool:
        """Whether this process still has to ask the server for its limit."""
        return self._limit.connections == "auto" and not self._has_asked_server

    def reset(self) -> None:
        """Forget the server's answer, in the child after a fork."""
        self._has_asked_server = False
        self._answer = None

    def permits(self, board: Board) -> int:
        """Return the number of permits."""
        return self._limit.share(0 if self._limit.connections != "auto" else board.allowed())

    def is_known(self, board: Board) -> bool:
        """Return whether the number of permits is known."""
        return self._limit.connections != "auto" or board.allowed() > 0

    def is_known_for_account(self, board: Board) -> bool:
        """Return whether the account may open more than the one connection that asks the server."""
        return not self.asks_server or board.allowed_to(self.account) > 0

    def learn(self, file: BudgetFile, sessions: int, own: int | None) -> None:
        """Store the number of sessions that the server allows, in total and to this account (None: no limit)."""
        self._has_asked_server = True
        if not _is_plausible(sessions):
            warn_once(
                f"{self._server} reports a limit of {sessions!r} connections, which is impossible; the budget of "
                f"this host stays at {self.permits(file.board)}. Set the number of connections in [budget]"
            )
            return
        self._answer = sessions, own if own is not None and _is_plausible(own) else UNLIMITED
        self.publish(file)
        file.clear_places_of_ended_processes()  # with the limits of accounts that no process uses any longer

    def publish(self, file: BudgetFile) -> None:
        """Write the server's answer on the board."""
        if self._answer is not None:
            file.board.set_allowed(file.place, self.account, *self._answer)

    def is_unpublished(self, board: Board) -> bool:
        """Return whether the server's answer is missing from the board."""
        return self._answer is not None and not board.allowed()


def _is_plausible(sessions: object) -> bool:
    return isinstance(sessions, int) and 0 < sessions <= _MAX_SESSIONS
