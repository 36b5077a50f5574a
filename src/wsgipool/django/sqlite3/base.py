"""Django's backend for SQLite, with pooled connections to files.

A database in memory, and a name that is a `file:` URI, have Django's own connections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db.backends.sqlite3 import base as _stock

# Django's backend calls this private function at each connect, and has no other way to set a connection up.
from django.db.backends.sqlite3._functions import register

from wsgipool.django._wrapper import PooledWrapper


@dataclass(frozen=True)
class _SessionSetup:
    """Sets a new connection up as Django's backend does."""

    commands: tuple[str, ...]

    def __call__(self, connection: Any) -> None:
        register(connection)
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA legacy_alter_table = OFF")
        for command in self.commands:
            connection.execute(command)


class DatabaseWrapper(PooledWrapper, _stock.DatabaseWrapper):
    """One thread's connection to a database."""

    dbapi = "sqlite"
    has_read_timeout = False
    address_arguments = frozenset({"database"})

    @property
    def is_pooled(self) -> bool:
        # Django's tests change the name, to that of a database in memory.
        return super().is_pooled and not str(self.settings_dict["NAME"]).startswith(("file:", ":memory:"))

    def get_connection_params(self) -> dict[str, Any]:
        arguments = super().get_connection_params()
        if self.is_pooled:
            del arguments["uri"], arguments["check_same_thread"]
        return arguments

    def session_arguments(self) -> dict[str, Any]:
        return {"isolation_level": None if self.settings_dict["AUTOCOMMIT"] else ""}

    def session_setup(self) -> _SessionSetup:
        commands = getattr(self, "init_commands", [])  # newer versions of Django have this option
        return _SessionSetup(tuple(command.strip() for command in commands if command.strip()))
