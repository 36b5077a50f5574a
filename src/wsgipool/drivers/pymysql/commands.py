"""The commands that the driver itself sends, to set up a new session and to clean a returned one."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from pymysql.constants import COMMAND

from wsgipool.drivers import mysql_options

if TYPE_CHECKING:
    from wsgipool.drivers.pymysql.connection import PooledConnection

_COM_RESET_CONNECTION = 0x1F
"""Missing in pymysql.constants.COMMAND; available since MySQL 5.7 and MariaDB 10.2."""

_FAILS_WITH_A_DATABASE = b"SET @_ = (SELECT 1 FROM (SELECT 1 UNION SELECT 2) AS two WHERE DATABASE() IS NOT NULL)"
"""A statement that fails with error 1242, subquery returns more than 1 row, if the session has selected a database.

The following reset deletes its variable.
"""

_header = struct.Struct("<iB").pack


def packet(number: int, payload: bytes) -> bytes:
    """Return the packet of a command: a header, the command's number and its payload."""
    return _header(len(payload) + 1, number) + payload


class Command(NamedTuple):
    """A command that an OK packet answers, or, with `may_have_rows`, any results of the program's statement."""

    number: int
    payload: bytes
    may_have_rows: bool = False
    meaning: str = ""
    """The meaning of the server's error, for a command that is meant to fail."""

    def packet(self) -> bytes:
        """Return the packet of the command."""
        return packet(self.number, self.payload)


ROLLBACK = Command(COMMAND.COM_QUERY, mysql_options.ROLLBACK)


def set_names(charset: str, collation: str | None) -> Command:
    """Return the command that sets the character set and the collation."""
    collate = f" COLLATE {collation}" if collation else ""
    return Command(COMMAND.COM_QUERY, f"SET NAMES {charset}{collate}".encode())


def set_autocommit(mode: bool) -> Command:
    """Return the command that turns autocommit on or off."""
    return Command(COMMAND.COM_QUERY, f"SET AUTOCOMMIT = {mode:d}".encode())


def new_session(connection: PooledConnection, is_reset: bool = False) -> list[Command]:
    """Return the commands that set up a new session, or one with the server's defaults after a reset."""
    due = [set_names(connection.charset, connection.collation)]
    if connection.sql_mode is not None:
        due.append(Command(COMMAND.COM_QUERY, f"SET sql_mode={connection.escape(connection.sql_mode)}".encode()))
    if connection.init_command:
        init_command = connection.init_command.encode(connection.encoding)
        due.append(Command(COMMAND.COM_QUERY, init_command, may_have_rows=True))
    mode = connection.autocommit_mode
    if mode is not None and (is_reset or mode != connection.get_autocommit()):
        due.append(set_autocommit(mode))
    return due


def session_reset(connection: PooledConnection) -> list[Command]:
    """Return the commands that clean a whole session and set it up again."""
    return [
        _select_database(connection),
        Command(_COM_RESET_CONNECTION, b""),
        *new_session(connection, is_reset=True),
    ]


def _select_database(connection: PooledConnection) -> Command:
    """Return the command that selects the session's own database, which the following reset does not change."""
    name = connection.db
    if name:
        return Command(COMMAND.COM_INIT_DB, name if isinstance(name, bytes) else name.encode())
    # No command deselects a database. If the holder has selected one, this command fails and the session is closed.
    return Command(COMMAND.COM_QUERY, _FAILS_WITH_A_DATABASE, meaning="a database was selected; the URL names none")
